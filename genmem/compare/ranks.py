"""Do two audits rank the examples alike? Rank correlation with and without the noise of refits, and overlap of tops.

Noise of the refits lowers the correlation of two scores. Scores from different repeats share none, so with the repeats
of each audit divided into halves 1 and 2,

    sqrt(rho(A1, B2) rho(A2, B1)) / sqrt(rho(A1, A2) rho(B1, B2))

is the correlation without noise, whether or not the audits share their folds. It is Spearman's correction (1904); all
four are rank correlations, averaged over divisions (on Fisher's z scale each would be biased alike).

Intervals are percentiles of a bootstrap over examples, or over groups of them. Its draws are weights, and ranks are
those of the weighted sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from genmem.data.arrays import fingerprint
from genmem.leaveout.estimators import FloatArray, mean_where
from genmem.leaveout.scoring import WITHOUT_ERROR, MemorizationScores
from genmem.protocols import Brief, figure
from genmem.seeding import stream
from genmem.stats import Rate

NO_RATE = Rate(np.nan, (np.nan, np.nan))
Weights = NDArray[np.int32]

DRAWS = 400  # of the bootstrap
DIVISIONS = 8  # of the repeats into halves
ROWS = 256  # of a table of probabilities
BLOCK = 2**22  # weights in memory at once
UNRELIABLE = 0.2  # rank correlation of halves below which there is nothing to correct


@dataclass(frozen=True)
class Agreement(Brief):
    """Rank agreement of two audits.

    Attributes:
        rho: Spearman's rank correlation of the scores.
        corrected: the same without the noise of refits; NaN with one repeat, and if scores are mostly noise.
        reliability: rank correlation of each audit with a second one of the same size, as estimated from halves.
    """

    rho: Rate
    corrected: Rate
    reliability: tuple[float, float]

    def headline(self) -> str:
        """Return the rank correlation, with and without the noise of refits."""
        without = figure(self.corrected.value, self.corrected.interval)
        return f"rank correlation {figure(self.rho.value, self.rho.interval)}, without noise {without}"


@dataclass(frozen=True)
class Overlap(Brief):
    """How many of the k highest scores are the same in all audits.

    Attributes:
        k: the size of each top.
        count: the examples in all tops.
        share: `count` / k, with its interval.
        chance: the share expected of unrelated rankings.
        p_value: probability of this count or a higher one by chance (hypergeometric, one audit after another).
    """

    k: int
    count: int
    share: Rate
    chance: float
    p_value: float

    def headline(self) -> str:
        """Return how many examples are in all tops."""
        return f"{self.count:,} of {self.k:,} in all tops; {figure(self.chance * self.k)} by chance"


# --- a bootstrap by weights


def bootstrap_weights(n: int, groups: NDArray[np.generic] | None = None, draws: int = DRAWS, seed: int = 0) -> Weights:
    """Return how often each example is drawn, (draws, n) int32; groups are drawn as a whole."""
    member = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(member.max()) + 1
    drawn = stream(seed, "bootstrap of examples").multinomial(count, np.full(count, 1 / count), size=draws)
    return drawn.astype(np.int32)[:, member]


def weighted_ranks(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the ranks (draws, n) of values (n,) in each weighted sample, ties sharing their mean rank.

    >>> weighted_ranks(np.array([5.0, 7.0, 5.0]), np.ones((1, 3)))
    array([[1.5, 3. , 1.5]])
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    place = np.empty(len(values), np.intp)
    place[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(values)]))
    return np.asarray(middle[:, place])


def weighted_correlation(x: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the correlation (draws,) of x and y (draws, n) in each weighted sample; NaN if one is constant."""
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    scale = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    found = np.full(len(weights), np.nan)
    np.divide((weights * x * y).sum(axis=1), scale, out=found, where=scale > 0)
    return np.asarray(np.clip(found, -1, 1))


def with_interval(values: FloatArray) -> Rate:
    """Return the first of (1 + draws,) values with the percentile interval of the others; NaN draws are left out."""
    drawn = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or len(drawn) < 2:
        return Rate(float(values[0]), (np.nan, np.nan))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Rate(float(values[0]), (float(low), float(high)))


def of_draws(statistic: Callable[[FloatArray], FloatArray], weights: Weights) -> FloatArray:
    """Return a statistic (..., draws) of the sample itself and of every draw: (..., 1 + draws), some at a time."""
    whole = np.concatenate([np.ones((1, weights.shape[1]), weights.dtype), weights])
    parts = np.array_split(whole, -(-whole.size // BLOCK))
    return np.concatenate([statistic(part.astype(np.float64)) for part in parts if len(part)], axis=-1)


# --- halves of the repeats


def halves(
    one: MemorizationScores, other: MemorizationScores, keys: tuple[Sequence[str], Sequence[str]]
) -> list[tuple[FloatArray, FloatArray]]:
    """Return scores of both halves of both audits, (2, n) each, for every division of the repeats.

    Repeats with the same key in both audits are in the same half. Scores without noise are both halves; with one
    repeat there are none.
    """
    if min(map(_divisible, (one, other))) < 2:
        return []
    pairs = []
    for division in range(DIVISIONS):
        rng = stream(0, "halves", division)
        shared = [key for key in keys[0] if key in set(keys[1])]
        first = [shared[i] for i in rng.permutation(len(shared))]
        pairs.append((_halves(one, keys[0], first, rng), _halves(other, keys[1], first, rng)))
    return pairs


def _divisible(scores: MemorizationScores) -> int:
    return 2 if scores.estimator in WITHOUT_ERROR else scores.n_repeats


def _halves(
    scores: MemorizationScores, keys: Sequence[str], first: Sequence[str], rng: np.random.Generator
) -> FloatArray:
    if scores.estimator in WITHOUT_ERROR:
        return np.stack([scores.score, scores.score])
    rest = [key for key in keys if key not in set(first)]
    order = [list(keys).index(key) for key in [*first, *(rest[i] for i in rng.permutation(len(rest)))]]
    parts = [scores.per_repeat[order[half::2]] for half in (0, 1)]
    return np.stack([mean_where(np.nan_to_num(part), ~np.isnan(part)) for part in parts])


# --- agreement


def agreement(
    one: MemorizationScores,
    other: MemorizationScores,
    keys: tuple[Sequence[str], Sequence[str]],
    weights: Weights,
) -> Agreement:
    """Return the rank agreement of two audits; `keys` of their repeats, `weights` (draws, n) of the bootstrap."""
    divided = halves(one, other, keys)
    known = [one.score[None], other.score[None], *(half for pair in divided for half in pair)]
    there = ~np.isnan(np.concatenate(known)).any(axis=0)
    weights = weights[:, there]
    plain = of_draws(lambda w: rank_correlation(one.score[there], other.score[there], w), weights)
    if not divided:
        return Agreement(with_interval(plain), NO_RATE, (np.nan, np.nan))
    kept = [(a[:, there], b[:, there]) for a, b in divided]
    found = of_draws(lambda w: np.mean([_cross(a, b, w) for a, b in kept], axis=0), weights)
    return Agreement(
        with_interval(plain), with_interval(without_noise(*found)), (_doubled(found[2, 0]), _doubled(found[3, 0]))
    )


def rank_correlation(x: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the rank correlation (draws,) of x and y (n,) in each weighted sample."""
    return weighted_correlation(weighted_ranks(x, weights), weighted_ranks(y, weights), weights)


def _cross(a: FloatArray, b: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the rank correlations (4, draws) of A1 and B2, A2 and B1, A1 and A2, B1 and B2."""
    a1, a2, b1, b2 = (weighted_ranks(half, weights) for half in (*a, *b))
    return np.stack([weighted_correlation(x, y, weights) for x, y in ((a1, b2), (a2, b1), (a1, a2), (b1, b2))])


def without_noise(ab: FloatArray, ba: FloatArray, aa: FloatArray, bb: FloatArray) -> FloatArray:
    """Return the corrected correlation (draws,) of the four between halves; NaN where halves hardly agree.

    The mean of the first two replaces their geometric mean, which a negative one would not have. Noise can take the
    result beyond 1, which is reported as 1.
    """
    known = np.minimum(aa, bb) > UNRELIABLE
    scale = np.sqrt(np.where(known, aa * bb, np.nan))
    return np.clip((ab + ba) / 2 / scale, -1, 1)


def _doubled(rho: float) -> float:
    """Return the reliability of the whole from that of its halves (Spearman and Brown).

    >>> round(_doubled(0.5), 3)
    0.667
    """
    return float(2 * rho / (1 + rho))


# --- overlap of the highest scores


def overlap(scores: Sequence[FloatArray], k: int, weights: Weights) -> Overlap:
    """Return how many of the k highest scores all audits share; each of `scores` is (n,), NaN lowest.

    Equal scores are in random order, which is the same for equal arrays; the share is NaN if all scores of an audit are
    equal.
    """
    known, n = [np.where(np.isnan(one), -np.inf, one) for one in scores], len(scores[0])
    if any(len(np.unique(one)) < 2 for one in known):
        return Overlap(k, 0, NO_RATE, float((k / n) ** (len(scores) - 1)), np.nan)
    found = of_draws(lambda w: _sizes([_top(one, k, w) for one in known], w), weights)
    count, chance = int(found[0, 0]), float((k / n) ** (len(scores) - 1))
    return Overlap(k, count, with_interval(found[0] / found[1]), chance, _by_chance(n, k, len(scores), count))


def _sizes(tops: list[NDArray[np.bool_]], weights: FloatArray) -> FloatArray:
    """Return the weight of what all tops share, and their mean weight, about k: (2, draws)."""
    shared = (weights * np.all(tops, axis=0)).sum(axis=1)
    return np.stack([shared, np.mean([(weights * top).sum(axis=1) for top in tops], axis=0)])


def _top(score: FloatArray, k: int, weights: FloatArray) -> NDArray[np.bool_]:
    """Return whether each example is among the k highest of each weighted sample: (draws, n)."""
    mixed = stream(0, "equal scores", int(fingerprint(score)[:16], 16)).permutation(len(score))
    order = mixed[np.argsort(-score[mixed], kind="stable")]
    above = np.cumsum(weights[:, order], axis=1) - weights[:, order]
    inside = np.empty(weights.shape, np.bool_)
    inside[:, order] = above < k
    return inside


def _by_chance(n: int, k: int, audits: int, count: int) -> float:
    """Return the probability that `audits` random tops of k among n share `count` or more.

    >>> round(_by_chance(10, 2, 2, 1), 3), round(_by_chance(10, 2, 2, 2), 3)
    (0.378, 0.022)
    """
    log_factorial, law = gammaln(np.arange(n + 1) + 1.0), np.eye(k + 1)[k]  # of the number that the tops so far share
    for _ in range(audits - 1):
        parts = np.array_split(np.flatnonzero(law), -(-(k + 1) // ROWS))
        law = np.sum([law[some] @ _hypergeometric(log_factorial, some, k) for some in parts], axis=0)
    return float(min(1.0, law[count:].sum()))


def _hypergeometric(log_factorial: FloatArray, marked: NDArray[np.intp], k: int) -> FloatArray:
    """Return the probability of 0 to k marked among k of n, for each number of `marked` (m,): (m, k + 1)."""
    n, m, j = len(log_factorial) - 1, marked[:, None], np.arange(k + 1)

    def log_choose(a: Any, b: Any) -> FloatArray:
        possible = (b >= 0) & (b <= a)
        found = log_factorial[a] - log_factorial[np.where(possible, b, 0)] - log_factorial[np.where(possible, a - b, 0)]
        return np.where(possible, found, -np.inf)

    return np.asarray(np.exp(log_choose(m, j) + log_choose(n - m, k - j) - log_choose(n, np.asarray(k))))
