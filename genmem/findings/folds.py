"""Checks of the folds: what a design with unequal or recurring folds does not tell, and how large that is."""

import math

import numpy as np

from genmem.findings.records import Check
from genmem.leaveout.estimators import repeats_of
from genmem.leaveout.matrix import remaining
from genmem.leaveout.sizes import FloatArray, Uneven, uneven, uneven_sizes, variance_factor
from genmem.run.directory import Run


def fold_checks(run: Run) -> list[Check]:
    """Return a check of the folds if their sizes differ, or if the same examples are left out together; else none."""
    left, sizes = _left(run)
    if left is None:
        return []
    scores = run.result("scores")
    balanced, few = str(scores["estimator"]) == "mean_log", len(scores["per_repeat"]) == 2
    biased, together = left.size_bias != 0, bool(np.isnan(left.variance_factor).all())
    worst = float(left.size_bias[np.abs(left.size_bias).argmax()]) if biased.any() else math.nan
    said = [] if sizes is None else [_about_sizes(left.size_bias) if balanced else _NOT_BALANCED]
    said += [_about_repeats(left.variance_factor, balanced)]
    said += ["With two repeats such folds allow no test: use three or more."] if balanced and few else []
    ok = not biased.any() and not together and balanced
    return [Check("folds", "Folds of equal size", worst, "nats", 0.0, ok, " ".join(s for s in said if s))]


def left_uneven(run: Run) -> Uneven | None:
    """Return what remains of unequal or recurring folds in the scores of a run; None if nothing."""
    return _left(run)[0]


def _left(run: Run) -> tuple[Uneven | None, FloatArray | None]:
    """Return what remains, and the training size of each split if these differ."""
    splits = run.used_splits()
    failed = np.isin(np.arange(splits.n_splits), list(run.failed()))
    rows = repeats_of(splits.held_out, splits.repeat)
    sizes = uneven_sizes(splits.held_out, rows)
    held, rows = remaining(splits.held_out, rows, failed)
    sizes = None if sizes is None else sizes[~failed]
    return uneven(run.result("scores")["score"], held, rows, sizes, variance_factor(held, rows)), sizes


_NOT_BALANCED = (
    "Folds differ in size. Scores of log_mean do not allow for it: where refits that held an example out trained on "
    "fewer examples, they are too high. Use mean_log."
)


def _about_sizes(bias: FloatArray) -> str:
    biased, worst = int((bias != 0).sum()), float(bias[np.abs(bias).argmax()])
    if not biased:
        return "Folds differ in size. Training sizes are balanced by weights."
    return (
        f"For {biased:,} of {len(bias):,} examples, no refit that trained on them had about as many training "
        f"examples as those that held them out. Without being memorized they would score about {worst:+.2f} nats "
        "at most. They are not tested. Use smaller groups or more folds."
    )


def _about_repeats(factor: FloatArray, balanced: bool) -> str:
    if np.isnan(factor).all():
        return (
            "The same examples are always left out together, so repeats are not independent: there are no errors and "
            "no tests. Use many more groups than folds."
        )
    often = int((factor != 1).sum())
    if not often:
        return ""
    untested = "those without other company in any repeat are not tested" if balanced else "they are not tested"
    return (
        f"{often:,} of {len(factor):,} examples are often left out with the same others, so repeats are not "
        f"independent for them: standard errors are raised, and {untested}."
    )
