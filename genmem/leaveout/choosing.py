"""How a run's refits are done: settled once, when the run is planned, by short timed trials."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from joblib import cpu_count
from torch import Tensor

from genmem.errors import GenmemError, ModelError
from genmem.leaveout.trials import Way, fit_seconds, try_here, try_workers
from genmem.models.base import DeepDensity, as_tensor
from genmem.models.evaluation import estimate_of
from genmem.models.naming import model_of_plan
from genmem.models.posterior import has_posterior
from genmem.plan import describe_model, refuse_other_plan
from genmem.run import Run
from genmem.splits import Splits
from genmem.training.ensemble import Recipe, fresh_module, takes_noise
from genmem.training.probe import can_batch, fitting_lanes

MAX_LANES = {"cpu": 40, "cuda": 400}
WORTH_TRIALS = 2.0  # seconds of refits from which another way than a plain loop pays
SLOW_STEP = 0.1  # seconds from which a step on a CPU is all arithmetic, and lanes have nothing to save
WORTH_WORKERS = 30.0  # seconds of refits from which starting processes pays


def planned_model(run: Run, model: Any) -> Any:
    """Return the model of the plan: the given one, checked against it; the one the run was created with; or rebuilt.

    Raises:
        RunMismatchError: the given model is not the planned one.
        ModelError: the planned one cannot be imported here.
    """
    given = model is not None
    if not given:
        model = run.model if run.model is not None else model_of_plan(run.plan["model"])
    described = model if hasattr(model, "made_by") else None
    if isinstance(model, DeepDensity):
        model = model.resolve(run.data().X)
    if given:
        refuse_other_plan(run.plan, {**run.plan, "model": describe_model(model if described is None else described)})
    return model


def scored_epochs(model: Any, asked: Sequence[int]) -> tuple[int, ...]:
    """Return the epochs to score with -1 resolved, in order, each once.

    Raises:
        ModelError: an epoch lies beyond the training, or the model has no epochs.
    """
    last = getattr(model, "epochs", None)
    found = sorted({last if last is not None and e == -1 else e for e in asked})
    if last is None and found != [-1] or last is not None and not all(0 <= e <= last for e in found):
        raise ModelError(
            expected=f"score epochs between 0 and {last}, or -1 for the last" if last else "score_epochs=(-1,)",
            got=f"{list(asked)}",
            do="Change score_epochs or epochs.",
        )
    return tuple(found)


def ensure_probe(run: Run, model: Any = None) -> dict[str, Any]:
    """Return how the run's refits are done; find out by short timed trials where the plan does not say yet."""
    if run.probe is None:
        run.set_probe(_tried(run, planned_model(run, model)))
    assert run.probe is not None
    return run.probe


def _tried(run: Run, model: Any) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        found = _probe(run, model) if isinstance(model, DeepDensity) else _probe_other(run, model)
    except GenmemError:
        raise
    except Exception as error:  # of the user's network, or of the device
        raise ModelError(
            expected=f"{type(model).__name__} to train on a few examples",
            got=f"{type(error).__name__}: {error}",
            do="Check that its network takes and returns the shapes of the contract (see genmem.DeepDensity).",
        ) from error
    return {**found, "probe_seconds": round(time.perf_counter() - started, 2)}


def _probe_other(run: Run, model: Any) -> dict[str, Any]:
    splits, X = run.splits(), np.asarray(run.data().X)
    found = {"method": "fit", "lanes": 1, "device": "cpu", "threads": torch.get_num_threads(), "workers": 1}
    try:
        seconds = splits.n_splits * fit_seconds(model, X, int((~splits.held_out).sum(1).min()))
    except Exception:  # the refits will say what is wrong, and with which split
        return found
    if seconds > WORTH_WORKERS and (cores := cpu_count()) > 1:
        return {**found, "threads": 1, "workers": cores, "expected_seconds": round(seconds / cores, 1)}
    return {**found, "expected_seconds": round(seconds, 2)}


def _probe(run: Run, model: DeepDensity) -> dict[str, Any]:
    splits, data = run.splits(), run.data().X
    n_keep = int((~splits.held_out).sum(1).min())
    recipe = model.recipe(data.shape[1:], n_keep, seed=run.seed)
    X = as_tensor(np.asarray(data), recipe.device)
    refits, steps = splits.n_splits, recipe.steps_per_epoch * recipe.epochs
    scores = len(scored_epochs(model, run.score_epochs)) * len(X)
    ways = try_here(recipe, X, [0], run.importance_samples)
    counts = []
    if ways[0].seconds(refits, steps, scores) > WORTH_TRIALS:
        slow = recipe.device.type == "cpu" and ways[0].quick_step > SLOW_STEP
        counts = [] if slow else _lane_counts(recipe, X, splits)
        ways += try_here(recipe, X, counts, run.importance_samples, ways)
        counts = [way.lanes for way in ways[1:]]  # those tried
    best, module = _quickest(ways, steps, scores), fresh_module(recipe, 0)
    workers = min(cpu_count(), refits)
    if recipe.device.type == "cpu" and workers > 1 and best.seconds(refits, steps, scores) > WORTH_WORKERS:
        share = [0, *(c for c in counts if c <= -(-refits // workers))]
        ways += try_workers(model, data, n_keep, workers, share, run.importance_samples)
        best = _quickest(ways, steps, scores)
    return {
        "method": "lanes" if best.lanes else "loop",
        "lanes": max(1, best.lanes),
        "workers": best.workers,
        "threads": best.threads,
        "device": str(recipe.device),
        "estimate": estimate_of(module),
        "encoder": has_posterior(module),
        "seconds_per_step": {way.label: round(way.quick_step / way.workers, 7) for way in ways},
        "step_seconds": round(best.step, 7),
        "alone_seconds": round(ways[0].step, 7),
        "score_seconds": round(best.score, 7),
        "posterior_seconds": round(best.refit, 7),
        "worker_bytes": best.memory,
        "weight_bytes": sum(p.numel() * p.element_size() for p in module.parameters()),
        "refit_steps": steps,
        "expected_seconds": round(best.seconds(refits, steps, scores), 1),
    }


def _quickest(ways: Sequence[Way], steps: int, scores: int) -> Way:
    return min(ways, key=lambda way: way.quick_seconds(steps, scores))


def _lane_counts(recipe: Recipe, X: Tensor, splits: Splits) -> list[int]:
    """Return the numbers of lanes worth trying: one, two and four repeats at once, within memory; none if it cannot."""
    folds = int(np.bincount(splits.repeat).max())
    most = min(splits.n_splits, MAX_LANES[recipe.device.type], fitting_lanes(recipe, X))
    if not takes_noise(recipe):
        most = min(most, folds)
    counts = sorted({min(folds * times, most) for times in (1, 2, 4, 20)} - {1})
    return counts if counts and can_batch(recipe, X) else []
