"""Training and held-out examples taken together: who lies nearest, and how labels dealt at random would come out.

Rows of both sets are pooled. Were no row copied, which of them were trained on would be chance, whatever the model
draws: sharp, wide or lopsided. Every test that reads only these labels is therefore blind to all but copying.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from genmem.seeding import stream

Floats = NDArray[np.float64]

DRAWS = 99_999  # of the labels
_VALUES = 2**22  # of drawn tables held at a time


class NearestOfBoth(NamedTuple):
    """The nearest of training and held-out examples to each sample.

    Attributes:
        group: (n_samples,) of identical rows.
        distance: (n_samples,) to it.
        labels: (groups,) the share of its rows that are training examples.
        place: (groups,) its place in an order that rows' values alone decide.
    """

    group: NDArray[np.intp]
    distance: Floats
    labels: Floats
    place: NDArray[np.intp]


class LabelPermutation(NamedTuple):
    """A mean label against labels dealt at random.

    Attributes:
        value: the mean label.
        null: its expectation.
        sd: its standard deviation.
        z: its distance from the expectation in standard deviations.
        p_value: how often it is reached.
        mid_p: the same, counting half of the cases that just reach it.
        resolution: the smallest p-value there can be.
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
    """Compare sum(counts * labels) / sum(counts) with what labels dealt to the groups at random give.

    Only how many groups of each count get each label matters: a table with fixed margins, which is drawn as a whole.
    Where counts too are 0 and 1 it has one free entry, and the p-value is the hypergeometric law's.

    A label between 0 and 1 is the share of a group's rows. Where rows are dealt to the two sets one by one, large
    groups have labels near the mean and groups of one have 0 or 1, so these shares are not exchangeable between
    groups. The labels of one row from each group are: sd, z and p-values rest on such a draw.

    Args:
        counts: (groups,) non-negative integers, not all 0.
        labels: (groups,) from 0 to 1.
        seed: of the draws.
        draws: how many; the smallest p-value is 1 / (draws + 1).
        place: (groups,) of each group in an order that does not depend on that of the rows.
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
    """Return the label of one row drawn from each group, 0 or 1; see `label_permutation` for why."""
    u = stream(seed, "rows of groups").random(len(shares))
    return (u[slice(None) if place is None else place] < shares).astype(np.int64)  # u < 1


def _exactly(counts: Counts, labels: Counts, hits: int) -> tuple[float, float, float]:
    """Return the chances to reach and to pass the hits, and the least chance there is."""
    law = stats.hypergeom(len(counts), int(labels.sum()), int(counts.sum()))
    return float(law.sf(hits - 1)), float(law.sf(hits)), float(law.pmf(law.support()[1]))


def _by_draws(counts: Counts, labels: Counts, hits: int, seed: int, draws: int) -> tuple[float, float, float]:
    sums = _drawn(counts, labels, seed, draws)
    reached, passed = int((sums >= hits).sum()), int((sums > hits).sum())
    return (reached + 1) / (draws + 1), passed / (draws + 1), 1 / (draws + 1)


def _drawn(counts: Counts, labels: Counts, seed: int, draws: int) -> Counts:
    """Return sums of counts times labels, (draws,), the labels dealt anew each time."""
    c, sizes = np.unique(counts, return_counts=True)
    ones = int(labels.sum())
    if len(c) == 1 or ones in (0, len(labels)):  # every table is the same, and scipy draws such tables wrongly
        return np.full(draws, counts @ labels)
    rng, tables = stream(seed, "labels"), stats.random_table(sizes, [ones, len(labels) - ones])
    some = max(1, _VALUES // len(c))
    parts = [tables.rvs(size=min(some, draws - at), random_state=rng)[..., 0] @ c for at in range(0, draws, some)]
    return np.concatenate(parts)


# --- whose neighbour is each sample


NEAR = 50  # neighbours that say how dense the data are about a sample
TAILS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Closest:
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

    def of_one_row(self, seed: int) -> "Closest":
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


def deviations(groups: IndexArray, closest: Closest) -> FloatArray:
    """Return the deviation of sum c_g L_g in each tail, labels L permuted; c_g counts the group in the tail.

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
    """Return the excess in standard deviations, 0 where chance leaves no room."""
    return np.divide(excess, deviations, out=np.zeros_like(excess), where=deviations > 1e-9)
