"""Which splits make up a repeat, and the sham held-out sets that placebos take from it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.seeding import stream


def repeats_of(held_out: NDArray[np.bool_], repeat: ArrayLike | None = None) -> list[NDArray[np.intp]]:
    """Return the splits of each repeat.

    Args:
        held_out: (n_splits, n) bool.
        repeat: (n_splits,) the repeat of each split. Without it, consecutive splits whose held-out sets partition
            the examples form one repeat.

    Raises:
        DataError: the repeats cannot be told, or an example is never in or never out within one.

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
        expected="consecutive splits that leave every example out once, repeat after repeat",
        got=got,
        do="Pass `repeat`, the repeat each split belongs to (`Splits.repeat` of the design).",
    )


def _require_both(held_out: NDArray[np.bool_], repeat: object) -> None:
    never_out, never_in = ~held_out.any(axis=0), held_out.all(axis=0)
    for missing, what in ((never_out, "never left out in"), (never_in, "left out of every split of")):
        if missing.any():
            raise DataError(
                expected="every example in at least once and out at least once within each repeat",
                got=f"example {missing.argmax()} {what} repeat {repeat}",
                do="Use a balanced design (Splits.k_fold or Splits.subsets), or drop that repeat or example.",
            )


def sham_shifts(held_out: NDArray[np.bool_], rows: list[NDArray[np.intp]], seed: int, limit: int) -> NDArray[np.intp]:
    """Return (m, L): by how many splits each placebo shifts the held-out sets of each repeat, m <= limit.

    One shift serves all examples of a repeat, so that what they share stays shared; no shift comes twice.
    """
    usable = [_usable_shifts(held_out[r], stream(seed, "placebo", i), limit) for i, r in enumerate(rows)]
    m = min(map(len, usable))
    return np.array([shifts[:m] for shifts in usable], dtype=np.intp).T


def _usable_shifts(held: NDArray[np.bool_], rng: np.random.Generator, limit: int) -> list[int]:
    """Return random shifts that leave out no example truly left out, and leave each one in somewhere."""
    found: list[int] = []
    for shift in 1 + rng.permutation(len(held) - 1):
        if len(found) == limit:
            break
        sham = np.roll(held, shift, axis=0)
        if not (sham & held).any() and not (sham | held).all(axis=0).any():
            found.append(int(shift))
    return found


def shifted(held_out: NDArray[np.bool_], rows: list[NDArray[np.intp]], shift: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return the held-out sets of each repeat moved on by `shift` (L,) splits: (n_splits, n)."""
    sham = np.zeros_like(held_out)
    for r, by in zip(rows, shift, strict=True):
        sham[r] = np.roll(held_out[r], by, axis=0)
    return sham
