"""What the scores of a run are made of."""

import numpy as np
from numpy.typing import NDArray

from genmem.leaveout import posterior_log_probs
from genmem.run import Run
from genmem.storage import Arrays


def correction_of(run: Run) -> Arrays | None:
    """Return results/posterior.npz; None where there is none, or refits changed since it was made."""
    if not run.has_result("posterior"):
        return None
    found = run.result("posterior")
    same = int(found["repeats"]) == run.repeats and found["failed"].tolist() == sorted(run.failed())
    return found if same else None


def scored_log_probs(run: Run) -> NDArray[np.float32]:
    """Return log p after the last epoch (n_splits, n), with refitted posteriors where all examples have them."""
    if (found := correction_of(run)) is not None and found["everywhere"]:
        return posterior_log_probs(run)[1]
    return run.log_probs()


def sampled(run: Run) -> bool:
    """Return whether log p is a Monte-Carlo estimate: of a network, and not an exact one."""
    return estimate_of(run) != "exact"


def estimate_of(run: Run) -> str:
    """Return what log p is: "exact", "importance" (the log of a mean of weights) or "bound" (it is at least that)."""
    if run.probe is None or run.probe["method"] == "fit":
        return "exact"
    if "estimate" in run.probe:
        return str(run.probe["estimate"])
    effective = run.shard_arrays("effective_draws")  # of a run planned before plans said so
    return "importance" if run.importance_samples == 1 or np.nanmax(effective) > 1 else "exact"


def has_encoder(run: Run) -> bool:
    """Return whether log p goes through an encoder whose posterior can be refitted."""
    return bool((run.probe or {}).get("encoder", sampled(run)))
