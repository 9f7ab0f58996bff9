"""What share of the samples are copies of training rows? A lower bound that sharp samples do not raise."""

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
    "labels dealt at random as in Multivariate Two-Sample Tests Based on Nearest Neighbors (Schilling, 1986), "
    "https://doi.org/10.1080/01621459.1986.10478337; local distances as in Extracting Training Data from Diffusion "
    "Models (Carlini et al., 2023), https://arxiv.org/abs/2301.13188"
)
_BY_CHANCE = 0.05  # of the samples near to training rows, for their neighbourhood, that chance may have put there


@dataclass(frozen=True)
class Bound:
    """How many samples are copies at the least, and p of there being none.

    Attributes:
        low: copies among the samples, a lower bound.
        estimate: copies among the samples nearer than the threshold with the best bound, by expectation.
        p_value: valid and conservative: P(p <= a) <= a without copies.
    """

    low: int
    estimate: float
    p_value: float


@of_three_sets
def copied_share(sets: Sets, *, level: float = 0.05, seed: int = 0) -> Result:
    """Bound the share of the samples at hand that are copies of training rows, from below and above.

    A copy is a sample whose distribution would be another had a held-out row stood in the place of a training row.
    Two bounds from below, each with a quarter of the error, and the larger one counts:

    - By labels. For samples that are no copies it is chance whether the row they lie nearest to, among all rows, is
      a training row or a held-out one; a row of both sets counts as one of its copies. With b held-out rows hit
      within some distance, the training rows hit by chance within it are few: a negative hypergeometric law, over
      distinct rows, so that many samples at one row count once. What is hit beyond that was hit by copies: at least
      those of the rows with the fewest samples. Holds at all distances at once, by a union over b = 0, 1, 2, 4, ...;
      however sharp the samples are.
    - By neighbourhoods. Samples drawn without regard to the training rows see about the same pattern of neighbours
      wherever they lie. Those whose distance, relative to the mean of their 50 nearest, is less than half the j-th
      smallest of held-out rows are copies but for a few: exact law of ranks, union over j = 1, 2, 4, ... while
      j / (n_test + 1) is below its error. Sees one row copied often, and copies where n_train exceeds n_test by far,
      which labels cannot. Assumes the data's density even at that scale, and samples that are independent or gathered
      at few points. Samples from one tight group of the data break this, but lie near to held-out rows too: nothing
      is claimed where those that do stand for more than a twentieth of what lies at training rows. It is silent where
      1 / (n_test + 1) is above its error (fewer than 79 rows at 95%), or many held-out rows coincide with training
      rows.

    The bound from above takes half the error, by labels over all distances; it takes copies to lie nearer to
    training rows than to held-out ones. The value is the excess of samples at training rows over what chance puts
    there, within the distance of the best bound, and 0 where both bounds are 0: no copies are then shown.

    Args:
        sets: the three sets.
        level: of the interval's error, 0.05 for 95%.
        seed: of the row that a group of identical rows in both sets takes its label from.

    Returns:
        `interval` is of the share of these samples; `p_value` of there being no copies is conservative. `details`
        holds both bounds, as shares, their p-values, and "estimate", the excess within the distance of the best bound;
        "excess_by_labels", the same over all distances: without bias for copies that lie nearest to their row, but
        noisy.

    Raises:
        DataError: a set is empty or not finite, widths differ, or the level is not between 0 and 1.
    """
    check_level(level)
    return bounded_share(sets, Errors(level / 4, level / 4, level / 2), seed)


class Errors(NamedTuple):
    """Errors of the bounds: from below by labels and by neighbourhoods, from above."""

    labels: float
    neighbourhoods: float
    above: float


def bounded_share(sets: Sets, errors: Errors, seed: int) -> Result:
    """Return `copied_share` with each bound's error its own."""
    m, of_test, both = len(sets.samples), sets.local_ratio("test")[0], sets.both
    hits, strict = hits_of(both, of_one_row(both.labels, seed, both.place) == 1), hits_of(both, both.labels == 1)
    ways = {
        "labels": by_labels(hits, errors.labels),
        "neighbourhoods": by_neighbourhoods(strict, _relative(sets, strict), of_test, errors.neighbourhoods),
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
            "Copies that this space moves away (shifted, flipped, re-coloured), and copies so far from their row that "
            "held-out rows lie as near. One row copied often, where fewer than 79 rows are held out."
        ),
        citation=_CITATION,
        details={"excess_by_labels": by_expectation, "estimate": best.estimate / m}
        | {f"low_by_{name}": way.low / m for name, way in ways.items()}
        | {f"p_by_{name}": way.p_value for name, way in ways.items()},
    )


# --- by labels


@dataclass(frozen=True, eq=False)
class Hits:
    """Which distinct row of training and held-out examples together lies nearest to each sample.

    Attributes:
        distance: (m,) to it.
        in_train: (m,) whether it counts as a training row.
        group: (m,) its number among distinct rows.
        n_train: distinct rows that do.
        n_other: the others.
    """

    distance: FloatArray
    in_train: NDArray[np.bool_]
    group: IntArray
    n_train: int
    n_other: int

    @property
    def odds(self) -> float:
        """Return how many rows there are in the training set to each held-out one."""
        return self.n_train / max(1, self.n_other)


def hits_of(both: NearestOfBoth, label: NDArray[np.bool_]) -> Hits:
    """Return the rows hit, `label` (groups,) saying which of them count as training rows."""
    group = both.group.astype(np.int64)
    return Hits(both.distance, label[group], group, int(label.sum()), int((~label).sum()))


def by_labels(hits: Hits, error: float) -> Bound:
    """Bound the copies from below by the distinct training rows hit before, and beyond, held-out ones.

    Over the order in which rows are hit, from the nearest sample on, labels of rows hit by chance are a random
    sequence. For each b, at most `_by_chance` training rows come before the (b + 1)-th held-out row, all b of the grid
    together with probability 1 - error.
    """
    first_hits = np.sort(_first_hits(hits.group[~hits.in_train], hits.distance[~hits.in_train]))
    parts = _parts(_doubling(len(first_hits)))
    return _best([(part, _within(hits, first_hits, b, part * error)) for part, b in parts])


def _within(hits: Hits, first_hits: FloatArray, b: int, error: float) -> Bound:
    """Return the bound from samples nearer than the (b + 1)-th held-out row hit, its p-value for this b alone."""
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
    """Return how many training rows, up to `most`, chance puts before the (b + 1)-th held-out row."""
    rows = range(b, b + most + 1)
    return max(0, bisect_left(rows, True, key=lambda k: _p_of_few(b, k, hits) <= error) - 1)


def _p_of_few(b: int, k: int, hits: Hits) -> float:
    """Return the probability that among `k` rows hit by chance at most b are held out."""
    total = hits.n_train + hits.n_other
    return float(hypergeom.cdf(b, total, hits.n_other, min(k, total)))


def others_by_labels(hits: Hits, error: float) -> int:
    """Return how many samples are no copies, at the least: those at held-out rows, and as many rows by chance."""
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
    """Bound the copies from below by samples below half the j-th smallest ratio of held-out rows.

    Args:
        hits: which rows lie nearest to the samples.
        ratio: (m,) distance of each sample to the nearest row of either set, relative to the mean of the nearest
            training rows.
        held_out: (n,) distance of held-out rows to the nearest training row, relative to the same mean.
        error: of the bound.
    """
    ordered = np.sort(held_out)
    grid = [j for j in _doubling(int(error * (len(held_out) + 1))) if j > 0]
    return _best([(part, _below(hits, ratio, ordered, j, part * error)) for part, j in _parts(grid)])


def _relative(sets: Sets, hits: Hits) -> FloatArray:
    """Return the distance of each sample to the nearest row of either set, relative to training rows around it.

    Of both sets, so that samples beside held-out rows show as plainly as samples beside training rows do.
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


@lru_cache(maxsize=2**14)  # planted copies ask for the same ones in every trial
def _p_of_many(a: int, j: int, n: int, m: int) -> float:
    """Return the probability that `a` or more of m fresh rows come before the j-th of n held-out rows."""
    return float(hypergeom.sf(a - 1, n + m, m, a + j - 1)) if a > 0 else 1.0


def _doubling(most: int) -> list[int]:
    """Return 0, 1, 2, 4, ... up to `most`."""
    return [0, *(2**power for power in range(max(0, most).bit_length()))]


def _best(bounds: list[tuple[float, Bound]]) -> Bound:
    """Return the best of bounds that each took a part of the error, with the p-value of all together."""
    ordered = (bound for _, bound in bounds)
    best = max(ordered, key=lambda bound: (bound.low, -bound.p_value), default=Bound(0, 0.0, 1.0))
    return Bound(best.low, best.estimate, min([1.0, *(bound.p_value / part for part, bound in bounds)]))


def _parts(grid: list[int]) -> list[tuple[float, int]]:
    """Return parts of the error: half for the nearest threshold, which exact copies lie below, the others alike."""
    rest = len(grid) - 1
    return [(0.5 / rest if i else 0.5 if rest else 1.0, at) for i, at in enumerate(grid)]


def _sentence(value: float, interval: tuple[float, float], level: float) -> str:
    low, high = interval
    sure = f"{100 * (1 - level):g}%"
    if low == 0:
        return f"No copied samples are shown: the {sure} interval of their share is 0 to {high:.1%}; fresh data: 0."
    return (
        f"At least {low:.1%} of the samples are copies of training rows ({sure} interval to {high:.1%}, "
        f"estimate {value:.1%}); fresh data: 0."
    )
