"""A hierarchy of clusters of points: every region that may be named, from five points to half of all."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genmem.seeding import seed32

FloatArray = NDArray[np.float64]
MOST = 8000  # points of which the full hierarchy is computed: its memory is quadratic, half a GiB at 8,000


@dataclass(frozen=True, eq=False)
class Tree:
    """Nested clusters of n points.

    Attributes:
        order: (n,) positions of the points, so that the points of each cluster are next to each other.
        start: (nodes,) where each cluster starts in `order`.
        stop: (nodes,) where it stops.
    """

    order: NDArray[np.intp]
    start: NDArray[np.intp]
    stop: NDArray[np.intp]

    def members(self, node: int) -> NDArray[np.intp]:
        """Return the positions of the points of a cluster."""
        return self.order[self.start[node] : self.stop[node]]

    def sums(self, values: FloatArray) -> FloatArray:
        """Return the sum over each cluster, (..., nodes), of values of shape (..., n)."""
        total = np.cumsum(values[..., self.order], axis=-1, dtype=np.float64)
        total = np.concatenate([np.zeros_like(total[..., :1]), total], axis=-1)
        return np.asarray(total[..., self.stop] - total[..., self.start])

    def disjoint(self, ranked: NDArray[np.intp], count: int) -> list[int]:
        """Return the first `count` clusters of a ranking, each without points of those before it."""
        taken = np.zeros(len(self.order), bool)
        found: list[int] = []
        for node in ranked:
            part = slice(self.start[node], self.stop[node])
            if len(found) < count and not taken[part].any():
                taken[part] = True
                found.append(int(node))
        return found


def ward_tree(points: FloatArray, seed: int = 0, most: int = MOST) -> Tree:
    """Return the hierarchy of Ward's method (`scipy.cluster.hierarchy`), without clusters of one point.

    Of more than `most` points, it is the hierarchy of `most` / 4 cells of k-means.

    Args:
        points: (n, d), n >= 2.
        seed: of k-means.
        most: the number of points of which the full hierarchy is computed.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    cells, centres = _cells(points, seed, most)
    merged = linkage(centres, "ward")
    place = np.empty(len(centres), np.intp)
    place[leaves_list(merged)] = np.arange(len(centres))
    order = np.argsort(place[cells], kind="stable")
    ends = np.cumsum(np.bincount(place[cells], minlength=len(centres)))
    first, last = _ranges(merged, place)
    start, stop = np.r_[0, ends[:-1]][first], ends[last]
    large = stop - start > 1
    return Tree(order, start[large], stop[large])


def _cells(points: FloatArray, seed: int, most: int) -> tuple[NDArray[np.intp], FloatArray]:
    """Return the cell of each point, and the centres of the cells: the points themselves if they are few."""
    if len(points) <= most:
        return np.arange(len(points)), points
    from sklearn.cluster import MiniBatchKMeans

    found = MiniBatchKMeans(most // 4, random_state=seed32(seed, "tree"), n_init=1).fit(points)
    used, cells = np.unique(found.labels_, return_inverse=True)
    return cells.astype(np.intp), np.asarray(found.cluster_centers_[used], np.float64)


def _ranges(merged: FloatArray, place: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first and the last leaf of each node, in the order of the leaves."""
    leaves = len(place)
    first = np.r_[place, np.zeros(len(merged), np.intp)]
    last = first.copy()
    for node, (left, right) in enumerate(merged[:, :2].astype(np.intp), leaves):
        first[node] = min(first[left], first[right])
        last[node] = max(last[left], last[right])
    return first, last
