"""Cells of the space, cut by k-means on training examples: who falls into which, and who is nearest within it."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.neighbors.searches import Name, Searches
from genmem.rows import identical_groups
from genmem.search import nearest
from genmem.seeding import seed32, stream

CellOf = dict[Name, NDArray[np.intp]]

ROWS_A_CELL = 200  # of the smallest set, by default
MOST_CELLS = 50
FIT_ROWS = 10_000  # of the training examples: any partition made of them alone will do


def default_cells(n_train: int, n_test: int, n_samples: int) -> int:
    """Return one cell for every 200 rows of the smallest set, from 1 to 50.

    >>> default_cells(2_000, 1_000, 1_000), default_cells(60_000, 10_000, 10_000), default_cells(50, 50, 50)
    (5, 50, 1)
    """
    return int(np.clip(min(n_train, n_test, n_samples) // ROWS_A_CELL, 1, MOST_CELLS))


def cells_of(searches: Searches, n_cells: int | None = None, seed: int = 0) -> CellOf:
    """Return the cell (n,) of each row of each set, from 0: that of the nearest of `n_cells` k-means centres.

    The centres are fitted on the training examples, on 10,000 of them drawn at random where there are more. They
    do not depend on the order of the rows, nor does which is nearest: `nearest` says. There are never more than there
    are distinct rows to fit them on.

    Args:
        searches: the three sets.
        n_cells: how many; by default one for every 200 rows of the smallest set, from 1 to 50.
        seed: of the rows drawn and the starting centres.

    Raises:
        DataError: n_cells < 1.
    """
    sets = searches.sets
    count = default_cells(*(len(searches[name]) for name in _NAMES)) if n_cells is None else int(n_cells)
    if count < 1:
        raise DataError(expected="n_cells of 1 or more", got=str(n_cells), do="Ask for at least one cell.")
    if count == 1:
        return {name: np.zeros(len(sets[name]), np.intp) for name in _NAMES}
    centres = _centres(_rows_to_fit(searches, seed), count, seed)
    return {name: nearest(searches[name], centres)[1][:, 0].astype(np.intp) for name in _NAMES}


def nearest_within(searches: Searches, queries: Name, cells: CellOf) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distance (m,) to and index (m,) of the training example of its own cell nearest to each query.

    Where the nearest of all is in the cell, it is the one; only the other queries are searched again. In a cell
    without training examples the distance is infinite and the index -1.
    """
    found, index = searches.near(queries, "train")
    distances, partners = found[:, 0].copy(), index[:, 0].copy()
    elsewhere = cells["train"][partners] != cells[queries]
    for cell in np.unique(cells[queries][elsewhere]):
        ask, base = np.flatnonzero(elsewhere & (cells[queries] == cell)), np.flatnonzero(cells["train"] == cell)
        distances[ask], partners[ask] = np.inf, -1
        if len(base):
            near, at = nearest(searches[queries][ask], searches["train"][base])
            distances[ask], partners[ask] = near[:, 0], base[at[:, 0]]
    return distances, partners


_NAMES: tuple[Name, ...] = ("train", "test", "samples")


def _rows_to_fit(searches: Searches, seed: int) -> NDArray[Any]:
    order = searches.order("train")
    if len(order) > FIT_ROWS:
        order = order[np.sort(stream(seed, "rows for cells").choice(len(order), FIT_ROWS, replace=False))]
    return searches["train"][order]


def _centres(some: NDArray[Any], count: int, seed: int) -> NDArray[np.float64]:
    """Return the centres, `count` or as many as rows differ.

    They are fitted in float32, twice as fast. Which of them is nearest to a row is then decided in float64.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    middle = some.mean(axis=0, dtype=np.float64)  # far from the origin, squares would swallow what differs between rows
    apart = some - middle
    scale = float(np.abs(apart).max()) or 1.0  # squares of larger or smaller values leave float32
    model = KMeans(min(count, _distinct(some, count)), n_init=1, random_state=seed32(seed, "cells"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # rows may differ by less than can be told apart
        model.fit((apart / scale).astype(np.float32))
    return np.asarray(model.cluster_centers_.astype(np.float64) * scale + middle)


def _distinct(rows: NDArray[Any], enough: int) -> int:
    """Return how many rows differ, or some number from `enough` on."""
    few = int(identical_groups(rows[: 4 * enough]).max()) + 1
    return few if few >= enough else int(identical_groups(rows).max()) + 1
