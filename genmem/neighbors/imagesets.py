"""Sets of images in one form: size, colour, order of axes, scale of values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.images import to_images
from genmem.rows import blocks

Arrays = list[NDArray[Any]]


def as_one_kind_of_image(
    arrays: Arrays, shapes: list[tuple[int, ...]], sources: list[str]
) -> tuple[Arrays, tuple[int, ...]]:
    """Return sets of images, all (n, h, w) or all (n, h, w, 3), and the shape of one.

    Arrays that have one shape already are returned as they are.

    Args:
        arrays: (n, *event) each.
        shapes: (h, w) or (h, w, 3) of the images of each.
        sources: where each is from, for the message.

    Raises:
        DataError: heights or widths differ.
    """
    if len({shape[:2] for shape in shapes}) > 1:
        raise DataError(
            expected="images of one size (height x width) in all three sets",
            got=", ".join(
                f"{shape[0]} x {shape[1]} in {source}" for shape, source in zip(shapes, sources, strict=True)
            ),
            do="Resize all three alike, before anything is compared.",
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
    """Refuse values on scales that cannot be meant to be compared: 0 to 255 beside 0 to 1, 0 to 1 beside -1 to 1.

    Raises:
        DataError: they are, and the sets are images or hold bytes.
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
            do="Bring them to one scale first: 255 x, or (x + 1) / 2 for values from -1 to 1.",
        )


def _levels(X: NDArray[Any]) -> str:
    """Return "0 to 255", "0 to 1" or "-1 to 1" where values look like it, else "other"."""
    low = min(float(block.min()) for _, block in blocks(X))
    high = max(float(block.max()) for _, block in blocks(X))
    if low == high:  # all black is no scale
        return "other"
    if low >= 0 and 100 <= high <= 255:
        return "0 to 255"
    if low >= 0 and high <= 1:
        return "0 to 1"
    if -1.01 <= low <= -0.9 and high <= 1.01:
        dark = np.mean([float((block < -0.25).mean()) for _, block in blocks(X)])
        return "-1 to 1" if dark > 0.1 else "other"  # noise about values from 0 to 1 goes below 0 too
    return "other"


def _gray_where_it_is(X: NDArray[Any]) -> NDArray[Any]:
    if X.ndim == 4 and (X[..., :1] == X).all():
        return X[..., 0]
    return X
