"""How many examples are memorized by more than some amount, whatever the number of repeats?

The share of scores above a threshold depends on their noise, the share of *true* scores does not. The distribution of
true scores is estimated from noisy ones (deconvolution): each score follows a t law around its true value, with its own
moderated standard error, and the density of true values is smooth on the scale of asinh.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.optimize import minimize
from scipy.stats import t as student_t

from genmem.errors import DataError
from genmem.leaveout.estimators import BoolArray, FloatArray
from genmem.leaveout.scoring import MemorizationScores, untested
from genmem.protocols import Brief, figure
from genmem.seeding import stream
from genmem.stats import Rate

POINTS = 120  # of the grid of true scores
DEGREES, RIDGE = 5, 1.0  # of the spline of the log density
DROP = 1.92  # of the log likelihood at the ends of a 95% interval
STEPS, MOST_STEPS = 200, 500  # of EM, with and without a constraint
HALVINGS = 10  # of a search for the end of an interval
SOME = 2_000  # examples behind an interval, at most


@dataclass(frozen=True, eq=False)
class Prevalence(Brief):
    """What the scores say about true scores: those of infinitely many repeats of the same design.

    Attributes:
        above: the share of examples with a true score above each threshold, with its interval.
        tail: the 95% quantile of the true scores, nats, with its interval.
        posterior_mean: (n,) the expected true score of each example, given its score and all others; NaN for those
            that are left out.
    """

    above: dict[float, Rate]
    tail: Rate
    posterior_mean: FloatArray

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{len(self.posterior_mean):,} examples, 95% quantile {figure(*self.tail)} nats; " + ", ".join(
            f"share above {level:g} nats {figure(*rate)}" for level, rate in self.above.items()
        )

    def to_arrays(self) -> dict[str, FloatArray]:
        """Return what a run stores: `thresholds` (k,), `above` (k, 3), `tail` (3,) as value, low, high; means (n,);
        `behind_intervals`, the number of examples that intervals are from.
        """
        return {
            "thresholds": np.array(list(self.above)),
            "above": np.array([[rate.value, *rate.interval] for rate in self.above.values()]),
            "tail": np.array([self.tail.value, *self.tail.interval]),
            "posterior_mean": self.posterior_mean,
            "behind_intervals": np.asarray(min(SOME, int(np.isfinite(self.posterior_mean).sum()))),
        }


def prevalence(
    scores: MemorizationScores, thresholds: Sequence[float] = (1.0, 3.0), *, tail: float = 0.95, seed: int = 0
) -> Prevalence:
    """Estimate the distribution of the true scores.

    The estimate has a smooth density, so it is too wide if all true scores are equal. Intervals do not assume
    smoothness: they hold every value for which some distribution, of any form, has a log likelihood within 1.92 of the
    highest. They are therefore wide at few repeats.

    Examples that would score without being memorized, or whose errors are not known, because of unequal or recurring
    folds (`sizes.Uneven`), are left out.

    Args:
        scores: "mean_log" scores of three repeats or more.
        thresholds: nats.
        tail: the level of the quantile.
        seed: chooses the examples behind the intervals, if there are more than 2,000.

    Raises:
        DataError: the scores have no t law (fewer than three repeats, or "log_mean"), no error, or no example is left.

    References:
        Empirical Bayes Deconvolution Estimates (Efron, 2016), https://doi.org/10.1093/biomet/asv068
    """
    noisy = _noisy(scores)
    points = _grid(noisy)
    likelihood = _likelihood(noisy, points)
    prior = _smooth_prior(likelihood, _spline(points, noisy))
    some = likelihood[_some(len(likelihood), seed)]
    free = _Free.of(some, points)
    mean = (likelihood * (prior * points)).sum(1) / np.maximum((likelihood * prior).sum(1), np.finfo(np.float64).tiny)
    everyone = np.full(len(scores.score), np.nan)
    everyone[noisy.known] = mean
    return Prevalence(
        above={at: _including(float(prior[points > at].sum()), free.share_interval(at)) for at in thresholds},
        tail=_including(_quantile(points, prior, tail), free.quantile_interval(1 - tail)),
        posterior_mean=everyone,
    )


def _including(value: float, interval: tuple[float, float]) -> Rate:
    """Return a rate whose interval includes its value: a smooth density may lie just outside."""
    return Rate(value, (min(value, interval[0]), max(value, interval[1])))


# --- scores with their errors


class _Noisy(NamedTuple):
    score: FloatArray
    error: FloatArray
    df: FloatArray
    known: BoolArray


def _noisy(scores: MemorizationScores) -> _Noisy:
    found = scores.law()
    error = np.sqrt(found.variance / found.repeats)
    known = np.isfinite(error) & np.isfinite(scores.score) & scores.balanced
    if not known.any():
        raise untested(scores)
    if not (error[known] > 0).any():
        raise DataError(
            expected="scores that vary over repeats", got="no variation", do="Read the scores as they are: exact."
        )
    error = np.maximum(error, 1e-6 * np.median(error[known][error[known] > 0]))
    return _Noisy(scores.score[known], error[known], found.df[known], known)


def _grid(noisy: _Noisy) -> FloatArray:
    scale = float(np.median(noisy.error))
    low, high = noisy.score.min() - scale, noisy.score.max() + scale
    return np.asarray(scale * np.sinh(np.linspace(np.arcsinh(low / scale), np.arcsinh(high / scale), POINTS)))


def _likelihood(noisy: _Noisy, points: FloatArray) -> FloatArray:
    """Return the density of each score at each true score, up to a factor for each score: (n, points)."""
    z = (noisy.score[:, None] - points) / noisy.error[:, None]
    log_p = student_t.logpdf(z, noisy.df[:, None])
    return np.asarray(np.exp(log_p - log_p.max(axis=1, keepdims=True)))


def _some(n: int, seed: int) -> NDArray[np.intp]:
    return np.arange(n) if n <= SOME else stream(seed, "deconvolution").choice(n, SOME, replace=False)


# --- the smooth estimate


def _spline(points: FloatArray, noisy: _Noisy) -> FloatArray:
    """Return centred, normalized cubic splines of asinh of the points: (points, DEGREES)."""
    u = np.arcsinh(points / np.median(noisy.error))
    inner = np.quantile(u, np.linspace(0, 1, DEGREES - 1)[1:-1])
    knots = np.concatenate([np.full(4, u[0]), inner, np.full(4, u[-1])])
    columns = BSpline.design_matrix(u, knots, 3).toarray()[:, 1:]
    columns = columns - columns.mean(axis=0)
    return np.asarray(columns / np.sqrt((columns**2).sum(axis=0)))


def _smooth_prior(likelihood: FloatArray, spline: FloatArray) -> FloatArray:
    """Return the weights of the points, exp(spline @ a) / sum, of highest penalized likelihood: (points,)."""

    def prior(a: FloatArray) -> FloatArray:
        log_g = spline @ a
        g = np.exp(log_g - log_g.max())
        return np.asarray(g / g.sum())

    def loss(a: FloatArray) -> tuple[float, FloatArray]:
        g = prior(a)
        marginal = np.maximum(likelihood @ g, np.finfo(np.float64).tiny)
        expected = g * ((1 / marginal) @ likelihood)  # how many examples each point explains
        size = np.sqrt(a @ a + 1e-6)
        slope = spline.T @ (expected - len(likelihood) * g)
        return float(RIDGE * size - np.log(marginal).sum()), RIDGE * a / size - slope

    return prior(minimize(loss, np.zeros(spline.shape[1]), jac=True, method="L-BFGS-B").x)


def _quantile(points: FloatArray, prior: FloatArray, level: float) -> float:
    return float(np.interp(level, np.cumsum(prior) - prior / 2, points))


# --- intervals, over distributions of any form


@dataclass(frozen=True, eq=False)
class _Free:
    """The distribution of highest likelihood, without any assumption on its form."""

    likelihood: FloatArray
    points: FloatArray
    prior: FloatArray
    best: float

    @classmethod
    def of(cls, likelihood: FloatArray, points: FloatArray) -> "_Free":
        prior = np.full(len(points), 1 / len(points))
        for _ in range(MOST_STEPS):
            prior = _explained(likelihood, prior)
        return cls(likelihood, points, prior, float(np.log(likelihood @ prior).sum()))

    def share_interval(self, threshold: float) -> tuple[float, float]:
        """Return the least and the largest plausible share above a threshold."""
        above = self.points > threshold
        here = float(self.prior[above].sum())
        low, high = (self._end(lambda share: self._plausible(above, share), here, end) for end in (0.0, 1.0))
        return low, high

    def quantile_interval(self, share: float) -> tuple[float, float]:
        """Return the least and the largest value that the given share plausibly exceeds."""
        above = [int(self.prior[k:].sum() > share) for k in range(len(self.points))]
        here, last = max(sum(above) - 1, 0), len(self.points) - 1
        low, high = here, here
        while low > 0 and self._plausible(np.arange(last + 1) > low - 1, share):
            low -= 1
        while high < last and self._plausible(np.arange(last + 1) > high + 1, share):
            high += 1
        return float(self.points[max(low - 1, 0)]), float(self.points[min(high + 1, last)])

    def _plausible(self, above: BoolArray, share: float) -> bool:
        """Return whether the best distribution with this share above is nearly as likely as the best of all."""
        if share > 0 and not above.any() or share < 1 and above.all():
            return False
        prior = self.prior + 1e-4 / len(self.prior)
        for _ in range(STEPS):
            prior = _explained(self.likelihood, _with_share(prior, above, share))
        marginal = self.likelihood @ _with_share(prior, above, share)
        return bool((marginal > 0).all()) and self.best - float(np.log(marginal).sum()) <= DROP

    @staticmethod
    def _end(plausible: Callable[[float], bool], inside: float, outside: float) -> float:
        if plausible(outside):
            return outside
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if plausible(middle) else (inside, middle)
        return outside


def _explained(likelihood: FloatArray, prior: FloatArray) -> FloatArray:
    """Return the share of examples that each point explains under a prior: a step of EM."""
    marginal = np.maximum(likelihood @ prior, np.finfo(np.float64).tiny)
    return np.asarray(prior * ((1 / marginal) @ likelihood) / len(likelihood))


def _with_share(prior: FloatArray, above: BoolArray, share: float) -> FloatArray:
    parts = max(float(prior[above].sum()), 1e-300), max(float(prior[~above].sum()), 1e-300)
    return np.where(above, prior * (share / parts[0]), prior * ((1 - share) / parts[1]))
