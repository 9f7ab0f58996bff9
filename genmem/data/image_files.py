"""Image files as a viewer shows them: turned, without transparency, one frame; and what was done to them, in words."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.folders import some
from genmem.data.image_depth import is_deep_gray, odd_values
from genmem.data.notes import Note
from genmem.data.other_kinds import not_an_image
from genmem.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_GRAY = ("1", "L", "LA", "La")
_ORIENTATION = 0x0112  # tag of EXIF
# Not pictures by themselves: they need another program, or Pillow only recognises them.
_UNREAD = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_SINGLE = {"ICNS", "ICO", "PSD"}  # one picture in several sizes, or its layers
_DONE = {
    "deep": "in gray with 16 bits, whose values were kept",
    "turned": "turned as their EXIF orientation says",
    "white": "with transparent pixels, which were put on a white background",
    "opaque": "with an alpha channel that hides nothing, which was dropped",
    "frames": "of several frames, of which the first was read",
    "converted": "in another colour space (such as CMYK), converted to RGB",
    "profile": "with a colour profile other than sRGB, which was not applied",
    "gray": "in gray among images in colour, with three equal channels now",
}


@dataclass
class Pictures:
    """Images read from files.

    Attributes:
        X: (n, h, w) if all are gray, else (n, h, w, 3), bytes; uint16 if all are gray and have 16 bits.
        done: by kind of change, the names of the images that were changed.
    """

    X: NDArray[Any]
    done: dict[str, list[str]] = field(default_factory=dict)

    @property
    def see_through(self) -> int:
        """How many images had transparent pixels."""
        return len(self.done.get("white", ()))

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each kind of change."""
        n = len(self.X)
        counted = {kind: f"{len(names):,} of {n:,} images {_DONE[kind]}" for kind, names in self.done.items()}
        return tuple(Note(f"{counted[kind]}: {some(names)}.", f"{counted[kind]}.") for kind, names in self.done.items())


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the suffixes of the image files that can be read, in lower case, with their dots."""
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset({suffix for suffix, kind in known.items() if kind in _formats()} | {".mpo"})


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(kind for kind in Image.OPEN if kind not in _UNREAD)


def is_image_name(name: str) -> bool:
    """Return whether a file of this name is read as an image."""
    return "." in name and f".{name.rpartition('.')[2].lower()}" in readable_suffixes()


def read_pictures(names: Sequence[str], where: str, stream: Callable[[str], IO[bytes]]) -> Pictures:
    """Read images as a viewer shows them.

    They are turned by their EXIF orientation; transparent pixels are put on white; of an animation, the first frame is
    read. Gray images of 16 bits keep their values, if all are such. Pages of a TIFF file and other values of more than
    8 bits are refused, since most of them would be lost.

    Args:
        names: of the images, for messages.
        where: the folder or file that holds them, for messages.
        stream: returns the content of an image by its name.

    Raises:
        DataError: an image cannot be read, holds more than one page or more than 8 bits, or sizes or depths differ.
    """
    kinds = [_kind(name, where, stream) for name in names]
    _refuse_mixed_depths(kinds, names, where)
    colour = [kind == "colour" for kind in kinds]
    mode, done, X = "RGB" if any(colour) else "L", dict[str, list[str]](), np.empty(0, np.uint8)
    for i, name in enumerate(names):
        with _opened(name, where, stream) as (image, _):
            pixels, changes = _as_stored(image) if kinds[i] == "deep" else _as_shown(image, mode)
        for change in changes if colour[i] or mode == "L" else (*changes, "gray"):
            done.setdefault(change, []).append(name)
        if i == 0:
            X = np.empty((len(names), *pixels.shape), pixels.dtype)
        _refuse_other_size(pixels.shape, X.shape[1:], name, names[0], where)
        X[i] = pixels
    return Pictures(X, {kind: done[kind] for kind in _DONE if kind in done})


def _kind(name: str, where: str, stream: Callable[[str], IO[bytes]]) -> str:
    """Return "colour", "gray" or "deep" (gray, 16 bits), after a look at the header for what cannot be read whole."""
    with _opened(name, where, stream) as (image, file):
        is_deep, mode = is_deep_gray(image), image.mode
        odd = None if is_deep else odd_values(image, file)
        if odd is not None:
            raise DataError(
                expected="images with 8 bits per channel, in gray or colour, or gray with 16 bits in PNG or TIFF",
                got=f"{odd} in {name} of {where}, in {mode.split(';')[0]} of {image.format}",
                do="Save the values as one array with numpy.save, in float32, or convert the images to 8 bits.",
            )
        if image.format == "TIFF":
            _refuse_pages(image, name, where)
    return "deep" if is_deep else "gray" if mode in _GRAY else "colour"


def _refuse_mixed_depths(kinds: Sequence[str], names: Sequence[str], where: str) -> None:
    if "deep" in kinds and set(kinds) != {"deep"}:
        other = next(name for name, kind in zip(names, kinds, strict=True) if kind != "deep")
        raise DataError(
            expected=f"images of one depth in {where}",
            got=f"16 bits in {names[kinds.index('deep')]} and 8 bits in {other}",
            do="Convert them to one depth.",
        )


def _refuse_pages(image: "Image", name: str, where: str) -> None:
    """Refuse a stack of pages; smaller pages are previews of the first."""
    pages, size = getattr(image, "n_frames", 1), image.size
    if pages == 1:
        return
    image.seek(1)
    if image.size == size:
        raise DataError(
            expected="one picture in each image file",
            got=f"{pages} pages of one size in {name} of {where}",
            do="Save every page as a file of its own, or all of them as one array with numpy.save.",
        )


def _refuse_other_size(shape: tuple[int, ...], first: tuple[int, ...], name: str, first_name: str, where: str) -> None:
    if shape != first:
        raise DataError(
            expected=f"images of one size (height x width) in {where}",
            got=f"{first[0]} x {first[1]} in {first_name} but {shape[0]} x {shape[1]} in {name}",
            do="Resize or crop them to one size.",
        )


# --- one image


def _as_shown(image: "Image", mode: str) -> tuple[NDArray[np.uint8], list[str]]:
    """Return the pixels of an image, (h, w) or (h, w, 3), and the kinds of change."""
    changes = []
    if image.format not in _SINGLE and getattr(image, "n_frames", 1) > 1:
        changes.append("frames")
        image.seek(0)
    turned = _orientation(image) > 1
    image.load()
    if image.mode not in (*_GRAY, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"):
        changes.append("converted")
    orientation, shown = _orientation(image), image
    profile: bytes = image.info.get("icc_profile") or b"sRGB"
    if b"sRGB" not in profile.replace(b"\0", b""):  # its name may be in UTF-16
        changes.append("profile")
    if image.has_transparency_data:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        _refuse_invisible(layer)
        least: Any = layer.getchannel("A").getextrema()[0]
        changes.append("white" if least < 255 else "opaque")
        shown = _on_white(layer)
    shown = _upright(shown.convert(mode), orientation)
    return np.asarray(shown), ["turned", *changes] if turned else changes


def _as_stored(image: "Image") -> tuple[NDArray[np.uint16], list[str]]:
    """Return the values of a gray image of 16 bits, turned, and the kinds of change."""
    orientation = _orientation(image)
    image.load()
    values = np.asarray(_upright(image, orientation)).astype(np.uint16)
    return values, ["deep", *(["turned"] if orientation > 1 else [])]


def _refuse_invisible(layer: "Image") -> None:
    """Refuse an image of which nothing is to be seen though it holds one, as after an alpha channel of zeros."""
    values = np.asarray(layer).reshape(-1, 4)
    if not values[:, 3].any() and (values[0] != values).any():
        raise ValueError("it is wholly transparent, and hides an image; drop its alpha channel if it is meant")


def _on_white(layer: "Image") -> "Image":
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _orientation(image: "Image") -> int:
    """Return the orientation of EXIF, 1 if there is none that a viewer could use."""
    try:
        found: Any = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF: struct.error, SyntaxError, ...
        return 1
    return found if found in range(2, 9) else 1


def _upright(image: "Image", orientation: int) -> "Image":
    from PIL.Image import Transpose

    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image if orientation == 1 else image.transpose(ways[orientation])


@contextmanager
def _opened(name: str, where: str, stream: Callable[[str], IO[bytes]]) -> Iterator[tuple["Image", IO[bytes]]]:
    from PIL import Image

    with stream(name) as file:
        try:
            with Image.open(file, formats=_formats()) as image:
                yield image, file
        except DataError:
            raise
        except Exception as error:  # a damaged image raises OSError, SyntaxError, ValueError, struct.error, ...
            raise _unreadable(file, name, where, error) from error


def _unreadable(file: IO[bytes], name: str, where: str, error: Exception) -> DataError:
    reason, do = " ".join(str(error).split())[:200], "Replace or remove this file."
    if not file.closed:
        file.seek(0)
        head = file.read(64)
        no_image = "it is no image that Pillow can read", do
        reason, do = not_an_image(head) or (no_image if "cannot identify" in reason else (reason, do))
    return DataError(expected="readable images", got=f"{name}, which cannot be read ({reason}), in {where}", do=do)
