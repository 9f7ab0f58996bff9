"""The score from log p under splits that trained on an example and splits that held it out: two ways to average.

An estimate takes log p (n_splits, b), the splits an example is out of and in, both (n_splits, b) bool, and the splits
of each repeat. An example without in-splits or out-splits in a repeat has no score in that repeat. "mean_log" balances
the training sizes of in- and out-splits (`sizes`) if it is given those of all splits.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.leaveout.sizes import balance
from genmem.seeding import stream

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
    """Return the mean over the first axis of the values under the mask; NaN if there are none."""
    return ratio_where(values.sum(axis=0, where=mask), mask.sum(axis=0))


def ratio_where(total: FloatArray, count: NDArray[np.number]) -> FloatArray:
    """Return total / count, NaN where the count is 0 or less."""
    ratio: FloatArray = np.full(np.shape(total), np.nan)
    np.divide(total, count, out=ratio, where=count > 0)
    return ratio


def mean_log(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows, sizes: FloatArray | None = None) -> Pair:
    """Return the mean over repeats of the mean log p, in and out."""
    level, ell = ell[0], ell - ell[0]  # so that refits with equal log p differ by exactly 0
    mean_in, mean_out = _in_means(ell, out, in_, rows, sizes), _repeat_means(ell, out, rows)
    there = ~np.isnan(mean_in - mean_out)
    return level + mean_where(mean_in, there), level + mean_where(mean_out, there)


def differences(
    ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows, sizes: FloatArray | None = None
) -> FloatArray:
    """Return the "mean_log" score within each repeat: (L, b)."""
    ell = ell - ell[0]
    return _in_means(ell, out, in_, rows, sizes) - _repeat_means(ell, out, rows)


def _in_means(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows, sizes: FloatArray | None) -> FloatArray:
    if sizes is None:
        return _repeat_means(ell, in_, rows)
    weights = balance(out, in_, rows, sizes).weights
    return np.stack([ratio_where((ell[r] * weights[r]).sum(axis=0), weights[r].sum(axis=0)) for r in rows])


def _repeat_means(ell: FloatArray, mask: BoolArray, rows: Rows) -> FloatArray:
    return np.stack([mean_where(ell[r], mask[r]) for r in rows])


def log_mean(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows) -> Pair:
    """Return the log of the mean density over all splits, in and out."""
    return _pool(*_log_sums(ell, in_, rows)), _pool(*_log_sums(ell, out, rows))


def pseudo_values(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows) -> FloatArray:
    """Return jackknife pseudo-values (L, b) of the "log_mean" score, one per repeat; their mean is the score."""
    ins, outs = _log_sums(ell, in_, rows), _log_sums(ell, out, rows)
    score, there = _pool(*ins) - _pool(*outs), ins[1] > 0
    kept = [np.arange(len(rows)) != r for r in range(len(rows))]
    left = np.stack([_pool(ins[0][k], ins[1][k]) - _pool(outs[0][k], outs[1][k]) for k in kept])
    repeats = there.sum(axis=0)
    centred = np.where(repeats > 1, (repeats - 1) * (left - mean_where(left, there)), 0.0)
    return np.where(there, score - centred, np.nan)


def _log_sums(ell: FloatArray, mask: BoolArray, rows: Rows) -> tuple[FloatArray, FloatArray]:
    """Return, for each repeat, the log of the sum of densities and their number: (L, b) each."""
    sums = [np.logaddexp.reduce(ell[r], axis=0, where=mask[r], initial=-np.inf) for r in rows]
    return np.stack(sums), np.stack([mask[r].sum(axis=0) for r in rows]).astype(np.float64)


def _pool(log_sums: FloatArray, counts: FloatArray) -> FloatArray:
    """Return the log of the mean density over repeats, NaN if there is none."""
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


# --- the splits of a repeat


def repeats_of(held_out: NDArray[np.bool_], repeat: ArrayLike | None = None) -> list[NDArray[np.intp]]:
    """Return the splits of each repeat.

    Args:
        held_out: (n_splits, n) bool.
        repeat: (n_splits,) the repeat of each split. Without it, consecutive splits whose held-out sets partition
            the examples form one repeat.

    Raises:
        DataError: the repeats cannot be inferred, or an example is never in or never out within one.

    >>> repeats_of(np.tile(np.eye(2, dtype=bool), (2, 1)))
    [array([0, 1]), array([2, 3])]
    """
    ids = _partitions(held_out) if repeat is None else np.asarray(repeat)
    if ids.shape != held_out.shape[:1]:
        raise DataError(
            expected=f"one repeat per split, shape ({len(held_out)},)",
            got=f"shape {ids.shape}",
            do="Pass `Splits.repeat` of the design.",
        )
    rows = [np.flatnonzero(ids == value) for value in np.unique(ids)]
    for r in rows:
        _require_both(held_out[r], ids[r[0]])
    return rows


def _partitions(held_out: NDArray[np.bool_]) -> NDArray[np.intp]:
    ids, count = np.zeros(len(held_out), np.intp), np.zeros(held_out.shape[1], np.intp)
    for s, row in enumerate(held_out):
        ids[s:] += count.all()
        count = count * (not count.all()) + row
        if count.max(initial=0) > 1:
            raise _unknown_repeats(f"example {count.argmax()} out twice before all were out once, by split {s}")
    if not count.all():
        raise _unknown_repeats(f"example {count.argmin()} never out in the splits after the last whole repeat")
    return ids


def _unknown_repeats(got: str) -> DataError:
    return DataError(
        expected="consecutive splits that hold out every example once, repeat after repeat",
        got=got,
        do="Pass `repeat`, the repeat each split belongs to (`Splits.repeat` of the design).",
    )


def _require_both(held_out: NDArray[np.bool_], repeat: object) -> None:
    never_out, never_in = ~held_out.any(axis=0), held_out.all(axis=0)
    for missing, what in ((never_out, "never left out in"), (never_in, "left out of every split of")):
        if missing.any():
            raise DataError(
                expected="every example trained on at least once and held out at least once within each repeat",
                got=f"example {missing.argmax()} {what} repeat {repeat}",
                do="Use a balanced design (Splits.k_fold or Splits.subsets), or drop that repeat or example.",
            )


def placebo_shifts(
    held_out: NDArray[np.bool_], rows: list[NDArray[np.intp]], seed: int, limit: int
) -> NDArray[np.intp]:
    """Return (m, L): by how many splits each placebo shifts the held-out sets of each repeat, m <= limit.

    All examples of a repeat have the same shift, so that what they share stays shared; no shift occurs twice.
    """
    usable = [_usable_shifts(held_out[r], stream(seed, "placebo", i), limit) for i, r in enumerate(rows)]
    m = min(map(len, usable))
    return np.array([shifts[:m] for shifts in usable], dtype=np.intp).T


def _usable_shifts(held: NDArray[np.bool_], rng: np.random.Generator, limit: int) -> list[int]:
    """Return random shifts that never hold out an example in its true held-out split, and train on each somewhere."""
    found: list[int] = []
    for shift in 1 + rng.permutation(len(held) - 1):
        if len(found) == limit:
            break
        moved = np.roll(held, shift, axis=0)
        if not (moved & held).any() and not (moved | held).all(axis=0).any():
            found.append(int(shift))
    return found


def shifted(held_out: NDArray[np.bool_], rows: list[NDArray[np.intp]], shift: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return the held-out sets of each repeat, shifted by `shift` (L,) splits: (n_splits, n)."""
    moved = np.zeros_like(held_out)
    for r, by in zip(rows, shift, strict=True):
        moved[r] = np.roll(held_out[r], by, axis=0)
    return moved
