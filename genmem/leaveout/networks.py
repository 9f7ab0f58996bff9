"""Refits of networks: lanes side by side, halved where memory runs out, one by one where one of them raises."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from genmem.errors import RunError
from genmem.leaveout.failures import OutOfMemory, free_memory, no_memory, reason, refuse_blame
from genmem.leaveout.tasks import NOISE, Found, Group, Task
from genmem.models.base import as_tensor
from genmem.models.evaluation import log_prob
from genmem.training.ensemble import Lane, Recipe, fresh_module, noise_shape, train

Report = Callable[[float, str], None]
DIVERGED = "training diverged: its weights are not finite; a lower learning rate or rescaled data may help"


def refit_networks(task: Task, X: NDArray[Any], group: Group, lanes: int, report: Report) -> tuple[Found, int]:
    """Train and score the networks of some splits; return what they found and how many lanes fitted into memory.

    Raises:
        RunError: not even one fits into memory, or the device failed.
    """
    recipe, found = task.recipe(), Found(len(group), len(task.score_epochs), len(X))
    template = fresh_module(recipe, 0)
    _make_room(found, template, len(task.score_epochs))
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


def _make_room(found: Found, module: nn.Module, n_epochs: int) -> None:
    for name in NOISE:
        found.add(name, n_epochs)
    if callable(getattr(module, "posterior", None)):  # what refits the posterior later
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
    """Fills in what the refits of a group find."""

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
        """Train and score rows; return false where that raised and it is not known for which."""
        for row in rows:
            self.found.fail(row, "")
        try:
            self._train(rows)
        except (OutOfMemory, RunError):
            raise
        except (Exception, SystemExit) as error:  # the network is not ours
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

    def _score(self, row: int, epoch: int, module: nn.Module) -> None:
        """Fill in log p of all examples, and how noisy it is."""
        task, arrays, at = self.task, self.found.arrays, (row, self.task.score_epochs.index(epoch))
        if self.found.reasons[row]:
            return
        keys, out = (int(self.group.repeat[row]),), self.group.held_out[row]
        try:
            scored = log_prob(module, self.X, draws=task.importance_samples, seed=task.seed, keys=keys)
        except (Exception, SystemExit) as error:  # of this lane alone: the others go on
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
