"""What a worker does: some shards of a run, as a pure function of the task and their splits; it writes nothing."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import GenmemError, ModelError
from genmem.leaveout.failures import OutOfMemory, no_memory, reason, refuse_blame
from genmem.leaveout.networks import Report, refit_networks
from genmem.leaveout.tasks import Found, Group, Task
from genmem.models.base import DeepDensity
from genmem.models.naming import fresh
from genmem.models.torch_kde import exact_leaves
from genmem.plan import versions
from genmem.seeding import seed32
from genmem.storage import Arrays


@dataclass(frozen=True)
class Computed:
    """The arrays of some shards, and how many lanes fitted into memory."""

    shards: dict[int, Arrays]
    lanes: int


def compute_where_it_is(task: Task, group: Group, lanes: int, X: NDArray[Any] | None = None) -> Computed | None:
    """Do `compute_shards` on a worker, with the examples it was sent or finds; None where it needs them sent."""
    X = task.source.read() if X is None else task.source.hold(np.asarray(X))
    return None if X is None else compute_shards(task, group, lanes, X)


def compute_shards(
    task: Task, group: Group, lanes: int, X: NDArray[Any], report: Report = lambda within, detail: None
) -> Computed:
    """Return the arrays of some shards: a pure function of the task and their splits, whatever the lanes.

    Each shard has `log_probs` (splits, epochs, n) float32, nats, and for networks `effective_draws`, `variance_in` and
    `variance_out` (splits, epochs): means over the examples that were seen or held out of what `log_prob` says of its
    draws. Networks with a `posterior` keep their trained weights, as `weights/<name in the state dict>`
    (splits, *shape). `versions` (splits,) holds those of the libraries that computed it, as JSON.

    A refit that raised, diverged or found a log p that is not finite has failed: its rows are NaN and `failed`
    (splits,) says why; "" elsewhere.

    Raises:
        RunError: out of memory with one refit at a time, or the device failed.
        ModelError: the model raised before any refit began.
    """
    try:
        arrays, lanes = _refitted(task, group, lanes, X, report)
    except GenmemError:
        raise
    except Exception as error:  # of the model, which is not ours
        raise _unusable(task, error) from error
    arrays["versions"] = np.full(len(group), json.dumps(versions(), sort_keys=True))
    shards = {int(i): {name: a[group.shard == i] for name, a in arrays.items()} for i in np.unique(group.shard)}
    return Computed(shards, lanes)


def _unusable(task: Task, error: Exception) -> GenmemError:
    try:
        refuse_blame(error)
    except OutOfMemory as full:
        return no_memory(full)
    except GenmemError as other:
        return other
    return ModelError(
        expected=f"{type(task.model).__name__} to be ready to train",
        got=reason(error),
        do="Check the model's settings against the shape and size of the data.",
    )


def _refitted(task: Task, group: Group, lanes: int, X: NDArray[Any], report: Report) -> tuple[Arrays, int]:
    if isinstance(task.model, DeepDensity):
        found, lanes = refit_networks(task, X, group, lanes, report)
    else:
        found = Found(len(group), 1, len(X))
        for row in range(len(group)):
            report(row, "")
            _refit_other(task, X, group, row, found)
    return found.settle(task.score_epochs), lanes


def _refit_other(task: Task, X: NDArray[Any], group: Group, row: int, found: Found) -> None:
    try:
        X = X.astype(np.float32) if X.dtype == np.uint8 else X  # some would square bytes as bytes
        model = exact_leaves(_seeded(fresh(task.model), task.seed, int(group.split[row])), len(X))
        fitted = model.fit(X[~group.held_out[row]])
        found.arrays["log_probs"][row, 0] = _one_each(fitted.score_samples(X), len(X))
    except (Exception, SystemExit) as error:  # the model is not ours: say which refit failed, and how
        refuse_blame(error)
        found.fail(row, reason(error))


def _one_each(log_probs: Any, n: int) -> NDArray[Any]:
    found = np.asarray(log_probs)
    if found.shape != (n,) or found.dtype.kind not in "fiu":
        raise ValueError(
            f"score_samples returned {found.dtype} of shape {found.shape}; one real number a row is needed"
        )
    return found


def _seeded(model: Any, seed: int, split: int) -> Any:
    """Return the model with a seed of its own for the split, where it takes one."""
    if hasattr(model, "get_params") and "random_state" in model.get_params():
        model.set_params(random_state=seed32(seed, "fit", split))
    return model
