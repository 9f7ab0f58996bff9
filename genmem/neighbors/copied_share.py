"""What share of the samples are copies of training examples? A lower bound that sharp samples do not raise."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from genmem.neighbors.pooled import NearestOfBoth, of_one_row
from genmem.neighbors.results import Result, check_level
from genmem.neighbors.sets import Sets, of_three_sets

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_CITATION = (
    "permuted labels as in Multivariate Two-Sample Tests Based on Nearest Neighbors (Schilling, 1986), "
    "https://doi.org/10.1080/01621459.1986.10478337; local distances as in Extracting Training Data from "
    "Diffusion Models (Carlini et al., 2023), https://arxiv.org/abs/2301.13188"
)
_BY_CHANCE = 0.05  # of the samples locally close to training examples: the largest share that chance may explain


@dataclass(frozen=True)
class Bound:
    """A lower bound of the number of copies among the samples, and the p-value of there being none.

    Attributes:
        low: the lower bound.
        estimate: the expected number of copies among the samples below the threshold with the best bound.
        p_value: valid and conservative: P(p <= a) <= a without copies.
    """

    low: int
    estimate: float
    p_value: float


@of_three_sets
def copied_share(sets: Sets, *, level: float = 0.05, seed: int = 0) -> Result:
    """Bound the share of these samples that are copies of training examples, from below and from above.

    A copy is a sample whose distribution would change if a held-out example took the place of a training example. Each
    of two lower bounds has a quarter of the error, and the larger one counts:

    - By labels. The example closest to a sample that is not a copy, among all examples, is a training or a held-out one
      by chance; an example in both sets takes the label of one of its copies. With b held-out examples hit within some
      distance, few training examples are hit by chance within it: a negative hypergeometric distribution over distinct
      examples, so that many samples at one example count once. Hits beyond that number are due to copies; at least the
      samples at those examples that have the fewest samples count as copies. The bound holds at all distances
      simultaneously, by a union over b = 0, 1, 2, 4, ..., however sharp the samples are.
    - By neighbourhoods. Samples drawn independently of the training examples see about the same pattern of neighbours
      everywhere. Consider the samples whose distance, relative to the mean of their 50 nearest neighbours, is less than
      half the j-th smallest among held-out examples: all but a few are copies, by the exact distribution of ranks and a
      union over j = 1, 2, 4, ... while j / (n_test + 1) is below the error of this bound. It detects one example copied
      often, and copies if n_train far exceeds n_test, which labels cannot. It assumes that the density of the data is
      smooth at that scale, and that samples are independent or concentrated at few points. Samples from one tight
      cluster of the data violate this, but they are close to held-out examples too: the bound is 0 if samples close to
      held-out examples account for more than a twentieth of the samples close to training examples. It is also 0 if 1 /
      (n_test + 1) is above its error (fewer than 79 held-out examples at 95%), or if many held-out examples coincide
      with training examples.

    The upper bound has half the error and uses labels over all distances; it assumes that copies are closer to training
    examples than to held-out ones. The value is the number of samples at training examples in excess of chance, within
    the distance of the best bound. It is 0 if both lower bounds are 0: copies are then not shown.

    Args:
        sets: the three sets.
        level: of the interval's error, 0.05 for 95%.
        seed: of the draw of a label for groups of identical examples that are in both sets.

    Returns:
        `interval` is for the share among these samples; `p_value`, of there being no copies, is conservative. `details`
        holds both lower bounds, as shares, their p-values, and "estimate", the excess within the distance of the best
        bound; "excess_by_labels" is the same over all distances: unbiased for copies that are closest to their
        original, but noisy.

    Raises:
        DataError: a set is empty or not finite, widths differ, or the level is not between 0 and 1.
    """
    check_level(level)
    return bounded_share(sets, Errors(level / 4, level / 4, level / 2), seed)


class Errors(NamedTuple):
    """Errors of the bounds: from below by labels and by neighbourhoods, and from above."""

    labels: float
    neighbourhoods: float
    above: float


def bounded_share(sets: Sets, errors: Errors, seed: int) -> Result:
    """Return `copied_share` with a separate error for each bound."""
    m, of_test, both = len(sets.samples), sets.held_out_ratios, sets.both
    hits, strict = hits_of(both, of_one_row(both.labels, seed, both.place) == 1), hits_of(both, both.labels == 1)
    ways = {
        "labels": by_labels(hits, errors.labels),
        "neighbourhoods": by_neighbourhoods(strict, _relative(sets, strict), of_test, errors.neighbourhoods)
        if sets.own is None or sets.own.samples is None
        else Bound(0, 0.0, 1.0),  # ranks of samples that belong together are not independent
    }
    best = max(ways.values(), key=lambda way: (way.low, -way.p_value))
    low, high = best.low, max(m - others_by_labels(hits, errors.above), best.low)
    value = float(np.clip(best.estimate, low, high)) / m if low else 0.0
    interval = low / m, high / m
    by_expectation = float(hits.in_train.sum() - hits.odds * (~hits.in_train).sum()) / m
    return Result(
        name="copied_share",
        title="Share of samples that are copies",
        value=value,
        null=0.0,
        interval=interval,
        p_value=min(1.0, 2 * min(way.p_value for way in ways.values())),
        direction="higher",
        n=m,
        sentence=_sentence(value, interval, sum(errors)),
        cannot_see=(
            "Copies that are far from their originals in this space (shifted, mirrored, recoloured), and copies "
            "so far from their original that held-out examples are equally close. One example copied often, if "
            "fewer than 79 examples are held out."
        ),
        citation=_CITATION,
        details={"excess_by_labels": by_expectation, "estimate": best.estimate / m}
        | {f"low_by_{name}": way.low / m for name, way in ways.items()}
        | {f"p_by_{name}": way.p_value for name, way in ways.items()},
    )


# --- by labels


@dataclass(frozen=True, eq=False)
class Hits:
    """Which distinct example, of training and held-out examples together, is closest to each sample.

    Attributes:
        distance: (m,) to it.
        in_train: (m,) whether it counts as a training example.
        group: (m,) its number among distinct examples.
        n_train: the number of distinct examples that count as training examples.
        n_other: the number of the others.
    """

    distance: FloatArray
    in_train: NDArray[np.bool_]
    group: IntArray
    n_train: int
    n_other: int

    @property
    def odds(self) -> float:
        """Return how many training examples there are for each held-out example."""
        return self.n_train / max(1, self.n_other)


def hits_of(both: NearestOfBoth, label: NDArray[np.bool_]) -> Hits:
    """Return the examples hit; `label` (groups,) says which of them count as training examples."""
    group = both.group.astype(np.int64)
    return Hits(both.distance, label[group], group, int(label.sum()), int((~label).sum()))


def by_labels(hits: Hits, error: float) -> Bound:
    """Bound the copies from below by the distinct training examples hit before, and beyond, held-out ones.

    In the order in which examples are hit, closest sample first, the labels of examples hit by chance are a random
    sequence. For each b, at most `_by_chance` training examples come before the (b + 1)-th held-out example, for all b
    of the grid simultaneously with probability 1 - error.
    """
    first_hits = np.sort(_first_hits(hits.group[~hits.in_train], hits.distance[~hits.in_train]))
    parts = _parts(_doubling(len(first_hits)))
    return _best([(part, _within(hits, first_hits, b, part * error)) for part, b in parts])


def _within(hits: Hits, first_hits: FloatArray, b: int, error: float) -> Bound:
    """Return the bound from samples closer than the (b + 1)-th held-out example hit, its p-value for this b alone."""
    limit = first_hits[b] if b < len(first_hits) else np.inf
    close = hits.distance < limit
    samples_at = np.sort(np.unique(hits.group[close & hits.in_train], return_counts=True)[1])
    rows = len(samples_at)
    if rows == 0:
        return Bound(0, 0.0, 1.0)
    sure = rows - _by_chance(b, rows, hits, error)
    estimate = samples_at.sum() - hits.odds * (close & ~hits.in_train).sum()
    return Bound(int(samples_at[: max(0, sure)].sum()), float(estimate), _p_of_few(b, rows + b, hits))


def _by_chance(b: int, most: int, hits: Hits, error: float) -> int:
    """Return how many training examples, up to `most`, come before the (b + 1)-th held-out one by chance."""
    rows = range(b, b + most + 1)
    return max(0, bisect_left(rows, True, key=lambda k: _p_of_few(b, k, hits) <= error) - 1)


def _p_of_few(b: int, k: int, hits: Hits) -> float:
    """Return the probability that among `k` examples hit by chance at most b are held out."""
    total = hits.n_train + hits.n_other
    return float(hypergeom.cdf(b, total, hits.n_other, min(k, total)))


def others_by_labels(hits: Hits, error: float) -> int:
    """Return how many samples at least are not copies: those at held-out examples, and as many more by chance."""
    at_test = ~hits.in_train
    b, total = len(np.unique(hits.group[at_test])), hits.n_train + hits.n_other
    rows = range(b, total + 1)
    least = bisect_left(rows, True, key=lambda k: float(hypergeom.sf(b - 1, total, hits.n_other, k)) > error)
    return int(at_test.sum()) + min(least, int(hits.in_train.sum()))


def _first_hits(group: IntArray, distance: FloatArray) -> FloatArray:
    order = np.lexsort((distance, group))
    return distance[order][np.unique(group[order], return_index=True)[1]]


# --- by neighbourhoods


def by_neighbourhoods(hits: Hits, ratio: FloatArray, held_out: FloatArray, error: float) -> Bound:
    """Bound the copies from below by the samples below half the j-th smallest ratio of held-out examples.

    Args:
        hits: the examples closest to the samples.
        ratio: (m,) distance of each sample to the closest example of either set, relative to the mean distance to its
            nearest training examples.
        held_out: (n,) distance of held-out examples to the closest training example, relative to the same mean.
        error: of the bound.
    """
    ordered = np.sort(held_out)
    grid = [j for j in _doubling(int(error * (len(held_out) + 1))) if j > 0]
    return _best([(part, _below(hits, ratio, ordered, j, part * error)) for part, j in _parts(grid)])


def _relative(sets: Sets, hits: Hits) -> FloatArray:
    """Return the distance of each sample to the closest example of either set, relative to nearby training examples.

    Both sets count, so that samples close to held-out examples are treated as samples close to training examples are.
    """
    to_train = sets.distance("samples", "train")
    closer = np.divide(hits.distance, to_train, out=np.ones_like(to_train), where=to_train > 0)
    return sets.local_ratio("samples")[0] * closer


def _below(hits: Hits, ratio: FloatArray, ordered: FloatArray, j: int, error: float) -> Bound:
    """Return the bound from samples below half the j-th of `ordered` ratios, its p-value for this j alone."""
    n, m = len(ordered), len(ratio)
    close = ratio < ordered[j - 1] / 2
    count = int((close & hits.in_train).sum())
    if hits.odds * (close & ~hits.in_train).sum() > _BY_CHANCE * count:
        return Bound(0, 0.0, 1.0)
    by_chance = bisect_left(range(count + 2), True, key=lambda a: _p_of_many(a, j, n, m) <= error) - 1
    return Bound(max(0, count - by_chance), float(count), _p_of_many(count, j, n, m))


@lru_cache(maxsize=2**14)  # trials with planted copies repeat the same arguments
def _p_of_many(a: int, j: int, n: int, m: int) -> float:
    """Return the probability that `a` or more of m fresh samples come before the j-th of n held-out examples."""
    return float(hypergeom.sf(a - 1, n + m, m, a + j - 1)) if a > 0 else 1.0


def _doubling(most: int) -> list[int]:
    """Return 0, 1, 2, 4, ... up to `most`."""
    return [0, *(2**power for power in range(max(0, most).bit_length()))]


def _best(bounds: list[tuple[float, Bound]]) -> Bound:
    """Return the best of several bounds that share the error, with the p-value of all together."""
    ordered = (bound for _, bound in bounds)
    best = max(ordered, key=lambda bound: (bound.low, -bound.p_value), default=Bound(0, 0.0, 1.0))
    return Bound(best.low, best.estimate, min([1.0, *(bound.p_value / part for part, bound in bounds)]))


def _parts(grid: list[int]) -> list[tuple[float, int]]:
    """Return parts of the error: half for the smallest threshold, which exact copies pass, the rest in equal parts."""
    rest = len(grid) - 1
    return [(0.5 / rest if i else 0.5 if rest else 1.0, at) for i, at in enumerate(grid)]


def _sentence(value: float, interval: tuple[float, float], level: float) -> str:
    low, high = interval
    sure = f"{100 * (1 - level):g}%"
    if low == 0:
        return (
            f"No copying is shown: the {sure} interval of the share of copies is 0% to {high:.1%} (0% expected "
            "without copying)."
        )
    return (
        f"An estimated {value:.1%} of the samples are copies of training examples ({sure} interval {low:.1%} to "
        f"{high:.1%}; 0% expected without copying)."
    )
