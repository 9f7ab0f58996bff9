"""The finding about the effective number of parameters."""

import numpy as np

from genmem.findings.folds import left_uneven
from genmem.findings.records import Finding
from genmem.leaveout.effective import effective_parameters
from genmem.run.directory import Run
from genmem.stats import Rate

SPIEGELHALTER = "Spiegelhalter et al. 2002, doi.org/10.1111/1467-9868.00353"


def find_effective(run: Run) -> list[Finding]:
    """Return the effective number of parameters by the mean score.

    None if it would mislead: refits take fewer steps than the model, exact leave-one-out scores disagree by more than
    10% or are infinite (a kernel density, k-NN), scores are not differences of mean log p, the examples left out
    together belong together, so that their score is the effect of a whole group, or the mean score is not above 0.
    """
    scores = run.result("scores")
    steps_differ = run.n_matched is None and "refit_steps" in (run.probe or {})
    if str(scores["estimator"]) != "mean_log" or steps_differ or _by_group(run):
        return []
    n, size = scores["score"].size, float((~run.used_splits().held_out).sum(1).mean())
    refits, exact = (scores["per_repeat"], size), _exact(run)
    if exact is None or not np.isfinite(effective_parameters([refits, *exact]).parameters.value):
        return []
    found = effective_parameters([refits])
    if found.parameters.value <= 0:  # noise
        return []
    return [
        Finding(
            "effective_parameters",
            "memorized",
            "Effective number of parameters",
            found.parameters.value,
            interval=found.parameters.interval,
            n=n,
            unit="parameters",
            sentence=f"The model spends as much on single examples as {_counted(found.parameters)} would. If one "
            f"example is left out alone, its score is {found.leave_one_out.value:.2f} nats on average.",
            meaning=f"The mean score times the {size:,.0f} training examples of a refit, which does not depend on the "
            "number of folds if scores fall as one over the number of examples. "
            + (
                "Exact leave-one-out scores agree. "
                if exact
                else "Another number of folds would show whether they do. "
            )
            + "It is about the mean only, not about single examples.",
            source=SPIEGELHALTER,
        )
    ]


def _counted(found: Rate) -> str:
    """Return a number of parameters with its interval."""
    value, (low, high) = round(found.value), found.interval
    within = f" (95% interval {low:,.0f} to {high:,.0f})" if np.isfinite([low, high]).all() else ""
    return f"{value:,} free parameter{'' if value == 1 else 's'}{within}"


def _by_group(run: Run) -> bool:
    """Return whether whole groups are left out: given ones, one at a time, or groups that recur in the repeats."""
    splits = run.used_splits()
    one_at_a_time = splits.kind == "leave_out" and bool(splits.held_out.sum(axis=1).max() > 1)
    groups = run.data().groups
    several = groups is not None and len(np.unique(groups)) < len(groups)
    return several or one_at_a_time or left_uneven(run) is not None


def _exact(run: Run) -> list[tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], float]] | None:
    """Return exact leave-one-out scores as a design, nothing if the model has none; None if some are infinite."""
    if not run.has_result("exact"):
        return []
    score = np.asarray(run.result("exact")["score"], dtype=np.float64)
    return [(score[None], float(score.size))] if np.isfinite(score).all() else None
