"""Beside the scores of refits, the exact leave-one-out scores of models that have a closed form."""

import warnings

import numpy as np

from genmem.errors import DataError, ModelError
from genmem.leaveout import leave_one_out, planned_model
from genmem.models import KernelDensity, KNNDensity, TorchKernelDensity
from genmem.run import Run
from genmem.storage import Arrays

CLOSED_FORM = (KernelDensity, TorchKernelDensity, KNNDensity)


def write_exact(run: Run) -> Arrays:
    """Write results/exact.npz, the scores with one example left out: `score`, `log_prob_in`, `log_prob_out`, (n,) each.

    Returns:
        What was written; nothing for a model without a closed form.
    """
    run.drop_results("exact")
    try:
        model = planned_model(run, None)
    except ModelError:  # it cannot be imported here; the refits do not need it any more
        return {}
    if type(model) not in CLOSED_FORM:
        return {}
    try:
        found = leave_one_out(model, np.asarray(run.data().X))
    except (DataError, ModelError) as error:  # no closed form for these settings: the scores of refits stand
        warnings.warn(f"No exact leave-one-out scores: {error}", stacklevel=3)
        return {}
    arrays = {"score": found.score, "log_prob_in": found.log_prob_in, "log_prob_out": found.log_prob_out}
    run.write_result("exact", **arrays)
    return arrays
