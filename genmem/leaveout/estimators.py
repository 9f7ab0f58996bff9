"""The score from log p under splits that saw an example and splits that did not: two ways to average.

An estimate takes log p (n_splits, b), the splits an example is out of and in, both (n_splits, b) bool, and the splits
of each repeat. An example without in- or out-splits in a repeat has no score there.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Rows = list[NDArray[np.intp]]  # the splits of each repeat
Pair = tuple[FloatArray, FloatArray]  # log_prob_in and log_prob_out, (b,) each


def scored(held: BoolArray, r: NDArray[np.intp]) -> BoolArray:
    """Return whether each example was both in and out of some split of a repeat: (n,)."""
    return np.asarray(held[r].any(axis=0) & ~held[r].all(axis=0))


def usable_splits(held: BoolArray, rows: Rows) -> BoolArray:
    """Return whether an example was in and out of some split of the same repeat: (n_splits, b)."""
    usable = np.zeros_like(held)
    for r in rows:
        usable[r] = scored(held, r)
    return usable


def mean_where(values: FloatArray, mask: BoolArray) -> FloatArray:
    """Return the mean over the first axis of what the mask leaves; NaN where it leaves nothing."""
    return ratio_where(values.sum(axis=0, where=mask), mask.sum(axis=0))


def ratio_where(total: FloatArray, count: NDArray[np.number]) -> FloatArray:
    """Return total / count, NaN where the count is 0 or less."""
    ratio: FloatArray = np.full(np.shape(total), np.nan)
    np.divide(total, count, out=ratio, where=count > 0)
    return ratio


def mean_log(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows) -> Pair:
    """Return the mean over repeats of the mean log p, in and out."""
    level, ell = ell[0], ell - ell[0]  # so that refits that agree exactly differ by exactly 0
    mean_in, mean_out = _repeat_means(ell, in_, rows), _repeat_means(ell, out, rows)
    there = ~np.isnan(mean_in - mean_out)
    return level + mean_where(mean_in, there), level + mean_where(mean_out, there)


def differences(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows) -> FloatArray:
    """Return the "mean_log" score within each repeat: (L, b)."""
    ell = ell - ell[0]
    return _repeat_means(ell, in_, rows) - _repeat_means(ell, out, rows)


def _repeat_means(ell: FloatArray, mask: BoolArray, rows: Rows) -> FloatArray:
    return np.stack([mean_where(ell[r], mask[r]) for r in rows])


def log_mean(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows) -> Pair:
    """Return the log of the mean density over all splits, in and out."""
    return _pool(*_log_sums(ell, in_, rows)), _pool(*_log_sums(ell, out, rows))


def pseudo_values(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows) -> FloatArray:
    """Return what each repeat adds to the "log_mean" score: (L, b), of mean the score and of jackknife error."""
    ins, outs = _log_sums(ell, in_, rows), _log_sums(ell, out, rows)
    score, there = _pool(*ins) - _pool(*outs), ins[1] > 0
    kept = [np.arange(len(rows)) != r for r in range(len(rows))]
    left = np.stack([_pool(ins[0][k], ins[1][k]) - _pool(outs[0][k], outs[1][k]) for k in kept])
    repeats = there.sum(axis=0)
    centred = np.where(repeats > 1, (repeats - 1) * (left - mean_where(left, there)), 0.0)
    return np.where(there, score - centred, np.nan)


def _log_sums(ell: FloatArray, mask: BoolArray, rows: Rows) -> tuple[FloatArray, FloatArray]:
    """Return, for each repeat, the log of the summed densities and their number: (L, b) each."""
    sums = [np.logaddexp.reduce(ell[r], axis=0, where=mask[r], initial=-np.inf) for r in rows]
    return np.stack(sums), np.stack([mask[r].sum(axis=0) for r in rows]).astype(np.float64)


def _pool(log_sums: FloatArray, counts: FloatArray) -> FloatArray:
    """Return the log of the mean density over repeats, NaN where there is none."""
    count = counts.sum(axis=0)
    log_count = np.log(np.where(count > 0, count, np.nan))
    return np.asarray(np.logaddexp.reduce(log_sums, axis=0, initial=-np.inf) - log_count)


ESTIMATES: dict[str, Callable[[FloatArray, BoolArray, BoolArray, Rows], Pair]] = {
    "mean_log": mean_log,
    "log_mean": log_mean,
}
PER_REPEAT: dict[str, Callable[[FloatArray, BoolArray, BoolArray, Rows], FloatArray]] = {
    "mean_log": differences,
    "log_mean": pseudo_values,
}
