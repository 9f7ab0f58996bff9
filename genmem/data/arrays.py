"""Arrays of examples: checked, hashed, and streamed so that data larger than the cache costs little memory."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.seeding import stream

Triple: TypeAlias = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # train, test, samples

_CHUNK = 2**22  # values in memory at a time


def blocks(X: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, rows as a matrix) of an array (n, *event), a few million values at a time."""
    width = X.size // max(1, len(X))
    rows = max(1, _CHUNK // max(1, width))
    for start in range(0, len(X), rows):
        block = X[start : start + rows]
        yield start, block.reshape(len(block), width)


def largest(X: NDArray[Any]) -> float:
    """Return the largest absolute value."""
    return max(max(float(part.max()), -float(part.min())) for _, part in blocks(X))


def row_parts(X: NDArray[Any], most: int) -> Iterator[NDArray[Any]]:
    """Yield the rows of a matrix in float64, at most `most` values at a time."""
    step = max(1, most // X.shape[1])
    return (X[start : start + step].astype(np.float64) for start in range(0, len(X), step))


def first_where(X: NDArray[Any], wrong: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> tuple[int, int, int]:
    """Return how many values are `wrong`, and row and flattened column of the first; 0, -1, -1 if there are none."""
    count, row, column = 0, -1, -1
    for start, block in blocks(X):
        bad = wrong(block)
        if bad.any():
            if not count:
                row, column = divmod(int(bad.argmax()), bad.shape[1])
                row += start
            count += int(bad.sum())
    return count, row, column


def fingerprint(*parts: NDArray[Any] | str | bytes | memoryview) -> str:
    """Return the sha256 of texts, bytes and arrays, one after another; arrays enter with dtype, shape and values.

    >>> fingerprint(np.arange(3)) == fingerprint(np.arange(3)[None])
    False
    """
    total = hashlib.sha256()
    for part in parts:
        if not isinstance(part, str | bytes | memoryview):
            X = np.atleast_1d(part)
            total.update(f"{X.dtype.str}{X.shape}".encode())
            for _, block in blocks(X):
                total.update(np.ascontiguousarray(block).view(np.uint8).data)
        else:
            total.update(part.encode() if isinstance(part, str) else part)
    return total.hexdigest()


def constant_columns(X: NDArray[Any]) -> NDArray[np.intp]:
    """Return the columns of the flattened examples that have a single value, ascending.

    >>> constant_columns(np.array([[1, 2, 3], [1, 0, 3]]))
    array([0, 2])
    """
    first = X[:1].reshape(-1)
    columns = np.arange(len(first))
    for _, block in blocks(X):
        # Few columns remain after the first block, so later blocks cost little.
        some = block if len(columns) == len(first) else block[:, columns]
        columns = columns[(some == first[columns]).all(axis=0)]
    return columns


def constants_of(X: NDArray[Any], *, whole_pixels_of: int = 1) -> list[list[float]]:
    """Return (column, value) of the flattened columns that have a single value, or only those of whole constant pixels.

    Raises:
        DataError: all columns have a single value.
    """
    first, columns = X[:1].reshape(-1), constant_columns(X)
    if len(columns) == len(first):
        raise DataError(
            expected="at least one column that varies",
            got="the same value in every example",
            do="Check that the right array was loaded.",
        )
    if whole_pixels_of > 1:
        pixels, counts = np.unique(columns // whole_pixels_of, return_counts=True)
        columns = columns[np.isin(columns // whole_pixels_of, pixels[counts == whole_pixels_of])]
    return [[int(column), float(first[column])] for column in columns]


def blurred_columns(X: NDArray[Any], share: float = 0.1, kind: Any = np.float32) -> NDArray[np.intp]:
    """Return the flattened columns that a float type does not resolve: its steps are wider than a share of their range.

    In float32, seconds since 1970 are 128 apart.

    >>> blurred_columns(np.array([[1.7e9, 1.7], [1.7e9 + 60, 1.8]]))
    array([0])
    """
    whole = X.dtype.kind in "iu"
    low = high = X[:1].reshape(-1) if whole else X[:1].reshape(-1).astype(np.float64)
    for _, block in blocks(X):
        low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
    largest = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64)))
    step = np.maximum(largest * np.finfo(kind).eps, np.finfo(kind).smallest_subnormal)
    # Differences of integers are exact modulo 2^64, where those of their floats may be 0.
    spread = high.astype(np.uint64) - low.astype(np.uint64) if whole else high - low
    return np.flatnonzero((high > low) & (step > share * spread))


def identical_groups(X: NDArray[Any]) -> NDArray[np.intp]:
    """Return the group of each example, (n,): identical examples share a group.

    Groups are numbered from 0 by first appearance, so without duplicates they are 0 to n - 1. Zero equals minus zero.

    >>> identical_groups(np.array([[5.0, 1.0], [0.0, 0.0], [5.0, 1.0]]))
    array([0, 1, 0])
    """
    _, first, group = np.unique(_row_hashes(X), return_index=True, return_inverse=True)
    if not _all_equal(X, first[group]):
        # Different rows share a hash, which is rare: compare whole rows, which is slower and exact.
        rows = np.concatenate([_row_bytes(block) for _, block in blocks(X)])
        whole = np.dtype((np.void, rows.shape[1]))
        _, first, group = np.unique(rows.view(whole).ravel(), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group]


def canonical_order(X: NDArray[Any]) -> NDArray[np.intp]:
    """Return an order (n,) of the rows that depends on their values alone: shuffled rows give the same sequence.

    >>> X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> bool((X[canonical_order(X)] == X[::-1][canonical_order(X[::-1])]).all())
    True
    """
    return np.argsort(_row_hashes(X), kind="stable")


def _row_hashes(X: NDArray[Any]) -> NDArray[np.uint64]:
    weights = None
    parts = []
    for _, block in blocks(X):
        words = _row_bytes(block).view(np.uint32).astype(np.uint64)
        # Values such as 0.0 and 1.0 differ in their high bits only: fold these down before the weighted sum.
        words ^= words >> np.uint64(16)
        if weights is None:
            weights = stream(0, "row hash").integers(2**64, size=words.shape[1], dtype=np.uint64)
        parts.append(words @ weights)
    return np.concatenate(parts)


def _row_bytes(block: NDArray[Any]) -> NDArray[np.uint8]:
    values = np.ascontiguousarray(block + 0 if block.dtype.kind == "f" else block)  # -0.0 + 0 is 0.0
    as_bytes = values.view(np.uint8).reshape(len(block), -1)
    return np.pad(as_bytes, ((0, 0), (0, -as_bytes.shape[1] % 4)))


def _all_equal(X: NDArray[Any], first: NDArray[np.intp]) -> bool:
    at = np.flatnonzero(first != np.arange(len(X)))
    rows = max(1, _CHUNK * len(X) // max(1, X.size))
    parts = (at[start : start + rows] for start in range(0, len(at), rows))
    return all(np.array_equal(X[part], X[first[part]]) for part in parts)


# --- checks of input


HUGE = 1e150  # squares of larger values overflow float64
_AS_THEY_ARE = "bool uint8 int8 int16 int32 int64 float16 float32 float64".split()  # dtypes that torch supports


def as_array(values: Any, name: str = "examples") -> NDArray[Any]:
    """Return `values` as a numpy array.

    Raises:
        DataError: values are masked, or numpy cannot convert them to an array.
    """
    if np.ma.isMaskedArray(values) and np.ma.getmaskarray(values).any():
        raise DataError(
            expected="values without a mask",
            got=f"{int(np.ma.getmaskarray(values).sum())} masked values",
            do="Fill in these values, or drop their rows.",
        )
    try:
        return np.asarray(values)
    except Exception as error:  # ragged lists raise ValueError, tensors on a GPU TypeError
        raise DataError(
            expected=f"{name} as an array, or as rows of one shape that numpy converts to one",
            got=f"{type(values).__name__} ({' '.join(str(error).split())[:200]})",
            do="Convert it to a numpy array with one example per row.",
        ) from error


def checked_examples(
    X: NDArray[Any], source: str = "the examples", columns: Sequence[str] | None = None, *, least: int = 1
) -> NDArray[Any]:
    """Return examples (n, *event) as uint8 (from uint8 and bool) or float32 (from other numbers), in C order.

    Args:
        X: the array as read.
        source: the name of the source, for messages.
        columns: the names of the columns of a table.
        least: the smallest number of examples allowed.

    Raises:
        DataError: the array has too few examples, is not numeric, is not finite, or exceeds the range or resolution of
            float32.
    """
    _check_form(X, source, least)
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


def _check_resolved(X: NDArray[Any], source: str, columns: Sequence[str] | None) -> None:
    if (blurred := blurred_columns(X)).size:
        column = int(blurred[0])
        low, high = (float(end(X.reshape(len(X), -1)[:, column])) for end in (np.min, np.max))
        raise DataError(
            expected="columns whose values differ in float32",
            got=f"{low:.12g} to {high:.12g} in column {repr(columns[column]) if columns else column} of {source}"
            + (f", and {len(blurred) - 1} more columns" if len(blurred) > 1 else ""),
            do="Subtract an offset from such columns, for example their mean.",
        )


def _check_form(X: NDArray[Any], source: str, least: int) -> None:
    if X.dtype.kind not in "biuf":
        raise DataError(
            expected="an array of real numbers",
            got=f"dtype {X.dtype}, shape {X.shape} in {source}",
            do="Convert it to a dense array of float32, or of uint8 for pixels.",
        )
    if X.ndim < 2:
        raise DataError(
            expected="one example per row: an array of shape (n, *event)",
            got=f"shape {X.shape} in {source}",
            do="Reshape n numbers to (n, 1) with array.reshape(-1, 1).",
        )
    if len(X) < least or X.size == 0:
        raise DataError(
            expected=f"{least} or more examples with one or more values each",
            got=f"{len(X)} with {X.size // max(1, len(X))} values, shape {X.shape} in {source}",
            do="Add examples: an audit compares models with and without each of them."
            if least > 1
            else "Add examples.",
        )


def _check_finite(X: NDArray[Any], source: str, columns: Sequence[str] | None, expected: str, do: str) -> None:
    bad, row, column = first_where(X, lambda block: ~np.isfinite(block))
    if bad:
        value, name = X[row].reshape(-1)[column], repr(columns[column]) if columns else column
        raise DataError(
            expected=expected,
            got=(
                f"{bad} of {X.size} values that are NaN or infinite in {source}, the first {value} in row {row}, "
                f"column {name} (counted from 0)"
            ),
            do=do,
        )


def matrix(
    X: ArrayLike, name: str = "X", *, least: int = 1, flatten: bool = False, nan: bool = False, float64: bool = False
) -> NDArray[Any]:
    """Return X as a matrix (n, d): common dtypes unchanged (bool becomes uint8), others as float64.

    Args:
        X: (n, d).
        name: of X in messages.
        least: the smallest number of rows allowed.
        flatten: accept examples (n, *event) too, and flatten them.
        nan: allow NaN.
        float64: return float64 for every dtype.

    Raises:
        DataError: it is not a matrix of finite numbers whose squares are finite, or has too few rows.
    """
    array = as_array(X, name)
    _check_matrix(array, name, least, flatten)
    array = array.reshape(len(array), -1)
    if float64 or array.dtype not in map(np.dtype, _AS_THEY_ARE):
        array = array.astype(np.float64)
    if array.dtype.kind == "f":
        _check_size(array, name, nan)
    return array.view(np.uint8) if array.dtype.kind == "b" else array


def _check_matrix(array: NDArray[Any], name: str, least: int, flatten: bool) -> None:
    numbers = array.dtype.kind in "biuf"
    if not numbers or array.size == 0 or array.ndim < 2 or (array.ndim > 2 and not flatten):
        images = numbers and array.ndim > 2 and array.size > 0
        raise DataError(
            expected=f"{name} of numbers, one vector per row: shape {'(n, *event)' if flatten else '(n, d)'}",
            got=f"dtype {array.dtype}, shape {array.shape}",
            do="Flatten images: X.reshape(len(X), -1)." if images else "Reshape a single column to (n, 1).",
        )
    if len(array) < least:
        raise DataError(
            expected=f"{name} of {least} or more examples, so that one can be left out",
            got=f"{len(array)}",
            do="Add examples, or choose fewer neighbours or components.",
        )


def _check_size(array: NDArray[Any], name: str, nan: bool) -> None:
    limit = HUGE if array.dtype == np.float64 else np.inf  # values of other dtypes have squares that fit float64
    bad, row, _ = first_where(array, lambda part: ~(np.abs(part) < limit) & ~(nan & np.isnan(part)))
    if bad:
        raise DataError(
            expected=f"{name} of finite numbers below {HUGE}" + (", or NaN" if nan else ""),
            got=f"{'' if nan else 'NaN, '}infinite or larger values, the first in row {row}",
            do="Fill in, drop or rescale these rows.",
        )


def vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return finite numbers (n,).

    Raises:
        DataError: the values are not finite numbers of shape (n,).
    """
    found = as_array(values, name)
    numbers = found.dtype.kind in "biuf"
    if not numbers or found.ndim != 1 or not np.isfinite(found).all():
        raise DataError(
            expected=f"{name} of shape (n,), finite",
            got=f"dtype {found.dtype}, shape {found.shape}",
            do="Pass one number per example.",
        )
    return found.astype(np.float64)


def require_shape(
    found: Sequence[int], wanted: Sequence[int], name: str = "examples", like: str = "as those fitted to"
) -> None:
    """Check that examples have the shape of others.

    Raises:
        DataError: they have not.
    """
    if tuple(found) != tuple(wanted):
        raise DataError(
            expected=f"{name} of shape {tuple(wanted)}, {like}",
            got=f"{tuple(found)}",
            do="Pass data with the same columns, in the same form.",
        )


def groups_of(groups: ArrayLike | None, n: int) -> NDArray[np.intp]:
    """Return the group of each of n queries, integers from 0 without gaps; without groups, each query is its own.

    Raises:
        DataError: the groups are not integers from 0 without gaps, one per query.
    """
    if groups is None:
        return np.arange(n)
    found = np.asarray(groups)
    whole = found.shape == (n,) and found.dtype.kind in "iu"
    if not whole or not np.array_equal(np.unique(found), np.arange(found.max() + 1)):
        raise DataError(
            expected=f"a group for each of {n} queries, integers from 0 without gaps",
            got=f"shape {found.shape}, dtype {found.dtype}" + (f", {np.unique(found)[:5]}..." if whole else ""),
            do="Number them with np.unique(groups, return_inverse=True)[1].",
        )
    return found.astype(np.intp)
