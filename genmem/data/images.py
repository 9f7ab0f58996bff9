"""Image folders, read with Pillow; arrays that can be shown as images; sets of images in a common form."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import blocks
from genmem.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def read_images(folder: Path) -> tuple[NDArray[np.uint8], NDArray[Any] | None, NDArray[np.str_]]:
    """Return the images of a folder in the order of their names, their labels, and their names within the folder.

    The label of an image in a subfolder is the name of its top-level subfolder. Hidden files and files with other
    suffixes are skipped. If all images are gray the array is (n, h, w), else (n, h, w, 3); transparency is dropped.

    Raises:
        DataError: there are no images, one cannot be read, sizes differ, or only some are in subfolders.
    """
    names = _image_names(folder)
    labels = _class_folders(folder, names)
    size, colour = _size_and_colour(folder, names)
    X = np.empty((len(names), *size, *((3,) if colour else ())), np.uint8)
    for i, name in enumerate(names):
        with _opened(folder / name) as image:
            X[i] = np.asarray(image.convert("RGB" if colour else "L"))
    return X, labels, np.array(names)


def _image_names(folder: Path) -> list[str]:
    def refuse(error: OSError) -> None:
        raise error

    names = []
    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = [name for name in files if not name.startswith(".")]
        images = [Path(root, name) for name in shown if Path(name).suffix.lower() in IMAGE_SUFFIXES]
        names += [path.relative_to(folder).as_posix() for path in images]
    if not names:
        raise DataError(
            expected=f"images in {folder} ({' '.join(IMAGE_SUFFIXES)})",
            got="none",
            do="Correct the path, or save the images in one of these formats.",
        )
    return sorted(names)


def _class_folders(folder: Path, names: list[str]) -> NDArray[np.str_] | None:
    parts = [name.split("/") for name in names]
    alone = [name for name, part in zip(names, parts, strict=True) if len(part) == 1]
    if len(alone) == len(names):
        return None
    if alone:
        raise DataError(
            expected=f"all images of {folder} in subfolders, whose names are then the labels, or none",
            got=f"{len(alone)} of {len(names)} images outside subfolders, the first {alone[0]}",
            do="Move all images into subfolders, or all into the folder itself.",
        )
    return np.array([part[0] for part in parts])


def _size_and_colour(folder: Path, names: list[str]) -> tuple[tuple[int, int], bool]:
    first, colour = None, False
    for name in names:
        with _opened(folder / name) as image:
            _refuse_deep(image, folder / name)
            size = (image.height, image.width)
            colour |= image.mode not in ("1", "L", "LA")
        first = first or size
        if size != first:
            raise DataError(
                expected=f"images of one size (height x width) in {folder}",
                got=f"{first[0]} x {first[1]} in {names[0]} but {size[0]} x {size[1]} in {name}",
                do="Resize or crop them to one size.",
            )
    assert first is not None
    return first, colour


def _refuse_deep(image: "Image", path: Path) -> None:
    if image.mode.startswith("I") or image.mode == "F":
        raise DataError(
            expected="images with 8 bits per channel",
            got=f"mode {image.mode!r} in {path}",
            do="Convert the images, or save them as one .npy array.",
        )


@contextmanager
def _opened(path: Path) -> Iterator["Image"]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # a damaged image raises OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(
            expected="readable images",
            got=f"{path}, which cannot be read ({' '.join(str(error).split())[:200]})",
            do="Replace or remove this file.",
        ) from error


def image_shape_of(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return (h, w) or (h, w, 3) if the shape of the array determines it, else None.

    (n, h, w), (n, h, w, 1) and (n, 1, h, w) are gray, (n, h, w, 3) and (n, 3, h, w) are colour; h and w must be at
    least 8. Other shapes are ambiguous.
    """
    event = shape[1:]
    if len(event) == 3 and 1 in (event[0], event[2]):
        event = event[1:] if event[0] == 1 else event[:2]
    if len(event) == 3 and event[0] == 3:
        event = (*event[1:], 3)
    clear = len(event) == 2 or (len(event) == 3 and event[2] == 3)
    return event if clear and min(event[:2]) >= 8 else None


def to_images(X: NDArray[Any], image_shape: tuple[int, ...]) -> NDArray[Any]:
    """Return examples (m, *event) as images (m, *image_shape); leading channels move to the end.

    >>> to_images(np.zeros((5, 3, 32, 32)), (32, 32, 3)).shape
    (5, 32, 32, 3)
    """
    if len(image_shape) == 3 and X.shape[1:] == (image_shape[2], *image_shape[:2]):
        return np.moveaxis(X, 1, -1)
    return X.reshape(len(X), *image_shape)


# --- several sets of images


Arrays = list[NDArray[Any]]


def as_one_kind_of_image(
    arrays: Arrays, shapes: list[tuple[int, ...]], sources: list[str]
) -> tuple[Arrays, tuple[int, ...]]:
    """Return sets of images, all (n, h, w) or all (n, h, w, 3), and the shape of one image.

    Arrays that have the same shape already are returned unchanged.

    Args:
        arrays: (n, *event) each.
        shapes: (h, w) or (h, w, 3) of the images of each array.
        sources: the origin of each array, for the message.

    Raises:
        DataError: heights or widths differ.
    """
    if len({shape[:2] for shape in shapes}) > 1:
        raise DataError(
            expected="images of one size (height x width) in all three sets",
            got=", ".join(
                f"{shape[0]} x {shape[1]} in {source}" for shape, source in zip(shapes, sources, strict=True)
            ),
            do="Resize the images of all three sets to one size.",
        )
    if len({X.shape[1:] for X in arrays}) == 1:
        return arrays, shapes[0]
    images = [to_images(X, shape) for X, shape in zip(arrays, shapes, strict=True)]
    if len({X.shape[1:] for X in images}) > 1:
        images = [_gray_where_it_is(X) for X in images]
    if len({X.shape[1:] for X in images}) > 1:
        images = [X if X.ndim == 4 else np.repeat(X[..., None], 3, axis=3) for X in images]
    return images, images[0].shape[1:]


def check_levels(arrays: Arrays, sources: list[str], are_images: bool) -> None:
    """Refuse sets with incompatible scales: 0 to 255 beside 0 to 1, or 0 to 1 beside -1 to 1.

    Raises:
        DataError: the scales differ, and the sets are images or contain bytes.
    """
    if not are_images and not any(X.dtype == np.uint8 for X in arrays):
        return
    if any(X.dtype.kind not in "biuf" for X in arrays):
        return
    levels = [_levels(X) for X in arrays]
    if len(set(levels) - {"other"}) > 1:
        raise DataError(
            expected="values on one scale in all three sets",
            got=", ".join(f"{level} in {source}" for level, source in zip(levels, sources, strict=True)),
            do="Convert them to one scale first: 255 x, or (x + 1) / 2 for values from -1 to 1.",
        )


def _levels(X: NDArray[Any]) -> str:
    """Return "0 to 255", "0 to 1" or "-1 to 1" if the values look like this scale, else "other"."""
    low = min(float(block.min()) for _, block in blocks(X))
    high = max(float(block.max()) for _, block in blocks(X))
    if low == high:  # a constant image has no scale
        return "other"
    if low >= 0 and 100 <= high <= 255:
        return "0 to 255"
    if low >= 0 and high <= 1:
        return "0 to 1"
    if -1.01 <= low <= -0.9 and high <= 1.01:
        dark = np.mean([float((block < -0.25).mean()) for _, block in blocks(X)])
        return "-1 to 1" if dark > 0.1 else "other"  # values from 0 to 1 with noise can be below 0 too
    return "other"


def _gray_where_it_is(X: NDArray[Any]) -> NDArray[Any]:
    if X.ndim == 4 and (X[..., :1] == X).all():
        return X[..., 0]
    return X
