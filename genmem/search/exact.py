"""Exact nearest neighbours: FAISS proposes in float32, float64 decides.

In float32 the expanded form |q|^2 + |b|^2 - 2 q.b loses near-duplicates to rounding. FAISS therefore only lists
candidates. Its error has a bound; the distances of candidates within the bound are recomputed in float64 from the
values as given. If the list may have missed some (many ties, coarse rounding), the query is searched again in float64.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.data.arrays import identical_groups, largest, matrix
from genmem.errors import DataError

if TYPE_CHECKING:
    import torch


_QUERIES = 4096  # at a time, at most
_CHUNK = 2**23  # values handled at a time
_CACHED = 2**17  # values that stay in the cache
_TILE = 1024  # queries that FAISS multiplies with 1,024 rows of the base at a time
_WORTH = 8  # centring costs a copy of the base: it must make the squares smaller by as much
_GPU_MOST = 2048  # neighbours FAISS returns on a GPU

Pairs = tuple[NDArray[np.float64], NDArray[np.int64]]


def nearest(queries: NDArray[Any], base: NDArray[Any], k: int = 1, *, exclude: ArrayLike | None = None) -> Pairs:
    """Return distances (m, k) to and indices (m, k) of the `k` rows of `base` nearest to each query, nearest first.

    Distances are Euclidean over the flattened values and exact to float64; equal ones are ordered by index.
    A GPU is used if the installed FAISS sees one. Memory beyond the arrays and the result is bounded.

    Args:
        queries: (m, *event), any real dtype.
        base: (n, *event), any real dtype.
        k: number of neighbours.
        exclude: (m,) the row of `base` never returned for that query, -1 for none. To search a set within itself
            pass `np.arange(n)`: an identical other row is then a neighbour at distance 0.

    Raises:
        DataError: an array is empty or not finite, the widths differ, fewer than `k` rows can be returned, or
            `exclude` does not fit.

    >>> nearest(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]), k=2)
    (array([[1., 5.]]), array([[1, 0]]))
    """
    search = prepared(queries, base, k, exclude)
    distances, indices = np.empty((len(search.Q), search.k)), np.empty((len(search.Q), search.k), np.int64)
    for at in search.parts():
        distances[at], indices[at], unsure = search.by_faiss(at)
        for some in search.smaller_parts(at[unsure]):
            distances[some], indices[some] = search.in_float64(some)
    return distances, indices


def prepared(queries: NDArray[Any], base: NDArray[Any], k: int, exclude: ArrayLike | None) -> "ExactSearch":
    """Return the search that `nearest` makes, its arguments checked.

    Raises:
        DataError: as `nearest`.
    """
    Q, B = (matrix(rows, name, flatten=True) for rows, name in ((queries, "queries"), (base, "base")))
    out = _exclusions(exclude, len(Q), len(B))
    _check_sizes(Q, B, k, len(B) - bool((out >= 0).any()))
    return ExactSearch(Q, B, int(k), out, _scale(_extent(Q), _extent(B)))


@dataclass(frozen=True, eq=False)
class ExactSearch:
    """Queries and base as matrices, and the steps of a search.

    Attributes:
        Q: (m, d) queries.
        B: (n, d) base.
        k: how many neighbours.
        exclude: (m,) row of the base never returned for a query, -1 for none.
        scale: a power of two that brings the values into the range of float32's squares.
    """

    Q: NDArray[Any]
    B: NDArray[Any]
    k: int
    exclude: NDArray[np.int64]
    scale: float

    def parts(self) -> list[NDArray[np.intp]]:
        """Return the queries in parts whose values and candidates fit in memory."""
        most = np.clip(2 * _CHUNK // max(self.Q.shape[1], 4 * self.count), 64, _QUERIES)
        return np.array_split(np.arange(len(self.Q)), -(-len(self.Q) // most))

    def smaller_parts(self, at: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Return the queries `at` in parts whose distances to the whole base fit in memory."""
        return np.array_split(at, -(-len(at) // max(1, _CHUNK // len(self._distinct)))) if len(at) else []

    @property
    def count(self) -> int:
        """Candidates that FAISS lists: one may be excluded, and with more of them fewer queries stay unsure."""
        return self.k + 1 + max(8, self.k // 2)

    def by_faiss(self, at: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return distances, indices, and whether a neighbour may have been missed, for the queries `at`."""
        queries = self.units(self.Q[at], np.float32)
        squared, found = self._candidates(queries)
        own = found == self.exclude[at, None]
        limit = _limit(np.where(own, np.inf, squared), queries, self.k)
        rows, places = np.nonzero((squared <= limit[:, None]) & ~own)
        unsure = (squared[:, -1] <= limit) & (found.shape[1] < len(self.B))
        return *self.measured(at, rows, found[rows, places]), unsure

    def _candidates(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        squared = np.empty((len(queries), 0), np.float32)
        found = np.empty((len(queries), 0), np.int64)
        for start, block in self.blocks(np.arange(len(self.B)), np.float32):
            more, indices = _knn(queries, block, min(self.count, len(block)))
            squared, found = np.hstack([squared, more]), np.hstack([found, indices + start])
            order = np.argsort(squared, axis=1, kind="stable")[:, : self.count]
            squared, found = np.take_along_axis(squared, order, 1), np.take_along_axis(found, order, 1)
        return squared, found

    def in_float64(self, at: NDArray[np.intp]) -> Pairs:
        """Return distances and indices for the queries `at`, from all distances in float64."""
        queries = self.units(self.Q[at], np.float64)
        squared = np.hstack([_expanded(queries, block) for _, block in self.blocks(self._distinct, np.float64)])
        squared[self._distinct == self.exclude[at, None]] = np.inf
        limit = _limit(squared, queries, self.k)
        rows, places = np.nonzero(squared <= limit[:, None])
        return self.measured(at, rows, self._distinct[places])

    @cached_property
    def _distinct(self) -> NDArray[np.intp]:
        """Rows of the base, without duplicates that cannot be among the k nearest because of those with lower index."""
        groups = identical_groups(self.B)
        order = np.argsort(groups, kind="stable")
        starts = np.searchsorted(groups[order], groups[order])
        copy = np.empty(len(order), np.intp)
        copy[order] = np.arange(len(order)) - starts
        return np.flatnonzero(copy <= self.k)  # k of them and one that may be excluded

    def measured(self, at: NDArray[np.intp], rows: NDArray[np.intp], found: NDArray[np.int64]) -> Pairs:
        """Return the k nearest of the listed (query, row of the base), at least k to each query."""
        squared = np.empty(len(rows))
        step = max(1, _CACHED // self.B.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            gap = self.B.take(found[part], axis=0).astype(np.float64)
            gap -= self.Q.take(at[rows[part]], axis=0)
            # Not einsum: beyond 8,192 values its rounding depends on the other rows, and ties would break.
            squared[part] = np.square(gap, out=gap).sum(axis=1)
        order = np.lexsort((found, squared, rows))
        first = np.searchsorted(rows[order], np.arange(len(at)))
        take = order[first[:, None] + np.arange(self.k)]
        return np.sqrt(squared[take]), found[take].astype(np.int64)

    def blocks(self, rows: NDArray[np.intp], dtype: type) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (place of the first, centred values) of rows of the base, ascending."""
        step = max(64, _CHUNK // self.B.shape[1])
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            together = some[-1] - some[0] == len(some) - 1
            yield start, self.units(self.B[some[0] : some[-1] + 1] if together else self.B[some], dtype)

    def units(self, values: NDArray[Any], dtype: type) -> NDArray[Any]:
        """Return shifted and scaled values that lose little to rounding; a shift and a power of two keep the order."""
        if self.scale != 1:
            values = values * np.float64(self.scale)
        if self._centre is not None:
            values = np.subtract(values, self._centre, dtype=np.result_type(values, dtype))
        return np.ascontiguousarray(values, dtype)

    @cached_property
    def _centre(self) -> NDArray[np.float32] | None:
        # The median, because one outlier would move a mean away from everything else.
        some = self.B[:: -(-len(self.B) // 64)].astype(np.float64) * self.scale
        middle = np.median(some, axis=0).astype(np.float32)
        before, after = (np.median(np.square(values).sum(axis=1)) for values in (some, some - middle))
        return middle if before > _WORTH * after else None


def _limit(squared: NDArray[Any], queries: NDArray[Any], k: int) -> NDArray[np.float64]:
    """Return the computed squared distance that none of the k nearest can exceed, (m,).

    A dot product of d terms in precision u is wrong by at most d u |q| |b|, so a squared distance by
    g (|q| + |b|)^2 with g a little over d u; and |b| <= |q| + distance.
    """
    kth: NDArray[np.float64] = np.partition(squared, k - 1, axis=1)[:, k - 1].astype(np.float64)
    norms = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)
    g = (queries.shape[1] + 16) * float(np.finfo(queries.dtype).eps) / 2
    kth += g * (18 * norms + 6 * kth) + np.finfo(np.float32).tiny
    return kth


def _expanded(queries: NDArray[np.float64], block: NDArray[np.float64]) -> NDArray[np.float64]:
    squared: NDArray[np.float64] = queries @ block.T
    squared *= -2
    squared += np.einsum("ij,ij->i", queries, queries)[:, None]
    squared += np.einsum("ij,ij->i", block, block)
    return squared


def _knn(
    queries: NDArray[np.float32], block: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    import faiss

    gpu = _gpu() if count <= _GPU_MOST else None
    if gpu is not None:
        found = faiss.knn_gpu(gpu, queries, block, count)
        return found[0], found[1]

    there = cuda_knn(queries, block, count)
    return _knn_cpu(queries, block, count) if there is None else there


def _knn_cpu(
    queries: NDArray[np.float32], block: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    import faiss

    settings = faiss.cvar
    usual = settings.distance_compute_blas_query_bs
    # A tile of 1,024 x 1,024 distances is still in the cache when they are compared; one of 4,096 is not.
    settings.distance_compute_blas_query_bs = min(usual, _TILE)
    try:
        found = faiss.knn(queries, block, count)
    finally:
        settings.distance_compute_blas_query_bs = usual
    return found[0], found[1]


@lru_cache(maxsize=1)
def _gpu() -> Any:
    import faiss

    if getattr(faiss, "get_num_gpus", lambda: 0)() == 0 or not hasattr(faiss, "StandardGpuResources"):
        return None
    return faiss.StandardGpuResources()


# --- checks


def _check_sizes(Q: NDArray[Any], B: NDArray[Any], k: int, available: int) -> None:
    if Q.shape[1] != B.shape[1]:
        raise DataError(
            expected="queries and base of one width",
            got=f"{Q.shape[1]} and {B.shape[1]} values per row",
            do="Pass both in the same form.",
        )
    if not 1 <= k <= available:
        raise DataError(
            expected=f"k from 1 to {available}, the rows of the base that can be returned",
            got=f"k={k}",
            do="Ask for fewer neighbours, or search a larger base." if k > 0 else "Ask for one or more.",
        )


def _exclusions(exclude: ArrayLike | None, m: int, n: int) -> NDArray[np.int64]:
    if exclude is None:
        return np.full(m, -1, np.int64)
    out = np.asarray(exclude)
    if out.shape != (m,) or out.dtype.kind not in "iu" or out.min() < -1 or out.max() >= n:
        within = f", values {out.min()} to {out.max()}" if out.dtype.kind in "iu" and out.size else ""
        raise DataError(
            expected=f"exclude of shape ({m},): rows of the base, 0 to {n - 1}, or -1 for none",
            got=f"dtype {out.dtype}, shape {out.shape}{within}",
            do="Pass one row of the base for each query.",
        )
    return out.astype(np.int64)


def _extent(values: NDArray[Any]) -> float:
    """Return the largest absolute value; for small types, that of the type."""
    small = values.dtype.kind in "iu" and values.dtype.itemsize <= 2
    return float(np.iinfo(values.dtype).max) if small else largest(values)


def _scale(*extents: float) -> float:
    """Return 1, or a power of two if the values are so large or small that their squares leave the range of float32."""
    most = max(extents)
    return 1.0 if most == 0 or 1e-9 < most < 1e9 else 2.0 ** -np.frexp(most)[1]


# --- CUDA through torch, where the installed FAISS does not see the device


_PAIRS = 2**28  # distances held at a time: 1 GB
_WORTH_TORCH = 10**11  # multiplications that take longer than importing torch does

Candidates = tuple[NDArray[np.float32], NDArray[np.int64]]


def cuda_knn(queries: NDArray[np.float32], block: NDArray[np.float32], count: int) -> Candidates | None:
    """Return the result of `knn` on CUDA; None without CUDA, or if the search is too small to load torch for it."""
    small = len(queries) * block.size < _WORTH_TORCH
    if small and "torch" not in sys.modules:
        return None
    import torch

    return knn(queries, block, count, torch.device("cuda")) if torch.cuda.is_available() else None


def knn(queries: NDArray[np.float32], block: NDArray[np.float32], count: int, device: "torch.device") -> Candidates:
    """Return squared distances and indices, (m, count) each, of the rows of `block` nearest to each query, ascending.

    Computed in float32 as |b|^2 - 2 q.b + |q|^2; the bound on rounding is that of `genmem.search`, which decides in
    float64. Equal distances are in any order.
    """
    import torch

    base = _tensor(block, device)
    norms = base.square().sum(1)
    step = max(1, _PAIRS // len(block))
    squared, found = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
    with torch.no_grad(), _full_float32():
        for start in range(0, len(queries), step):
            part = _tensor(queries[start : start + step], device)
            distances = torch.addmm(norms, part, base.T, alpha=-2)
            least, at = distances.topk(count, dim=1, largest=False)
            squared[start : start + step] = (least + part.square().sum(1, keepdim=True)).cpu().numpy()
            found[start : start + step] = at.cpu().numpy()
    return squared, found


def _tensor(values: NDArray[np.float32], device: "torch.device") -> "torch.Tensor":
    import torch

    # torch warns about read-only arrays, such as memory-mapped files.
    return torch.from_numpy(values if values.flags.writeable else values.copy()).to(device)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Keep TensorFloat-32 out: its 10 bits would break the bound on rounding."""
    import torch

    # Not torch.get_float32_matmul_precision: it raises an error if this setting was changed.
    settings = torch.backends.cuda.matmul
    usual = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = usual
