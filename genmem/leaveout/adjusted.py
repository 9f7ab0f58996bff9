"""Empirical-Bayes shrinkage of memorization scores towards a cross-fitted prediction from covariates.

The result is a better ranking from the same refits. The score of an example is its true value plus noise of the refits.
Cheap covariates predict much of the true value: distances to neighbours, likelihood during training, labels. Each score
is therefore shrunk towards a prediction that is fitted to *other* examples (cross-fitting). The shrinkage is stronger
for noisier scores and for better predictions. Two guards apply. A covariate with noise of the same refits would repeat
that noise in the prediction, so copies of such arrays are refused. And the slope of (score - score of independent
refits) on the prediction, which is the share of noise in the prediction, must be 0 within its error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from genmem import stats
from genmem.data.arrays import vector
from genmem.errors import DataError
from genmem.leaveout.covariates import FEWEST, Covariates, as_covariates, refuse_copies, refuse_names
from genmem.protocols import Brief, figure, mean
from genmem.seeding import stream

FloatArray = NDArray[np.float64]

FOLDS = 5
HELD_OUT_EXCESS = 2.0  # variance of a score over that of a placebo: 1.5 on digits, 2.5 on MNIST
SIGNIFICANT = 4.0  # standard errors, computed as if examples were independent, although they share refits
NEGLIGIBLE = 0.01  # share of noise in the prediction that changes nothing
HARMLESS = -0.05  # a negative slope, which log_prob_in may cause, does not exaggerate the gain


@dataclass(frozen=True, eq=False)
class AdjustedScores(Brief):
    """Scores of n examples shrunk towards a prediction, nats; arrays are (n,) float64.

    Use them for rankings and point estimates only. Never use them for p values, flags, or the choice of memorized sets
    or of their controls, and never correlate them with their own covariates. Keep the raw score beside them.

    Attributes:
        score: prediction + weight * (raw score - prediction).
        prediction: of a regression on the covariates that is fitted without the example and its duplicates.
        weight: from 0 (prediction only) to 1 (raw score only): signal / (signal + noise).
        standard_error: of the score as an estimate of the true value, if signal and noise are normal and known.
        reliability: expected squared correlation with the true values; compare it with that of the raw scores. Its
            square root times that of the raw scores of another study is the expected correlation between the two
            studies. NaN if the noise was not measured (one repeat).
        slope: share of the prediction's variance that is noise of the same refits: the slope of (score - score of the
            other half of the repeats) on the prediction, over both directions. NaN if not measured. A slope slightly
            below 0 is harmless: log_prob_in is high when the noise of the score is high, and predictions fall with
            log_prob_in.
        slope_error: its standard error.
        ok: whether both guards pass; None if the slope could not be measured and nothing else is wrong.
        reason: a sentence that says why `ok` is not true; empty otherwise.
    """

    score: FloatArray
    prediction: FloatArray
    weight: FloatArray
    standard_error: FloatArray
    reliability: float
    slope: float
    slope_error: float
    ok: bool | None
    reason: str

    def headline(self) -> str:
        """Return the size and the main figures."""
        return (
            f"{len(self.score):,} examples, mean score {mean(self.score)} nats, reliability {figure(self.reliability)}"
        )

    def slope_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the interval of the slope; it must contain 0 or come within .01 of it."""
        return stats.student_interval(self.slope, self.slope_error, np.inf, level)


def adjust(
    score: ArrayLike,
    standard_error: ArrayLike,
    covariates: ArrayLike | Covariates,
    *,
    groups: ArrayLike | None = None,
    repeats: ArrayLike | None = None,
    placebo: ArrayLike | None = None,
    half_scores: ArrayLike | None = None,
    half_covariates: Sequence[ArrayLike | Covariates] | None = None,
    forbidden: Mapping[str, ArrayLike] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> AdjustedScores:
    """Shrink noisy scores towards a cross-fitted regression on cheap covariates.

    Noise and signal both grow with the score, so both are estimated as functions of the prediction. Noise is the mean
    squared standard error of examples with a similar prediction, moderated towards the example's own error if `repeats`
    is given. Signal is the squared residual minus the noise. Weight = signal / (signal + noise). The result is for
    rankings and point estimates: **never** for p values, flags, the choice of memorized sets or of controls.

    Args:
        score: (n,) raw scores, nats.
        standard_error: (n,) their standard errors over repeats; NaN if there is one repeat.
        covariates: (n, c), see `covariates`. log_prob_out, the score and the gap of the same refits are forbidden,
            because they contain the noise of the score.
        groups: (n,) group of each example; identical examples share one, which is never on both sides of a fit.
        repeats: L, one number or (n,), behind each standard error. Without it only their local mean is used.
        placebo: (m, n) scores of placebo folds. At one repeat, where no standard error is known, the noise is taken as
            twice their mean square, because refits vary more at held-out examples. This is a guess, and `reliability`
            stays NaN.
        half_scores: (2, n) scores from each half of the repeats, for the guard. Halves are noisier than the whole, so
            the slope is overestimated rather than underestimated.
        half_covariates: the covariates of each half *from its own refits alone*; covariates from all refits depend
            equally on both halves and hide any leak. Pass the same array twice if they use no refit.
        forbidden: arrays (n,) by name, such as log_prob_out, of which no covariate may be a copy.
        folds: of the cross-fitting, 2 or more.
        seed: of the folds.

    Raises:
        DataError: shapes disagree, values are not finite, there are fewer than 20 distinct examples, all errors are
            unknown and there is no placebo, or a covariate copies or determines the score or copies a forbidden array.

    References:
        Covariate-Powered Empirical Bayes Estimation (Ignatiadis & Wager, 2019), https://arxiv.org/abs/1906.01611

    >>> facts = np.linspace(0, 9, 60)
    >>> adjust(facts, np.zeros(60), facts[:, None] ** 2 % 7).weight.min()
    np.float64(1.0)
    """
    raw, table = vector(score, "score"), as_covariates(covariates)
    same = np.arange(len(raw)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    _check_sizes(raw, table, same, folds)
    refuse_names(table.names)
    refuse_copies(table, {"score": raw, **{k: vector(v, k) for k, v in (forbidden or {}).items()}})
    fold = _folds(same, folds, seed)
    prediction = _cross_fit(table.values, raw, fold)
    squared, df = _squared_errors(standard_error, placebo, repeats, len(raw))
    noise, signal = _noise_and_signal(raw - prediction, prediction, squared, df)
    total = noise + signal
    weight = np.divide(signal, total, out=np.ones_like(total), where=noise > 0)
    slope = _guard(half_scores, half_covariates, same, fold)
    measured = bool(np.isfinite(np.asarray(standard_error, dtype=np.float64)).any())
    ok, reason = _verdict(slope, (raw - prediction) ** 2 - noise if measured else None)
    return AdjustedScores(
        score=prediction + weight * (raw - prediction),
        prediction=prediction,
        weight=weight,
        standard_error=np.sqrt(weight * noise),
        reliability=_reliability(raw, noise, weight) if measured else np.nan,
        slope=slope.slope,
        slope_error=slope.error,
        ok=ok,
        reason=reason,
    )


# --- the prediction


def _folds(same: NDArray[np.intp], folds: int, seed: int) -> NDArray[np.intp]:
    """Return the fold (n,) of each example; groups are shuffled and assigned to folds in turn."""
    count = int(same.max()) + 1
    return np.asarray(stream(seed, "adjusted").permutation(count)[same] % folds)


def _cross_fit(values: FloatArray, target: FloatArray, fold: NDArray[np.intp]) -> FloatArray:
    found = np.empty(len(target))
    for k in np.unique(fold):
        out = fold == k
        found[out] = _regression(int((~out).sum())).fit(values[~out], target[~out]).predict(values[out])
    return found


def _regression(n: int) -> HistGradientBoostingRegressor:
    # Small trees and few steps, because the target is mostly noise. Trees handle missing values and any monotone scale.
    return HistGradientBoostingRegressor(
        max_iter=200,
        learning_rate=0.03,
        max_leaf_nodes=4,
        min_samples_leaf=int(np.clip(n // 20, 5, 20)),
        early_stopping=False,
        random_state=0,
    )


# --- the weight


def _squared_errors(
    standard_error: ArrayLike, placebo: ArrayLike | None, repeats: ArrayLike | None, n: int
) -> tuple[FloatArray, FloatArray]:
    """Return the variance of each score, NaN if unknown, and its degrees of freedom, 0 if unknown."""
    error = np.asarray(standard_error, dtype=np.float64)
    if error.shape != (n,) or np.isinf(error).any() or (error < 0).any():
        raise DataError(
            expected=f"standard errors of shape ({n},), 0 or more, NaN where unknown",
            got=f"shape {error.shape}",
            do="Pass `MemorizationScores.standard_error`.",
        )
    if np.isnan(error).all():
        return HELD_OUT_EXCESS * _placebo_variance(placebo, n), np.zeros(n)
    known = np.isfinite(error)
    df = np.zeros(n) if repeats is None else np.broadcast_to(np.asarray(repeats, dtype=np.float64) - 1, (n,))
    return error**2, np.where(known, df, 0.0)


def _placebo_variance(placebo: ArrayLike | None, n: int) -> FloatArray:
    placebos = np.empty((0, n)) if placebo is None else np.asarray(placebo, dtype=np.float64)
    if placebos.ndim != 2 or placebos.shape[1] != n or not len(placebos):
        raise DataError(
            expected="standard errors, or placebo scores (m, n) to estimate the noise from",
            got="standard errors all NaN and " + ("no placebo" if placebo is None else f"placebo {placebos.shape}"),
            do="Use two repeats or more, or pass `MemorizationScores.placebo` (it needs four folds or more).",
        )
    return np.asarray((placebos**2).mean(axis=0))


def _noise_and_signal(
    residual: FloatArray, prediction: FloatArray, squared: FloatArray, df: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the variance of the noise, and that of the signal that the prediction does not explain, (n,) each."""
    known = np.isfinite(squared)
    trend = _curve(prediction[known], squared[known], prediction)
    usable = trend > 0
    scale = np.where(usable, trend, 1.0)
    excess = _curve(prediction[usable], (residual**2 / scale)[usable], prediction) - 1 if usable.any() else 0 * trend
    signal = np.where(usable, np.maximum(excess, 0) * trend, residual**2)
    relative = np.where(known, squared, trend) / scale
    moderate = known & usable & (df > 0)
    own = np.ones(len(residual))
    if moderate.sum() > 1:
        shrunk = stats.moderate_variances(relative[moderate], df[moderate]).variances
        own[moderate] = shrunk / shrunk.mean()
    return trend * own, signal


def _curve(at: FloatArray, values: FloatArray, where: FloatArray, least: int = 100, most: int = 10) -> FloatArray:
    """Return the local mean of `values` over `at`, evaluated at `where`: means of equal bins, joined by lines."""
    bins = int(np.clip(len(at) // least, 1, most))
    order = np.argsort(at, kind="stable")
    parts = np.array_split(order, bins)
    x = np.array([at[part].mean() for part in parts])
    y = np.array([values[part].mean() for part in parts])
    x, which = np.unique(x, return_inverse=True)
    y = np.bincount(which, weights=y) / np.bincount(which)
    return np.asarray(np.interp(where, x, y))


def _reliability(raw: FloatArray, noise: FloatArray, weight: FloatArray) -> float:
    truth = raw.var(ddof=1) - noise.mean()
    return float(np.clip(1 - (weight * noise).mean() / truth, 0, 1)) if truth > 0 else np.nan


# --- the guards


class _Slope(NamedTuple):
    slope: float
    error: float


def _guard(
    half_scores: ArrayLike | None,
    half_covariates: Sequence[ArrayLike | Covariates] | None,
    same: NDArray[np.intp],
    fold: NDArray[np.intp],
) -> _Slope:
    """Return the slope of (score - independent score) on the prediction, each half predicted from its own refits.

    With scores a, b and predictions f, g of the two halves, both directions add up to (a - b)(f - g) / (f^2 + g^2).
    The true values, which a and b share, cancel in both factors, so that small leaks show.
    """
    if half_scores is None or half_covariates is None:
        return _Slope(np.nan, np.nan)
    tables = [as_covariates(half) for half in half_covariates]
    halves = np.asarray(half_scores, dtype=np.float64)
    if halves.shape != (2, len(fold)) or len(tables) != 2 or any(t.values.shape[0] != len(fold) for t in tables):
        raise DataError(
            expected=f"half_scores (2, {len(fold)}) and the covariates of each of the two halves",
            got=f"shape {halves.shape} and covariates {[t.values.shape for t in tables]}",
            do="Score each half of the repeats separately, and take log_prob_in from that half.",
        )
    seen = np.isfinite(halves).all(axis=0)  # if repeats failed, an example may lack a half
    if len(np.unique(same[seen])) < FEWEST:
        return _Slope(np.nan, np.nan)
    f, g = (_cross_fit(t.values[seen], half[seen], fold[seen]) for t, half in zip(tables, halves, strict=True))
    a, b = halves[:, seen]
    return _slope(a - b, f, g, same[seen])


def _slope(difference: FloatArray, f: FloatArray, g: FloatArray, same: NDArray[np.intp]) -> _Slope:
    d, f, g = difference - difference.mean(), f - f.mean(), g - g.mean()
    over = f**2 + g**2
    if over.sum() == 0:
        return _Slope(0.0, 0.0)
    slope = (d * (f - g)).sum() / over.sum()
    influence = np.bincount(same, weights=d * (f - g) - slope * over)  # identical examples are one observation
    return _Slope(float(slope), float(np.sqrt((influence**2).sum()) / over.sum()))


def _verdict(slope: _Slope, excess: FloatArray | None) -> tuple[bool | None, str]:
    """Return whether the guards pass, and why not."""
    beyond = max(slope.slope - NEGLIGIBLE, HARMLESS - slope.slope)
    if beyond > 0 and abs(slope.slope) > SIGNIFICANT * slope.error:
        return False, (
            f"The prediction contains noise of the same refits: {slope.slope:.3f} (standard error {slope.error:.3f}) "
            "of its variance. A covariate depends on models that held out the example."
        )
    if excess is not None and excess.mean() < -SIGNIFICANT * excess.std(ddof=1) / np.sqrt(len(excess)):
        return False, "The prediction is closer to the scores than their noise allows: a covariate contains that noise."
    if not np.isfinite(slope.slope):
        return None, "The slope was not measured: this needs two repeats, and covariates for each half of them."
    return True, ""


# --- checks of the arguments


def _check_sizes(raw: FloatArray, table: Covariates, same: NDArray[np.intp], folds: int) -> None:
    if table.values.shape[0] != len(raw) or same.shape != raw.shape:
        raise DataError(
            expected=f"covariates and groups of {len(raw)} examples, as many as scores",
            got=f"covariates {table.values.shape}, groups {same.shape}",
            do="Pass arrays for the same examples in the same order.",
        )
    distinct = int(same.max()) + 1 if len(same) else 0
    if distinct < FEWEST or folds < 2:
        raise DataError(
            expected=f"{FEWEST} distinct examples or more (those of one group count once), and folds of 2 or more",
            got=f"{distinct} and folds={folds}",
            do="Use the raw scores: there are too few to learn from." if folds >= 2 else "Use 5 folds.",
        )
