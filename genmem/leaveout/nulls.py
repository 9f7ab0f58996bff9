"""How high is a score by chance? p values and intervals, by case.

- "mean_log", three repeats or more: Student t over the repeats of each example, with variances moderated across
  examples (df d0 + L - 1). L differs if splits failed: p is NaN for an example with one repeat left.
- "mean_log", one or two repeats: a test of *no effect* against placebos. The true fold is dropped and another fold of
  its repeat is treated as held out. Both contrasts are divided by sqrt(1/out + 1/in) and by the moderated spread of
  their own in-splits; p = (1 + #{placebo >= t}) / (1 + #placebo), pooled over the examples with a score in the same
  repeats. Folds are exchangeable under no effect, so normality is not needed. The remaining difference between K - 1
  and K - 2 in-splits is small: simulated sizes at .05 and .01 are .044-.055 and .007-.012 for K >= 4, normal or
  strongly skewed. With three folds left, placebos have no spread: the true and the placebo fold are compared,
  undivided, with the one in-fold they share, which is exact. Repeats with two folds left have no placebo and are not in
  the test; p is NaN if no repeat is left.
- "log_mean": permutation within each repeat, 999 draws, or all arrangements if there are fewer, so that p is never
  below 1 / K at one repeat of K folds.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from genmem import stats
from genmem.leaveout.estimators import BoolArray, FloatArray, Rows, mean_where, placebo_shifts, ratio_where
from genmem.seeding import stream

DRAWS = 999


# --- Student t over repeats


class Student(NamedTuple):
    """Mean of each example over its repeats, their variance and number, and the df of that variance; all (n,)."""

    mean: FloatArray
    variance: FloatArray
    repeats: FloatArray
    df: FloatArray


def student(per_repeat: FloatArray, moderate: bool) -> Student:
    """Return what a t test or interval needs; NaN marks the repeats in which an example has no score."""
    there = ~np.isnan(per_repeat)
    count, mean = there.sum(axis=0).astype(np.float64), mean_where(per_repeat, there)
    variance = ratio_where(((per_repeat - mean) ** 2).sum(axis=0, where=there), count - 1)
    df = np.where(count > 1, count - 1, np.nan)
    if moderate:
        shrunk = stats.moderate_variances(variance, np.maximum(count - 1, 0))
        # At one repeat the prior alone would suffice for normal refits; with strong skew its tests are liberal.
        variance, df = np.where(count > 1, [shrunk.variances, shrunk.df], np.nan)
    return Student(mean, variance, count, df)


def standard_error(per_repeat: FloatArray) -> FloatArray:
    """Return the unmoderated standard error of each mean: (n,), NaN with fewer than two repeats."""
    found = student(per_repeat, moderate=False)
    return ratio_where(np.sqrt(found.variance), np.sqrt(found.repeats))


def student_p(per_repeat: FloatArray, delta: float, moderate: bool) -> FloatArray:
    """Return one-sided p values (n,) of a mean of at most delta."""
    found = student(per_repeat, moderate)
    t = _ratio(found.mean - delta, ratio_where(found.variance, found.repeats))
    return np.asarray(stdtr(found.df, -t))


def student_interval(per_repeat: FloatArray, level: float, moderate: bool) -> FloatArray:
    """Return the two-sided t interval of each mean: (2, n)."""
    found = student(per_repeat, moderate)
    half = stdtrit(found.df, (1 + level) / 2) * np.sqrt(ratio_where(found.variance, found.repeats))
    return np.stack([found.mean - half, found.mean + half])


def _ratio(difference: FloatArray, variance: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / np.sqrt(variance))


# --- placebos


class PlaceboShifts(NamedTuple):
    """The repeats that have placebos, by position and by their splits, and the shifts (m, repeats) of each placebo."""

    repeats: list[int]
    rows: Rows
    shifts: NDArray[np.intp]


def placebo_design(held: BoolArray, rows: Rows, seed: int, limit: int) -> PlaceboShifts:
    """Return at most `limit` shifts of the held-out sets in every repeat with enough splits for one."""
    able = [i for i, r in enumerate(rows) if len(placebo_shifts(held, [r], seed, 1))]
    if not able:
        return PlaceboShifts([], [], np.empty((0, 0), np.intp))
    kept = [rows[i] for i in able]
    return PlaceboShifts(able, kept, placebo_shifts(held, kept, seed, limit))


def contrasts(ell: FloatArray, out: BoolArray, in_: BoolArray, shifted: list[BoolArray], rows: Rows) -> FloatArray:
    """Return (2 + m, 3, b): the true contrast, the true one with the in-splits of the first placebo, the placebos."""
    pairs = [(out, in_), (out, in_ & ~shifted[0]), *((placebo, in_ & ~placebo) for placebo in shifted)]
    return np.stack([_contrast(ell, one, other, rows) for one, other in pairs])


def _contrast(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows) -> FloatArray:
    """Return (3, b): score / sqrt(1/out + 1/in), sum of squares within the in-splits, its df."""
    score, squares, df, scale = np.zeros((4, ell.shape[1]))
    ell = ell - ell[0]
    for r in rows:
        n_in, n_out = in_[r].sum(axis=0), out[r].sum(axis=0)
        mean = mean_where(ell[r], in_[r])
        there = (n_in > 0) & (n_out > 0)
        score += np.where(there, mean - mean_where(ell[r], out[r]), 0.0)
        squares += np.where(there, ((ell[r] - mean) ** 2).sum(axis=0, where=in_[r]), 0.0)
        df += np.where(there, n_in - 1, 0)
        scale += np.where(there, 1 / np.maximum(n_in, 1) + 1 / np.maximum(n_out, 1), 0.0)
    return np.stack([ratio_where(score, np.sqrt(scale)), squares, df])


def placebo_p(found: FloatArray, there: BoolArray, moderate: bool) -> FloatArray:
    """Return p values (n,) of no effect.

    Args:
        found: (2 + m, 3, n) contrasts.
        there: (repeats, n) whether an example has a score in each repeat that has placebos.
        moderate: moderate the spread of the in-splits across examples.
    """
    p = np.full(found.shape[-1], np.nan)
    if len(found) == 0:
        return p
    prior = stats.moderate_variances(ratio_where(found[0, 1], found[0, 2]), found[0, 2]) if moderate else None
    for pattern in np.unique(there, axis=1).T:
        some = (there == pattern[:, None]).all(axis=0)
        if pattern.any():
            p[some] = _placebo_p(found[..., some], prior)
    return p


def _placebo_p(found: FloatArray, prior: stats.Moderated | None) -> FloatArray:
    true, matched, placebos = found[0], found[1], found[2:]
    if placebos[:, 2].min() == 0:  # no spread to divide by
        return stats.rank_p(matched[0], placebos[:, 0])
    return stats.rank_p(_studentised(true, prior), np.stack([_studentised(placebo, prior) for placebo in placebos]))


def _studentised(contrast: FloatArray, prior: stats.Moderated | None) -> FloatArray:
    score, squares, df = contrast
    variance = squares / df
    return _ratio(score, variance if prior is None else prior.shrink(variance, df))


# --- permutation


def permutation_p(ell: FloatArray, out: BoolArray, usable: BoolArray, rows: Rows, seed: int) -> FloatArray:
    """Return p of the "log_mean" score under permutations of the held-out splits within each repeat.

    `usable` is true in the repeats in which an example has a score; other repeats do not contribute to its score.
    """
    ell = np.where(usable, ell, -np.inf)
    highest = ell.max(axis=0)
    density = np.exp(ell - np.where(np.isfinite(highest), highest, 0.0))
    # The score falls as the held-out density rises; rounding must not break ties between equal arrangements.
    bound = (density * out).sum(axis=0) * (1 + 1e-9)
    counts = np.stack([out[r].sum(axis=0) for r in rows])  # (L, b)
    p = np.full(ell.shape[1], np.nan)
    for pattern in np.unique(counts, axis=1).T:
        some = np.flatnonzero((counts == pattern[:, None]).all(axis=0))
        if not pattern.any():
            continue
        draws, exact = stats.arrangements([len(r) for r in rows], pattern.tolist(), DRAWS, stream(seed, "permutation"))
        ordered = density[np.concatenate(rows)][:, some]
        hits = sum((part @ ordered <= bound[some]).sum(axis=0) for part in np.array_split(draws, 32))
        p[some] = hits / len(draws) if exact else (1 + hits) / (1 + len(draws))
    return p
