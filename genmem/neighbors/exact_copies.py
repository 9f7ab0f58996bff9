"""Samples that are identical to training rows: more than identical rows in the three sets come to by chance?"""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, hypergeom

from genmem.neighbors.sets import Sets

IntArray = NDArray[np.int64]

FRESH = 0.001  # chance, at most, that fresh samples are said to be copies by being identical
MODEL = 0.05  # chance, at most, that a model of few values which is told of no row meets training rows only


class Identical(NamedTuple):
    """How far chance explains that samples are identical to training rows.

    Attributes:
        samples: how many are identical to a training row and to no held-out row.
        rows: distinct training rows that they are identical to.
        copies: of these samples, a lower bound of those that are copies, at the errors FRESH and MODEL.
        p_fresh: of as many such rows if samples were fresh: all rows of the three sets dealt anew.
        p_model: the same whatever law the model draws from, as long as it is not told which rows were trained on.
        p_samples: of as many such samples, next to held-out rows that are identical to a training row.
        any_train: samples that are identical to a training row, whether or not to a held-out row too.
        at_test: samples that are identical to a held-out row.
    """

    samples: int
    rows: int
    copies: int
    p_fresh: float
    p_model: float
    p_samples: float
    any_train: int
    at_test: int


def identical_rows(sets: Sets) -> Identical:
    """Return how far chance explains that samples are identical to training rows."""
    counts = _counts(sets)
    train, test, samples = counts
    hit = _hit(counts)
    distinct = np.stack([train, test, np.minimum(samples, 1)])
    m, n = int(samples.sum()), int(test.sum())
    own, others, rows = int(samples[hit].sum()), int(test[train > 0].sum()), int(hit.sum())

    def chance(some: int) -> bool:
        return max(by_exchange(counts, some), by_exchange(distinct, some)) > FRESH or by_any_model(counts, some) > MODEL

    by_chance = bisect_left(range(rows + 1), True, key=lambda some: not chance(some)) - 1  # more are not
    return Identical(
        samples=own,
        rows=rows,
        copies=int(np.sort(samples[hit])[: rows - by_chance].sum()),
        p_fresh=max(by_exchange(counts), by_exchange(distinct)),
        p_model=by_any_model(counts),
        p_samples=rank_of_counts(own, m, others, n),
        any_train=int(samples[train > 0].sum()),
        at_test=int(samples[test > 0].sum()),
    )


def by_exchange(counts: IntArray, some: int | None = None) -> float:
    """Return the p-value of as many groups of identical rows with samples and training rows but no held-out row.

    Fresh samples are exchangeable with rows of both sets: a group of s identical rows then is of that kind with
    probability (1 - h)^s - t^s - m^s, h, t and m being the shares of the three sets. The sum over groups is bounded by
    the binomial law of the same mean (On the Distribution of the Number of Successes in Independent Trials, Hoeffding,
    1956, https://doi.org/10.1214/aoms/1177728178).

    Args:
        counts: (3, groups) training rows, held-out rows and samples in each group of identical rows.
        some: of the groups of that kind, the others being set aside as copies; all if None.
    """
    t, h, m = counts.sum(axis=1) / counts.sum()
    sizes = counts.sum(axis=0)
    several = sizes > 1
    hit = int(_hit(counts).sum())
    rows, groups = hit if some is None else some, int(several.sum()) - (0 if some is None else hit - some)
    if rows == 0:
        return 1.0
    chances = np.sort((1 - h) ** sizes[several] - t ** sizes[several] - m ** sizes[several])[::-1][:groups]
    return float(binom.sf(rows - 1, groups, chances.mean())) if rows >= chances.sum() + 1 else 1.0


def by_any_model(counts: IntArray, some: int | None = None) -> float:
    """Return the p-value of as many such groups among those with a sample and another row, whoever made the samples.

    A sample of a model of few values meets training rows, held-out rows and other samples by chance, in proportion to
    their numbers; a copy meets training rows. Valid for pairs of rows; a bound on how far sharpness explains it.
    """
    train, test, samples = (int(of) for of in counts.sum(axis=1))
    met = int(((counts[2] > 0) & (counts.sum(axis=0) > 1)).sum())
    hit = int(_hit(counts).sum())
    rows, chance = hit if some is None else some, train / (train + test + (samples - 1) / 2)
    return float(binom.sf(rows - 1, met - hit + rows, chance)) if rows else 1.0


def rank_of_counts(own: int, m: int, others: int, n: int) -> float:
    """Return Fisher's p-value of `own` or more of m samples, where `others` of n held-out rows do the same."""
    return float(hypergeom.sf(own - 1, n + m, own + others, m)) if own else 1.0


def fewest_rows(sets: Sets) -> float:
    """Return how many training rows, each copied once, show by being identical; infinity if not even all do.

    Identical rows there are already, other than copies, stay where they are.
    """
    counts = _counts(sets)
    counts[2, (counts[0] > 0) & (counts[1] == 0)] = 0  # no copies yet
    free = np.flatnonzero((counts[0] > 0) & (counts[1] == 0))
    m = len(sets.samples)

    def enough(rows: int) -> bool:
        planted = counts.copy()
        planted[2, free[:rows]] = 1
        rest = m - int(planted[2].sum())  # fresh samples, each a group of its own, or fewer of those there are
        planted = np.hstack([planted, np.repeat([[0], [0], [1]], max(0, rest), axis=1)])
        return by_exchange(planted) <= FRESH and by_any_model(planted) <= MODEL

    low, high = 0, min(len(free), m) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return float(high) if high <= min(len(free), m) else np.inf


def _counts(sets: Sets) -> IntArray:
    """Return how many rows of training, held-out examples and samples each group of identical rows holds."""
    most = max(int(groups.max()) for groups in sets.groups)
    return np.stack([np.bincount(groups, minlength=most + 1) for groups in sets.groups]).astype(np.int64)


def _hit(counts: IntArray) -> NDArray[np.bool_]:
    train, test, samples = counts > 0
    hit: NDArray[np.bool_] = train & ~test & samples
    return hit
