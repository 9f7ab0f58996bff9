"""How high are the highest scores, without the noise that put them on top?"""

import numpy as np
from numpy.typing import ArrayLike

from genmem.errors import DataError
from genmem.leaveout.estimators import FloatArray, mean_where
from genmem.leaveout.scoring import MemorizationScores
from genmem.stats import Rate, jackknife_half


def list_mean(per_repeat: ArrayLike, k: int) -> Rate:
    """Return the mean true score of the k examples with the highest scores, without the effect of selection.

    The examples are ranked by all repeats but one and averaged in that one, for each repeat in turn. Noise that lifts
    an example in the ranking is not in the average. Ranked by fewer repeats, the list is a little worse than the real
    one: in simulation the result is .93 of the true mean at three repeats and .99 at eight. The interval is a jackknife
    over repeats and needs three.

    Args:
        per_repeat: (L, n) scores within each repeat (`MemorizationScores.per_repeat`), NaN where there is none.
        k: length of the list.

    Raises:
        DataError: there are fewer than two repeats, or k is not between 1 and n.

    >>> scores = np.array([[0.0, 1.0, 5.0], [0.0, 1.0, 3.0]])
    >>> list_mean(scores, 1).value
    4.0
    """
    scores = np.asarray(per_repeat, dtype=np.float64)
    if scores.ndim != 2 or len(scores) < 2 or not 1 <= k <= scores.shape[1]:
        raise DataError(
            expected="scores of two repeats or more, (L, n), and a list of 1 to n examples",
            got=f"shape {scores.shape}, k = {k}",
            do="Add repeats, or change k.",
        )
    value = _cross_fitted(scores, k)
    if len(scores) < 3:
        return Rate(value, (np.nan, np.nan))
    half = float(jackknife_half([_cross_fitted(np.delete(scores, r, axis=0), k) for r in range(len(scores))]))
    return Rate(value, (value - half, value + half))


def selected_interval(scores: MemorizationScores, chosen: ArrayLike, level: float = 0.95) -> FloatArray:
    """Return intervals of scores that were chosen because they are high, lower and upper end: (2, k).

    Of the ordinary 95% intervals of the highest scores, more than 5% miss the true score, most of them because they lie
    above it. These are wider: if k of n examples are chosen, each has level 1 - (1 - level) k / n, and on average at
    most 1 - level of the k intervals shown miss (the false coverage rate).

    Args:
        scores: "mean_log" scores of three repeats or more; otherwise intervals are NaN.
        chosen: (k,) positions of the examples shown, all of them: a part of a list needs wider intervals.
        level: of the list.

    Raises:
        DataError: there is no example, one is given twice or does not exist, or the level is not between 0 and 1.

    References:
        False Discovery Rate-Adjusted Multiple Confidence Intervals for Selected Parameters (Benjamini & Yekutieli,
        2005), https://doi.org/10.1198/016214504000001907
    """
    at, n = np.asarray(chosen), len(scores.score)
    positions = at.ndim == 1 and at.size > 0 and at.dtype.kind in "iu"
    if not positions or len(np.unique(at)) != len(at) or at.min() < 0 or at.max() >= n or not 0 < level < 1:
        raise DataError(
            expected=f"different positions below {n}, one or more, and a level between 0 and 1",
            got=f"shape {at.shape} of {at.dtype}, level {level}",
            do="Pass the positions of all examples in the list, such as np.argsort(-scores.score)[:25].",
        )
    return scores.interval(1 - (1 - level) * len(at) / n)[:, at]


def _cross_fitted(scores: FloatArray, k: int) -> float:
    means = np.array([_mean_of_top(np.delete(scores, r, axis=0), scores[r], k) for r in range(len(scores))])
    return float(np.nanmean(means)) if np.isfinite(means).any() else float("nan")


def _mean_of_top(others: FloatArray, own: FloatArray, k: int) -> float:
    """Return the mean in one repeat of the k examples that are highest in the others; NaN if none is in it."""
    there = np.isfinite(others)
    ranked = np.nan_to_num(mean_where(np.where(there, others, 0.0), there), nan=-np.inf)
    found = own[np.argsort(-ranked, kind="stable")[:k]]
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
