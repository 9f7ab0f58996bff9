"""Data for densities of vectors: matrices of finite numbers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.rows import blocks

HUGE = 1e150  # squares of larger values overflow float64
_AS_THEY_ARE = "bool uint8 int8 int16 int32 int64 float16 float32 float64".split()  # the dtypes torch knows


def matrix(X: ArrayLike, name: str = "X") -> NDArray[Any]:
    """Return X as a matrix (n, d), common dtypes as they are (bool becomes uint8), others as float64.

    Raises:
        DataError: it is no matrix of finite numbers, or one is too large to be squared.
    """
    array = np.asarray(X)
    numbers = array.dtype.kind in "biuf"
    if not numbers or array.ndim != 2 or array.size == 0:
        images = numbers and array.ndim > 2 and array.size > 0
        raise DataError(
            expected=f"{name} of numbers, one vector a row: shape (n, d)",
            got=f"dtype {array.dtype}, shape {array.shape}",
            do="Flatten images: X.reshape(len(X), -1)." if images else "Reshape a single column to (n, 1).",
        )
    if array.dtype not in map(np.dtype, _AS_THEY_ARE):
        array = array.astype(np.float64)
    for start, part in blocks(array):
        bad = ~np.isfinite(part).all(axis=1)
        if array.dtype == np.float64:
            bad |= (np.abs(part) >= HUGE).any(axis=1)
        if bad.any():
            raise DataError(
                expected=f"{name} of finite numbers below {HUGE}",
                got=f"NaN, infinite or larger ones, the first in row {start + int(bad.argmax())}",
                do="Fill in, drop or rescale these rows.",
            )
    return array.view(np.uint8) if array.dtype.kind == "b" else array


def require_width(X: NDArray[Any], d: int) -> None:
    """Check that examples have the columns of those fitted to.

    Raises:
        DataError: they have not.
    """
    if X.shape[1] != d:
        raise DataError(
            expected=f"examples of {d} values, as those fitted to",
            got=f"{X.shape[1]}",
            do="Score data of the same columns.",
        )


def largest(X: NDArray[Any]) -> float:
    """Return the largest absolute value."""
    return max(max(float(part.max()), -float(part.min())) for _, part in blocks(X))


def row_parts(X: NDArray[Any], most: int) -> Iterator[NDArray[Any]]:
    """Yield the rows of a matrix in float64, at most so many values at a time."""
    step = max(1, most // X.shape[1])
    return (X[start : start + step].astype(np.float64) for start in range(0, len(X), step))
