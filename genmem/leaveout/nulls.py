"""How high is a score by chance? p values and intervals, by case.

- "mean_log", three repeats or more: Student t over the repeats of each example, with variances moderated across
  examples (df d0 + L - 1). L differs if splits failed: p is NaN for an example with one repeat left.
- "mean_log", two repeats: a test of *no effect* against placebos. The true fold is dropped and another fold of its
  repeat is treated as held out. log p of held-out examples is often noisier than that of training examples, so both
  contrasts are standardised: divided by sqrt(ratio/out + 1/in), with the ratio of the two variances for the true fold
  and 1 for placebos, and by the moderated spread of their own in-splits. The ratio is pooled over the examples: the
  variance of the scores between both repeats, which no memorization enters, against that of the in-splits, plus one
  standard error, and at least 1. p = (1 + #{placebo >= t}) / (1 + #placebo), pooled over the examples with a score in
  the same repeats. It assumes one ratio for all examples; docs/calibration.md has its size. A t test with two repeats
  has the right size at .05, but .001 for .0001, and thus false discoveries. With three folds left, placebos have no
  spread: the true and the placebo fold are compared, not divided by it, with the one in-fold they share. Repeats with
  two folds left have no placebo and are not in the test; p is NaN if no repeat is left.
- "mean_log", one repeat: no test. One held-out value per example does not tell noise from memorization; if its noise is
  assumed to be that of training examples, sizes at .05 are up to .16 where its variance is three times theirs.
- "log_mean": permutation within each repeat, 999 draws, or all arrangements if there are fewer, so that p is never
  below 1 / K at one repeat of K folds. It is exact only if log p varies as much out as in.
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


def student(per_repeat: FloatArray, moderate: bool, factor: FloatArray | None = None) -> Student:
    """Return what a t test or interval needs; NaN marks the repeats in which an example has no score.

    `factor` (n,) multiplies the variances, where repeats are not independent (`sizes.Uneven`).
    """
    there = ~np.isnan(per_repeat)
    count, mean = there.sum(axis=0).astype(np.float64), mean_where(per_repeat, there)
    variance = ratio_where(((per_repeat - mean) ** 2).sum(axis=0, where=there), count - 1)
    variance = variance if factor is None else variance * factor
    df = np.where(count > 1, count - 1, np.nan)
    if moderate:
        shrunk = stats.moderate_variances(variance, np.maximum(count - 1, 0))
        # At one repeat the prior alone would suffice for normal refits; with strong skew its tests are liberal.
        variance, df = np.where((count > 1) & ~np.isnan(variance), [shrunk.variances, shrunk.df], np.nan)
    return Student(mean, variance, count, df)


def standard_error(per_repeat: FloatArray, factor: FloatArray | None = None) -> FloatArray:
    """Return the unmoderated standard error of each mean: (n,), NaN with fewer than two repeats."""
    found = student(per_repeat, False, factor)
    return ratio_where(np.sqrt(found.variance), np.sqrt(found.repeats))


def student_p(per_repeat: FloatArray, delta: float, moderate: bool, factor: FloatArray | None = None) -> FloatArray:
    """Return one-sided p values (n,) of a mean of at most delta."""
    found = student(per_repeat, moderate, factor)
    t = _ratio(found.mean - delta, ratio_where(found.variance, found.repeats))
    return np.asarray(stdtr(found.df, -t))


def student_interval(
    per_repeat: FloatArray, level: float, moderate: bool, factor: FloatArray | None = None
) -> FloatArray:
    """Return the two-sided t interval of each mean: (2, n)."""
    found = student(per_repeat, moderate, factor)
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


class Contrasts(NamedTuple):
    """Held-out folds against in-splits, (2 + m, b) each: the true one, the true one with the in-splits of the first
    placebo, and m placebos.
    """

    score: FloatArray  # summed over repeats
    squares: FloatArray  # sum of squares within the in-splits
    df: FloatArray  # its degrees of freedom
    out: FloatArray  # sum over repeats of 1 / number of out-splits
    in_: FloatArray  # of 1 / number of in-splits


def contrasts(ell: FloatArray, out: BoolArray, in_: BoolArray, shifted: list[BoolArray], rows: Rows) -> Contrasts:
    """Return the contrasts of the true fold and of the shifted ones."""
    pairs = [(out, in_), (out, in_ & ~shifted[0]), *((placebo, in_ & ~placebo) for placebo in shifted)]
    return Contrasts(*np.stack([_contrast(ell, one, other, rows) for one, other in pairs], axis=1))


def _contrast(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows) -> FloatArray:
    found = np.zeros((5, ell.shape[1]))
    ell = ell - ell[0]
    for r in rows:
        n_in, n_out = in_[r].sum(axis=0), out[r].sum(axis=0)
        mean = mean_where(ell[r], in_[r])
        there = (n_in > 0) & (n_out > 0)
        squares = ((ell[r] - mean) ** 2).sum(axis=0, where=in_[r])
        inverse = [1 / np.maximum(n_out, 1), 1 / np.maximum(n_in, 1)]
        found += np.where(there, [mean - mean_where(ell[r], out[r]), squares, n_in - 1, *inverse], 0.0)
    return found


def variance_ratio(found: Contrasts, per_repeat: FloatArray, first_out: NDArray[np.intp]) -> float:
    """Return how many times the variance of log p out exceeds that in, plus one standard error; 1 or more.

    With variance v in-sample, the score within a repeat has variance v (ratio / n_out + 1 / n_in). The error is a
    jackknife over the splits, which move all examples they hold out together. NaN without examples in two repeats.

    Args:
        found: the contrasts of n examples.
        per_repeat: (L, n) the score within each repeat of the contrasts, NaN where there is none.
        first_out: (n,) a split that holds each example out.
    """
    repeats = (~np.isnan(per_repeat)).sum(axis=0)
    usable = (repeats > 1) & (found.df[0] > 0)
    splits, cluster = np.unique(first_out[usable], return_inverse=True)
    if len(splits) < 2:
        return np.nan
    _, squares, df, inverse_out, inverse_in = (part[0, usable] for part in found)
    between, within = np.nanvar(per_repeat[:, usable], axis=0, ddof=1), squares / df / repeats[usable]
    parts = np.stack([np.bincount(cluster, p) for p in (between - within * inverse_in, within * inverse_out)])
    whole = parts.sum(axis=1, keepdims=True)
    left = ratio_where(*(whole - parts))
    error = np.sqrt((len(splits) - 1) * left.var())
    return float(np.maximum(1.0, ratio_where(*whole)[0] + error))


def placebo_p(found: Contrasts, there: BoolArray, moderate: bool, ratio: float) -> FloatArray:
    """Return p values (n,) of no effect.

    Args:
        found: the contrasts of n examples.
        there: (repeats, n) whether an example has a score in each repeat that has placebos.
        moderate: moderate the spread of the in-splits across examples.
        ratio: of the variances of log p out and in; NaN if it is not known, and then p is.
    """
    p = np.full(there.shape[-1], np.nan)
    if np.isnan(ratio):
        return p
    prior = stats.moderate_variances(ratio_where(found.squares[0], found.df[0]), found.df[0]) if moderate else None
    for pattern in np.unique(there, axis=1).T:
        some = (there == pattern[:, None]).all(axis=0)
        if pattern.any():
            p[some] = _placebo_p(Contrasts(*(part[:, some] for part in found)), prior, ratio)
    return p


def _placebo_p(found: Contrasts, prior: stats.Moderated | None, ratio: float) -> FloatArray:
    ratios = np.ones((len(found.score), 1))
    ratios[:2] = ratio  # of the true fold
    scaled = ratio_where(found.score, np.sqrt(ratios * found.out + found.in_))
    if found.df[2:].min() == 0:  # no spread to divide by
        return stats.rank_p(scaled[1], scaled[2:])
    variance = found.squares / found.df
    t = _ratio(scaled, variance if prior is None else prior.shrink(variance, found.df))
    return stats.rank_p(t[0], t[2:])


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
