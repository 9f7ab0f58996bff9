"""log p without the amortization gap, under every refit of a run: of a sample of the examples, or of all of them.

Refits keep their weights, so posteriors can be fitted later and for some examples only. The results of a shard are
stored in posterior/0007.npz, with their examples.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from genmem.errors import DataError, IncompleteRunError, RunError
from genmem.leaveout.executors import refuse_fork, spread
from genmem.leaveout.refitting import Count, compute_on, make_task
from genmem.leaveout.tasks import Task
from genmem.models.base import as_tensor
from genmem.models.posterior import IMPORTANCE_SAMPLES, STEPS, refit_posterior
from genmem.protocols import Listener, Progress, ignore
from genmem.run.directory import Run
from genmem.run.storage import Arrays, write_arrays
from genmem.training.ensemble import fresh_module

FOUND = ("log_probs", "effective_draws", "variance")


@dataclass(frozen=True, eq=False)
class Refitted:
    """Stored results: for the same m examples under every refit of the repeats in use, NaN if a refit failed.

    Attributes:
        examples: (m,) in order.
        log_probs: (n_splits, m) nats.
        effective_draws: (n_splits, m) effective sample size, at most `draws`.
        variance: (n_splits, m) of log p over draws, nats^2; see `LogProbs`.
        draws: importance samples of each log p.
    """

    examples: NDArray[np.intp]
    log_probs: NDArray[np.float32]
    effective_draws: NDArray[np.float32]
    variance: NDArray[np.float32]
    draws: int


@dataclass(frozen=True)
class Networks:
    """The trained networks of one shard, and the examples to fit posteriors to."""

    shard: int
    repeat: NDArray[np.intp]
    weights: Arrays
    examples: NDArray[np.intp]
    draws: int


def refit_posteriors(
    run: Run,
    examples: ArrayLike,
    model: Any = None,
    *,
    draws: int = IMPORTANCE_SAMPLES,
    repeats: int | None = None,
    executor: Executor | None = None,
    workers: Count = "auto",
    progress: Listener = ignore,
) -> None:
    """Fit posteriors to some examples under every refit; stored results are kept, so calling it again resumes.

    Args:
        run: a run of a network with a posterior, with all refits done.
        examples: (m,) which; earlier results with the same number of draws are kept.
        model: the planned model, needed only if it cannot be imported from the plan.
        draws: importance samples of each log p; results with another number are dropped.
        repeats: use only the first so many repeats; by default those in use.
        executor: where to compute, see `refit`; it overrides `workers`.
        workers: processes on this machine, see `refit`.
        progress: is told how many refits are done.

    Raises:
        DataError: an example is not in the data, or `draws` is less than one.
        IncompleteRunError: the refits are not done, or did not keep their weights.
        RunError: a file is damaged, the run is in use, or workers died repeatedly.
    """
    wanted = _checked(examples, int(run.plan["data"]["n"]), draws)
    refuse_fork(executor)
    with run.lock():
        run.shard_arrays("failed", repeats)  # the refits are there
        missing = {i: _missing(run, i, wanted, draws) for i in run.shards(repeats)}
        pending = [i for i, some in missing.items() if len(some)]
        if not pending:
            return
        task, total = make_task(run, model), len(missing)
        progress(Progress("posterior", total - len(pending), total))
        with compute_on(run, executor, workers) as pool:
            jobs = [_Job(run, i, missing[i], draws) for i in pending]
            for done, (job, arrays) in enumerate(_computed(task, jobs, pool), total - len(pending) + 1):
                _add(run, job, arrays)
                progress(Progress("posterior", done, total))


def posterior_log_probs(run: Run, repeats: int | None = None) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the examples that have a fitted posterior under every refit, and log p: (m,), (n_splits, m).

    Raises:
        IncompleteRunError: there are none.
    """
    found = read_posteriors(run, repeats)
    return found.examples, found.log_probs


def read_posteriors(run: Run, repeats: int | None = None) -> Refitted:
    """Return all stored results with fitted posteriors; see `posterior_log_probs`."""
    shards = {i: _stored(run, i) for i in run.shards(repeats)}
    draws = {None if arrays is None else int(arrays["draws"]) for arrays in shards.values()}
    if None in draws or len(draws) > 1:
        raise IncompleteRunError(
            expected=f"posteriors fitted to examples in all {len(shards)} shards of {run.path}",
            got=f"{sum(arrays is not None for arrays in shards.values())}, with {_listed(draws)} draws",
            do=f"Run `genmem posterior {run.path}`; what is finished is kept.",
        )
    some = [arrays for arrays in shards.values() if arrays is not None]
    examples = some[0]["examples"]
    for arrays in some[1:]:  # an interrupted run has more examples for some shards than for others
        examples = np.intersect1d(examples, arrays["examples"])
    at = [np.searchsorted(arrays["examples"], examples) for arrays in some]
    splits = run.splits()
    in_use = np.isin(splits.repeat, np.unique(splits.repeat)[: run.repeats if repeats is None else repeats])
    rows = in_use[np.isin(splits.shard, list(shards))]
    joined = {
        name: np.concatenate([a[name][:, where] for a, where in zip(some, at, strict=True)])[rows] for name in FOUND
    }
    joined["log_probs"][~np.isfinite(joined["log_probs"]).all(1)] = np.nan  # a split fails for all examples or for none
    return Refitted(examples=examples, draws=int(some[0]["draws"]), **joined)


def drop_damaged_posteriors(run: Run) -> list[Path]:
    """Delete unreadable files of fitted posteriors, so that they are computed again, and return their paths."""
    dropped = []
    for i in np.unique(run.splits().shard).tolist():
        try:
            _stored(run, i)
        except RunError:
            _path(run, i).unlink(missing_ok=True)
            dropped.append(_path(run, i))
    return dropped


def _checked(examples: ArrayLike, n: int, draws: int) -> NDArray[np.intp]:
    wanted = np.unique(np.asarray(examples, dtype=np.intp))
    if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < n:
        raise DataError(expected=f"examples from 0 to {n - 1}", got=f"{wanted[0]} to {wanted[-1]}", do="Correct them.")
    if draws < 1:
        raise DataError(expected="one draw or more", got=f"{draws}", do="Use 16.")
    return wanted


# --- storage


def _path(run: Run, i: int) -> Path:
    return run.path / "posterior" / f"{i:04d}.npz"


def _stored(run: Run, i: int) -> Arrays | None:
    """Return the stored results of a shard; None if there are none, or only some from another number of steps."""
    try:
        arrays = run.held.arrays(_path(run, i), run.stamp(i))
    except FileNotFoundError:
        return None
    return arrays if int(arrays["steps"]) == STEPS else None


def _missing(run: Run, i: int, wanted: NDArray[np.intp], draws: int) -> NDArray[np.intp]:
    stored = _stored(run, i)
    return wanted if stored is None or int(stored["draws"]) != draws else np.setdiff1d(wanted, stored["examples"])


def _add(run: Run, job: "_Job", arrays: Arrays) -> None:
    """Write the results for some examples to those stored with the same number of draws."""
    stored = _stored(run, job.shard)
    if stored is not None and int(stored["draws"]) == job.draws:
        arrays = {name: np.concatenate([stored[name], arrays[name]], axis=-1) for name in ("examples", *FOUND)}
    order = np.argsort(arrays["examples"])
    ordered = {name: arrays[name][..., order] for name in ("examples", *FOUND)}
    settings = {"draws": np.asarray(job.draws), "steps": np.asarray(STEPS)}
    write_arrays(_path(run, job.shard), {**ordered, **settings}, run.stamp(job.shard))


def _listed(draws: set[int | None]) -> str:
    return " and ".join(str(count) for count in sorted(filter(None, draws))) or "no"


# --- computation


@dataclass(frozen=True)
class _Job:
    """The missing results of one shard; weights are read only when it is computed."""

    run: Run
    shard: int
    examples: NDArray[np.intp]
    draws: int

    def networks(self) -> Networks:
        splits = self.run.splits()
        repeat = splits.repeat[splits.shard == self.shard]
        return Networks(self.shard, repeat, self.run.weights(self.shard), self.examples, self.draws)


def _computed(task: Task, jobs: Sequence[_Job], pool: Executor | None) -> Iterator[tuple[_Job, Arrays]]:
    X = task.source.read()
    assert X is not None  # held since the task was made
    if pool is None:
        for job in jobs:
            yield job, compute_posteriors(task, job.networks(), X)
        return
    yield from spread(pool, posteriors_where_it_is, jobs, lambda job, deaths: (task, job.networks()), X)


def posteriors_where_it_is(task: Task, networks: Networks, X: NDArray[Any] | None = None) -> Arrays | None:
    """Do `compute_posteriors` on a worker, with the examples it was sent or finds; None if they must be sent."""
    X = task.source.read() if X is None else task.source.hold(np.asarray(X))
    return None if X is None else compute_posteriors(task, networks, X)


def compute_posteriors(task: Task, networks: Networks, X: NDArray[Any]) -> Arrays:
    """Return log p of some examples with fitted posteriors, (splits, m), and how reliable the draws are."""
    module, examples = fresh_module(task.recipe(), 0), networks.examples
    x = as_tensor(np.asarray(X[examples]), torch.device(task.device))
    found = {name: np.full((len(networks.repeat), len(examples)), np.nan, np.float32) for name in FOUND}
    for row, repeat in enumerate(networks.repeat):
        if not _load(module, networks.weights, row):
            continue
        refitted = refit_posterior(
            module, x, steps=STEPS, draws=networks.draws, seed=task.seed, keys=(int(repeat),), rows=examples
        )
        found["log_probs"][row] = refitted.log_prob
        found["effective_draws"][row] = refitted.effective_draws
        found["variance"][row] = refitted.variance
    return {"examples": examples, **found}


def _load(module: nn.Module, weights: Arrays, row: int) -> bool:
    """Load the weights of one split; return whether there are any, because those of a failed split are NaN."""
    state = {name: torch.from_numpy(np.ascontiguousarray(value[row])) for name, value in weights.items()}
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        return False
    module.load_state_dict(state)
    return True


# --- log p that the scores of a run use


def correction_of(run: Run) -> Arrays | None:
    """Return results/posterior.npz; None if there is none, or if refits changed since it was written."""
    if not run.has_result("posterior"):
        return None
    found = run.result("posterior")
    same = int(found["repeats"]) == run.repeats and found["failed"].tolist() == sorted(run.failed())
    return found if same else None


def scored_log_probs(run: Run) -> NDArray[np.float32]:
    """Return log p after the last epoch (n_splits, n), with fitted posteriors if all examples have them."""
    if (found := correction_of(run)) is not None and found["everywhere"]:
        return posterior_log_probs(run)[1]
    return run.log_probs()


def sampled(run: Run) -> bool:
    """Return whether log p is a Monte-Carlo estimate of a network, not an exact value."""
    return estimate_of(run) != "exact"


def estimate_of(run: Run) -> str:
    """Return what log p is: "exact", "importance" (the log of a mean of weights) or "bound" (a lower bound)."""
    if run.probe is None or run.probe["method"] == "fit":
        return "exact"
    if "estimate" in run.probe:
        return str(run.probe["estimate"])
    effective = run.shard_arrays("effective_draws")  # plans of older versions do not say it
    return "importance" if run.importance_samples == 1 or np.nanmax(effective) > 1 else "exact"


def has_encoder(run: Run) -> bool:
    """Return whether log p uses an encoder, so that posteriors can be fitted to each example."""
    return bool((run.probe or {}).get("encoder", sampled(run)))
