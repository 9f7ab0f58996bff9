"""Folders of images: gray or colour, classes from folders, and what is refused."""

import numpy as np
import pytest
from PIL import Image
from sources import refused

from genmem.data import load
from genmem.data.three_sets import load_three


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def save_images(folder, images):
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def on_white(colour, alpha):
    """Return colour under an alpha channel (a number or (h, w)) on white, rounded, as the reference."""
    share = np.asarray(alpha, float)[..., None] / 255
    return np.rint(share * colour + (1 - share) * 255).astype(np.uint8)


def test_gray_images_in_class_folders(tmp_path, rng):
    images = {f"{kind}/{i}.png": rng.integers(0, 256, (9, 12), dtype=np.uint8) for kind in "ba" for i in (2, 1)}
    save_images(tmp_path, images)
    for ignored in (".hidden.png", ".cache/1.png", "notes.txt", "a/.x.png"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).write_text("not an image")
    data = load(tmp_path)
    assert data.names.tolist() == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"] == sorted(images)
    assert data.labels.tolist() == ["a", "a", "b", "b"]
    np.testing.assert_array_equal(data.X, [images[name] for name in data.names])
    assert data.X.dtype == np.uint8 and data.image_shape == (9, 12)
    assert load(tmp_path, labels=[1, 2, 3, 4]).labels.tolist() == [1, 2, 3, 4]
    assert load(tmp_path, subset=3).names.tolist() == data.names[load(tmp_path, subset=3).index].tolist()


def test_colour_images(tmp_path, rng):
    colour = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    gray = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    see_through = np.dstack([colour, np.full((8, 8), 9, np.uint8)])
    save_images(tmp_path, {"1.png": colour, "2.BMP": gray, "3.png": see_through})
    data = load(tmp_path)
    assert data.labels is None and data.image_shape == (8, 8, 3)
    np.testing.assert_array_equal(data.X, [colour, np.dstack([gray] * 3), on_white(colour, 9)])


def test_refused_folders(tmp_path, rng):
    refused("images in .*png.*got none", tmp_path)
    save_images(tmp_path, {"1.png": rng.integers(0, 256, (8, 9), dtype=np.uint8)})
    refused("1 with 72 values", tmp_path)
    save_images(tmp_path, {"2.png": np.zeros((9, 8), np.uint8)})
    refused("8 x 9 in 1.png but 9 x 8 in 2.png", tmp_path)
    (tmp_path / "2.png").write_text("<svg/>")
    refused("2.png, which cannot", tmp_path)
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    refused("2.png, which cannot", tmp_path)
    Image.fromarray(np.zeros((8, 9), np.uint16)).save(tmp_path / "2.png")
    refused("16 bits in 2.png and 8 bits in 1.png", tmp_path)
    (tmp_path / "2.png").unlink()
    save_images(tmp_path, {"a/2.png": np.zeros((8, 9), np.uint8)})
    refused("1 of 2 images outside subfolders, the first 1.png", tmp_path)
    assert load(tmp_path, labels=[5, 6]).labels.tolist() == [5, 6]
    assert load_three(tmp_path, tmp_path, tmp_path).names["train"] == ["1.png", "a/2.png"]
    refused("folder that holds the images", tmp_path / "1.png")


def test_four_channels_of_an_array_are_told(rng):
    four = rng.integers(0, 256, (3, 8, 9, 4), dtype=np.uint8)
    for X in (four, four.transpose(0, 3, 1, 2)):
        assert load(X).notes[0].startswith("Images of four channels are taken as they are")
    for X in (four[..., :3], four[:, :4], four.astype(np.float32), four[..., 0]):
        assert load(X).notes == ()
    sets = load_three(four, four[:2], four[1:])
    assert set(sets.notes) == {"train", "test", "samples"}
