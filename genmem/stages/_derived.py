"""What follows from log p and scores: membership inference, true scores, the list of highest scores, exact scores."""

import warnings

import numpy as np

from genmem.errors import DataError, ModelError
from genmem.leaveout import (
    MemorizationScores,
    leave_one_out,
    membership_attack,
    naming_power,
    planned_model,
    prevalence,
    selected_interval,
)
from genmem.models.leave_one_out import has_closed_form
from genmem.run.directory import Run
from genmem.run.storage import Arrays

LISTED = 25  # examples with the highest scores that a report lists
POWER_AT = (1.0, 3.0)  # nats


# --- membership inference


def write_attack(run: Run) -> Arrays:
    """Write results/membership.npz, a membership-inference attack on the refits (see `MembershipAttack.to_arrays`).

    Returns:
        The arrays written; none with one repeat, or if failed refits leave too few shadow models.
    """
    run.drop_results("membership")
    splits = run.used_splits()
    try:
        found = membership_attack(
            run.log_probs(), splits.held_out, splits.repeat, groups=run.data().groups, seed=run.seed
        )
    except DataError:  # fewer than two repeats; the findings say so
        return {}
    arrays = found.to_arrays()
    run.write_result("membership", **arrays)
    return arrays


# --- true scores


def write_prevalence(run: Run, scores: MemorizationScores) -> Arrays:
    """Write results/prevalence.npz, how many examples are memorized by more than a threshold (see `prevalence`).

    Returns:
        The arrays written; none if the noise of the scores is not known, as with fewer than three repeats.
    """
    run.drop_results("prevalence")
    try:
        arrays: Arrays = dict(prevalence(scores, seed=run.seed).to_arrays())
    except DataError:
        return {}
    run.write_result("prevalence", **arrays)
    return arrays


# --- the list of highest scores


def write_list(run: Run, scores: MemorizationScores, true: Arrays) -> None:
    """Write results/list.npz, the examples with the highest scores and how far these can be trusted.

    `examples` (k,), `expected` (k,) true scores, `interval` (2, k) valid after the selection; NaN where the noise is
    not known, or the score would not be 0 without memorization. `power` of naming an example by its true score,
    `power_at`; nothing if it is not known.
    """
    finite = np.flatnonzero(np.isfinite(scores.score))
    top = finite[np.argsort(-scores.score[finite], kind="stable")][:LISTED]
    interval = selected_interval(scores, top) if len(top) else np.empty((2, 0))
    interval = np.where(scores.balanced[top], interval, np.nan)
    expected = true["posterior_mean"][top] if true else np.full(len(top), np.nan)
    at = POWER_AT if true else ()
    power = [naming_power(scores, delta) for delta in at]
    run.write_result(
        "list", examples=top, expected=expected, interval=interval, power_at=np.array(at), power=np.array(power)
    )


# --- exact scores of models with a closed form


def write_exact(run: Run) -> Arrays:
    """Write results/exact.npz, exact leave-one-out scores: `score`, `log_prob_in`, `log_prob_out`, (n,) each.

    Returns:
        The arrays written; none for a model without a closed form.
    """
    run.drop_results("exact")
    try:
        model = planned_model(run, None)
    except ModelError:  # it cannot be imported here; the refits no longer need it
        return {}
    if not has_closed_form(model):
        return {}
    try:
        found = leave_one_out(model, np.asarray(run.data().X))
    except (DataError, ModelError) as error:  # no closed form for these settings; the scores of refits remain
        warnings.warn(f"Exact leave-one-out scores were not computed: {error}", stacklevel=3)
        return {}
    arrays = {"score": found.score, "log_prob_in": found.log_prob_in, "log_prob_out": found.log_prob_out}
    run.write_result("exact", **arrays)
    return arrays
