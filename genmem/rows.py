"""Rows of an array, streamed so that data larger than the cache costs little memory."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.seeding import stream

_CHUNK = 2**22  # values handled at a time


def blocks(X: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, rows as a matrix) of an array (n, *event), a few million values at a time."""
    width = X.size // max(1, len(X))
    rows = max(1, _CHUNK // max(1, width))
    for start in range(0, len(X), rows):
        block = X[start : start + rows]
        yield start, block.reshape(len(block), width)


def fingerprint(X: NDArray[Any]) -> str:
    """Return the sha256 of the dtype, the shape and the values of an array.

    >>> fingerprint(np.arange(3)) == fingerprint(np.arange(3)[None])
    False
    """
    total = hashlib.sha256(f"{X.dtype.str}{X.shape}".encode())
    for _, block in blocks(X):
        total.update(np.ascontiguousarray(block).view(np.uint8).data)
    return total.hexdigest()


def constant_columns(X: NDArray[Any]) -> NDArray[np.intp]:
    """Return the columns of the flattened examples that take one value only, ascending.

    >>> constant_columns(np.array([[1, 2, 3], [1, 0, 3]]))
    array([0, 2])
    """
    first = X[:1].reshape(-1)
    columns = np.arange(len(first))
    for _, block in blocks(X):
        # Few columns are left after the first block, so the others cost little.
        some = block if len(columns) == len(first) else block[:, columns]
        columns = columns[(some == first[columns]).all(axis=0)]
    return columns


def blurred_columns(X: NDArray[Any]) -> NDArray[np.intp]:
    """Return the columns of the flattened examples that float32 does not resolve: it takes ten steps over their range.

    Seconds since 1970 are 128 apart in float32.

    >>> blurred_columns(np.array([[1.7e9, 1.7], [1.7e9 + 60, 1.8]]))
    array([0])
    """
    low = np.full(X[0].size, np.inf)
    high = -low
    for _, block in blocks(X):
        low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
    largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    return np.flatnonzero((high > low) & (largest * np.finfo(np.float32).eps > 0.1 * (high - low)))


def identical_groups(X: NDArray[Any]) -> NDArray[np.intp]:
    """Return the group of each example, (n,): exactly equal examples share one.

    Groups are numbered from 0 by first appearance, so without duplicates they are 0 to n - 1. Zero equals
    minus zero.

    >>> identical_groups(np.array([[5.0, 1.0], [0.0, 0.0], [5.0, 1.0]]))
    array([0, 1, 0])
    """
    _, first, group = np.unique(_row_hashes(X), return_index=True, return_inverse=True)
    if not _all_equal(X, first[group]):
        # Different rows had one hash: rare, and then the slow way is exact.
        rows = np.concatenate([_row_bytes(block) for _, block in blocks(X)])
        whole = np.dtype((np.void, rows.shape[1]))
        _, first, group = np.unique(rows.view(whole).ravel(), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group]


def canonical_order(X: NDArray[Any]) -> NDArray[np.intp]:
    """Return an order (n,) of the rows that their values alone decide: shuffled rows come out alike.

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
        # Values such as 0.0 and 1.0 differ in their high bits only: fold those down before the weighted sum.
        words ^= words >> np.uint64(16)
        if weights is None:
            weights = stream(0, "row hash").integers(2**64, size=words.shape[1], dtype=np.uint64)
        parts.append(words @ weights)
    return np.concatenate(parts)


def _row_bytes(block: NDArray[Any]) -> NDArray[np.uint8]:
    values = np.ascontiguousarray(block + 0 if block.dtype.kind == "f" else block)  # -0.0 + 0 is 0.0
    as_bytes = values.view(np.uint8).reshape(len(block), -1)
    return np.pad(as_bytes, ((0, 0), (0, -as_bytes.shape[1] % 4)))


def _all_equal(X: NDArray[Any], twin: NDArray[np.intp]) -> bool:
    at = np.flatnonzero(twin != np.arange(len(X)))
    rows = max(1, _CHUNK * len(X) // max(1, X.size))
    parts = (at[start : start + rows] for start in range(0, len(at), rows))
    return all(np.array_equal(X[part], X[twin[part]]) for part in parts)
