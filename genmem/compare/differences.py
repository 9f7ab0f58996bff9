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
from genmem.leaveout.estimators import FloatArray, mean_where, ratio_where
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
    if shared is None or _is_exact(one) or _is_exact(other):
        law = _independent(one.scores, other.scores)
    else:
        apart = other.scores.per_repeat[shared[1]] - one.scores.per_repeat[shared[0]]
        found = nulls.student(apart, True, _factor(one.scores, other.scores))
        law = Law(found.mean, np.sqrt(ratio_where(found.variance, found.repeats)), found.df)
    known = _testable(one.scores) & _testable(other.scores)
    return law._replace(error=np.where(known, law.error, np.nan))


def _independent(one: MemorizationScores, other: MemorizationScores) -> Law:
    """Return the law of the difference of two scores whose noise is independent, by Welch's degrees of freedom."""
    (v, d), (w, e) = _variance(one), _variance(other)
    with np.errstate(divide="ignore", invalid="ignore"):  # no noise at all, or two infinite scores
        df = np.where(v + w > 0, (v + w) ** 2 / (v**2 / d + w**2 / e), np.inf)
        return Law(other.score - one.score, np.sqrt(v + w), df)


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


class Part(NamedTuple):
    """Values by repeat, (L, n), whose noise is independent of that of other parts; `exact` if they have none."""

    values: FloatArray
    exact: bool

    @property
    def mean(self) -> FloatArray:
        """The mean of each example over its repeats, (n,)."""
        return mean_where(np.nan_to_num(self.values, posinf=np.inf, neginf=-np.inf), ~np.isnan(self.values))

    def of(self, examples: NDArray[np.bool_]) -> "Part":
        """Return the values of some examples."""
        return Part(self.values[:, examples], self.exact)


def mean_difference(one: Audited, other: Audited, groups: NDArray[np.generic] | None) -> Rate:
    """Return the mean score of the second audit less that of the first, with its interval."""
    return _difference(_parts(one, other, one.scores.per_repeat, other.scores.per_repeat), one, other, groups)


def held_out_difference(one: Audited, other: Audited, groups: NDArray[np.generic] | None) -> Rate:
    """Return the mean held-out log p of the second less that of the first; no interval if only the means are known."""
    ours, theirs = (_held_out(audit) for audit in (one, other))
    if ours is None or theirs is None:
        apart = float(np.nanmean(other.scores.log_prob_out) - np.nanmean(one.scores.log_prob_out))
        return Rate(apart, NO_RATE.interval)
    return _difference(_parts(one, other, ours, theirs), one, other, groups)


def _held_out(audit: Audited) -> FloatArray | None:
    return audit.scores.log_prob_out[None] if _is_exact(audit) else audit.log_prob_out


def _is_exact(audit: Audited) -> bool:
    return audit.scores.estimator in WITHOUT_ERROR


def _parts(one: Audited, other: Audited, ours: FloatArray, theirs: FloatArray) -> list[Part]:
    """Return the differences by shared repeat; without any, the opposite of the first and the second."""
    shared = shared_repeats(one, other)
    if shared is None:
        return [Part(-ours, _is_exact(one)), Part(theirs, _is_exact(other))]
    return [Part(theirs[shared[1]] - ours[shared[0]], _is_exact(one) and _is_exact(other))]


def _difference(parts: list[Part], one: Audited, other: Audited, groups: NDArray[np.generic] | None) -> Rate:
    """Return the mean over examples of the sum of the parts; NaN if a score is infinite."""
    with np.errstate(invalid="ignore"):  # infinite less infinite
        each = np.sum([part.mean for part in parts], axis=0)
    there = ~np.isnan(each)  # some example may have no score
    if not there.any() or np.isinf(each).any():
        return NO_RATE
    if not there.all():
        parts, each = [part.of(there) for part in parts], each[there]
        groups = None if groups is None else groups[there]
    value, half = float(each.mean()), np.nan
    if _same(parts) or not (_recurring(one) or _recurring(other)):
        half = half_width([_over_repeats(parts), _over_examples(parts, each, groups)])
    return Rate(value, (value - half, value + half))


def _same(parts: list[Part]) -> bool:
    """Return whether all values by repeat are equal in both audits: one run twice."""
    return len(parts) == 1 and not np.nan_to_num(parts[0].values).any()


def _recurring(audit: Audited) -> bool:
    """Return whether repeats are not independent, because they leave out the same examples together."""
    factor = audit.scores.variance_factor
    return factor is not None and bool((factor != 1).any())


def _over_repeats(parts: list[Part]) -> Term:
    """Return the variance of the sum of the means of independent parts, and its df (Satterthwaite)."""
    terms = [EXACT if part.exact else _of_repeats(part.values) for part in parts]
    variance = float(sum(v for v, _ in terms))
    weight = sum(v**2 / df for v, df in terms)
    return variance, variance**2 / weight if weight > 0 else np.inf


def _of_repeats(values: FloatArray) -> Term:
    means = stats.repeat_means(values)
    means = means[np.isfinite(means)]
    return (float(means.var(ddof=1)) / len(means), len(means) - 1) if len(means) > 1 else (np.nan, 1)


def _over_examples(parts: list[Part], each: FloatArray, groups: NDArray[np.generic] | None) -> Term:
    """Return the variance of the mean over examples, without what the noise of the refits adds, and its df."""
    variance, df = mean_variance(each, groups)
    if groups is None:
        variance = max(0.0, variance - sum(_noise(part.values) for part in parts if not part.exact) / len(each))
    return variance, df


def _noise(values: FloatArray) -> float:
    """Return the mean over examples of the variance of their means over repeats, less what all share in a repeat."""
    there = ~np.isnan(values)
    apart = values - stats.repeat_means(values)[:, None]
    count = there.sum(axis=0)
    squares = ((apart - mean_where(np.nan_to_num(apart), there)) ** 2).sum(axis=0, where=there)
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
