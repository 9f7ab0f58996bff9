"""A stated number of rows for what cannot afford them all: chosen by the seed, whatever order the rows come in."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.neighbors.searches import Name, Searches
from genmem.seeding import stream


def rows_of_each(searches: Searches, rows: int) -> int:
    """Return how many rows of each set to take: `rows`, or all of the smallest set.

    Raises:
        DataError: `rows` is below 1.
    """
    if rows < 1:
        raise DataError(expected="rows of 1 or more", got=f"rows={rows}", do="Pass how many rows of each set to use.")
    return min(rows, *(len(matrix) for matrix in searches.sets.values()))


def some_rows(searches: Searches, name: Name, rows: int, seed: int) -> NDArray[Any]:
    """Return `rows` of a set, drawn without replacement; the order of the set plays no part."""
    matrix = searches[name]
    ranks = np.sort(stream(seed, f"rows of {name}").choice(len(matrix), rows, replace=False))
    chosen: NDArray[Any] = matrix[searches.order(name)[ranks]]
    return chosen
