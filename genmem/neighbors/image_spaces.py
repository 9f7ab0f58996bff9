"""Feature spaces of images: averaged pixels, and Fourier amplitudes that are invariant to shifts and mirroring."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from genmem.data.images import image_shape_of, to_images
from genmem.errors import DataError

Array: TypeAlias = NDArray[Any]

_BITS = 24  # of an amplitude, counted from the largest value of the image


def pooled(images: Array, size: int) -> Array:
    """Return images averaged over blocks of `size` x `size` pixels, (m, *smaller), channels last.

    Blocks at the right and the lower edge average over the pixels that remain.

    >>> pooled(np.array([[[1.0, 3.0, 5.0]]]), 2)
    array([[[2., 5.]]])
    """
    height, width = images.shape[1:3]
    rows, columns = np.arange(0, height, size), np.arange(0, width, size)
    sums = np.add.reduceat(images, rows, axis=1, dtype=_floating(images))
    sums = np.add.reduceat(sums, columns, axis=2)
    counts = np.outer(np.diff(rows, append=height), np.diff(columns, append=width)).astype(sums.dtype)
    means: Array = sums / counts.reshape(*counts.shape, *(1,) * (images.ndim - 3))
    return means


def spectrum(images: Array) -> Array:
    """Return the amplitudes of the Fourier transform of images, (m, h, w // 2 + 1[, channels]).

    A shift that wraps around changes phases only; so does one that does not wrap, if the pixels that leave and enter
    are equal (a plain background). Mirroring swaps the amplitudes at (u, v) and (-u, v); the smaller of each pair comes
    first, which maps mirror images in either direction to the same point. The amplitudes are scaled so that they have
    the norm of the image. No two images are then farther apart than as pixels: a near copy in pixels is one here,
    shifted or not. Amplitudes are rounded to 2^-24 of the largest value of the image.
    """
    from scipy import fft

    height, width = images.shape[1:3]
    values = images.astype(np.float64)
    amplitude: Array = np.abs(fft.rfft2(values, axes=(1, 2), norm="ortho"))
    twice = np.full(amplitude.shape[2], math.sqrt(2))  # stands for (u, v) and its conjugate (-u, -v)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    amplitude *= twice.reshape(-1, *(1,) * (images.ndim - 3))
    one, other = amplitude[:, 1 : (height + 1) // 2], amplitude[:, : height // 2 : -1]
    amplitude[:, 1 : (height + 1) // 2], amplitude[:, : height // 2 : -1] = (
        np.minimum(one, other),
        np.maximum(one, other),
    )
    # Rounded, so that an image, its shifts and its mirror images are equal and count as identical in every test.
    largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
    step = np.exp2(np.frexp(largest)[1] - _BITS)
    rounded: Array = np.rint(amplitude / step) * step
    return rounded.astype(_floating(images), copy=False)


def image_space(
    name: str, size: int, shape: tuple[int, ...], image_shape: tuple[int, ...] | None
) -> tuple[Callable[[Array], Array], str]:
    """Return the function behind "pooled" or "spectrum" for examples of such an array, and its description.

    Raises:
        DataError: the examples are not images, or are smaller than the blocks.
    """
    found, note = shape_of_images(shape, image_shape)
    if name == "pooled":
        if size > max(found[:2]):
            raise DataError(
                expected=f"blocks of at most {max(found[:2])} x {max(found[:2])} pixels, the size of the images",
                got=f"pooled:{size}",
                do="Choose a smaller K.",
            )
        words = f"images averaged over {size} x {size} pixels"
        return (lambda rows: pooled(as_images(rows, found), size)), words + note
    words = "Fourier amplitudes of images, equal for shifts and mirror images"
    return (lambda rows: spectrum(as_images(rows, found))), words + note


def shape_of_images(shape: tuple[int, ...], given: tuple[int, ...] | None) -> tuple[tuple[int, ...], str]:
    """Return (h, w) or (h, w, channels) of examples of an array of this shape, and a note if the shape is a guess.

    Raises:
        DataError: the examples are not images, or do not have the given shape.

    >>> shape_of_images((5, 64), None)
    ((8, 8), ', rows read as 8 x 8 images')
    """
    event = shape[1:]
    if given is not None:
        if len(given) not in (2, 3) or math.prod(given) != math.prod(event):
            raise DataError(
                expected=f"image_shape (h, w) or (h, w, channels) of {math.prod(event)} values",
                got=str(tuple(given)),
                do="Pass the shape of one image, so that its product is the number of values.",
            )
        return tuple(given), ""
    return _shape(event)


def as_images(rows: Array, image_shape: tuple[int, ...]) -> Array:
    """Return rows (m, *event) as images (m, *image_shape), channels last whether or not they came first.

    >>> as_images(np.zeros((2, 3, 8, 8)), (8, 8, 3)).shape
    (2, 8, 8, 3)
    """
    return rows if rows.shape[1:] == image_shape else to_images(rows, image_shape)


def _shape(event: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    if (clear := image_shape_of((1, *event))) is not None:
        return clear, ""
    if len(event) == 2:
        return event, ""
    if len(event) == 3:  # small images, or channels that are no colours
        first = event[0] < min(event[1:])
        return ((*event[1:], event[0]) if first else event), ""
    side = math.isqrt(math.prod(event))
    if len(event) == 1 and side > 1 and side**2 == event[0]:
        return (side, side), f", rows read as {side} x {side} images"
    raise DataError(
        expected="images: an array (n, h, w), (n, h, w, channels) or (n, channels, h, w)",
        got=f"examples of shape {event}",
        do="Pass image_shape, reshape the arrays, or choose a space that needs no images, such as raw or pca.",
    )


def _floating(images: Array) -> np.dtype[Any]:
    return np.result_type(images.dtype, np.float32)
