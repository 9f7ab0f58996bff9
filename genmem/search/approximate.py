"""Approximate nearest neighbours by an index: faster for millions of rows, with measured recall."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.protocols import Brief, figure
from genmem.search.exact import ExactSearch, Pairs, nearest, prepared
from genmem.seeding import seed32, stream

Kind = Literal["ivf", "hnsw"]

_TOGETHER = 2**22  # values of queries searched at a time
_LINKS = 32  # of each row in the graph
_IN_VIEW = 4096  # largest candidate list of the graph search: beyond, the exact search is as fast


@dataclass(frozen=True, eq=False)
class Approximate(Brief):
    """Neighbours returned by an index, and how many of the true ones are among them.

    Attributes:
        distances: (m, k) Euclidean, exact to float64 for the rows returned, ascending.
        indices: (m, k) rows of the base.
        recall: the share of the true k nearest that were returned, over the queries checked; a row at the same
            distance as a true one counts.
        interval: 95% interval of the recall (Wilson), with one trial per query checked.
        checked: (c,) the queries searched exactly to measure the recall.
        effort: cells visited (`ivf`) or candidates kept (`hnsw`) for each query.
    """

    distances: NDArray[np.float64]
    indices: NDArray[np.int64]
    recall: float
    interval: tuple[float, float]
    checked: NDArray[np.intp]
    effort: int

    def headline(self) -> str:
        """Return the size and the main figures."""
        queries, k = self.indices.shape
        return f"{k:,} neighbours of {queries:,} queries, recall {figure(self.recall, self.interval)}"


def nearest_approximately(
    queries: NDArray[Any],
    base: NDArray[Any],
    k: int = 1,
    *,
    exclude: ArrayLike | None = None,
    index: Kind = "ivf",
    recall: float = 0.95,
    effort: int | None = None,
    check: int = 200,
    seed: int = 0,
) -> Approximate:
    """Return neighbours as `nearest` does, except that some may be missed; distances returned are exact.

    The effort is doubled until `check` queries reach the recall, which is then measured on as many others. With an
    inverted file (`ivf`) the greatest effort is an exhaustive search, so any recall can be reached; a graph (`hnsw`)
    may fall short: read `recall`. The index holds the base in float32; the graph takes twice as much at 64 columns.
    With several threads, the graph differs slightly between calls.

    Where true neighbours are missed, distances are too large, so a test of copying that uses them can miss copies.
    Use `nearest` if it is affordable.

    Args:
        queries: (m, *event), any real dtype.
        base: (n, *event), any real dtype.
        k: number of neighbours.
        exclude: (m,) the row of `base` never returned for that query, -1 for none.
        index: "ivf" or "hnsw".
        recall: the target, above 0, at most 1.
        effort: how many cells to visit or candidates to keep, instead of a target.
        check: how many queries to search exactly, 1 or more.
        seed: of the queries checked and of the cells.

    Raises:
        DataError: as `nearest`, or a setting is out of range.

    References:
        The Faiss Library (Douze et al., 2024), https://arxiv.org/abs/2401.08281
        Efficient and Robust Approximate Nearest Neighbor Search Using Hierarchical Navigable Small World Graphs
        (Malkov & Yashunin, 2016), https://arxiv.org/abs/1603.09320
    """
    _check_settings(index, recall, effort, check)
    search = prepared(queries, base, k, exclude)
    finder = _Finder(search, index, seed)
    order = stream(seed, "checked queries").permutation(len(search.Q))
    tried, checked = order[: min(check, len(order) // 2)], order[-check:]
    finder.effort = min(effort, finder.most) if effort else _enough(finder, tried if len(tried) else checked, recall)
    pairs = finder.pairs(np.arange(len(search.Q)))
    found = _found(search, checked, pairs[0][checked])
    from genmem.stats import share_interval  # scipy is loaded only where a recall is measured

    interval = share_interval(round(found * len(checked)), len(checked))
    return Approximate(*pairs, found, interval, np.sort(checked), finder.effort)


class _Finder:
    """An index over the base of a search, searched with a given effort."""

    def __init__(self, search: ExactSearch, kind: Kind, seed: int) -> None:
        self.search, self.kind = search, kind
        n, width = search.B.shape
        # FAISS wants 39 rows a cell or more.
        self.most = max(1, min(int(4 * n**0.5), n // 39)) if kind == "ivf" else min(n, _IN_VIEW)
        self.index = _inverted_file(search, self.most, seed) if kind == "ivf" else _graph(width)
        for _, block in search.blocks(np.arange(n), np.float32):
            self.index.add(block)
        self.effort = 1 if kind == "ivf" else 16

    def pairs(self, at: NDArray[np.intp]) -> Pairs:
        """Return distances and indices for the queries `at`; exact ones if the index returns fewer than k."""
        search = self.search
        distances, indices = np.empty((len(at), search.k)), np.empty((len(at), search.k), np.int64)
        step = max(1, _TOGETHER // max(search.Q.shape[1], search.count))
        for places in np.array_split(np.arange(len(at)), -(-len(at) // step)):
            found = self._candidates(at[places])
            there = (found >= 0) & (found != search.exclude[at[places], None])
            enough = there.sum(axis=1) >= search.k
            whole, few = places[enough], places[~enough]
            rows, columns = np.nonzero(there[enough])
            distances[whole], indices[whole] = search.measured(at[whole], rows, found[enough][rows, columns])
            if len(few):
                query = at[few]
                exact = nearest(search.Q[query], search.B, search.k, exclude=search.exclude[query])
                distances[few], indices[few] = exact
        return distances, indices

    def _candidates(self, at: NDArray[np.intp]) -> NDArray[np.int64]:
        import faiss as typed_in_part

        faiss: Any = typed_in_part
        count = min(self.search.count, len(self.search.B))
        given = (
            faiss.SearchParametersIVF(nprobe=min(self.effort, self.most))
            if self.kind == "ivf"
            else faiss.SearchParametersHNSW(efSearch=max(self.effort, count))
        )
        values = self.search.units(self.search.Q[at], np.float32)
        found: NDArray[np.int64] = self.index.search(values, count, params=given)[1]
        return found


def _inverted_file(search: ExactSearch, cells: int, seed: int) -> Any:
    import faiss

    n, width = search.B.shape
    index: Any = faiss.index_factory(width, f"IVF{cells},Flat")
    index.cp.seed = seed32(seed, "cells")
    index.cp.min_points_per_centroid = 1  # it would print a warning below 39
    some = np.sort(stream(seed, "rows of the cells").permutation(n)[: 64 * cells])
    index.train(search.units(search.B[some], np.float32))
    return index


def _graph(width: int) -> Any:
    import faiss

    return faiss.IndexHNSWFlat(width, _LINKS)


def _enough(finder: _Finder, tried: NDArray[np.intp], recall: float) -> int:
    """Return the first effort, doubled from the least, with the target recall on the queries `tried`; else the most."""
    search = finder.search
    true = _true_distances(search, tried)
    while finder.effort < finder.most and _share(finder.pairs(tried)[0], true) < recall:
        finder.effort = min(2 * finder.effort, finder.most)
    return finder.effort


def _found(search: ExactSearch, checked: NDArray[np.intp], distances: NDArray[np.float64]) -> float:
    return _share(distances, _true_distances(search, checked))


def _true_distances(search: ExactSearch, at: NDArray[np.intp]) -> NDArray[np.float64]:
    return nearest(search.Q[at], search.B, search.k, exclude=search.exclude[at])[0]


def _share(distances: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Return the share of the k true neighbours returned: rows no further than the furthest of them."""
    return float((distances <= true[:, -1:]).mean())


def _check_settings(index: str, recall: float, effort: int | None, check: int) -> None:
    if index not in ("ivf", "hnsw"):
        raise DataError(expected='index "ivf" or "hnsw"', got=f"index={index!r}", do="Pass one of the two.")
    if not 0 < recall <= 1:
        raise DataError(expected="recall above 0, at most 1", got=f"recall={recall}", do="Pass a share, such as .95.")
    for name, value in (("effort", effort), ("check", check)):
        if value is not None and value < 1:
            raise DataError(expected=f"{name} of 1 or more", got=f"{name}={value}", do="Pass a whole number.")
