"""Three sets of points in one space and their nearest neighbours: each search runs once; row order never matters."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, wraps
from inspect import Signature, signature
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.data.arrays import Triple, canonical_order, identical_groups
from genmem.data.frames import is_frame
from genmem.data.matrices import three_matrices
from genmem.data.three_sets import load_three
from genmem.errors import DataError
from genmem.neighbors.belonging import Belonging, joined, one_of_each, smallest_of_each
from genmem.neighbors.pooled import NEAR, Closest, NearestOfBoth
from genmem.protocols import Brief
from genmem.search.exact import Pairs, nearest
from genmem.seeding import stream

Name = Literal["train", "test", "samples"]
NAMES: tuple[Name, Name, Name] = ("train", "test", "samples")
FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Sets(Brief):
    """Training examples, held-out examples and samples as matrices of one width, and their nearest neighbours.

    What several tests use is computed on first use. A later search for the same or a smaller number of neighbours costs
    nothing, so request the largest number first.

    Attributes:
        train: (n_train, d).
        test: (n_test, d).
        samples: (n_samples, d).
        events: the shape of an example of each set, as passed.
        own: the groups of rows that belong together, None if all rows are independent.

    Args:
        train: (n_train, *event). Data frames and mappings of columns are matched by name and encoded, see `load_three`.
        test: (n_test, *event) held-out examples: from the same source, not trained on.
        samples: (n_samples, *event) of the model.

    Raises:
        DataError: a set is empty, not finite or not numeric, or widths differ.

    >>> Sets([[0.0], [5.0]], [[1.0]], [[4.0]]).distance("samples", "train")
    array([1.])
    """

    def headline(self) -> str:
        """Return the size and the main figures."""
        return "{:,} training examples, {:,} held out, {:,} samples".format(*map(len, self))

    def __init__(self, train: ArrayLike, test: ArrayLike, samples: ArrayLike) -> None:
        given = (train, test, samples)
        if any(is_frame(rows) or isinstance(rows, Mapping) for rows in given):
            given = load_three(*given).arrays
        self._hold(three_matrices(*given))
        self.events = tuple(np.shape(rows)[1:] for rows in given)

    @classmethod
    def of_matrices(cls, matrices: Triple) -> "Sets":
        """Return the sets of three matrices that were checked before."""
        sets = cls.__new__(cls)
        sets._hold(matrices)
        sets.events = tuple(rows.shape[1:] for rows in matrices)
        return sets

    def belonging(self, own: Belonging | None) -> "Sets":
        """Return the same sets, and their searches, with groups of rows that belong together."""
        if own is None:
            return self
        sets = Sets.of_matrices((self.train, self.test, self.samples))
        sets.events, sets.own = self.events, own
        sets._found, sets._orders, sets._ratios = self._found, self._orders, self._ratios
        return sets

    def _hold(self, matrices: Triple) -> None:
        self.train, self.test, self.samples = matrices
        self.own: Belonging | None = None
        self._found: dict[tuple[Name, Name], Pairs] = {}
        self._orders: dict[Name, IndexArray] = {}
        self._ratios: dict[tuple[Name, int], tuple[FloatArray, NDArray[np.int64]]] = {}

    def __getitem__(self, name: Name) -> NDArray[Any]:
        return {"train": self.train, "test": self.test, "samples": self.samples}[name]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.train, self.test, self.samples))

    def near(self, queries: Name, base: Name, k: int = 1) -> Pairs:
        """Return distances and indices, (m, k) each, of the k rows of `base` nearest to each row of `queries`.

        If `base` has fewer rows, all are returned. Within one set a row is not its own neighbour. Distances are exact
        to float64; ties are ordered by index.
        """
        k = min(k, max(1, len(self[base]) - (queries == base)))
        there = self._found.get((queries, base))
        if there is None or there[0].shape[1] < k:
            own = np.arange(len(self[queries])) if queries == base else None
            there = self._found[queries, base] = nearest(self[queries], self[base], k, exclude=own)
        return there[0][:, :k], there[1][:, :k]

    def distance(self, queries: Name, base: Name) -> FloatArray:
        """Return the distance of each row of `queries` to its closest row of `base`, (m,)."""
        return self.near(queries, base)[0][:, 0]

    def nearest_row(self, queries: Name, base: Name) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return distance to and index of the row of another set closest to each query, (m,) each.

        Ties are resolved by the values of the rows, so shuffled sets give the same rows.
        """
        distances, indices = self.near(queries, base, 2)
        found = indices[:, 0].copy()
        tied = np.flatnonzero(distances[:, 0] == distances[:, -1]) if distances.shape[1] > 1 else found[:0]
        if len(tied):
            order = self.order(base)
            found[tied] = order[nearest(self[queries][tied], self[base][order])[1][:, 0]]
        return distances[:, 0], found

    def order(self, name: Name) -> IndexArray:
        """Return the `canonical_order` (n,) of the rows of a set, which depends on their values alone."""
        if name not in self._orders:
            self._orders[name] = canonical_order(self[name])
        return self._orders[name]

    def place(self, name: Name) -> IndexArray:
        """Return the rank (n,) of each row of a set in `order`."""
        return np.argsort(self.order(name))

    def some_rows(self, name: Name, rows: int, seed: int) -> NDArray[Any]:
        """Return `rows` rows of a set, drawn without replacement; the order of the set does not matter."""
        chosen: NDArray[Any] = self[name][self.some_places(name, rows, seed)]
        return chosen

    def some_places(self, name: Name, rows: int, seed: int) -> IndexArray:
        """Return the indices of the rows that `some_rows` returns."""
        ranks = np.sort(stream(seed, f"rows of {name}").choice(len(self[name]), rows, replace=False))
        return self.order(name)[ranks]

    def rows_of_each(self, rows: int, *names: Name) -> int:
        """Return how many rows of each named set, or of all sets, to use: `rows`, or the size of the smallest set.

        Raises:
            DataError: `rows` is below 1.
        """
        if rows < 1:
            raise DataError(
                expected="rows of 1 or more", got=f"rows={rows}", do="Pass the largest number of rows of each set."
            )
        return min(rows, *(len(self[name]) for name in names or NAMES))

    @cached_property
    def identical(self) -> tuple[IndexArray, IndexArray, IndexArray]:
        """The group of identical rows that each row of each set is in, numbered over all sets by first appearance."""
        return self._split(identical_groups(np.concatenate([*self])))

    @cached_property
    def groups(self) -> tuple[IndexArray, IndexArray, IndexArray]:
        """The same, with training and held-out examples that belong together linked, too."""
        if self.own is None:
            return self.identical
        own = np.concatenate([self.own.train, self.own.test])
        return self._split(joined(np.concatenate(self.identical), own))

    def _split(self, groups: IndexArray) -> tuple[IndexArray, IndexArray, IndexArray]:
        train, test, samples = np.split(groups, np.cumsum([len(self.train), len(self.test)]))
        return train, test, samples

    @cached_property
    def pooled_groups(self) -> IndexArray:
        """The groups of training and held-out examples, one set after the other: numbers from 0 without gaps."""
        return np.concatenate(self.groups[:2])

    def one_each(self, seed: int, *names: Name) -> "Sets":
        """Return the sets with one row of each of the user's groups of the named sets: independent rows.

        What compares samples with held-out examples one by one needs these. Searches are kept where that set is whole.
        """
        of = {name: None if self.own is None else getattr(self.own, name) for name in names}
        kept = {name: one_of_each(own, self.place(name), seed) for name, own in of.items() if own is not None}
        kept = {name: rows for name, rows in kept.items() if len(rows) < len(self[name])}
        if not kept:
            return self
        train, test, samples = (self[name][kept[name]] if name in kept else self[name] for name in NAMES)
        fewer = Sets.of_matrices((train, test, samples))
        for (queries, base), (distances, found) in self._found.items():
            if base not in kept:
                rows = kept.get(queries, slice(None))
                fewer._found[queries, base] = distances[rows], found[rows]
        return fewer

    @property
    def held_out_ratios(self) -> FloatArray:
        """`local_ratio` of held-out examples, (n_test,); of groups that belong together the smallest, (groups,)."""
        ratios = self.local_ratio("test")[0]
        return ratios if self.own is None else smallest_of_each(ratios, self.own.test)

    @cached_property
    def both(self) -> NearestOfBoth:
        """The group of examples, of training and held-out examples together, closest to each sample.

        Ties between groups are resolved by their place. The result therefore does not depend on which example is in
        which set, nor on their order.
        """
        rows, groups = np.concatenate([self.train, self.test]), self.pooled_groups
        identical = np.concatenate(self.identical[:2])
        (far, index), (far_test, index_test) = self.near("samples", "train", 2), self.near("samples", "test", 2)
        distance = np.minimum(far[:, 0], far_test[:, 0])
        closer = np.where(far[:, 0] <= far_test[:, 0], index[:, 0], len(self.train) + index_test[:, 0])
        group = groups[closer]
        tied = ((far == distance[:, None]).sum(axis=1) + (far_test == distance[:, None]).sum(axis=1)) > 1
        order = canonical_order(rows)
        one_each = _first_of_each(identical, order)
        if tied.any():
            group[tied] = groups[one_each[nearest(self.samples[tied], rows[one_each])[1][:, 0]]]
        in_train = np.arange(len(rows)) < len(self.train)
        labels = np.bincount(groups, weights=in_train) / np.bincount(groups)
        return NearestOfBoth(group, distance, labels, np.argsort(groups[_first_of_each(groups, order)]))

    @cached_property
    def closest(self) -> Closest:
        """The example closest to each sample, and two orders of the samples: by distance and by relative distance."""
        distances = np.hstack([self.near("samples", base, NEAR)[0] for base in _POOLED])
        count = min(NEAR, distances.shape[1])
        mean = np.partition(distances, count - 1, axis=1)[:, :count].mean(1)
        both, place = self.both, self.place("samples")  # ties are ordered by the values of the samples
        free = np.divide(both.distance, mean, out=np.zeros_like(mean), where=mean > 0)
        orders = np.stack([np.lexsort((place, both.distance)), np.lexsort((place, both.distance, free))])
        return Closest(both.labels, both.group, orders, both.distance, free, both.place)

    def local_ratio(self, queries: Name, k: int = NEAR) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return d_1 / mean(d_1, ..., d_k) over distinct training examples, (m,), and the closest one; 0 / 0 is 0."""
        if (queries, k) not in self._ratios:
            distinct = np.unique(self.identical[0], return_index=True)[1].astype(np.int64)
            if len(distinct) == len(self.train):
                distances, found = self.near(queries, "train", k)
            else:
                distances, places = nearest(self[queries], self.train[distinct], min(k, len(distinct)))
                found = distinct[places]
            self._ratios[queries, k] = over_mean(distances), found[:, 0]
        return self._ratios[queries, k]

    def turned(self) -> "Sets":
        """Return the sets with training examples and samples exchanged, and the searches made so far."""
        other = Sets.of_matrices((self.samples, self.test, self.train))
        if self.own is not None:
            samples = np.arange(len(self.samples)) if self.own.samples is None else self.own.samples
            apart = int(samples.max()) + 1  # samples and held-out examples share no group
            other.own = Belonging(samples, apart + self.own.test, self.own.train)
        other._found = {(_TURNED[queries], _TURNED[base]): found for (queries, base), found in self._found.items()}
        return other


def _first_of_each(groups: IndexArray, order: IndexArray) -> IndexArray:
    """Return the first row of each group in an order, in that order."""
    return order[np.sort(np.unique(groups[order], return_index=True)[1])]


_POOLED: tuple[Name, Name] = ("train", "test")
_TURNED: dict[Name, Name] = {"train": "samples", "test": "test", "samples": "train"}


def over_mean(distances: FloatArray) -> FloatArray:
    """Return the first column over the mean of all, (m,), or 0 if that is 0; distances (m, k), closest first."""
    mean = distances.mean(axis=1)
    return np.asarray(np.divide(distances[:, 0], mean, out=np.zeros_like(mean), where=mean > 0))


# --- functions of three sets


def sets_of(train: ArrayLike | Sets, test: ArrayLike | None = None, samples: ArrayLike | None = None) -> Sets:
    """Return the one `Sets` that was passed, or a new one of three arrays.

    Raises:
        DataError: the arguments are neither; or as `Sets`.
    """
    several = [name for name, rows in (("test", test), ("samples", samples)) if rows is not None]
    if isinstance(train, Sets) and not several:
        return train
    if isinstance(train, Sets) or test is None or samples is None:
        raise DataError(
            expected="three arrays, train, test and samples, or one Sets of them",
            got=" and ".join(["a Sets" if isinstance(train, Sets) else "train", *several]),
            do="Pass all three, or genmem.neighbors.Sets(train, test, samples) alone.",
        )
    return Sets(train, test, samples)


class OfThreeSets(Protocol[P, R_co]):
    """A function of three sets, called with three arrays, or with one `Sets` to share its searches."""

    __name__: str

    @overload
    def __call__(self, train: Sets, *args: P.args, **settings: P.kwargs) -> R_co: ...
    @overload
    def __call__(
        self, train: ArrayLike, test: ArrayLike, samples: ArrayLike, *args: P.args, **settings: P.kwargs
    ) -> R_co: ...


def of_three_sets(function: Callable[Concatenate[Sets, P], R]) -> OfThreeSets[P, R]:
    """Let a function of a `Sets` and keywords be called with three arrays too, and adapt its signature and docstring.

    >>> @of_three_sets
    ... def share_of_copies(sets: Sets) -> float:
    ...     return float((sets.distance("samples", "train") == 0).mean())
    >>> share_of_copies([[0.0], [5.0]], [[1.0]], [[5.0], [4.0]])
    0.5
    """

    @wraps(function)
    def asked(train: Any, test: Any = None, samples: Any = None, *args: P.args, **settings: P.kwargs) -> R:
        return function(sets_of(train, test, samples), *args, **settings)

    own, three = signature(function), signature(sets_of).parameters.values()
    settings = [*own.parameters.values()][1:]
    asked.__signature__ = Signature([*three, *settings], return_annotation=own.return_annotation)  # type: ignore[attr-defined]
    asked.__doc__ = re.sub(r"^( *)sets: .*$", _THREE, function.__doc__ or "", flags=re.MULTILINE)
    function.__globals__.setdefault("__test__", {})[function.__name__] = asked  # or doctest assigns it to this module
    return cast(OfThreeSets[P, R], asked)


_THREE = r"""\1train: (n_train, *event), or a `Sets` of all three: tests of one `Sets` share its searches.
\1test: (n_test, *event) held-out examples: from the same source, not trained on.
\1samples: (n_samples, *event) of the model; all three may be data frames."""
