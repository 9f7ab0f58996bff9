"""Are more samples identical to training examples than identical points in the three sets explain by chance?"""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, hypergeom

from genmem.neighbors.belonging import units
from genmem.neighbors.sets import Sets
from genmem.seeding import stream

IntArray = NDArray[np.int64]

FRESH = 0.001  # largest probability that fresh samples count as copies because they are identical
_DRAWN = 100
MODEL = 0.05  # the same for a model of discrete data that does not know which examples were trained on


class Identical(NamedTuple):
    """Samples that are identical to training examples, and how well chance explains them.

    Attributes:
        samples: the number of samples identical to a training example and to no held-out example.
        rows: the number of distinct training examples that they are identical to.
        copies: a lower bound of the copies among these samples, at the errors FRESH and MODEL.
        p_fresh: p-value of `rows` if samples are fresh: all points are exchangeable between the three sets.
        p_model: p-value of `rows` for any sampling distribution that does not depend on which examples were trained on.
        p_samples: p-value of `samples`, compared with the held-out examples that are identical to a training example.
        any_train: the number of samples identical to a training example, whether or not to a held-out example too.
        at_test: the number of samples identical to a held-out example.
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
    """Return the samples that are identical to training examples, and how well chance explains them."""
    counts = _counts(sets)
    train, test, samples = counts
    hit = _hit(counts)
    distinct = np.stack([train, test, np.minimum(samples, 1)])
    m, n = int(samples.sum()), int(test.sum())
    own, others, rows = int(samples[hit].sum()), int(test[train > 0].sum()), int(hit.sum())

    def chance(some: int) -> bool:
        return max(by_exchange(counts, some), by_exchange(distinct, some)) > FRESH or by_any_model(counts, some) > MODEL

    by_chance = (
        bisect_left(range(rows + 1), True, key=lambda some: not chance(some)) - 1
    )  # more are not explained by chance
    return Identical(
        samples=own,
        rows=rows,
        copies=int(np.sort(samples[hit])[: rows - by_chance].sum()),
        p_fresh=max(by_exchange(counts), by_exchange(distinct)),
        p_model=by_any_model(counts),
        p_samples=rank_of_counts(own, m, others, n),
        any_train=int(np.isin(sets.identical[2], sets.identical[0]).sum()),
        at_test=int(np.isin(sets.identical[2], sets.identical[1]).sum()),
    )


def by_exchange(counts: IntArray, some: int | None = None) -> float:
    """Return the p-value of the number of groups that hold samples and training examples but no held-out example.

    A group is a set of identical points. Fresh samples are exchangeable with the examples of both sets. A group of s
    points is then of that kind with probability (1 - h)^s - t^s - m^s, where h, t and m are the shares of held-out
    examples, training examples and samples. The sum over groups is bounded by the binomial distribution of the same
    mean (On the Distribution of the Number of Successes in Independent Trials, Hoeffding, 1956,
    https://doi.org/10.1214/aoms/1177728178).

    Args:
        counts: (3, groups) training examples, held-out examples and samples in each group of identical points.
        some: the number of groups of that kind that count, the others being set aside as copies; all if None.
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
    """Return the p-value of the same number for any model, among groups that hold a sample and another point.

    A sample of a model of discrete data hits training examples, held-out examples and other samples by chance, in
    proportion to their numbers; a copy hits a training example. The p-value is valid for pairs of points; it bounds how
    far sharpness explains the number.
    """
    train, test, samples = (int(of) for of in counts.sum(axis=1))
    met = int(((counts[2] > 0) & (counts.sum(axis=0) > 1)).sum())
    hit = int(_hit(counts).sum())
    rows, chance = hit if some is None else some, train / (train + test + (samples - 1) / 2)
    return float(binom.sf(rows - 1, met - hit + rows, chance)) if rows else 1.0


def rank_of_counts(own: int, m: int, others: int, n: int) -> float:
    """Return Fisher's p-value of `own` or more of m samples, given `others` of n held-out examples."""
    return float(hypergeom.sf(own - 1, n + m, own + others, m)) if own else 1.0


def fewest_rows(sets: Sets) -> float:
    """Return how many training examples, each copied once, are detected as identical; infinity if even all are not.

    Identical points that exist already and are not copies remain in place.
    """
    counts = _counts(sets)
    counts[2, (counts[0] > 0) & (counts[1] == 0)] = 0  # no copies yet
    free = np.flatnonzero((counts[0] > 0) & (counts[1] == 0))
    m = len(sets.samples)

    def enough(rows: int) -> bool:
        planted = counts.copy()
        planted[2, free[:rows]] = 1
        rest = m - int(planted[2].sum())  # fresh samples, each its own group; existing groups count first
        planted = np.hstack([planted, np.repeat([[0], [0], [1]], max(0, rest), axis=1)])
        return by_exchange(planted) <= FRESH and by_any_model(planted) <= MODEL

    low, high = 0, min(len(free), m) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return float(high) if high <= min(len(free), m) else np.inf


def fewest_copies(sets: Sets, seed: int = 0, at: float = 0.8) -> float:
    """Return how many copies of training examples drawn at random are detected as identical with a power of `at`.

    If examples belong together, copies of two of them count once.
    """
    rows = fewest_rows(sets)
    if sets.own is None or not np.isfinite(rows):
        return rows
    rng = stream(seed, "copies of groups")
    drawn = [rng.permutation(sets.groups[0]) for _ in range(_DRAWN)]
    first = [np.sort(np.unique(groups, return_index=True)[1]) for groups in drawn]
    needed = [float(at_copy[int(rows) - 1]) + 1 if len(at_copy) >= rows else np.inf for at_copy in first]
    return float(np.quantile(needed, at, method="higher"))


def _counts(sets: Sets) -> IntArray:
    """Return how many training examples, held-out examples and samples each group of identical points holds.

    Of rows that belong together, groups are counted.
    """
    most = max(int(groups.max()) for groups in sets.groups) + 1
    own = sets.own or (None, None, None)
    return np.stack([units(groups, of, most) for groups, of in zip(sets.groups, own, strict=True)])


def _hit(counts: IntArray) -> NDArray[np.bool_]:
    train, test, samples = counts > 0
    hit: NDArray[np.bool_] = train & ~test & samples
    return hit
