"""What changed from one audit to another of the same examples: in the mean, and for single examples.

Two audits that leave out the same examples together in a repeat share some of its noise. If they share all repeats, or
three or more, they are compared repeat by repeat, and only on those; otherwise their noise is independent, and their
variances add up (Welch).

The interval of a mean is over repeats and over examples: it holds for other refits and for other examples of the same
source. Both parts enter with Student quantiles of their own; the part of the spread of examples that is noise of the
refits is in the first already, and subtracted from the second.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from genmem import stats
from genmem.clusters import half_width, mean_variance
from genmem.compare.ranks import NO_RATE
from genmem.compare.sources import Audited, Rates
from genmem.leaveout import nulls
from genmem.leaveout.attack import RATES
from genmem.leaveout.estimators import FloatArray, mean_where
from genmem.leaveout.scoring import WITHOUT_ERROR, MemorizationScores
from genmem.stats import Rate

LEAST = 3  # repeats of a test
Term = tuple[float, float]  # a variance and its degrees of freedom
EXACT: Term = (0.0, np.inf)
Positions = tuple[list[int], list[int]]


class Law(NamedTuple):
    """The difference of the scores of each example, its standard error and degrees of freedom, (n,) each."""

    difference: FloatArray
    error: FloatArray
    df: FloatArray

    def p_two_sided(self) -> FloatArray:
        """Return p of no difference."""
        return np.asarray(np.minimum(1.0, 2 * stdtr(self.df, -np.abs(self._t))))

    def p_above(self) -> FloatArray:
        """Return p of a difference of at most 0."""
        return np.asarray(stdtr(self.df, -self._t))

    def reversed(self) -> "Law":
        """Return the law of the opposite difference."""
        return Law(-self.difference, self.error, self.df)

    @property
    def _t(self) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.difference == 0, 0.0 * self.error, self.difference / self.error)


def shared_repeats(one: Audited, other: Audited) -> Positions | None:
    """Return the positions of the repeats to compare one by one, in both; None if the audits are independent."""
    ours, theirs = one.repeats, other.repeats
    both = [key for key in ours if key in set(theirs)]
    if len(both) < min(LEAST, max(len(ours), len(theirs))):
        return None
    return [ours.index(key) for key in both], [theirs.index(key) for key in both]


# --- single examples


def example_law(one: Audited, other: Audited) -> Law:
    """Return the law of the scores of the second less those of the first.

    Errors are NaN where the noise is not known: fewer than three repeats, "log_mean", or folds that allow no test.
    """
    shared = shared_repeats(one, other)
    tested = np.where(_testable(one.scores) & _testable(other.scores), 1.0, np.nan)
    if shared is not None and not {one.scores.estimator, other.scores.estimator} & set(WITHOUT_ERROR):
        apart = other.scores.per_repeat[shared[1]] - one.scores.per_repeat[shared[0]]
        found = nulls.student(apart, True, _factor(one.scores, other.scores))
        with np.errstate(divide="ignore", invalid="ignore"):
            return Law(found.mean, tested * np.sqrt(found.variance / found.repeats), found.df)
    with np.errstate(invalid="ignore"):  # two infinite scores
        difference = other.scores.score - one.scores.score
    (v, d), (w, e) = (_variance(audit.scores) for audit in (one, other))
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(v + w > 0, (v + w) ** 2 / (v**2 / d + w**2 / e), np.inf)
    return Law(difference, tested * np.sqrt(v + w), df)


def _testable(scores: MemorizationScores) -> NDArray[np.bool_]:
    """Return whether the noise of each score is known, and nothing but memorization and noise is in it: (n,)."""
    if scores.estimator in WITHOUT_ERROR:
        return np.ones(scores.score.shape, np.bool_)
    sound = (
        np.isfinite(scores.score) if scores.estimator == "mean_log" and scores.n_repeats >= LEAST else np.array(False)
    )
    if scores.variance_factor is not None:
        sound = sound & scores.balanced & np.isfinite(scores.variance_factor)
    return np.broadcast_to(sound, scores.score.shape)


def _variance(scores: MemorizationScores) -> tuple[FloatArray, FloatArray]:
    """Return the variance of each score and its degrees of freedom; NaN if it is not known."""
    zero = np.zeros_like(scores.score)
    if scores.estimator in WITHOUT_ERROR:
        return zero, zero + np.inf
    if scores.estimator != "mean_log" or scores.n_repeats < LEAST:
        return zero + np.nan, zero + np.nan
    law = scores.law()
    return law.variance / law.repeats, law.df


def _factor(one: MemorizationScores, other: MemorizationScores) -> FloatArray | None:
    factors = [f for f in (one.variance_factor, other.variance_factor) if f is not None]
    return np.asarray(np.max(factors, axis=0)) if factors else None


# --- means


def mean_difference(one: Audited, other: Audited, groups: NDArray[np.generic] | None) -> Rate:
    """Return the mean score of the second audit less that of the first, with its interval."""
    return _difference(_by_repeat(one, "score"), _by_repeat(other, "score"), one, other, groups)


def held_out_difference(one: Audited, other: Audited, groups: NDArray[np.generic] | None) -> Rate:
    """Return the mean held-out log p of the second less that of the first; no interval if only the means are known."""
    ours, theirs = (_by_repeat(audit, "log_prob_out") for audit in (one, other))
    if ours is None or theirs is None:
        apart = float(np.nanmean(other.scores.log_prob_out) - np.nanmean(one.scores.log_prob_out))
        return Rate(apart, NO_RATE.interval)
    return _difference(ours, theirs, one, other, groups)


def _by_repeat(audit: Audited, what: str) -> FloatArray | None:
    if audit.scores.estimator in WITHOUT_ERROR:
        return np.asarray(getattr(audit.scores, what))[None]
    return audit.scores.per_repeat if what == "score" else audit.log_prob_out


def _difference(
    ours: FloatArray | None,
    theirs: FloatArray | None,
    one: Audited,
    other: Audited,
    groups: NDArray[np.generic] | None,
) -> Rate:
    assert ours is not None and theirs is not None
    shared = shared_repeats(one, other)
    if shared is not None:
        parts = [theirs[shared[1]] - ours[shared[0]]]
    else:
        parts = [-ours, theirs]
    exact = [audit.scores.estimator in WITHOUT_ERROR for audit in (one, other)]
    exact = exact if shared is None else [all(exact)]
    means = [mean_where(np.nan_to_num(part), ~np.isnan(part)) for part in parts]
    each = np.sum(means, axis=0)
    there = np.isfinite(each)
    if not there.all():  # some example has no score, or an infinite one
        parts, each = [part[:, there] for part in parts], each[there]
        groups = None if groups is None else groups[there]
    value = float(each.mean()) if there.any() and np.isfinite(sum(map(np.nansum, means))) else np.nan
    known = not any(audit.scores.variance_factor is not None and _recurring(audit) for audit in (one, other))
    terms = [_over_repeats(parts, exact), _over_examples(parts, exact, each, groups)] if known else [(np.nan, 1)]
    half = half_width(terms)
    return Rate(value, (value - half, value + half))


def _recurring(audit: Audited) -> bool:
    factor = audit.scores.variance_factor
    return factor is not None and bool((factor != 1).any())


def _over_repeats(parts: list[FloatArray], exact: list[bool]) -> Term:
    """Return the variance of the sum of the means of independent parts, and its df (Satterthwaite)."""
    terms = [EXACT if sure else _of_repeats(part) for part, sure in zip(parts, exact, strict=True)]
    variance = float(sum(v for v, _ in terms))
    weight = sum(v**2 / df for v, df in terms)
    return variance, variance**2 / weight if weight > 0 else np.inf


def _of_repeats(part: FloatArray) -> Term:
    means = stats.repeat_means(part)
    means = means[np.isfinite(means)]
    return (float(means.var(ddof=1)) / len(means), len(means) - 1) if len(means) > 1 else (np.nan, 1)


def _over_examples(
    parts: list[FloatArray], exact: list[bool], each: FloatArray, groups: NDArray[np.generic] | None
) -> Term:
    """Return the variance of the mean over examples, without what the noise of the refits adds, and its df."""
    variance, df = mean_variance(each, groups)
    if groups is None:
        noise = [_noise(part) for part, sure in zip(parts, exact, strict=True) if not sure]
        variance = max(0.0, variance - sum(noise) / len(each))
    return variance, df


def _noise(part: FloatArray) -> float:
    """Return the mean over examples of the variance of their means over repeats, less what all share in a repeat."""
    there = ~np.isnan(part)
    apart = part - stats.repeat_means(part)[:, None]
    count = there.sum(axis=0)
    mean = mean_where(np.nan_to_num(apart), there)
    squares = ((apart - mean) ** 2).sum(axis=0, where=there)
    enough = count > 1
    return float((squares[enough] / (count[enough] - 1) / count[enough]).mean()) if enough.any() else 0.0


# --- attacks


def attack_difference(one: Audited, other: Audited) -> dict[float, Rate]:
    """Return the true-positive rates of the second audit less those of the first, by false-positive rate.

    Intervals are a jackknife over repeats, over both audits at once if they share all of them; none if they are of
    scores. They hold for these examples.
    """
    if one.rates is None or other.rates is None:
        return {}
    apart = other.rates.values - one.rates.values
    half = _jackknifed(one.rates, other.rates, _all_shared(one, other))
    return {at: Rate(float(v), (float(v - h), float(v + h))) for at, v, h in zip(RATES, apart, half, strict=True)}


def _all_shared(one: Audited, other: Audited) -> Positions | None:
    shared = shared_repeats(one, other)
    return shared if shared and len(shared[0]) == len(one.repeats) == len(other.repeats) else None


def _jackknifed(one: Rates, other: Rates, shared: Positions | None) -> FloatArray:
    if not len(one.left) or not len(other.left):
        return np.full(len(RATES), np.nan)
    if shared is not None:
        return stats.jackknife_half(other.left[shared[1]] - one.left[shared[0]])
    return np.hypot(stats.jackknife_half(one.left), stats.jackknife_half(other.left))
