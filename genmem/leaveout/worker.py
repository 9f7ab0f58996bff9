"""What a worker does: some shards of a run, as a pure function of the task and their splits; it writes nothing.

Networks are refitted as lanes side by side, in halves if memory runs out, one by one if one of them raises. An error is
due either to one refit, and the others continue, or to the machine, and all stop.
"""

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from genmem.errors import GenmemError, ModelError, RunError
from genmem.leaveout.tasks import NOISE, Found, Group, Task
from genmem.models.base import DeepDensity, as_tensor
from genmem.models.coupling import UnfitToScore
from genmem.models.evaluation import log_prob
from genmem.models.factory import fresh
from genmem.models.refitted import log_probs_of_refit
from genmem.run.plan import versions
from genmem.run.storage import Arrays
from genmem.seeding import seed32
from genmem.training.ensemble import Lane, Recipe, fresh_module, noise_shape, train

LONGEST = 300


class OutOfMemory(Exception):
    """The machine or its accelerator has no memory left for a computation."""


def reason(error: BaseException) -> str:
    r"""Return what went wrong in one line.

    >>> reason(ValueError("two\nlines"))
    'ValueError: two lines'
    """
    said = f"expected {error.expected}, got {error.got}" if isinstance(error, GenmemError) else str(error)
    return f"{type(error).__name__}: {' '.join(said.split())}"[:LONGEST]


def refuse_blame(error: BaseException) -> None:
    """Raise an error that no single refit causes: another refit would fail too, or none with fewer at once.

    Raises:
        OutOfMemory: there is no memory left.
        RunError: the device has failed, and so will every later call to it.
    """
    if isinstance(error, OutOfMemory):
        raise error
    said = str(error).lower()
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if memory or (isinstance(error, RuntimeError) and ("out of memory" in said or "allocate memory" in said)):
        raise OutOfMemory(reason(error)) from error
    if isinstance(error, RuntimeError) and "cuda error" in said:
        raise RunError(
            expected="a device that works",
            got=reason(error),
            do="Run the same command again in a new process; what is finished is kept.",
        ) from error


def no_memory(error: BaseException) -> RunError:
    """Return the error for a machine whose memory does not hold even one refit."""
    return RunError(
        expected="enough memory for one refit",
        got=str(error),
        do="Use fewer --workers, a smaller batch_size or network, fewer --importance-samples, or a larger machine.",
    )


def free_memory() -> None:
    """Release what a failed attempt left in memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- refits of networks


Report = Callable[[float, str], None]
DIVERGED = "training diverged: its weights are not finite; a lower learning rate or rescaled data may help"


def refit_networks(task: Task, X: NDArray[Any], group: Group, lanes: int, report: Report) -> tuple[Found, int]:
    """Train and score the networks of some splits; return their results and how many lanes fitted into memory.

    Raises:
        RunError: not even one fits into memory, or the device failed.
    """
    recipe, found = task.recipe(), Found(len(group), len(task.score_epochs), len(X))
    template = fresh_module(recipe, 0)
    _make_room(found, template, len(task.score_epochs), task.keep_weights)
    refits = _Refits(task, recipe, as_tensor(X, torch.device(task.device)), group, found, report)
    apart = noise_shape(template) is None
    start, lanes = 0, lanes if task.method == "lanes" else 1
    while start < len(group):
        rows = _next_batch(group, start, lanes, apart)
        if refits.fit(rows):
            start += len(rows)
        else:
            lanes = (len(rows) + 1) // 2
            free_memory()
    return found, lanes


def _make_room(found: Found, module: nn.Module, n_epochs: int, keep_weights: bool) -> None:
    for name in NOISE:
        found.add(name, n_epochs)
    if keep_weights or callable(getattr(module, "posterior", None)):  # posteriors may be fitted later
        for name, value in module.state_dict().items():
            found.add(f"weights/{name}", *value.shape, dtype=np.float32)


def _next_batch(group: Group, start: int, lanes: int, apart: bool) -> range:
    """Return the rows to train next; networks that draw their own noise share it within a repeat only."""
    stop = min(start + lanes, len(group))
    if apart:
        same = group.repeat[start:stop] == group.repeat[start]
        stop = start + int(np.cumprod(same).sum())
    return range(start, stop)


@dataclass(frozen=True)
class _Refits:
    """Fills in the results of the refits of a group."""

    task: Task
    recipe: Recipe
    X: torch.Tensor
    group: Group
    found: Found
    report: Report

    def fit(self, rows: Sequence[int]) -> bool:
        """Train and score some rows side by side; return whether they fitted into memory."""
        try:
            if not self._trained(rows):  # one of them raised: alone, it fails alone
                for row in rows:
                    self._trained([row])
        except OutOfMemory as error:
            if len(rows) == 1:
                raise no_memory(error) from error
            return False
        return True

    def _trained(self, rows: Sequence[int]) -> bool:
        """Train and score rows; return false if that raised and it is unknown for which row."""
        for row in rows:
            self.found.fail(row, "")
        try:
            self._train(rows)
        except (OutOfMemory, RunError, UnfitToScore):
            raise
        except (Exception, SystemExit) as error:  # of the user's network
            refuse_blame(error)
            if len(rows) > 1:
                return False
            self.found.fail(rows[0], reason(error))
        return True

    def _train(self, rows: Sequence[int]) -> None:
        group, epochs = self.group, self.recipe.epochs

        def score(epoch: int, lane: int, module: nn.Module) -> None:
            self._score(rows[lane], epoch, module)

        def tick(_: int, epoch: int) -> None:
            self.report(rows[0] + len(rows) * epoch / epochs, f"epoch {epoch} of {epochs}")

        lanes = [
            Lane(np.flatnonzero(~group.held_out[row]), int(group.split[row]), int(group.repeat[row])) for row in rows
        ]
        batched = self.task.method == "lanes"
        at = self.task.score_epochs
        modules = train(self.recipe, self.X, lanes, batched=batched, on_epoch=score, at_epochs=at, tick=tick)
        for row, module in zip(rows, modules, strict=True):
            self._keep(row, module)
        if rows[0] == 0 and not self.found.reasons[0]:  # one trained network of the group shows it
            self.task.model.check_trained(modules[0], self.X)

    def _score(self, row: int, epoch: int, module: nn.Module) -> None:
        """Fill in log p of all examples, and its noise."""
        task, arrays, at = self.task, self.found.arrays, (row, self.task.score_epochs.index(epoch))
        if self.found.reasons[row]:
            return
        keys, out = (int(self.group.repeat[row]),), self.group.held_out[row]
        try:
            scored = log_prob(module, self.X, draws=task.importance_samples, seed=task.seed, keys=keys)
        except (Exception, SystemExit) as error:  # of this lane only: the others continue
            refuse_blame(error)
            self.found.fail(row, reason(error))
            return
        arrays["log_probs"][at] = scored.log_prob
        arrays["effective_draws"][at] = scored.effective_draws.mean()
        arrays["variance_in"][at] = scored.variance[~out].mean()
        arrays["variance_out"][at] = scored.variance[out].mean() if out.any() else np.nan

    def _keep(self, row: int, module: nn.Module) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
            self.found.fail(row, self.found.reasons[row] or DIVERGED)
        for name, value in module.state_dict().items():
            kept = self.found.arrays.get(f"weights/{name}")
            if kept is not None:
                kept[row] = value.detach().cpu().float().numpy()


# --- shards


@dataclass(frozen=True)
class Computed:
    """The arrays of some shards, and how many lanes fitted into memory."""

    shards: dict[int, Arrays]
    lanes: int


def compute_where_it_is(task: Task, group: Group, lanes: int, X: NDArray[Any] | None = None) -> Computed | None:
    """Do `compute_shards` on a worker, with the examples it was sent or finds; None if they must be sent."""
    X = task.source.read() if X is None else task.source.hold(np.asarray(X))
    return None if X is None else compute_shards(task, group, lanes, X)


def compute_shards(
    task: Task, group: Group, lanes: int, X: NDArray[Any], report: Report = lambda within, detail: None
) -> Computed:
    """Return the arrays of some shards: a pure function of the task and their splits, whatever the lanes.

    Each shard has `log_probs` (splits, epochs, n) float32, nats, and for networks `effective_draws`, `variance_in` and
    `variance_out` (splits, epochs): the effective sample size and the variance over draws of `log_prob`, averaged over
    the examples trained on or held out. Networks with a `posterior`, and all if the task asks for it, keep their
    trained weights, as `weights/<name in the state dict>` (splits, *shape). `versions` (splits,) holds those of the
    libraries, as JSON.

    A refit fails if it raises, diverges or yields a log p that is not finite. Its rows are NaN, and `failed` (splits,)
    says why; it is "" for other refits.

    Raises:
        RunError: out of memory with one refit at a time, or the device failed.
        ModelError: the model raised before any refit began.
    """
    try:
        arrays, lanes = _refitted(task, group, lanes, X, report)
    except GenmemError:
        raise
    except Exception as error:  # of the user's model
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
        make = partial(_fresh, task, int(group.split[row]))
        log_probs = log_probs_of_refit(make, X, ~group.held_out[row])
        found.arrays["log_probs"][row, 0] = _one_each(log_probs, len(X))
    except (Exception, SystemExit) as error:  # of the user's model: report which refit failed, and why
        refuse_blame(error)
        found.fail(row, reason(error))


def _one_each(log_probs: Any, n: int) -> NDArray[Any]:
    found = np.asarray(log_probs)
    if found.shape != (n,) or found.dtype.kind not in "fiu":
        raise ValueError(
            f"score_samples returned {found.dtype} of shape {found.shape}; one real number per row is needed"
        )
    return found


def _fresh(task: Task, split: int) -> Any:
    """Return an unfitted copy of the model with its own seed for the split, if it takes one."""
    model, seed = fresh(task.model), task.seed
    if hasattr(model, "get_params") and "random_state" in model.get_params():
        model.set_params(random_state=seed32(seed, "fit", split))
    return model
