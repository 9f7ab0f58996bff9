"""Image folders; arrays that can be shown as images; sets of images in a common form."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import blocks
from genmem.data.folders import counted, files_below, skipped_words, some
from genmem.data.image_files import Pictures, is_image_name, read_pictures
from genmem.data.notes import Note
from genmem.errors import DataError

_NEARLY_WHITE = 0.96
_NO_CLASSES = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "images", "masks", "labels"}


def read_images(
    folder: Path, *, classes: bool = True
) -> tuple[Pictures, NDArray[Any] | None, NDArray[np.str_], tuple[str, ...]]:
    """Return the images of a folder, their labels, their names within the folder, and notes on what was read.

    Images are read in the order of their names, numbers compared as numbers. The label of an image in a subfolder is
    the name of its top-level subfolder. Symbolic links are followed; hidden files and files with other suffixes are
    skipped. See `read_pictures` for what is done to an image. Without `classes`, subfolders are no labels.

    Raises:
        DataError: there are no images, one cannot be read, sizes differ, or only some are in subfolders.
    """
    found = files_below(folder, is_image_name)
    if not found.names:
        raise DataError(
            expected=f"images in {folder}, such as .png or .jpg",
            got=f"none; {skipped_words(found.skipped).rstrip('.')}" if found.skipped else "none",
            do=_instead(found.skipped),
        )
    labels = _class_folders(folder, found.names) if classes else None
    pictures = read_pictures(found.names, os.fspath(folder), lambda name: open(folder / name, "rb"))
    return pictures, labels, np.array(found.names), (*found.notes(), *pictures.notes())


def _instead(skipped: dict[str, list[str]]) -> str:
    if ".bin" in skipped:
        return "Pass one .bin file of CIFAR; files joined end to end (cat data_batch_*.bin > train.bin) are one too."
    readable = [name for suffix in (".npy", ".npz", ".csv", ".parquet") for name in skipped.get(suffix, ())]
    if readable:
        return f"Pass a file instead of the folder, such as {readable[0]}."
    return "Correct the path, or save the images in one of these formats."


def classes_in_words(labels: NDArray[Any]) -> str:
    """Return the sentence that names the subfolders of a folder of images, which are its labels."""
    classes, counts = np.unique(labels, return_counts=True)
    each = [f"{name} ({count:,})" for name, count in zip(classes.tolist(), counts.tolist(), strict=True)]
    told = f"Labels are the names of {counted(len(each), 'subfolder')}: {some(each, 12)}."
    if len(classes) > 1 and {name.lower() for name in classes.tolist()} <= _NO_CLASSES:
        told += " Pass one of these folders if they are parts of a data set, not classes."
    return told


def _class_folders(folder: Path, names: list[str]) -> NDArray[np.str_] | None:
    parts = [name.split("/") for name in names]
    alone = [name for name, part in zip(names, parts, strict=True) if len(part) == 1]
    if len(alone) == len(names):
        return None
    if alone:
        raise DataError(
            expected=f"all images of {folder} in subfolders, whose names are then the labels, or none",
            got=f"{len(alone)} of {len(names)} images outside subfolders, the first {alone[0]}",
            do="Move all images into subfolders, or all into the folder itself, or pass labels (--labels).",
        )
    return np.array([part[0] for part in parts])


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


def alpha_in_words(X: NDArray[Any]) -> tuple[str, ...]:
    """Return a note if images of bytes in an array seem to have an alpha channel, which is then a value like others."""
    if X.dtype != np.uint8 or X.ndim != 4 or 4 not in (X.shape[1], X.shape[3]) or min(sorted(X.shape[1:])[1:]) < 8:
        return ()
    return (
        Note(
            "Images of four channels are taken as they are: if the fourth is transparency, what it hides counts too; "
            "put them on one background to avoid this."
        ),
    )


def check_backgrounds(arrays: Arrays, see_through: list[int], sources: list[str]) -> None:
    """Refuse transparent images, which were put on white, beside opaque ones that are not on white.

    Edges tell: of a set without transparent images, at least half as many pixels of the edges must be white as of those
    in which more than a few images (1 in 20) had transparent pixels.

    Args:
        arrays: images, (n, h, w) or (n, h, w, 3) each.
        see_through: the number of images of each array that had transparent pixels.
        sources: the origin of each array, for the message.

    Raises:
        DataError: some sets had transparent pixels, and others seem to have another background.
    """
    put = {
        source: _white_edges(X)
        for X, count, source in zip(arrays, see_through, sources, strict=True)
        if count > len(X) / 20
    }
    for X, count, source in zip(arrays, see_through, sources, strict=True):
        if not put or count or not (white := _white_edges(X)) < min(put.values()) / 2:
            continue
        raise DataError(
            expected="the images of all three sets on one background",
            got=f"opaque images in {source}, with {white:.0%} of the pixels at their edges white, beside transparent "
            f"ones in {min(put, key=lambda source: put[source])} (on white, {min(put.values()):.0%})",
            do="Put the transparent images on the background the generator was trained with, and save them opaque.",
        )


def _white_edges(X: NDArray[Any]) -> float:
    """Return the share of pixels at the edges that are white, or nearly, as after compression."""
    white: NDArray[np.bool_] = X >= _NEARLY_WHITE * _top(X)
    shown = white if X.ndim == 3 else np.asarray(white.all(3))
    edges = np.concatenate([shown[:, 0], shown[:, -1], shown[:, :, 0], shown[:, :, -1]], axis=1)
    return float(edges.mean())


def _top(X: NDArray[Any]) -> int:
    return 255 if X.dtype == np.uint8 or X.max() > 1 else 1


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
    if X.dtype == np.uint16 and high > 255:
        return "0 to 65535"
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
