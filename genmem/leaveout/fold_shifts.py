"""What would the scores of one epoch be if other folds were held out?

A *joint fold shift* treats the fold `shift` places after the true one as held out, with one shift in each repeat for
all examples of the repeat and all epochs. Whatever examples and epochs share stays shared. Shifts have two uses.

- Rotations, for p values: only the names of the folds change. Without memorization the refits of a repeat are
  exchangeable, the true scores are one of K^L equally likely rotations, and a rank among them is exact.
- Placebos, for display: no shift is 0 and the true fold is dropped, so that no memorization is left. They have one
  in-split fewer than the scores, hence more noise. The true contrast with the in-splits of a placebo shows how much
  more, and the placebos are moved by that. Ranks among them would not be exact: simulated false alarms over 5 epochs
  are .06 to .08 at .05 for the gap.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genmem.leaveout.estimators import placebo_shifts
from genmem.seeding import stream

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]

MATCHED = 32  # number of true contrasts with the in-splits of a placebo in an average
JACKKNIFE_DRAWS = 99  # rotations for the p values without one repeat
ENUMERABLE = 2**20
BLOCK = 2**21  # numbers processed at once


class Shifts(NamedTuple):
    """Joint fold shifts, drawn once for all epochs."""

    rotations: IntArray  # (g, L): shift of each repeat, never 0 in all of them
    without: list[IntArray]  # the same without each repeat, (g_r, L - 1); empty at one repeat
    usable: IntArray  # (u, L): shifts that leave a placebo without memorization, by repeat
    placebos: IntArray  # (m, L): which of these shifts each placebo uses


def joint_shifts(held: BoolArray, rows: list[IntArray], draws: int, seed: int) -> Shifts:
    """Draw at most `draws` distinct rotations and placebos of a design, `rows` being the splits of each repeat."""
    sizes = [len(r) for r in rows]
    rotations = _rotations(sizes, draws, seed)
    kept = [sizes[:r] + sizes[r + 1 :] for r in range(len(sizes))] if len(sizes) > 1 else []
    without = [_rotations(some, min(draws, JACKKNIFE_DRAWS), seed) for some in kept]
    usable = placebo_shifts(held, rows, seed, max(sizes))
    placebos = _combinations([len(usable)] * len(rows), draws, stream(seed, "joint placebo"))
    return Shifts(rotations, without, usable, placebos)


def _rotations(sizes: Sequence[int], draws: int, seed: int) -> IntArray:
    found = _combinations(sizes, draws + 1, stream(seed, "rotations"))
    return found[found.any(axis=1)][:draws]


def _combinations(sizes: Sequence[int], draws: int, rng: np.random.Generator) -> IntArray:
    """Return (m, L) distinct rows with one number below each size: all rows if there are at most `draws`."""
    total = math.prod(sizes)
    if 0 < total <= ENUMERABLE:
        return np.stack(np.unravel_index(rng.permutation(total)[:draws], sizes), axis=1)
    found = np.empty((0, len(sizes)), np.intp)
    while total and len(found) < draws:
        found = np.unique(np.concatenate([found, rng.integers(sizes, size=(draws, len(sizes)))]), axis=0)
    return rng.permutation(found)[:draws]


# --- one epoch


class Epoch(NamedTuple):
    """Quantiles of the scores and their mean (C numbers) at one epoch, with those of the shifts."""

    value: FloatArray  # (C,)
    without: FloatArray  # (L, C), without each repeat; (0, C) at one repeat
    rotated: FloatArray  # (g, C)
    rotated_without: list[FloatArray]  # (g_r, C) for each repeat
    placebo: FloatArray  # (m, C)
    gap_per_repeat: FloatArray  # (L,)
    mean_in: np.float64
    mean_out: np.float64
    in_by_split: FloatArray  # (n_splits,)
    out_by_split: FloatArray


class _Repeat(NamedTuple):
    mean_in: FloatArray  # (n,); NaN if the repeat lacks an in-split or an out-split
    mean_out: FloatArray
    rotated: FloatArray  # (K, n): the score for every rotation of the folds, the true one first
    placebo: FloatArray  # (u, n): the placebo fold as held out, the true fold dropped
    matched: FloatArray  # (u, n): the true contrast, the placebo fold dropped


def score_epoch(
    ell: NDArray[np.floating], held: BoolArray, rows: list[IntArray], shifts: Shifts, levels: Sequence[float]
) -> Epoch:
    """Score the refits of one epoch, (n_splits, n) with NaN rows for failed refits, and every joint shift of them."""
    turns = max(map(len, rows))
    repeats = [_repeat(ell[r], held[r], by, turns) for r, by in zip(rows, shifts.usable.T, strict=True)]
    whole = _Repeat(*(np.stack(arrays) for arrays in zip(*repeats, strict=True)))
    true = whole.rotated[:, 0]
    value, gaps = _statistics(_over_repeats(true), levels), np.array([_mean(scores) for scores in true])
    kept = [np.arange(len(rows)) != r for r in range(len(shifts.without))]
    without = np.array([_statistics(_over_repeats(true[k]), levels) for k in kept]).reshape(-1, len(value))
    without[~np.isfinite(gaps[: len(without)])] = np.nan
    return Epoch(
        value=value,
        without=without,
        rotated=_shifted(whole.rotated, shifts.rotations, levels),
        rotated_without=[_shifted(whole.rotated[k], by, levels) for k, by in zip(kept, shifts.without, strict=True)],
        placebo=_placebos(value, whole, shifts.placebos, levels),
        gap_per_repeat=gaps,
        mean_in=_mean(_over_repeats(whole.mean_in)),
        mean_out=_mean(_over_repeats(whole.mean_out)),
        in_by_split=np.array([_mean(row[~out]) for row, out in zip(ell, held, strict=True)]),
        out_by_split=np.array([_mean(row[out]) for row, out in zip(ell, held, strict=True)]),
    )


def _repeat(ell: NDArray[np.floating], held: BoolArray, usable: IntArray, turns: int) -> _Repeat:
    ok = np.isfinite(ell[:, :1])
    level = np.asarray(ell[ok.argmax()], dtype=np.float64)  # so that refits with equal log p differ by exactly 0
    x = np.where(ok, ell - level, 0.0)
    total, kept = x.sum(axis=0), ok.sum()
    sums = [_sum(x, np.roll(held, turn, axis=0) & ok) for turn in range(turns)]
    outs = [_ratio(out, n_out) for out, n_out in sums]
    ins = [_ratio(total - out, kept - n_out) for out, n_out in sums]
    rotated = np.stack(ins) - np.stack(outs)
    (out, n_out), shape = sums[0], (-1, len(level))
    fewer = [_ratio(total - out - sums[by][0], kept - n_out - sums[by][1]) for by in usable]
    scored = np.where(np.isfinite(rotated[0]), level, np.nan)
    return _Repeat(
        mean_in=ins[0] + scored,
        mean_out=outs[0] + scored,
        rotated=rotated,
        placebo=np.array([i - outs[by] for i, by in zip(fewer, usable, strict=True)]).reshape(shape),
        matched=np.array([i - outs[0] for i in fewer]).reshape(shape),
    )


def _placebos(value: FloatArray, whole: _Repeat, picks: IntArray, levels: Sequence[float]) -> FloatArray:
    """Return the statistics (m, C) of the placebos, moved by the effect of one in-split fewer on the true ones."""
    if not len(picks):
        return np.empty((0, len(value)))
    matched = _shifted(whole.matched, picks[:MATCHED], levels).mean(axis=0)
    return np.asarray(_shifted(whole.placebo, picks, levels) + (value - matched))


def _shifted(scores: FloatArray, picks: IntArray, levels: Sequence[float]) -> FloatArray:
    """Return the statistics (m, C) if the repeats use scores[r, pick[r]] (n,), for every pick (L,)."""
    repeats, step = np.arange(len(scores)), max(1, BLOCK // scores[:, 0].size)
    parts = [picks[at : at + step] for at in range(0, len(picks), step)]
    return np.concatenate([_statistics(_over_repeats(scores[repeats, part]), levels) for part in parts])  # (b, L, n)


def _statistics(scores: FloatArray, levels: Sequence[float]) -> FloatArray:
    """Return quantiles and mean (..., C) over the examples (..., n) that have a score."""
    if not np.isnan(scores).any():
        both = np.concatenate([np.quantile(scores, levels, axis=-1), scores.mean(axis=-1)[None]])  # (C, ...)
        return np.asarray(both.T)
    if scores.ndim > 1:
        return np.stack([_statistics(row, levels) for row in scores])
    kept = scores[np.isfinite(scores)]
    return _statistics(kept, levels) if len(kept) else np.full(len(levels) + 1, np.nan)


def _over_repeats(scores: FloatArray) -> FloatArray:
    """Return the mean (..., n) over the repeats (..., L, n) that score the example; NaN if none does."""
    mean = scores.mean(axis=-2)
    lacking = np.isnan(mean)
    if lacking.any():
        some = np.moveaxis(scores, -2, -1)[lacking]  # (lacking, L)
        mean[lacking] = _ratio(np.nansum(some, axis=-1), np.isfinite(some).sum(axis=-1))
    return np.asarray(mean)


def _mean(values: NDArray[np.floating]) -> np.float64:
    kept = values[np.isfinite(values)]
    return np.float64(kept.mean(dtype=np.float64) if len(kept) else np.nan)


def _sum(x: FloatArray, mask: BoolArray) -> tuple[FloatArray, FloatArray]:
    return np.einsum("sn,sn->n", x, mask), mask.sum(axis=0).astype(np.float64)


def _ratio(total: FloatArray, count: FloatArray) -> FloatArray:
    return np.asarray(np.divide(total, count, out=np.full(np.shape(total), np.nan), where=np.asarray(count) > 0))
