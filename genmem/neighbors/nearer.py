"""Whose neighbour is each sample, the training set's or the held-out set's?

Rows of both sets are pooled. Were no row copied, which of them were trained on would be chance, whatever the model
draws: sharp, wide or lopsided. Every test that reads only these labels is therefore blind to all but copying.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from genmem.neighbors.dealing import nearest_of_both, of_one_row
from genmem.neighbors.searches import Name, Searches

NEAR = 50  # neighbours that say how dense the data are about a sample
TAILS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Nearer:
    """Samples and the group of identical pooled rows nearest to each.

    Attributes:
        labels: (groups,) share of the rows of a group that are training examples: 0, 1, or between for a row that is
            in both sets.
        group: (m,) the group nearest to each sample.
        orders: (2, m) samples, the nearest first: by distance, and by distance over the mean distance to the 50
            nearest pooled rows, which does not depend on how dense the data are there.
        distance: (m,) to the nearest pooled row.
        density_free: (m,) the quotient by which the second order goes, at most 1; 0 where the distance is.
        place: (groups,) of each group in an order that rows' values alone decide.
    """

    labels: FloatArray
    group: IndexArray
    orders: NDArray[np.intp]
    distance: FloatArray
    density_free: FloatArray
    place: IndexArray

    def of_one_row(self, seed: int) -> "Nearer":
        """Return the same with the label of one row drawn from each group: labels then are exchangeable.

        Shares of groups are not: where rows are dealt to the two sets one by one, large groups have shares near the
        mean and groups of one have 0 or 1.
        """
        if ((self.labels == 0) | (self.labels == 1)).all():
            return self
        return replace(self, labels=of_one_row(self.labels, seed, self.place).astype(np.float64))

    @cached_property
    def null(self) -> float:
        """The share of groups that are training examples: the chance that a sample's neighbour is one."""
        return float(self.labels.mean())

    @cached_property
    def spread(self) -> float:
        """The variance of a label drawn at random, with n - 1."""
        return float(self.labels.var(ddof=1)) if len(self.labels) > 1 else 0.0

    @cached_property
    def tails(self) -> IndexArray:
        """Numbers of samples in the tails looked at, ascending."""
        sizes = np.ceil(np.array(TAILS) * len(self.group) - 1e-9)
        return np.unique(np.maximum(sizes, 1)).astype(np.intp)

    @cached_property
    def deviations(self) -> FloatArray:
        """(2, tails) standard deviation of the number of training neighbours in each tail if labels are chance."""
        return np.stack([deviations(self.group[order], self) for order in self.orders])

    def excess(self, labels: FloatArray) -> FloatArray:
        """Return how many more training neighbours there are in each tail than by chance, (2, tails)."""
        own = labels[self.group] - self.null
        return np.stack([np.cumsum(own[order])[self.tails - 1] for order in self.orders])


def deviations(groups: IndexArray, nearer: Nearer) -> FloatArray:
    """Return the deviation of sum c_g L_g in each tail, labels L permuted; c_g counts the group in the tail.

    Var = Var(L) sum (c_g - mean c)^2, and the sum of squares grows by 2 (earlier occurrences) + 1 at each sample.
    """
    sizes = nearer.tails
    squares = np.cumsum(2.0 * earlier(groups) + 1)[sizes - 1]
    return np.asarray(np.sqrt(nearer.spread * np.maximum(squares - sizes.astype(float) ** 2 / len(nearer.labels), 0)))


def earlier(groups: IndexArray) -> IndexArray:
    """Return how often each entry occurred before.

    >>> earlier(np.array([7, 3, 7, 7]))
    array([0, 0, 1, 2])
    """
    order = np.argsort(groups, kind="stable")
    ascending = groups[order]
    found = np.empty(len(groups), np.intp)
    found[order] = np.arange(len(groups)) - np.searchsorted(ascending, ascending)
    return found


def standardised(excess: FloatArray, deviations: FloatArray) -> FloatArray:
    """Return the excess in standard deviations, 0 where chance leaves no room."""
    return np.divide(excess, deviations, out=np.zeros_like(excess), where=deviations > 1e-9)


def nearer_of(searches: Searches) -> Nearer:
    """Return whose neighbour each sample is."""
    mean = pooled_distances(searches).mean(1)
    both = searches.once("both", nearest_of_both)
    free = np.divide(both.distance, mean, out=np.zeros_like(mean), where=mean > 0)
    place = np.empty(len(free), np.intp)  # equally near samples are ordered by what they hold
    place[searches.order("samples")] = np.arange(len(free))
    orders = np.stack([np.lexsort((place, both.distance)), np.lexsort((place, both.distance, free))])
    return Nearer(both.labels, both.group, orders, both.distance, free, both.place)


def pooled_distances(searches: Searches) -> FloatArray:
    """Return the distances of each sample to the 50 pooled rows nearest to it, in no order, (m, 50 or all)."""
    bases: tuple[Name, ...] = ("train", "test")
    found = [searches.near("samples", base, min(NEAR, len(searches[base])))[0] for base in bases]
    distances = np.hstack(found)
    count = min(NEAR, distances.shape[1])
    return np.asarray(np.partition(distances, count - 1, axis=1)[:, :count])


def over_mean(distances: FloatArray) -> FloatArray:
    """Return the first column over the mean of all, (m,), 0 where that is 0; distances (m, k), the nearest first."""
    mean = distances.mean(axis=1)
    return np.asarray(np.divide(distances[:, 0], mean, out=np.zeros_like(mean), where=mean > 0))
