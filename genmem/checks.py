"""Are these examples an audit can start from?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.rows import blocks, blurred_columns


def checked_examples(X: NDArray[Any], source: str, columns: tuple[str, ...] | None = None) -> NDArray[Any]:
    """Return examples as uint8 (from uint8 and bool) or float32 (from other numbers), in C order.

    Args:
        X: what was read.
        source: what the user named, for the messages.
        columns: the names of the columns of a table.

    Raises:
        DataError: it is not an array (n, *event) of at least two examples of finite real numbers.
    """
    _check_form(X, source)
    if X.dtype.kind == "b" or X.dtype == np.uint8:
        return np.ascontiguousarray(X, np.uint8)
    _check_finite(X, source, columns, "finite numbers", "Fill in or drop these rows.")
    if X.dtype == np.float32:
        return np.ascontiguousarray(X, np.float32)
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(X, np.float32)
    _check_finite(single, source, columns, "numbers that float32 can hold (below 3.4e38)", "Rescale the data.")
    if X.dtype.kind != "f" or X.dtype.itemsize > 4:
        _check_resolved(X, source, columns)
    return single


def _check_resolved(X: NDArray[Any], source: str, columns: tuple[str, ...] | None) -> None:
    if (blurred := blurred_columns(X)).size:
        column = int(blurred[0])
        low, high = (float(end(X.reshape(len(X), -1)[:, column])) for end in (np.min, np.max))
        raise DataError(
            expected="columns whose values float32 can tell apart",
            got=f"{low:.12g} to {high:.12g} in column {repr(columns[column]) if columns else column} of {source}"
            + (f", and {len(blurred) - 1} more columns" if len(blurred) > 1 else ""),
            do="Subtract an offset from such columns, for example their mean.",
        )


def _check_form(X: NDArray[Any], source: str) -> None:
    if X.dtype.kind not in "biuf":
        raise DataError(
            expected="an array of real numbers",
            got=f"dtype {X.dtype}, shape {X.shape} in {source}",
            do="Convert it to a dense array of float32, or of uint8 for pixels.",
        )
    if X.ndim < 2:
        raise DataError(
            expected="one example a row: an array of shape (n, *event)",
            got=f"shape {X.shape} in {source}",
            do="Reshape n numbers to (n, 1) with array.reshape(-1, 1).",
        )
    if len(X) < 2 or X.size == 0:
        raise DataError(
            expected="2 or more examples of one or more values",
            got=f"{len(X)} of {X.size // max(1, len(X))} values, shape {X.shape} in {source}",
            do="Add examples: an audit leaves some out and compares.",
        )


def _check_finite(X: NDArray[Any], source: str, columns: tuple[str, ...] | None, expected: str, do: str) -> None:
    bad, where = 0, ""
    for start, block in blocks(X):
        wrong = ~np.isfinite(block)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            bad += int(wrong.sum())
            name = repr(columns[column]) if columns else column
            where = where or f"{block[row, column]} in row {start + row}, column {name}"
    if bad:
        raise DataError(
            expected=expected,
            got=f"{bad} of {X.size} others in {source}, the first {where} (counted from 0)",
            do=do,
        )
