"""Refit a model with examples left out, shard by shard: `log_probs[split, epoch, example]`; or once, to keep it."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from genmem.errors import DataError, GenmemError, ModelError
from genmem.leaveout.executors import local_workers, refuse_fork, size_of, spread
from genmem.leaveout.probe import ensure_probe, planned_model, scored_epochs
from genmem.leaveout.tasks import Group, Source, Task
from genmem.leaveout.worker import (
    DIVERGED,
    Computed,
    OutOfMemory,
    compute_shards,
    compute_where_it_is,
    no_memory,
    reason,
    refuse_blame,
)
from genmem.models.base import DeepDensity, as_tensor
from genmem.models.factory import fresh
from genmem.models.refitted import refitted
from genmem.protocols import Listener, Progress, ignore
from genmem.run.directory import Run
from genmem.run.splits import Splits
from genmem.run.storage import Arrays
from genmem.seeding import seed32
from genmem.training.ensemble import Lane, takes_noise, train

Count = int | Literal["auto"]
ENOUGH_GROUPS, ENOUGH_SPLITS = 2, 4  # that all failed: then the model is at fault
NAMED = 5


def refit(
    run: Run,
    model: Any = None,
    *,
    executor: Executor | None = None,
    workers: Count = "auto",
    lanes: Count = "auto",
    repeats: int | None = None,
    progress: Listener = ignore,
) -> None:
    """Compute every missing shard of a run; stored shards are kept, so calling it again resumes.

    A refit that raises or diverges is marked as failed (`run.failed()`), and the others continue.

    Args:
        run: a planned run.
        model: the planned model; needed only if it cannot be imported from the plan (a lambda, a class of a
            notebook).
        executor: where shards are computed: any `concurrent.futures.Executor`; it overrides `workers`.
            Workers return arrays and only this process writes.
        workers: processes on this machine; 1 is this process, "auto" is the number that the probe chose.
        lanes: networks trained in one batch; "auto" is the number that the probe chose. Neither changes a number,
            except the last digit if layers have odd widths.
        repeats: use only the first so many repeats; by default those in use (`run.repeats`).
        progress: is told of epochs and networks done.

    Raises:
        RunError: the run is in use by another process, a shard is damaged, the disk is full, memory does not hold one
            refit, or workers died repeatedly.
        ModelError: every refit failed, or the model is not the planned one.
    """
    for name, value in (("lanes", lanes), ("workers", workers)):
        if value != "auto" and value < 1:
            raise ModelError(
                expected=f'{name} of 1 or more, or "auto"', got=repr(value), do=f"Change the number of {name}."
            )
    refuse_fork(executor)
    with run.lock():
        task = make_task(run, model)
        if pending := run.pending(repeats):
            with compute_on(run, executor, workers) as pool:
                _refit(run, task, pending, pool, lanes, repeats, progress)


def make_task(run: Run, model: Any = None) -> Task:
    """Return the task of a run, with the model rebuilt from the plan or checked against it; probe if necessary."""
    model = planned_model(run, model)
    choice = ensure_probe(run, model)
    if isinstance(model, DeepDensity):
        model = clone(model).set_params(device=choice["device"])
    about = run.plan["data"]
    source = Source(str((run.path / "data" / "X.npy").resolve()), about["sha256"], tuple(about["event_shape"]))
    source.hold(np.asarray(run.data().X))
    return Task(
        model=model,
        source=source,
        seed=run.seed,
        score_epochs=scored_epochs(model, run.score_epochs),
        importance_samples=run.importance_samples,
        method=choice["method"],
        device=choice["device"],
        keep_weights=run.keeps_weights,
        n_keep=int((~run.splits().held_out).sum(1).min()),
        n_matched=run.n_matched,
    )


@contextmanager
def compute_on(run: Run, executor: Executor | None, workers: Count) -> Iterator[Executor | None]:
    """Yield where to compute: the executor, worker processes, or None for this process with the probe's threads."""
    probe = run.probe or {}
    n = max(1, int(probe.get("workers") or 1)) if workers == "auto" else workers
    here, asked = torch.get_num_threads(), probe.get("threads")
    threads = min(here, int(asked)) if workers == "auto" and asked else max(1, here // n)
    if executor is not None:
        yield executor
    elif n > 1:
        with local_workers(n, threads) as pool:
            yield pool
    else:
        torch.set_num_threads(threads)
        try:
            yield None
        finally:
            torch.set_num_threads(here)


def _refit(
    run: Run,
    task: Task,
    pending: Sequence[int],
    pool: Executor | None,
    lanes: Count,
    repeats: int | None,
    progress: Listener,
) -> None:
    splits = run.splits()
    width = max(1, int((run.probe or {}).get("lanes", 1))) if lanes == "auto" else lanes
    looks = (*run.looks, run.repeats if repeats is None else repeats)
    groups = [shards for shards in cut(task, splits, looks, width, size_of(pool)) if set(shards) & set(pending)]
    meter, ledger = _Meter(splits, pending, run.shards(repeats), progress), _Ledger(run, task, pending)
    run.held.release()  # refits may need the memory
    for shards, computed in _computed(task, splits, groups, width, pool, meter):
        ledger.add(computed.shards)
        meter.finished(shards)
    ledger.close()


def _computed(
    task: Task, splits: Splits, groups: Sequence[list[int]], lanes: int, pool: Executor | None, meter: "_Meter"
) -> Iterator[tuple[list[int], Computed]]:
    """Yield the shards of each group and their arrays; after memory runs out, with fewer lanes."""
    X = task.source.read()
    assert X is not None  # held since the task was made
    if pool is None:
        for shards in groups:
            computed = compute_shards(task, Group.of(splits, shards), lanes, X, meter.report)
            lanes = computed.lanes
            yield shards, computed
        return

    def arguments(shards: list[int], deaths: int) -> tuple[Any, ...]:
        # A group that kills its worker twice may have run out of memory: the kernel does not say so.
        return task, Group.of(splits, shards), max(1, lanes // 2 ** max(0, deaths - 1))

    for shards, computed in spread(pool, compute_where_it_is, groups, arguments, X, meter.idle):
        lanes = min(lanes, computed.lanes) if task.method == "lanes" else lanes
        yield shards, computed


def cut(task: Task, splits: Splits, looks: Sequence[int], lanes: int, workers: int) -> list[list[int]]:
    """Cut the shards of the first `looks[-1]` repeats into groups that train together.

    A group fills the lanes, or fewer, so that all workers are busy to the end. The groups do not depend on what is
    pending: a resumed run trains the same lanes side by side, so its numbers are the same to the last bit even
    if matrix products round by position. Repeats that were requested later form groups of their own.
    """
    ids = np.unique(splits.repeat)
    bounds = sorted({0, *(min(n, len(ids)) for n in looks if n <= looks[-1])})
    apart = task.method == "lanes" and isinstance(task.model, DeepDensity) and not takes_noise(task.recipe())
    groups: list[list[int]] = []
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        parts = [ids[i : i + 1] for i in range(first, last)] if apart else [ids[first:last]]
        for part in parts:
            shards = [int(i) for i in np.unique(splits.shard[np.isin(splits.repeat, part)])]
            shards = [i for i in shards if not groups or i not in groups[-1]]
            share = -(-workers // len(parts))  # the fewest groups of a part that keep every worker busy
            groups += _cut_evenly(shards, splits, lanes if task.method == "lanes" else 1, share)
    return groups


def _cut_evenly(shards: list[int], splits: Splits, lanes: int, share: int) -> list[list[int]]:
    together = max(1, lanes // int(np.bincount(splits.shard).max()))
    count = -(-len(shards) // together)
    count = min(len(shards), -(-count // share) * share)
    if share == 1:
        return [shards[i : i + together] for i in range(0, len(shards), together)]
    return [part.tolist() for part in np.array_split(np.asarray(shards), count)] if shards else []


class _Meter:
    """Converts the progress of a group into reports of refits done."""

    def __init__(self, splits: Splits, pending: Sequence[int], shards: Sequence[int], listener: Listener) -> None:
        self.size, self.pending, self.listener = np.bincount(splits.shard), set(pending), listener
        self.total = int(self.size[list(shards)].sum())
        self.done = self.total - int(self.size[list(pending)].sum())
        self.shown = 0.0
        self.report(0, "")

    def report(self, within: float, detail: str) -> None:
        # A refit that is repeated alone does not move the bar back.
        self.shown = max(self.shown, min(self.done + within, self.total))
        self.listener(Progress("refit", self.shown, self.total, detail))

    def idle(self) -> None:
        self.listener(Progress("refit", self.shown, self.total))

    def finished(self, shards: Sequence[int]) -> None:
        self.done += int(self.size[[i for i in shards if i in self.pending]].sum())
        self.report(0, "")


class _Ledger:
    """Writes shards; those that failed entirely wait until a refit succeeds: if none does, the model is at fault."""

    def __init__(self, run: Run, task: Task, pending: Sequence[int]) -> None:
        self.run, self.task, self.pending = run, task, set(pending)
        self.held: dict[int, Arrays] = {}
        self.reasons: dict[int, str] = {}
        self.groups, splits = 0, run.splits()
        self.shard, every = splits.shard, splits.n_repeats
        failed, done = run.failed(every), set(run.shards(every)) - set(run.pending(every))
        self.works = any(int(shard) in done and s not in failed for s, shard in enumerate(self.shard))

    def add(self, shards: dict[int, Arrays]) -> None:
        """Take the shards of one group, which may include finished ones."""
        self.groups += 1
        self.held |= {i: arrays for i, arrays in shards.items() if i in self.pending}
        for i, arrays in shards.items():
            first = int(np.argmax(self.shard == i))
            self.reasons |= {first + row: str(why) for row, why in enumerate(arrays["failed"]) if why}
            self.works |= not all(arrays["failed"])
        if self.works:
            self._write()
        elif self.groups >= ENOUGH_GROUPS and len(self.reasons) >= ENOUGH_SPLITS:
            raise self._blame()

    def close(self) -> None:
        """Write what is held back, and warn of failed refits."""
        if not self.works:
            raise self._blame()
        if self.reasons:
            named = "; ".join(f"split {s}: {why}" for s, why in sorted(self.reasons.items())[:NAMED])
            more = "" if len(self.reasons) <= NAMED else f"; and {len(self.reasons) - NAMED} more"
            count = "1 refit failed and is" if len(self.reasons) == 1 else f"{len(self.reasons)} refits failed and are"
            warnings.warn(f"{count} left out ({named}{more}).", stacklevel=4)

    def _write(self) -> None:
        while self.held:
            i = min(self.held)
            self.run.write_shard(i, **self.held[i])
            del self.held[i]

    def _blame(self) -> ModelError:
        split, why = min(self.reasons.items())
        return ModelError(
            expected=f"{type(self.task.model).__name__} to fit and score with examples left out",
            got=f"all of the first {len(self.reasons)} refits failing; split {split}: {why}",
            do="Check the model's settings against the shape and size of the data. If training diverged, lower the "
            "learning rate or rescale the data; an example with a density of 0 has no score.",
        )


# --- one refit that is kept


def refit_one(run: Run, held_out: ArrayLike, model: Any = None, *, progress: Listener = ignore) -> Any:
    """Return the planned model fitted to the examples that are not held out, with the seeds of split 0.

    If `held_out` is that of split 0, this is the refit of that split, trained alone. (Networks trained side by side
    round differently, and therefore end with different weights.)

    Args:
        run: a planned run.
        held_out: (n,) which examples to leave out.
        model: the planned model; needed only if it cannot be imported from the plan.
        progress: is told of epochs.

    Raises:
        DataError: `held_out` is not a mask of the examples, or leaves none.
        ModelError: the model cannot be fitted to them.
    """
    mask = np.asarray(held_out)
    n = run.plan["data"]["n"]
    if mask.shape != (n,) or mask.dtype != bool or mask.all():
        raise DataError(
            expected=f"a mask of {n} examples with one or more of them not held out",
            got=f"dtype {mask.dtype}, shape {mask.shape}",
            do="Pass one boolean per example.",
        )
    task, keep = make_task(run, model), np.flatnonzero(~mask)
    with _blamed(task, len(keep)):
        return _network(task, keep, progress) if isinstance(task.model, DeepDensity) else _density(task, keep)


@contextmanager
def _blamed(task: Task, count: int) -> Iterator[None]:
    """Turn what the user's model raises into a ModelError."""
    try:
        try:
            yield
        except GenmemError:
            raise
        except (Exception, SystemExit) as error:
            refuse_blame(error)
            raise ModelError(
                expected=f"{type(task.model).__name__} to fit {count:,} of the examples",
                got=reason(error),
                do="Check the model's settings against the data.",
            ) from error
    except OutOfMemory as error:
        raise no_memory(error) from error


def _network(task: Task, keep: NDArray[np.intp], progress: Listener) -> DeepDensity:
    X = task.source.read()
    assert X is not None  # held since the task was made
    recipe = task.recipe(len(keep))

    def tick(_: int, epoch: int) -> None:
        progress(Progress("copies", epoch / recipe.epochs, 1, f"refitting, epoch {epoch} of {recipe.epochs}"))

    lane = Lane(keep, split=0, repeat=0)
    (module,) = train(recipe, as_tensor(X, recipe.device), [lane], batched=False, tick=tick)
    state = module.state_dict()
    if not all(bool(p.isfinite().all()) for p in module.parameters()):
        raise ModelError(
            expected=f"{type(task.model).__name__} to fit {len(keep):,} of the examples",
            got=DIVERGED.partition(";")[0],
            do="Lower the learning rate, or rescale the data.",
        )
    fitted: DeepDensity = clone(task.model).restore(state, task.source.event_shape, len(keep))
    return fitted


def _density(task: Task, keep: NDArray[np.intp]) -> Any:
    X = task.source.read()
    assert X is not None
    model = fresh(task.model)
    if hasattr(model, "get_params") and "random_state" in model.get_params():
        model.set_params(random_state=seed32(task.seed, "fit", 0))
    return refitted(model, X[keep].astype(np.float64))
