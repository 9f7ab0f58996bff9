"""Train the networks of an audit: the refits with examples left out, and the model on all examples."""

import math
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from sklearn.base import clone

from genmem import leaveout
from genmem.errors import DataError, IncompleteRunError
from genmem.leaveout import dask_workers, ensure_probe, memorization_score, planned_model
from genmem.leaveout.estimators import repeats_of
from genmem.leaveout.sizes import variance_factor
from genmem.models import DeepDensity
from genmem.models.vae_module import latent_mean
from genmem.protocols import Listener, Progress, ignore
from genmem.run.directory import Run, stage
from genmem.seeding import seed32
from genmem.training.trajectory import Trajectory, load_trajectory, save_trajectory

CHECKPOINTS = 10
FIRST_LOOK = 3  # repeats; the noise of fewer is not known well enough to stop
GROWTH = 1.5  # of the number of repeats, from one look to the next

Count = int | Literal["auto"]


def refit(
    run: Run,
    model: Any = None,
    *,
    executor: Executor | None = None,
    workers: Count = "auto",
    dask: str | None = None,
    lanes: Count = "auto",
    target_reliability: float | None = None,
    recompute: bool = False,
    progress: Listener = ignore,
) -> None:
    """Refit the model with examples left out until all shards are done; see `genmem.refit` for the other arguments.

    `dask` is the address of a dask scheduler whose workers do the refits. With `target_reliability`, planned repeats
    are added until the scores reach it; it is checked after numbers of repeats that do not depend on the data (each
    1.5 times the last). `recompute` computes damaged shards and those of failed refits again.

    Raises:
        DataError: the target is not between 0 and 1.
        RunError: see `genmem.refit`.
        ModelError: see `genmem.refit`.
    """
    if target_reliability is not None and not 0 < target_reliability < 1:
        raise DataError(
            expected="a target reliability between 0 and 1",
            got=f"{target_reliability}",
            do="Change it; 0.9 is high.",
        )
    with stage(run, "refit"), reached(executor, dask) as where:
        if recompute:
            run.drop_damaged()
            run.drop_failed()
        if target_reliability is not None and run.repeats < FIRST_LOOK:
            run.use_repeats(min(FIRST_LOOK, run.splits().n_repeats))
        leaveout.refit(run, model, executor=where, workers=workers, lanes=lanes, progress=progress)
        while target_reliability is not None and (more := _next_look(run, target_reliability)):
            run.use_repeats(more)
            leaveout.refit(run, model, executor=where, workers=workers, lanes=lanes, progress=progress)
        if target_reliability is not None and not (found := _reliability(run)) >= target_reliability:
            warnings.warn(_below(run, found, target_reliability), stacklevel=2)


@contextmanager
def reached(executor: Executor | None, dask: str | None) -> Iterator[Executor | None]:
    """Yield the executor, the workers of a dask scheduler, or None for this machine."""
    if dask is None:
        yield executor
    else:
        with dask_workers(dask) as cluster:
            yield cluster


def _below(run: Run, found: float, target: float) -> str:
    if math.isnan(found):
        return (
            f"The reliability is not known with {run.repeats} repeats, because all scores are equal or no example has "
            "an error (repeats that leave out the same groups together tell none)."
        )
    return (
        f"The reliability is {found:.2f} with all {run.repeats} planned repeats, not {target:g}. "
        "Plan more with --max-repeats in a new run directory."
    )


def _next_look(run: Run, target: float) -> int | None:
    """Return the number of repeats at the next look; None if the target is reached or no more are planned or help.

    More repeats do not help if all leave out the same examples together: scores then have no error.
    """
    now, planned = run.repeats, run.splits().n_repeats
    if now >= planned or _recurs(run):
        return None
    return None if _reliability(run) >= target else min(planned, math.ceil(GROWTH * now))


def _recurs(run: Run) -> bool:
    """Return whether every planned repeat leaves out the same examples together."""
    splits = run.splits()
    factor = variance_factor(splits.held_out, repeats_of(splits.held_out, splits.repeat))
    return factor is not None and bool(np.isnan(factor).all())


def _reliability(run: Run) -> float:
    splits = run.used_splits()
    return memorization_score(run.log_probs(), splits.held_out, repeat=splits.repeat, missing="nan").reliability


def fit(run: Run, model: Any = None, *, progress: Listener = ignore) -> None:
    """Train the model on all examples; store its trajectory and, if it has a posterior, all posterior means."""
    chosen = planned_model(run, model)
    if not isinstance(chosen, DeepDensity) or (run.has_result("latents") and load_trajectory(run.path / "trajectory")):
        return
    with stage(run, "fit"):
        progress(Progress("fit", 0, 1, "training on all examples"))
        X = np.asarray(run.data().X)
        full = clone(chosen).set_params(
            random_state=seed32(run.seed, "full data"),
            checkpoint_every=max(1, -(-chosen.epochs // CHECKPOINTS)),
            device=ensure_probe(run, chosen)["device"],
        )
        full.fit(X)
        assert full.trajectory_ is not None
        save_trajectory(full.trajectory_, run.path / "trajectory")
        has_latent = callable(getattr(full.module_, "posterior", None))
        means = latent_mean(full.module_, X) if has_latent else np.empty((len(X), 0), np.float32)
        run.write_result("latents", mean=means)
        progress(Progress("fit", 1, 1))


def trained_network(run: Run, model: DeepDensity) -> tuple[DeepDensity, Trajectory]:
    """Return the network that `fit` trained on all examples, and its trajectory.

    Raises:
        IncompleteRunError: it has not been trained.
    """
    trajectory = load_trajectory(run.path / "trajectory")
    if trajectory is None:
        raise IncompleteRunError(
            expected=f"the trajectory of the model trained on all examples in {run.path / 'trajectory'}",
            got="none",
            do=f"Run `genmem fit {run.path}` first.",
        )
    fresh: DeepDensity = clone(model).set_params(device=ensure_probe(run, model)["device"])
    fitted = fresh.restore(trajectory[-1].state_dict(), tuple(run.plan["data"]["event_shape"]), trajectory.n_train)
    fitted.trajectory_ = trajectory
    return fitted, trajectory
