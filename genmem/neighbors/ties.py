"""The nearest row, where several are equally near: one that the order of the rows does not decide."""

import numpy as np
from numpy.typing import NDArray

from genmem.neighbors.searches import Name, Searches
from genmem.search import nearest


def nearest_row(searches: Searches, queries: Name, base: Name) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distance to and index of the row of another set nearest to each query, (m,) each.

    Among equally near rows the one whose values come first in an order of their own: shuffled sets give the same.
    """
    rows = searches[base]
    distances, indices = searches.near(queries, base, min(2, len(rows)))
    found = indices[:, 0].copy()
    tied = np.flatnonzero(distances[:, 0] == distances[:, -1]) if distances.shape[1] > 1 else found[:0]
    if len(tied):
        order = searches.order(base)
        found[tied] = order[nearest(searches[queries][tied], rows[order])[1][:, 0]]
    return distances[:, 0], found
