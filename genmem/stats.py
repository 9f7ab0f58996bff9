"""Statistics that all audits share: false-discovery rates, moderated variances, intervals, correlation."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from genmem.errors import DataError

FloatArray = NDArray[np.float64]


class Rate(NamedTuple):
    """A number with its 95% interval; NaN where it could not be measured."""

    value: float
    interval: tuple[float, float]


def jackknife_half(left: ArrayLike) -> FloatArray:
    """Return half of Student's 95% interval of an estimate, from the estimates without one of L repeats each: (L, ...).

    >>> jackknife_half([[1.0], [2.0], [3.0]]).round(2)
    array([4.97])
    """
    values = np.asarray(left, dtype=np.float64)
    repeats = len(values)
    error = np.sqrt((repeats - 1) / repeats * ((values - values.mean(axis=0)) ** 2).sum(axis=0))
    return np.asarray(special.stdtrit(repeats - 1, 0.975) * error)


# --- many tests at once


def benjamini_hochberg(p: ArrayLike) -> FloatArray:
    """Return q-values: `q <= a` controls the false-discovery rate at a, under independence or positive dependence.

    Args:
        p: p-values of shape (n,); NaN stays NaN and does not count as a test.

    References:
        Controlling the False Discovery Rate (Benjamini & Hochberg, 1995), JRSS B 57.

    >>> benjamini_hochberg([0.01, 0.04, np.nan, 0.03])
    array([0.03, 0.04,  nan, 0.04])
    """
    return _q_values(p, "bh")


def benjamini_yekutieli(p: ArrayLike) -> FloatArray:
    """Return q-values as `benjamini_hochberg` does, valid under any dependence; they are larger by sum(1/k), k = 1..n.

    References:
        The Control of the False Discovery Rate in Multiple Testing under Dependency (Benjamini & Yekutieli,
        2001), Annals of Statistics 29.
    """
    return _q_values(p, "by")


def _q_values(p: ArrayLike, method: str) -> FloatArray:
    values = np.asarray(p, dtype=np.float64)
    _require_probabilities(values)
    q, tested = np.full(values.shape, np.nan), ~np.isnan(values)
    q[tested] = stats.false_discovery_control(values[tested], method=method)
    return q


def _require_probabilities(p: FloatArray) -> None:
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        got = f"shape {p.shape}" if p.ndim != 1 else f"values from {np.nanmin(p):g} to {np.nanmax(p):g}"
        raise DataError(
            expected="p-values between 0 and 1, shape (n,)",
            got=got,
            do="Pass one p-value per test; NaN marks a test that could not be computed.",
        )


# --- variances that borrow strength


@dataclass(frozen=True)
class Moderated:
    """Variances shrunk towards a common prior.

    Attributes:
        variances: (n,) posterior variances, (d0 s0^2 + d s^2) / (d0 + d).
        df: (n,) degrees of freedom of each, d0 + d, at most the sum of all d.
        prior_variance: s0^2.
        prior_df: d0; infinity if the variances spread no more than chance explains, 0 if there are fewer than 2.
    """

    variances: FloatArray
    df: FloatArray
    prior_variance: float
    prior_df: float

    def shrink(self, variances: ArrayLike, df: ArrayLike) -> FloatArray:
        """Return other variances shrunk with the same prior."""
        return _posterior(np.asarray(variances, float), np.asarray(df, float), self.prior_variance, self.prior_df)


def moderate_variances(variances: ArrayLike, df: ArrayLike) -> Moderated:
    """Shrink sample variances by empirical Bayes: s^2 ~ s0^2 F(d, d0), with the prior fitted by moments of log s^2.

    Args:
        variances: (n,) sample variances s^2; zeros are raised to 1e-5 of the median before the prior is fitted.
        df: their degrees of freedom d, one number or (n,); where d is 0, the result is the prior.

    References:
        Linear Models and Empirical Bayes Methods for Assessing Differential Expression (Smyth, 2004),
        https://doi.org/10.2202/1544-6115.1027

    >>> moderate_variances([1.0, 1.1, 0.9, 1.0], 4).prior_df
    inf
    """
    s2 = np.asarray(variances, dtype=np.float64)
    d = np.broadcast_to(np.asarray(df, dtype=np.float64), s2.shape)
    prior_variance, prior_df = _fit_prior(s2, d)
    total = np.minimum(d + prior_df, d.sum())
    return Moderated(_posterior(s2, d, prior_variance, prior_df), total, prior_variance, prior_df)


def _fit_prior(s2: FloatArray, d: FloatArray) -> tuple[float, float]:
    usable = np.isfinite(s2) & (d > 0)
    s2, d = s2[usable], d[usable]
    if len(s2) < 2 or not (s2 > 0).any():
        return (float(s2.mean()) if len(s2) else np.nan), 0.0
    floor = 1e-5 * (np.median(s2) or np.median(s2[s2 > 0]))
    e = np.log(np.maximum(s2, floor)) - special.digamma(d / 2) + np.log(d / 2)
    extra = float(e.var(ddof=1) - special.polygamma(1, d / 2).mean())
    if extra <= 0:
        return float((d * s2).sum() / d.sum()), np.inf
    half = inverse_trigamma(extra)
    return float(np.exp(e.mean() + special.digamma(half) - np.log(half))), 2 * half


def _posterior(s2: FloatArray, d: FloatArray, prior_variance: float, prior_df: float) -> FloatArray:
    if np.isinf(prior_df):
        return np.full(np.broadcast_shapes(s2.shape, d.shape), prior_variance)
    if prior_df == 0:
        return s2 + 0 * d
    weighted = d * np.where(d > 0, s2, 0.0)
    return (prior_df * prior_variance + weighted) / (prior_df + d)


def inverse_trigamma(x: float) -> float:
    """Return y with trigamma(y) = x > 0, by Newton's method on 1 / trigamma, which is nearly linear.

    >>> round(inverse_trigamma(np.pi**2 / 6), 9)
    1.0
    """
    if x > 1e7:
        return float(1 / np.sqrt(x))
    if x < 1e-6:
        return float(1 / x)
    y = 0.5 + 1 / x
    for _ in range(50):
        trigamma = special.polygamma(1, y)
        step = float(trigamma * (1 - trigamma / x) / special.polygamma(2, y))
        y += step
        if abs(step) < 1e-12 * y:
            break
    return float(y)


# --- tests by rank and by permutation


def rank_p(t: ArrayLike, null: ArrayLike) -> FloatArray:
    """Return (1 + #{null >= t}) / (1 + #null) for every t; the null values are pooled.

    >>> rank_p([0.5, 2.5], [[1.0, 2.0], [3.0, 4.0]])
    array([1. , 0.6])
    """
    pool = np.sort(np.asarray(null, dtype=np.float64), axis=None)
    return np.asarray((1 + len(pool) - np.searchsorted(pool, np.asarray(t))) / (1 + len(pool)))


def arrangements(
    sizes: Sequence[int], chosen: Sequence[int], draws: int, rng: np.random.Generator
) -> tuple[FloatArray, bool]:
    """Return ways to choose `chosen[r]` of `sizes[r]` in each stratum r, and whether these are all the ways.

    The array (ways, sum of sizes) holds 0 and 1: every way once if there are at most `draws`, else `draws` random ways.

    >>> arrangements([2, 1], [1, 1], 999, np.random.default_rng(0))
    (array([[1., 0., 1.],
           [0., 1., 1.]]), True)
    """
    if math.prod(map(math.comb, sizes, chosen)) <= draws:
        each = [
            [np.isin(np.arange(size), way) for way in itertools.combinations(range(size), c)]
            for size, c in zip(sizes, chosen, strict=True)
        ]
        return np.array([np.concatenate(ways) for ways in itertools.product(*each)], dtype=np.float64), True
    ranks = [rng.random((draws, size)).argsort(axis=1).argsort(axis=1) for size in sizes]
    ways = np.concatenate([rank < c for rank, c in zip(ranks, chosen, strict=True)], axis=1)
    return ways.astype(np.float64), False


# --- intervals


def student_interval(mean: float, standard_error: float, df: float, level: float = 0.95) -> tuple[float, float]:
    """Return the two-sided Student t interval; NaN if the error or its df is undefined."""
    if not (np.isfinite(standard_error) and df > 0):
        return np.nan, np.nan
    half = float(stats.t.ppf((1 + level) / 2, df)) * standard_error
    return mean - half, mean + half


def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float, tuple[float, float]]:
    """Return mean, standard error and Student t interval of independent values (repeats, never examples).

    A single value has no standard error and no interval: both are NaN.

    >>> mean_interval([1.0, 2.0, 3.0])[0]
    2.0
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if len(x) < 2:
        return (float(x[0]) if len(x) else np.nan), np.nan, (np.nan, np.nan)
    mean, error = float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x)))
    return mean, error, student_interval(mean, error, len(x) - 1, level)


def share_interval(count: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share, `count` of `n`; NaN if n is below 1.

    It stays within [0, 1] and has a positive width even at a count of 0 or n. Both numbers may be effective sizes that
    are not whole, which `scipy.stats.binomtest` does not accept.

    References:
        Probable Inference, the Law of Succession, and Statistical Inference (Wilson, 1927), JASA 22.

    >>> [round(bound, 3) for bound in share_interval(128, 128)]
    [0.971, 1.0]
    """
    if n < 1:
        return np.nan, np.nan
    z2, share = float(stats.norm.ppf((1 + level) / 2)) ** 2, count / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def repeat_means(per_repeat: ArrayLike) -> FloatArray:
    """Return the mean (L,) of all examples in each repeat; if splits failed, of the examples that have a value there.

    Each example enters by its difference from its own mean. Repeats therefore differ by their refits, not by which
    examples remain. A repeat without values gives NaN.

    >>> repeat_means([[1.0, 10.0], [np.nan, 14.0], [3.0, 12.0]])
    array([5.5, 9. , 7.5])
    """
    values = np.asarray(per_repeat, dtype=np.float64)
    there = np.isfinite(values)
    if there.all():
        return np.asarray(values.mean(axis=1))
    values, there = values[:, there.any(axis=0)], there[:, there.any(axis=0)]
    mine = values.mean(axis=0, where=there)
    apart, count = (values - mine).sum(axis=1, where=there), there.sum(axis=1)
    return np.asarray(mine.mean() + np.where(count > 0, apart / np.maximum(count, 1), np.nan))


# --- association and reliability


class Correlation(NamedTuple):
    """A correlation, its standard error and its interval."""

    rho: float
    standard_error: float
    interval: tuple[float, float]


def spearman(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Correlation:
    """Return Spearman's rank correlation of two arrays of shape (n,), with its standard error and interval.

    The interval is computed on Fisher's z scale, where the error is sqrt((1 + rho^2 / 2) / (n - 3)); `standard_error`
    is (1 - rho^2) times that error (delta method). Constant or non-finite input gives NaN; n < 4 gives no error.

    References:
        Sample Size Requirements for Estimating Pearson, Kendall and Spearman Correlations (Bonett & Wright,
        2000), https://doi.org/10.1007/BF02294183

    >>> spearman([1, 2, 3, 4, 5], [1, 4, 9, 16, 25]).rho
    1.0
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise DataError(
            expected="two arrays of one shape (n,)",
            got=f"shapes {x.shape} and {y.shape}",
            do="Pass one value per example in both.",
        )
    rho = _rank_correlation(x, y)
    if not np.isfinite(rho) or len(x) < 4:
        return Correlation(rho, np.nan, (np.nan, np.nan))
    error = np.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    z, half = np.arctanh(np.clip(rho, -1 + 1e-15, 1 - 1e-15)), stats.norm.ppf((1 + level) / 2) * error
    bounds = (float(np.tanh(z - half)), float(np.tanh(z + half))) if abs(rho) < 1 else (rho, rho)
    return Correlation(rho, float((1 - rho**2) * error), bounds)


def _rank_correlation(x: FloatArray, y: FloatArray) -> float:
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return np.nan
    r, s = stats.rankdata(x), stats.rankdata(y)
    r, s = r - r.mean(), s - s.mean()
    scale = np.sqrt((r @ r) * (s @ s))
    return float(np.clip(r @ s / scale, -1, 1)) if scale > 0 else np.nan


def reliability(score: ArrayLike, standard_error: ArrayLike) -> float:
    """Return 1 - mean(SE^2) / Var(score), the share of the variance of the scores that is not noise of the refits.

    At 1 there is no noise; at 0 or below the ranking is noise. Examples without a score or an error are excluded. The
    result is NaN if fewer than two remain or the scores are constant.

    >>> reliability([0.0, 10.0, 20.0], [1.0, 1.0, 1.0])
    0.99
    """
    scores, errors = np.asarray(score, dtype=np.float64), np.asarray(standard_error, dtype=np.float64)
    there = np.isfinite(scores) & np.isfinite(errors)
    scores, errors = scores[there], errors[there]
    if len(scores) < 2 or (variance := scores.var(ddof=1)) == 0:
        return np.nan
    return float(1 - (errors**2).mean() / variance)
