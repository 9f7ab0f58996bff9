"""How many bits a channel of an image file has, by the file itself: Pillow reduces some deep images to 8 bits."""

import re
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

_HEAD = 2**16  # bytes in which the header of a JPEG 2000 or AVIF file lies
_BITS, _SAMPLES, _SAMPLE_FORMAT = 258, 277, 339  # tags of TIFF
_PHOTOMETRIC, _BLACK_IS_ZERO = 262, 1
_WHOLE_NUMBERS = 1
_DEEP = ("I;16", "I;16B", "I;16L")  # modes of Pillow


def odd_values(image: "Image", file: IO[bytes]) -> str | None:
    """Return what the values of an image are if they are not bytes, such as "16 bits per channel", else None.

    `image` is opened and not yet loaded, from `file`, whose position is kept.
    """
    at = file.tell()
    try:
        file.seek(0)
        return _of_tiff(image) if image.format == "TIFF" else _of_bits(_bits(image, file))
    finally:
        file.seek(at)


def is_deep_gray(image: "Image") -> bool:
    """Return whether Pillow reads an image of 16 bits without a loss: unsigned gray, in PNG or TIFF, black at 0."""
    if image.mode not in _DEEP or image.format not in ("PNG", "TIFF") or "transparency" in image.info:
        return False
    tags: Any = getattr(image, "tag_v2", {_PHOTOMETRIC: _BLACK_IS_ZERO})
    return bool(tags.get(_PHOTOMETRIC) == _BLACK_IS_ZERO and set(tags.get(_SAMPLE_FORMAT, (1,))) == {_WHOLE_NUMBERS})


def _of_bits(bits: int) -> str | None:
    return f"{bits} bits per channel" if bits > 8 else None


def _of_tiff(image: "Image") -> str | None:
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    bits, kinds, channels = tags.get(_BITS, (1,)), tags.get(_SAMPLE_FORMAT, (1,)), tags.get(_SAMPLES, 1)
    if set(kinds) - {_WHOLE_NUMBERS}:
        return f"{max(bits)}-bit floats or signed numbers"
    if channels > len(image.getbands()):
        return f"{channels} channels"
    return _of_bits(max(bits))


def _bits(image: "Image", file: IO[bytes]) -> int:
    if image.format == "PNG":
        return file.read(25)[24]
    if image.format == "PPM":
        return _maximum_of_ppm(file.read(1024)).bit_length()
    if image.format == "SGI":
        return 8 * file.read(4)[3]
    if image.format == "JPEG2000":
        return _bits_of_jpeg2000(file.read(_HEAD))
    if image.format == "AVIF":
        return _bits_of_avif(file.read(_HEAD))
    return 16 if ";16" in image.mode else 32 if image.mode[0] in "IF" else 8


def _maximum_of_ppm(head: bytes) -> int:
    """Return the largest value that the header of a .pgm, .ppm or .pfm file names; 2^32 - 1 for floats."""
    if head[:2] in (b"Pf", b"PF"):
        return 2**32 - 1
    numbers = re.findall(rb"\d+", re.sub(rb"#[^\n]*", b" ", head[2:]))
    return 1 if head[:2] in (b"P1", b"P4") else int(numbers[2])


def _bits_of_jpeg2000(head: bytes) -> int:
    """Return the largest depth in the SIZ segment, which lists 3 bytes per component from its 39th byte on."""
    at = head.find(b"\xff\x4f\xff\x51")
    if at < 0:
        return 8
    components = int.from_bytes(head[at + 40 : at + 42], "big")
    return max((depth & 0x7F) + 1 for depth in head[at + 42 : at + 42 + 3 * components : 3])


def _bits_of_avif(head: bytes) -> int:
    """Return the depth in the av1C box: bits 6 and 5 of its third byte mean 10 or 12 bits."""
    at = head.find(b"av1C")
    if at < 0 or not head[at + 6] & 0x40:
        return 8
    return 12 if head[at + 6] & 0x20 else 10
