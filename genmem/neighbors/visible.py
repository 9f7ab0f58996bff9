"""Are single samples so much closer to a training example than everything else that one should look at them?

No error rate is promised for samples of a sharp model, so this never says that copies were found. It asks for a look at
the pairs where the calibrated tests have too few held-out examples to say so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, chi2, hypergeom, poisson

from genmem.neighbors.pooled import NEAR
from genmem.neighbors.sets import Sets
from genmem.search.exact import nearest
from genmem.seeding import stream

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]

BY_CHANCE = 0.01  # largest probability that close pairs in the data themselves fall as they do, for each argument
EXPECTED = 1e-3  # largest probability of so many points so close by the law of the other distances
BOTH = 0.05  # of the samples below the gap, the share that is as close to a held-out example as all others, at most
FACTOR = 1.5  # between the closest of the others and the farthest of these, at least
TAIL = 0.1  # share of the other distances that their law is fitted to
LEAST, MOST = 10, 200  # of these distances
_TRAIN = 2000  # training examples whose distance to the others is looked at, at most
_UNLIMITED = 10**7
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class Visible:
    """Samples that stand out by their distance to a training example.

    Attributes:
        samples: (k,) their indices, the closest first; empty if none stand out.
        examples: how many distinct training examples they are closest to.
        factor: how many times closer the farthest of them is than the closest of all other samples and held-out
            examples; infinity for exact copies.
        local: whether distances are relative to the local density of the training set, or plain.
        held_out: how many held-out examples the calibrated test needs for as many copies.
        by_chance: whether close pairs in the data themselves would explain so few.
    """

    samples: IndexArray
    examples: int = 0
    factor: float = np.nan
    local: bool = True
    held_out: int = 0
    by_chance: bool = False


NONE = Visible(np.empty(0, np.intp))


@dataclass(frozen=True, eq=False)
class _Measure:
    """One way to measure closeness: of samples and held-out examples to training, and of samples to held-out ones."""

    samples: FloatArray
    test: FloatArray
    to_test: FloatArray
    local: bool


def visible_copies(sets: Sets, error: float, seed: int = 0) -> Visible:
    """Return the samples below a gap in the distances to the training set that no smooth law explains.

    Distances are taken relative to the mean distance to the 50 nearest training examples and, if nothing stands out
    there, as they are. Sorted, the samples below the largest ratio of successive distances, all of them closer than any
    held-out example, stand out if

    - the gap is no tail: the number of points near a point grows like distance^D, so the logarithms of small distances
      are exponential with rate D. D is estimated from the smallest tenth of the other distances (A Simple General
      Approach to Inference About the Tail of a Distribution, Hill, 1975, https://doi.org/10.1214/aos/1176343247), at
      the lower end of its 98% interval, and by this law so many points are as close with a probability of at most .001;
    - the gap is at least a factor of 1.5, and the samples below it are not that close to held-out examples;
    - it is not that the data contain such close pairs themselves. These would be pairs of any two points. With k pairs
      of a sample and a training example, and c pairs within the training set, of held-out and training examples or of
      samples and held-out examples, k of k + c is binomial with the share q of pairs that are of the first kind; for
      c = 0 the probability of c = 0 and at least k is used, at the worst mean number of close pairs. Or so many samples
      are at a single training example, or come before the first held-out example, that fresh samples would not. One of
      these probabilities is at most .01; else they are returned as explained `by_chance`;
    - it is not that the held-out examples are elsewhere: if more than half of the samples stand out, training examples
      are not mostly as close to each other.

    Args:
        sets: the three sets.
        error: of the calibrated test by neighbourhoods, whose need of held-out examples is told.
        seed: of the choice of training examples, if there are more than 2,000.
    """
    few = NONE
    for measure in _measures(sets):
        found = _behind_gap(measure)
        if len(found.samples) == 0:
            continue
        groups = sets.groups[0][sets.nearest_row("samples", "train")[1][found.samples]]
        held_out = held_out_needed(len(found.samples), len(sets.samples), error)
        found = replace(found, examples=len(np.unique(groups)), held_out=held_out)
        if _beyond_the_data(sets, measure, found, seed):
            return found
        if len(few.samples) == 0 and 2 * len(found.samples) <= len(sets.samples):
            few = replace(found, by_chance=True)
    return few


def _measures(sets: Sets) -> Iterator[_Measure]:
    plain = sets.distance("samples", "train"), sets.distance("test", "train"), sets.distance("samples", "test")
    local = sets.local_ratio("samples")[0]
    scale = np.divide(local, plain[0], out=np.zeros_like(local), where=plain[0] > 0)
    mean = sets.near("samples", "train", NEAR)[0].mean(axis=1)
    scale = np.where(scale > 0, scale, np.divide(1, mean, out=np.zeros_like(mean), where=mean > 0))
    yield _Measure(local, sets.local_ratio("test")[0], plain[2] * scale, True)
    yield _Measure(*plain, local=False)


def _behind_gap(measure: _Measure) -> Visible:
    """Return the samples below the largest gap, if no tail explains it."""
    order = np.argsort(measure.samples, kind="stable")
    values = measure.samples[order]
    first = float(measure.test.min())
    count = int((values < first).sum())
    if count == 0 or first == 0:
        return NONE
    below = int((values == 0).sum())
    if below == 0:
        following = np.minimum(np.append(values[1 : count + 1], np.inf)[:count], first)
        below = int(np.argmax(following / values[:count])) + 1
    others = np.sort(np.concatenate([values[below:], measure.test]))
    last = float(values[below - 1])
    factor = float(others[0] / last) if last > 0 else np.inf
    to_both = float((measure.to_test[order[:below]] < others[0]).mean())
    expected = expected_below(last, others) * (len(others) + below) / len(others)
    if factor < FACTOR or to_both > BOTH or poisson.sf(below - 1, expected) > EXPECTED:
        return NONE
    return Visible(order[:below], factor=factor, local=measure.local)


def expected_below(value: float, others: FloatArray) -> float:
    """Return how many points the law of the smallest tenth of the others expects below a value.

    With r of them below u, the logarithm of u / d is exponential with rate D, so that r exp(-D log(u / value)) are.

    >>> round(expected_below(0.1, np.linspace(0.01, 1, 1000)), 1), expected_below(0.0, np.ones(9))
    (91.5, 0.0)
    """
    if value == 0:
        return 0.0
    r = min(len(others) - 1, max(LEAST, min(MOST, int(TAIL * len(others)))))
    if r < 2:
        return np.inf
    logs = np.log(others[: r + 1])
    total = float((logs[r] - logs[:r]).sum())
    if total <= 0:
        return 0.0
    slowest = float(chi2.ppf(0.01, 2 * r)) / 2 / total
    return float(r * np.exp(-slowest * (logs[r] - np.log(value))))


# --- close pairs that the data contain themselves


def _beyond_the_data(sets: Sets, measure: _Measure, found: Visible, seed: int) -> bool:
    """Return whether close pairs in the data themselves would fall as these do with a probability of at most .01."""
    last = float(measure.samples[found.samples].max())
    m, n, total = len(sets.samples), len(sets.test) if sets.own is None else sets.own.held_out, sum(map(len, sets))
    rows = sets.groups[0][sets.nearest_row("samples", "train")[1][found.samples]]
    _, counts = np.unique(rows, return_counts=True)
    within, tried, alike = _pairs_within(sets, last, measure.local, seed)
    most = 2 * len(found.samples) > m
    if most and alike > 0.5:
        return False
    if not most and before_held_out(len(counts), m, n) <= BY_CHANCE:
        return True
    if _at_one_example(int(counts.max()), m / total, len(sets.train) / total) <= BY_CHANCE:
        return True
    rest = np.setdiff1d(np.arange(m), found.samples)
    others = within + int((measure.to_test <= last).sum()) + int((measure.samples[rest] <= last).sum())
    ours = m * len(sets.train)
    return by_pairs(len(counts), others, ours / (ours + n * len(sets.train) + m * n + tried)) <= BY_CHANCE


def before_held_out(count: int, m: int, n: int) -> float:
    """Return the probability that `count` or more of m samples come before the first of n held-out examples."""
    return float(hypergeom.sf(count - 1, n + m, m, count))


def _at_one_example(count: int, of_samples: float, of_train: float) -> float:
    """Return the probability that one training example and nothing but samples meet at a point, `count` of them."""
    return (count + 1) * of_train * of_samples**count


def by_pairs(count: int, others: int, share: float) -> float:
    """Return the probability of `count` or more close pairs of one kind beside `others`, at a share of this kind.

    >>> round(by_pairs(4, 0, 0.4), 3), round(by_pairs(15, 1, 0.4), 5), by_pairs(5, 9, 0.4) > 0.5
    (0.007, 1e-05, True)
    """
    if others:
        return float(binom.sf(count - 1, count + others, share))
    mean = np.geomspace(1e-2, 1e3, 400)
    return float((np.exp(-mean * (1 - share)) * poisson.sf(count - 1, mean * share)).max())


def _pairs_within(sets: Sets, last: float, local: bool, seed: int) -> tuple[int, float, float]:
    """Return the pairs of training examples as close as `last`, of how many, and the share of examples in them.

    Examples that belong together are no such pair.
    """
    size = len(sets.train)
    if size < 2:
        return 0, 0.0, 0.0
    chosen = np.arange(size)
    if size > _TRAIN:
        chosen = sets.order("train")[stream(seed, "pairs of training examples").choice(size, _TRAIN, replace=False)]
    distances, found = nearest(sets.train[chosen], sets.train, min(NEAR, size - 1), exclude=chosen)
    own, others = sets.groups[0][chosen], sets.groups[0][found]
    apart = np.full(len(chosen), True) if sets.own is None else (others != own[:, None]).any(axis=1)
    first = np.zeros(len(chosen), np.intp) if sets.own is None else (others != own[:, None]).argmax(axis=1)
    at = np.arange(len(chosen)), first
    closest = distances[at] / np.maximum(distances.mean(axis=1), TINY) if local else distances[at]
    near = apart & (closest <= last)
    pairs = {(min(a, b), max(a, b)) for a, b in zip(own[near].tolist(), others[at][near].tolist(), strict=True)}
    return len(pairs), len(chosen) * (size - len(chosen) / 2), float(near.mean())


def held_out_needed(count: int, m: int, error: float) -> int:
    """Return the number of held-out examples with which `count` of m samples closer than all of them reach `error`.

    Half the error is for the closest held-out example, see `by_neighbourhoods`; a first rank must reach the error.

    >>> held_out_needed(15, 300, 0.005), held_out_needed(5, 300, 0.005)
    (199, 690)
    """
    low, high = 0, _UNLIMITED
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if before_held_out(count, m, middle) <= error / 2 else (middle, high)
    return max(high, int(np.ceil(1 / error)) - 1)
