"""The matrix of log p, checked, and what of it is left if refits failed."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.leaveout.estimators import BoolArray, Rows, scored


def checked_matrix(log_probs: ArrayLike, held_out: ArrayLike) -> tuple[NDArray[np.floating], BoolArray, BoolArray]:
    """Return log_probs, held_out, and which splits failed (n_splits,).

    Raises:
        DataError: shapes or types are wrong, or a value of a split that did not fail is not finite.
    """
    log_p, out = np.asarray(log_probs), np.asarray(held_out)
    if log_p.ndim != 2 or log_p.shape != out.shape or not log_p.size:
        raise DataError(
            expected="log_probs and held_out of one shape (n_splits, n)",
            got=f"shapes {log_p.shape} and {out.shape}",
            do="Pass one row per refit and one column per example in both.",
        )
    if out.dtype != np.bool_ or log_p.dtype.kind not in "fiu":
        raise DataError(
            expected="real log_probs and boolean held_out",
            got=f"dtypes {log_p.dtype} and {out.dtype}",
            do="Convert them; held_out is true where the refit did not train on the example.",
        )
    failed = np.array([bool(np.isnan(row).all()) for row in log_p])
    for s in np.flatnonzero(~failed):
        if not np.isfinite(log_p[s]).all():
            raise _not_finite(log_p[s], int(s))
    return log_p, out, failed


def _not_finite(row: NDArray[np.floating], split: int) -> DataError:
    example = int(np.flatnonzero(~np.isfinite(row))[0])
    do = "Check that refit: training diverged, or its log_prob overflows."
    if row[example] == -np.inf:
        do = "Use a model that gives every example some density, or leave that example out of the audit."
    return DataError(expected="finite log_probs", got=f"{row[example]} at split {split}, example {example}", do=do)


def remaining(held: BoolArray, rows: Rows, failed: BoolArray) -> tuple[BoolArray, Rows]:
    """Return held_out without failed splits, and the repeats in which some example still has a score."""
    position = np.cumsum(~failed) - 1
    left = [position[r[~failed[r]]] for r in rows]
    held = held if not failed.any() else held[~failed]
    rows = [r for r in left if scored(held, r).any()]
    if not rows:
        raise DataError(
            expected="some repeat with refits that trained on an example and refits that held it out",
            got=f"{_named(failed)} failed (NaN throughout)",
            do="Find out why those refits failed. If training diverged, lower the learning rate; if log p is infinite "
            "(a k-NN density with k copies of an example), use another model or setting.",
        )
    return held, rows


def require_scores(held: BoolArray, rows: Rows, failed: BoolArray) -> None:
    """Raise DataError if an example has a score in no repeat."""
    without = ~np.any([scored(held, r) for r in rows], axis=0)
    if without.any():
        raise DataError(
            expected="every example both trained on and held out in at least one repeat",
            got=f"{without.sum():,} examples without a score (first: {without.argmax()}): {_named(failed)} failed",
            do="Retry them (--recompute), or fix the cause and start a new run. With more repeats a failure by chance "
            "costs no score; a model that always fails without these examples cannot score them. From Python, "
            "missing='nan' scores the others.",
        )


def _named(failed: BoolArray) -> str:
    splits = np.flatnonzero(failed)
    names = ", ".join(map(str, splits[:10])) + (", ..." if len(splits) > 10 else "")
    return f"split {names}" if len(splits) == 1 else f"splits {names}"
