"""Image files: what a viewer shows, what is told, and what is refused because it would be lost."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps
from sources import refused

from genmem.data import load
from genmem.data.image_files import is_image_name, read_pictures
from genmem.data.three_sets import load_three
from genmem.errors import DataError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (2, 8, 9), dtype=np.uint8)


def stored(image, kind="PNG", **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def read(*files):
    names = [f"{i}" for i in range(len(files))]
    return read_pictures(names, "here", lambda name: io.BytesIO(files[int(name)]))


def refused_file(message, content):
    with pytest.raises(Exception, match=message):
        read(content)


def oracle_on_white(pixels, alpha):
    """Return (h, w, c) under alpha (h, w) on white, each pixel by itself."""
    shown = np.empty(pixels.shape)
    for at in np.ndindex(alpha.shape):
        shown[at] = pixels[at] * (alpha[at] / 255) + 255 * (1 - alpha[at] / 255)
    return shown


# --- what is read


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM", "TGA", "SGI", "PCX", "QOI", "WEBP", "JPEG2000"])
def test_lossless_kinds_hold_what_was_saved(kind):
    X = np.dstack([GRAY[0]] * 3) if kind == "GIF" else COLOUR[0]  # colours of a GIF are those of its palette
    how = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(read(stored(Image.fromarray(X if kind != "GIF" else GRAY[0]), kind, **how)).X[0], X)


def test_suffixes_of_pillow():
    for name in ("a.jfif", "A.JPG", "a.avif", "a.jp2", "a.webp", "a.tif", "a.mpo", "a.pnm"):
        assert is_image_name(name), name
    for name in ("a.txt", "png", "a.eps", "a.h5", "a.mpg", "a.npy", "a.heic"):  # .eps would start another program
        assert not is_image_name(name), name


@settings(max_examples=40)
@given(st.data())
def test_pixels_and_transparency_are_those_of_pillow(data):
    """Any size and any mode with 8 bits: as `Image.convert` or, with alpha, as composited on white."""
    mode = data.draw(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"]))
    size = (data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)))
    channels = data.draw(arrays(np.uint8, (*size, 4)))
    channels[0, 0, 3] = 255  # images of which nothing is to be seen are refused
    image = Image.fromarray(channels, "CMYK" if mode == "CMYK" else "RGBA")
    if mode not in ("CMYK", "RGBA"):
        image = (image if mode == "LA" else image.convert("RGB")).convert(mode)
    found = read(stored(image, "TIFF" if mode == "CMYK" else "PNG")).X[0]
    gray = mode in ("1", "L", "LA")
    if mode in ("LA", "RGBA"):
        alpha = np.asarray(image.getchannel("A"))
        expected = oracle_on_white(np.asarray(image.convert("RGB")), alpha)
        np.testing.assert_allclose(found[..., None] if gray else found, expected[..., :1] if gray else expected, atol=1)
    else:
        np.testing.assert_array_equal(found, np.asarray(image.convert("L" if gray else "RGB")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_a_viewer_turns_them(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = stored(Image.fromarray(COLOUR[0]), kind, exif=exif)
    found = read(content)
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(found.X[0], np.asarray(ImageOps.exif_transpose(image)))
    assert found.X.shape[1:3] == ((9, 8) if orientation > 4 else (8, 9))
    assert found.notes() == (() if orientation == 1 else ("1 of 1 images turned as their EXIF orientation says: 0.",))


def test_palettes_with_transparency():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    found = read(stored(image, transparency=1), stored(image, transparency=b"\xff\x00"))
    expected = [[[10, 20, 30], [255] * 3], [[70, 80, 90], [255] * 3]]
    assert found.X.tolist() == [expected, expected] and found.see_through == 2
    key = stored(Image.fromarray(COLOUR[0]), transparency=tuple(map(int, COLOUR[0, 0, 0])))
    assert read(key).X[0, 0, 0].tolist() == [255] * 3


def test_an_alpha_channel_that_hides_nothing_is_dropped():
    opaque = np.dstack([COLOUR[0], np.full((8, 9), 255, np.uint8)])
    found = read(stored(Image.fromarray(opaque)))
    np.testing.assert_array_equal(found.X[0], COLOUR[0])
    assert found.see_through == 0
    assert found.notes() == ("1 of 1 images with an alpha channel that hides nothing, which was dropped: 0.",)


def test_gray_among_colour_and_other_colour_spaces_are_told():
    cmyk = Image.fromarray(RNG.integers(0, 256, (8, 9, 4), dtype=np.uint8), "CMYK")
    found = read(stored(Image.fromarray(GRAY[0])), stored(Image.fromarray(COLOUR[0])), stored(cmyk, "TIFF"))
    np.testing.assert_array_equal(found.X[0], np.dstack([GRAY[0]] * 3))
    assert found.notes() == (
        "1 of 3 images in another colour space (such as CMYK), converted to RGB: 2.",
        "1 of 3 images in gray among images in colour, with three equal channels now: 0.",
    )


def test_small_depths_fill_the_range():
    header = png(2, 0, bytes([0, 0b00011011]), (1, 4))
    assert read(header).X[0].tolist() == [[0, 85, 170, 255]]
    assert read(stored(Image.fromarray(np.array([[False, True]])))).X[0].tolist() == [[0, 255]]


# --- frames


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_read(kind):
    frames = [Image.fromarray(X) for X in GRAY]
    how = {"lossless": True} if kind == "WEBP" else {}
    found = read(stored(frames[0], kind, save_all=True, append_images=frames[1:], **how))
    np.testing.assert_array_equal(found.X[0], GRAY[0] if kind == "PNG" else np.dstack([GRAY[0]] * 3))
    assert found.notes() == ("1 of 1 images of several frames, of which the first was read: 0.",)


def test_pages_are_refused_and_previews_are_not():
    first, second = (Image.fromarray(X) for X in GRAY)
    refused_file("2 pages of one size in 0", stored(first, "TIFF", save_all=True, append_images=[second]))
    found = read(stored(first, "TIFF", save_all=True, append_images=[second.resize((3, 3))]))
    np.testing.assert_array_equal(found.X[0], GRAY[0])
    assert "several frames" in found.notes()[0]


# --- depth


def png(bits, kind, rows, shape):
    """Return a PNG file: `kind` 0 is gray, 2 colour, 6 with alpha; `rows` start with a zero each."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", shape[1], shape[0], bits, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(values, photometric=None):
    """Return an uncompressed little-endian TIFF file of (h, w, c) values, written by hand."""
    h, w, c = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    lists = {258: [8 * values.itemsize] * c, 339: [kind] * c}
    entries = {
        256: [w],
        257: [h],
        259: [1],
        262: [(2 if c > 2 else 1) if photometric is None else photometric],
        273: [0],
        277: [c],
        278: [h],
        279: [values.nbytes],
    }
    if c > 3:
        lists[338] = [0] * (c - 3)
    entries = dict(sorted({**entries, **lists}.items()))
    after, extra, table = 8 + 2 + 12 * len(entries) + 4, b"", b""
    for tag, numbers in entries.items():
        numbers = [8 + 2 + 12 * len(entries) + 4 + 200] if tag == 273 else numbers
        packed = struct.pack(f"<{len(numbers)}H", *numbers)
        if len(packed) > 4:
            at, extra = after + len(extra), extra + packed
            packed = struct.pack("<I", at)
        table += struct.pack("<HHI", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + table + b"\0" * 4
    return (head + extra).ljust(after + 200, b"\0") + values.tobytes()


def test_the_hand_made_tiff_is_one():
    np.testing.assert_array_equal(read(tiff(COLOUR[0])).X[0], COLOUR[0])


WIDE = RNG.integers(0, 2**16, (4, 5, 4)).astype(">u2")


def rows(values):
    return b"".join(b"\0" + row.tobytes() for row in values)


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ("16 bits per channel in 0 of here, in RGB of PNG", png(16, 2, rows(WIDE[..., :3]), (4, 5))),
        ("16 bits", png(16, 4, rows(WIDE[..., :2]), (4, 5))),
        ("16 bits", png(16, 6, rows(WIDE), (4, 5))),
        ("16 bits", tiff(WIDE[..., :3].astype("<u2"))),
        ("16 bits", tiff(WIDE[..., :1].astype("<u2"), photometric=0)),  # white is 0
        ("16-bit floats or signed", tiff(WIDE[..., :1].astype("<i2"))),
        ("32-bit floats or signed", tiff(WIDE[..., :1].astype("<f4"))),
        ("8-bit floats or signed", tiff(GRAY[0, ..., None].astype(np.int8))),
        ("5 channels", tiff(np.dstack([COLOUR[0], GRAY[0], GRAY[1]]))),
        ("4 channels", tiff(np.dstack([COLOUR[0], GRAY[0]]))),
        ("16 bits", b"P5 # 12 bits\n5 4\n# of 16\n65535\n" + WIDE[..., 0].tobytes()),
        ("12 bits", b"P6 5 4 4095\n" + (WIDE[..., :3] >> 4).astype(">u2").tobytes()),
        ("16 bits", stored(Image.fromarray(WIDE[..., 0].astype(np.uint16)), "JPEG2000")),
    ],
)
def test_more_than_eight_bits_are_refused(message, content):
    refused_file(message, content)


def test_bits_of_other_headers():
    from genmem.data.image_depth import _bits_of_avif, _bits_of_jpeg2000

    assert _bits_of_avif(b"...av1C\x81\x00\x00") == 8
    assert _bits_of_avif(b"...av1C\x81\x00\x40") == 10
    assert _bits_of_avif(b"...av1C\x81\x00\x60") == 12
    assert _bits_of_avif(stored(Image.fromarray(COLOUR[0]), "AVIF")[:4096]) == 8
    assert _bits_of_jpeg2000(stored(Image.fromarray(COLOUR[0]), "JPEG2000")) == 8


# --- in a folder


def test_notes_of_a_folder(tmp_path):
    for i, X in enumerate(COLOUR):
        (tmp_path / "ab"[i]).mkdir()
        Image.fromarray(X).save(tmp_path / "ab"[i] / "1.png")
    (tmp_path / "notes.txt").touch()
    assert load(tmp_path).notes == (
        "1 file skipped: 1 .txt (notes.txt).",
        "Labels are the names of 2 subfolders: a (1), b (1).",
    )
    assert load(tmp_path, labels=[3, 4]).notes[1:] == (
        "Labels in the order of the images: a/1.png is 3, b/1.png is 4.",
    )
    for file in tmp_path.rglob("*.png"):
        file.rename(file.with_suffix(".heic"))
    refused(r"got none; 3 files skipped: 2 .heic \(a/1.heic, b/1.heic\), 1 .txt", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"0, which cannot be read \(it is empty\), in here. Replace or remove"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS .* git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"<svg/>", "a drawing in SVG"),
        (b"%PDF-1.4", "no image that Pillow can read"),
        (stored(Image.fromarray(COLOUR[0]))[:100], "0, which cannot be read"),
        (stored(Image.fromarray(COLOUR[0]), "EPS"), "no image that Pillow can read"),
    ],
)
def test_files_that_are_no_images_are_named(content, message):
    refused_file(message, content)


def test_an_image_under_an_alpha_channel_of_zeros_is_refused():
    unseen = Image.fromarray(np.dstack([COLOUR[0], np.zeros((8, 9), np.uint8)]))
    refused_file("wholly transparent, and hides an image", stored(unseen))
    empty = Image.fromarray(np.zeros((8, 9, 4), np.uint8))
    assert (read(stored(empty)).X == 255).all()


def test_damaged_exif_is_ignored():
    content = stored(Image.fromarray(COLOUR[0]), exif=b"Exif\0\0II*\0garbage!")
    np.testing.assert_array_equal(read(content).X[0], COLOUR[0])


def test_colour_profiles_are_told():
    from PIL import ImageCms

    profiles = [ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes() for kind in ("sRGB", "XYZ")]
    found = read(*(stored(Image.fromarray(COLOUR[0]), icc_profile=profile) for profile in profiles))
    np.testing.assert_array_equal(found.X[1], COLOUR[0])
    assert found.notes() == ("1 of 2 images with a colour profile other than sRGB, which was not applied: 1.",)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_gray_images_of_16_bits_are_read_exactly(orientation):
    values = WIDE[..., 0].astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    by_pillow = stored(Image.fromarray(values), "PNG", **({} if orientation == 1 else {"exif": exif}))
    files = [by_pillow] if orientation > 1 else [by_pillow, png(16, 0, rows(WIDE[..., 0]), (4, 5)),
                                                 tiff(WIDE[..., :1].astype("<u2"))]  # fmt: skip
    found = read(*files)
    turned = {1: values, 3: values[::-1, ::-1], 6: np.rot90(values, -1)}[orientation]
    assert found.X.dtype == np.uint16
    for image in found.X:
        np.testing.assert_array_equal(image, turned)
    assert "in gray with 16 bits, whose values were kept" in found.notes()[0]


def test_gray_images_of_16_bits_beside_others():
    deep, plain = stored(Image.fromarray(WIDE[..., 0].astype(np.uint16))), stored(Image.fromarray(GRAY[0]))
    with pytest.raises(DataError, match="images of one depth in here; got 16 bits in 1 and 8 bits in 0"):
        read(plain, deep)


def test_sets_of_8_and_16_bits_are_not_compared(tmp_path):
    for name, kind in (("deep", np.uint16), ("plain", np.uint8)):
        (tmp_path / name).mkdir()
        for i in range(3):
            values = RNG.integers(0, np.iinfo(kind).max, (8, 9), dtype=kind)
            Image.fromarray(values).save(tmp_path / name / f"{i}.png")
    deep, plain = tmp_path / "deep", tmp_path / "plain"
    assert load(deep).X.dtype == np.float32 and load(deep).X.max() > 255
    with pytest.raises(DataError, match="one scale in all three sets; got 0 to 65535 in .*deep, .*0 to 255 in"):
        load_three(deep, deep, plain)
