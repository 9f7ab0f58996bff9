"""Refit a model with examples left out, shard by shard: `log_probs[split, epoch, example]`."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import nn

from genmem.errors import GenmemError, ModelError, RunError
from genmem.leaveout.choosing import ensure_probe, planned_model, scored_epochs
from genmem.models.base import DeepDensity, as_tensor
from genmem.models.evaluation import log_prob
from genmem.models.naming import fresh
from genmem.plan import versions
from genmem.progress import Listener, Progress, ignore
from genmem.run import Run
from genmem.seeding import seed32
from genmem.splits import Splits
from genmem.storage import Arrays
from genmem.training.ensemble import Lane, Recipe, takes_noise, train

Report = Callable[[float, str], None]
NOISE = ("effective_draws", "variance_in", "variance_out")


@dataclass(frozen=True)
class Task:
    """All that a shard depends on: a worker needs this and an index."""

    model: Any
    X: NDArray[Any]
    splits: Splits
    seed: int
    score_epochs: tuple[int, ...]
    importance_samples: int
    method: str
    device: str

    @property
    def n_keep(self) -> int:
        """The fewest examples any refit sees: all of them take as many steps as that allows."""
        return int((~self.splits.held_out).sum(1).min())

    def recipe(self) -> Recipe:
        """Return the training recipe that all refits share (networks only)."""
        recipe: Recipe = self.model.recipe(self.X.shape[1:], self.n_keep, seed=self.seed)
        return recipe

    def splits_of(self, shards: Sequence[int]) -> NDArray[np.intp]:
        """Return the splits of some shards, in order."""
        return np.flatnonzero(np.isin(self.splits.shard, shards))


def refit(
    run: Run,
    model: Any = None,
    *,
    executor: Executor | None = None,
    lanes: int | Literal["auto"] = "auto",
    progress: Listener = ignore,
) -> None:
    """Compute every missing shard of a run; what is there is kept, so calling it again resumes.

    Args:
        run: a planned run.
        model: the planned model; needed only where it cannot be imported from the plan (a lambda, a class
            of a notebook).
        executor: where shards are computed: any `concurrent.futures.Executor`; None is this process.
            Workers return arrays and only this process writes.
        lanes: networks trained in one batch; "auto" is what the probe found. It changes no number, except the last
            digit where layers have odd widths.
        progress: told of epochs and networks done.

    Raises:
        RunError: the run is in use by another process, a shard is damaged, or the disk is full.
        ModelError: a refit raised, diverged, or the model is not the planned one.
    """
    if lanes != "auto" and lanes < 1:
        raise ModelError(expected='lanes of 1 or more, or "auto"', got=repr(lanes), do="Change the number of lanes.")
    _refuse_fork(executor)
    with run.lock():
        task = make_task(run, model)
        pending = run.pending()
        if not pending:
            return
        width = int(ensure_probe(run, model)["lanes"]) if lanes == "auto" else lanes
        groups, meter = _groups(task, pending, width), _Meter(task, pending, progress)
        for shard, arrays in _computed(task, groups, width, executor, meter):
            if shard in pending:  # a group may hold finished shards too
                run.write_shard(shard, **arrays)


def _refuse_fork(executor: Executor | None) -> None:
    context = getattr(executor, "_mp_context", None)  # of a ProcessPoolExecutor
    if context is not None and context.get_start_method() == "fork":
        raise RunError(
            expected="worker processes that start afresh",
            got="a ProcessPoolExecutor that forks: torch deadlocks in copies of a process that has computed already",
            do='Make it with `mp_context=multiprocessing.get_context("spawn")`.',
        )


def make_task(run: Run, model: Any = None) -> Task:
    """Return the task of a run, with the model rebuilt from the plan or checked against it; probe if need be."""
    model = planned_model(run, model)
    choice = ensure_probe(run, model)
    if isinstance(model, DeepDensity):
        model = clone(model).set_params(device=choice["device"])
    run.check_unchanged()
    return Task(
        model=model,
        X=np.asarray(run.data().X),
        splits=run.splits(),
        seed=run.seed,
        score_epochs=scored_epochs(model, run.score_epochs),
        importance_samples=run.importance_samples,
        method=choice["method"],
        device=choice["device"],
    )


def _groups(task: Task, pending: Sequence[int], lanes: int) -> list[list[int]]:
    """Cut the shards into groups that train together where one does not fill the lanes; return those with work.

    The cut does not depend on what is pending: a resumed run trains the same lanes side by side, so its numbers
    are the same to the last bit even where matrix products round by position.
    """
    shards = [int(i) for i in np.unique(task.splits.shard)]
    together = 1
    if task.method == "lanes":
        together = max(1, lanes // int(np.bincount(task.splits.shard).max()))
    groups = [shards[i : i + together] for i in range(0, len(shards), together)]
    return [group for group in groups if set(group) & set(pending)]


def _batches(task: Task, splits: NDArray[np.intp], lanes: int) -> list[NDArray[np.intp]]:
    """Cut splits into the batches they train in; networks that draw their own noise share it within a repeat only."""
    if task.method != "lanes":
        return [splits[i : i + 1] for i in range(len(splits))]
    changes = np.flatnonzero(np.diff(task.splits.repeat[splits])) + 1
    parts = [splits] if takes_noise(task.recipe()) else np.split(splits, changes)
    return [part[i : i + lanes] for part in parts for i in range(0, len(part), lanes)]


class _Meter:
    """Turns what a group is doing into reports of refits done."""

    def __init__(self, task: Task, pending: Sequence[int], listener: Listener) -> None:
        self.task, self.pending, self.listener = task, set(pending), listener
        self.total = len(task.splits.repeat)
        self.done = self.total - len(task.splits_of(pending))
        self.report(0, "")

    def report(self, within: float, detail: str) -> None:
        self.listener(Progress("refit", min(self.done + within, self.total), self.total, detail))

    def finished(self, group: Sequence[int]) -> None:
        self.done += len(self.task.splits_of([i for i in group if i in self.pending]))
        self.report(0, "")


def _computed(
    task: Task, groups: Sequence[list[int]], lanes: int, executor: Executor | None, meter: _Meter
) -> Iterator[tuple[int, Arrays]]:
    if executor is None:
        for group in groups:
            arrays = compute_shards(task, group, lanes, meter.report)
            meter.finished(group)
            yield from arrays.items()
        return
    futures = {executor.submit(compute_shards, task, group, lanes): group for group in groups}
    try:
        for future in as_completed(list(futures)):
            arrays = future.result()
            meter.finished(futures.pop(future))
            yield from arrays.items()
    finally:
        for future in futures:
            future.cancel()


def compute_shards(
    task: Task, shards: Sequence[int], lanes: int = 1, report: Report = lambda within, detail: None
) -> dict[int, Arrays]:
    """Return the arrays of some shards: a pure function of the task and the index, whatever the lanes.

    Each shard has `log_probs` (splits, epochs, n) float32, nats, and for networks `effective_draws`, `variance_in` and
    `variance_out` (splits, epochs): means over the examples that were seen or held out of what `log_prob` says of its
    draws. `versions` (splits,) holds those of the libraries that computed it, as JSON.

    Raises:
        ModelError: a refit raised or diverged; the message names the split.
    """
    splits = task.splits_of(shards)
    if isinstance(task.model, DeepDensity):
        try:
            arrays = _deep_splits(task, splits, lanes, report)
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:  # of the user's network
            if isinstance(error, GenmemError):
                raise
            raise _failed(task, f"splits {splits[0]} to {splits[-1]}", error) from error
    else:
        arrays = _fitted_splits(task, splits, report)
    _refuse_undefined(arrays["log_probs"], splits)
    arrays["versions"] = np.full(len(splits), json.dumps(versions(), sort_keys=True))
    of = task.splits.shard[splits]
    return {int(i): {name: array[of == i] for name, array in arrays.items()} for i in np.unique(of)}


def _fitted_splits(task: Task, splits: NDArray[np.intp], report: Report) -> Arrays:
    found = np.empty((len(splits), 1, len(task.X)), np.float32)
    for row, split in enumerate(splits):
        report(row, "")
        try:
            fitted = _seeded(fresh(task.model), task.seed, int(split)).fit(task.X[~task.splits.held_out[split]])
            found[row, 0] = _one_each(fitted.score_samples(task.X), len(task.X))
        except GenmemError:
            raise
        except (Exception, SystemExit) as error:  # the model is not ours: say which refit failed, and how
            raise _failed(task, f"split {split}", error) from error
    return {"log_probs": found}


def _one_each(log_probs: Any, n: int) -> NDArray[Any]:
    found = np.asarray(log_probs)
    if found.shape != (n,) or found.dtype.kind not in "fiu":
        raise ValueError(
            f"score_samples returned {found.dtype} of shape {found.shape}; one real number a row is needed"
        )
    return found


def _failed(task: Task, what: str, error: BaseException) -> ModelError:
    return ModelError(
        expected=f"{type(task.model).__name__} to fit and score {what}",
        got=f"{type(error).__name__}: {error}",
        do="Check the model's settings against the shape and size of the data.",
    )


def _seeded(model: Any, seed: int, split: int) -> Any:
    """Return the model with a seed of its own for the split, where it takes one."""
    if hasattr(model, "get_params") and "random_state" in model.get_params():
        model.set_params(random_state=seed32(seed, "fit", split))
    return model


def _deep_splits(task: Task, splits: NDArray[np.intp], lanes: int, report: Report) -> Arrays:
    recipe, X = task.recipe(), as_tensor(task.X, torch.device(task.device))
    shape = (len(splits), len(task.score_epochs))
    arrays: Arrays = {name: np.empty(shape) for name in NOISE}
    arrays["log_probs"] = np.empty((*shape, len(X)), np.float32)
    first = 0
    for some in _batches(task, splits, lanes):
        score = _Scorer(task, X, some, first, arrays)

        def tick(_: int, epoch: int, first: int = first, n: int = len(some)) -> None:
            report(first + n * epoch / recipe.epochs, f"epoch {epoch} of {recipe.epochs}")

        train(
            recipe,
            X,
            [Lane(np.flatnonzero(~task.splits.held_out[s]), int(s), int(task.splits.repeat[s])) for s in some],
            batched=task.method == "lanes",
            on_epoch=score,
            at_epochs=task.score_epochs,
            tick=tick,
        )
        first += len(some)
    return arrays


@dataclass(frozen=True)
class _Scorer:
    """Fills in log p of all examples, and how noisy it is, for one batch of splits that starts at row `first`."""

    task: Task
    X: torch.Tensor
    splits: NDArray[np.intp]
    first: int
    arrays: Arrays

    def __call__(self, epoch: int, lane: int, module: nn.Module) -> None:
        task, split = self.task, self.splits[lane]
        at = (self.first + lane, task.score_epochs.index(epoch))
        keys = (int(task.splits.repeat[split]),)
        found = log_prob(module, self.X, draws=task.importance_samples, seed=task.seed, keys=keys)
        out = task.splits.held_out[split]
        self.arrays["log_probs"][at] = found.log_prob
        self.arrays["effective_draws"][at] = found.effective_draws.mean()
        self.arrays["variance_in"][at] = found.variance[~out].mean()
        self.arrays["variance_out"][at] = found.variance[out].mean() if out.any() else np.nan


def _refuse_undefined(log_probs: NDArray[np.float32], splits: NDArray[np.intp]) -> None:
    bad = np.argwhere(~np.isfinite(log_probs))
    if len(bad):
        row, _, example = bad[0]
        raise ModelError(
            expected="finite log-probabilities",
            got=f"{log_probs[tuple(bad[0])]} for example {example} under split {splits[row]} ({len(bad)} in all)",
            do="Where training diverged, lower the learning rate or rescale the data; a density that is 0 somewhere "
            "has no score there.",
        )
