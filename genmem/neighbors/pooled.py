"""Training and held-out examples pooled: which is closest to each sample, and the null distribution of its label.

If nothing is copied, the train/held-out labels of the pooled examples are exchangeable given the samples, however sharp
or biased the model is. A test that uses these labels alone therefore responds to nothing but copying.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from genmem.seeding import stream

Floats = NDArray[np.float64]

DRAWS = 99_999  # permutations of the labels
_VALUES = 2**22  # of random tables in memory at a time


class NearestOfBoth(NamedTuple):
    """The closest training or held-out example to each sample.

    Attributes:
        group: (n_samples,) its group of identical examples.
        distance: (n_samples,) to it.
        labels: (groups,) the share of training examples in each group.
        place: (groups,) rank of each group in an order that depends on the values alone.
    """

    group: NDArray[np.intp]
    distance: Floats
    labels: Floats
    place: NDArray[np.intp]


class LabelPermutation(NamedTuple):
    """A mean label and its distribution under permutation of the train/held-out labels.

    Attributes:
        value: the mean label.
        null: its expectation.
        sd: its standard deviation.
        z: its deviation from the expectation in standard deviations.
        p_value: how often permutations reach it.
        mid_p: the same, with permutations that equal it counted half.
        resolution: the smallest possible p-value.
    """

    value: float
    null: float
    sd: float
    z: float
    p_value: float
    mid_p: float
    resolution: float


def label_permutation(
    counts: ArrayLike, labels: ArrayLike, seed: int, draws: int = DRAWS, *, place: NDArray[np.intp] | None = None
) -> LabelPermutation:
    """Compare sum(counts * labels) / sum(counts) with its distribution under permutation of the groups' labels.

    The distribution depends only on how many groups of each count get each label: a table with fixed margins, which is
    drawn as a whole. If the counts are also 0 and 1, the table has one free entry, and the p-value is hypergeometric.

    A label between 0 and 1 is the share of training examples in a group. If examples are assigned to the two sets one
    by one, large groups have shares near the mean and groups of one have 0 or 1, so these shares are not exchangeable
    between groups. The labels of one example drawn from each group are: sd, z and p-values use such a draw.

    Args:
        counts: (groups,) non-negative integers, not all 0.
        labels: (groups,) from 0 to 1.
        seed: of the permutations and the draw.
        draws: the number of permutations; the smallest p-value is 1 / (draws + 1).
        place: (groups,) rank of each group in an order that does not depend on the order of the examples.
    """
    c, shares = np.asarray(counts, np.int64), np.asarray(labels, np.float64)
    label, total = of_one_row(shares, seed, place), int(c.sum())
    hits, expected = int(c @ label), total * float(label.mean())
    spread = ((c - c.mean()) ** 2).sum() * ((label - label.mean()) ** 2).sum()
    sd = float(np.sqrt(spread / max(1, len(c) - 1)))
    p, more, least = _exactly(c, label, hits) if c.max() == 1 else _by_draws(c, label, hits, seed, draws)
    z = (hits - expected) / sd if sd else 0.0
    return LabelPermutation(float(c @ shares / total), float(shares.mean()), sd / total, z, p, (p + more) / 2, least)


Counts = NDArray[np.int64]


def of_one_row(shares: Floats, seed: int, place: NDArray[np.intp] | None) -> Counts:
    """Return the label of one example drawn from each group, 0 or 1; see `label_permutation` for why."""
    u = stream(seed, "rows of groups").random(len(shares))
    return (u[slice(None) if place is None else place] < shares).astype(np.int64)  # u < 1


def _exactly(counts: Counts, labels: Counts, hits: int) -> tuple[float, float, float]:
    """Return the probabilities to reach and to exceed the hits, and the smallest possible p-value."""
    law = stats.hypergeom(len(counts), int(labels.sum()), int(counts.sum()))
    return float(law.sf(hits - 1)), float(law.sf(hits)), float(law.pmf(law.support()[1]))


def _by_draws(counts: Counts, labels: Counts, hits: int, seed: int, draws: int) -> tuple[float, float, float]:
    sums = _drawn(counts, labels, seed, draws)
    reached, passed = int((sums >= hits).sum()), int((sums > hits).sum())
    return (reached + 1) / (draws + 1), passed / (draws + 1), 1 / (draws + 1)


def _drawn(counts: Counts, labels: Counts, seed: int, draws: int) -> Counts:
    """Return sums of counts times labels, (draws,), with the labels permuted independently each time."""
    c, sizes = np.unique(counts, return_counts=True)
    ones = int(labels.sum())
    if len(c) == 1 or ones in (0, len(labels)):  # all tables are equal, and scipy draws such tables incorrectly
        return np.full(draws, counts @ labels)
    rng, tables = stream(seed, "labels"), stats.random_table(sizes, [ones, len(labels) - ones])
    some = max(1, _VALUES // len(c))
    parts = [tables.rvs(size=min(some, draws - at), random_state=rng)[..., 0] @ c for at in range(0, draws, some)]
    return np.concatenate(parts)


# --- the closest example to each sample


NEAR = 50  # neighbours that measure the local density of the data
TAILS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Closest:
    """Samples and the group of identical pooled examples closest to each.

    Attributes:
        labels: (groups,) share of training examples in each group: 0, 1, or between for an example that is in both
            sets.
        group: (m,) the group closest to each sample.
        orders: (2, m) indices of the samples, the closest first: by distance, and by distance relative to the mean
            distance to the 50 nearest pooled examples, which does not depend on the local density of the data.
        distance: (m,) to the closest pooled example.
        density_free: (m,) the ratio that defines the second order, at most 1; 0 if the distance is 0.
        place: (groups,) rank of each group in an order that depends on the values alone.
    """

    labels: FloatArray
    group: IndexArray
    orders: NDArray[np.intp]
    distance: FloatArray
    density_free: FloatArray
    place: IndexArray

    def of_one_row(self, seed: int) -> "Closest":
        """Return the same with the label of one example drawn from each group, which makes labels exchangeable.

        Shares are not exchangeable: if examples are assigned to the two sets one by one, large groups have shares near
        the mean and groups of one have 0 or 1.
        """
        if ((self.labels == 0) | (self.labels == 1)).all():
            return self
        return replace(self, labels=of_one_row(self.labels, seed, self.place).astype(np.float64))

    @cached_property
    def null(self) -> float:
        """The mean label of the groups: the probability that the closest example to a sample is a training example."""
        return float(self.labels.mean())

    @cached_property
    def spread(self) -> float:
        """The variance of a random label, with n - 1."""
        return float(self.labels.var(ddof=1)) if len(self.labels) > 1 else 0.0

    @cached_property
    def tails(self) -> IndexArray:
        """The numbers of samples in the tails of the scan, ascending."""
        sizes = np.ceil(np.array(TAILS) * len(self.group) - 1e-9)
        return np.unique(np.maximum(sizes, 1)).astype(np.intp)

    @cached_property
    def deviations(self) -> FloatArray:
        """(2, tails) standard deviation of the number of training neighbours in each tail under permutation."""
        return np.stack([deviations(self.group[order], self) for order in self.orders])

    def excess(self, labels: FloatArray) -> FloatArray:
        """Return the number of training neighbours in each tail in excess of its expectation, (2, tails)."""
        own = labels[self.group] - self.null
        return np.stack([np.cumsum(own[order])[self.tails - 1] for order in self.orders])


def deviations(groups: IndexArray, closest: Closest) -> FloatArray:
    """Return the standard deviation of sum c_g L_g in each tail under permutation of L; c_g counts group g in the tail.

    Var = Var(L) sum (c_g - mean c)^2, and the sum of squares grows by 2 (earlier occurrences) + 1 at each sample.
    """
    sizes = closest.tails
    squares = np.cumsum(2.0 * earlier(groups) + 1)[sizes - 1]
    return np.asarray(np.sqrt(closest.spread * np.maximum(squares - sizes.astype(float) ** 2 / len(closest.labels), 0)))


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
    """Return the excess in standard deviations; 0 if the standard deviation is 0."""
    return np.divide(excess, deviations, out=np.zeros_like(excess), where=deviations > 1e-9)
