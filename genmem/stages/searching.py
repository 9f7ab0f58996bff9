"""The nearest other examples of every example, searched once for a run."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data import identical_groups
from genmem.run import Run
from genmem.search import nearest
from genmem.storage import Arrays

NEIGHBORS = 10


def nearest_others(run: Run) -> Arrays:
    """Return distances and indices (n, k) of the nearest other examples, and `duplicate_of` (n,)."""
    if not run.has_result("nearest"):
        X = np.asarray(run.data().X)
        k = min(NEIGHBORS, len(X) - 1)
        distances, indices = nearest(X, X, k, exclude=np.arange(len(X)))
        run.write_result("nearest", distances=distances, indices=indices, duplicate_of=_duplicate_of(X))
    return run.result("nearest")


def _duplicate_of(X: NDArray[Any]) -> NDArray[np.intp]:
    """Return the first other row that is identical to each row, -1 where there is none."""
    groups = identical_groups(X)
    order = np.argsort(groups, kind="stable")
    found = np.full(len(X), -1)
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    for rows in np.split(order, starts[1:]):
        if len(rows) > 1:
            found[rows] = rows[0]
            found[rows[0]] = rows[1]
    return found
