"""Checks of the folds: what a design with unequal or recurring folds does not tell, and how large that is."""

import math

import numpy as np

from genmem.findings.records import Check
from genmem.leaveout.estimators import repeats_of
from genmem.leaveout.matrix import remaining
from genmem.leaveout.sizes import Uneven, uneven, uneven_sizes, variance_factor
from genmem.run.directory import Run


def fold_checks(run: Run) -> list[Check]:
    """Return a check of the folds if their sizes differ, or if the same examples are left out together; else none."""
    left = _left(run)
    if left is None:
        return []
    biased, n = left.size_bias != 0, len(left.size_bias)
    worst = float(left.size_bias[np.abs(left.size_bias).argmax()])
    sentence = "Folds differ in size. Training sizes are balanced by weights."
    if biased.any():
        sentence = (
            f"For {biased.sum():,} of {n:,} examples, no refit that trained on them had about as many training "
            f"examples as those that held them out. Without being memorized they would score about {worst:+.2f} nats "
            "at most. They are not tested. Use smaller groups or more folds."
        )
    factor = left.variance_factor
    if np.isnan(factor).any() or factor.max() > 1:
        what = "always" if np.isnan(factor).all() else "often"
        sentence += (
            f" The same examples are {what} left out together, so repeats are not independent: standard errors are "
            "raised, and examples without other company in any repeat are not tested."
        )
    return [
        Check(
            "folds", "Folds of equal size", worst if biased.any() else math.nan, "nats", 0.0, not biased.any(), sentence
        )
    ]


def _left(run: Run) -> Uneven | None:
    splits = run.used_splits()
    failed = np.isin(np.arange(splits.n_splits), list(run.failed()))
    rows = repeats_of(splits.held_out, splits.repeat)
    sizes = uneven_sizes(splits.held_out, rows)
    held, rows = remaining(splits.held_out, rows, failed)
    sizes = None if sizes is None else sizes[~failed]
    return uneven(run.result("scores")["score"], held, rows, sizes, variance_factor(held, rows))
