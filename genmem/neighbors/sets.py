"""Three sets of rows in one space, and the searches between them, each made once; ties and subsets ignore row order."""

import copy
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.data.arrays import canonical_order
from genmem.errors import DataError
from genmem.search.exact import Pairs, nearest
from genmem.seeding import stream

Name = Literal["train", "test", "samples"]
T = TypeVar("T")


class Searches:
    """Training examples, held-out examples and samples as matrices of one width, and who lies nearest to whom.

    A search is made when it is first asked for; a later one for as few neighbours or fewer costs nothing, so ask
    for the most first.

    Args:
        train: (n_train, *event).
        test: (n_test, *event) held-out examples: from the same source, not trained on.
        samples: (n_samples, *event) of the model.

    Raises:
        DataError: a set is empty, not finite or not numbers, or their widths differ.
    """

    def __init__(self, train: ArrayLike, test: ArrayLike, samples: ArrayLike) -> None:
        given = {"train": train, "test": test, "samples": samples}
        self.sets: dict[str, NDArray[np.generic]] = {name: _matrix(rows, name) for name, rows in given.items()}
        widths = {name: rows.shape[1] for name, rows in self.sets.items()}
        if len(set(widths.values())) > 1:
            raise DataError(
                expected="training examples, held-out examples and samples of one width",
                got=", ".join(f"{name} of {width} values" for name, width in widths.items()),
                do="Pass all three in the same form.",
            )
        self._found: dict[tuple[str, str], Pairs] = {}
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: Name) -> NDArray[np.generic]:
        return self.sets[name]

    def near(self, queries: Name, base: Name, k: int = 1) -> Pairs:
        """Return distances and indices, (m, k) each, of the k rows of `base` nearest to each row of `queries`.

        Within a set a row is not its own neighbour. Distances are exact to float64, ties go by index.
        """
        there = self._found.get((queries, base))
        if there is None or there[0].shape[1] < k:
            own = np.arange(len(self.sets[queries])) if queries == base else None
            there = self._found[queries, base] = nearest(self.sets[queries], self.sets[base], k, exclude=own)
        return there[0][:, :k], there[1][:, :k]

    def distance(self, queries: Name, base: Name) -> NDArray[np.float64]:
        """Return the distance of each row of `queries` to its nearest row of `base`, (m,)."""
        return self.near(queries, base)[0][:, 0]

    def order(self, name: Name) -> NDArray[np.intp]:
        """Return the `canonical_order` (n,) of the rows of a set, which their values alone decide."""
        return self.once(f"order of {name}", lambda sets: canonical_order(sets[name]))

    def once(self, name: str, make: Callable[["Searches"], T]) -> T:
        """Return what `make` gives for these sets, made when first asked for under this name."""
        if name not in self._made:
            self._made[name] = make(self)
        made: T = self._made[name]
        return made

    def turned(self) -> "Searches":
        """Return the sets with training examples and samples in each other's place, and the searches made so far."""
        other = copy.copy(self)
        place: dict[str, str] = {"train": "samples", "samples": "train", "test": "test"}
        other.sets = {name: self.sets[place[name]] for name in self.sets}
        other._found = {(place[queries], place[base]): found for (queries, base), found in self._found.items()}
        other._made = {}
        return other


def searches_of(train: ArrayLike, test: ArrayLike, samples: ArrayLike, searches: Searches | None) -> Searches:
    """Return the searches that were passed on, or new ones of these sets."""
    return Searches(train, test, samples) if searches is None else searches


def _matrix(rows: ArrayLike, name: str) -> NDArray[np.generic]:
    array = np.asarray(rows)
    if array.dtype.kind not in "biuf" or array.ndim < 1 or array.size == 0:
        raise DataError(
            expected=f"{name} of numbers, one or more rows, shape (n, *event)",
            got=f"dtype {array.dtype}, shape {array.shape}",
            do="Pass a numeric array of examples; encode text columns first.",
        )
    flat = array.reshape(len(array), -1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        bad = int((~np.isfinite(flat).all(1)).sum())
        raise DataError(
            expected=f"{name} of finite values",
            got=f"NaN or infinity in {bad:,} of {len(flat):,} rows",
            do="Remove or fill these values, in all three sets alike.",
        )
    return flat


# --- ties


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


# --- subsets


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
