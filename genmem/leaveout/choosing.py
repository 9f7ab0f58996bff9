"""How a run's refits are done: settled once, when the run is planned, by a short timed trial."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genmem.errors import GenmemError, ModelError
from genmem.models.base import DeepDensity, as_tensor
from genmem.models.evaluation import log_prob
from genmem.models.naming import model_of_plan
from genmem.plan import describe_model, refuse_other_plan
from genmem.run import Run
from genmem.splits import Splits
from genmem.training.ensemble import Recipe, fresh_module, takes_noise
from genmem.training.probe import probe

MAX_LANES = 40
LANE_BYTES = 2 << 30  # what stacked parameters, their gradients and Adam's moments may take


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
    """Return how the run's refits are done; find out by a short timed trial where the plan does not say yet."""
    if run.probe is None:
        run.set_probe(_tried(run, planned_model(run, model)))
    assert run.probe is not None
    return run.probe


def _tried(run: Run, model: Any) -> dict[str, Any]:
    try:
        return _probe(run, model)
    except GenmemError:
        raise
    except Exception as error:  # of the user's network, or of the device
        raise ModelError(
            expected=f"{type(model).__name__} to train on a few examples",
            got=f"{type(error).__name__}: {error}",
            do="Check that its network takes and returns the shapes of the contract (see genmem.DeepDensity).",
        ) from error


def _probe(run: Run, model: Any) -> dict[str, Any]:
    if not isinstance(model, DeepDensity):
        return {"method": "fit", "lanes": 1, "device": "cpu", "threads": torch.get_num_threads()}
    started, splits, X = time.perf_counter(), run.splits(), run.data().X
    recipe = model.recipe(X.shape[1:], int((~splits.held_out).sum(1).min()), seed=run.seed)
    trial = as_tensor(np.asarray(X[: 4 * recipe.batch_size]), recipe.device)
    choice = probe(recipe, trial, _lane_counts(recipe, splits))
    refits, n_epochs = len(splits.repeat), len(scored_epochs(model, run.score_epochs))
    steps = refits * recipe.steps_per_epoch * recipe.epochs
    scoring = refits * n_epochs * len(X) * _seconds_per_score(recipe, trial, run.importance_samples)
    return {
        **choice.as_dict(),
        "model_steps": steps,
        "expected_seconds": round(steps * choice.best_seconds + scoring, 1),
        "probe_seconds": round(time.perf_counter() - started, 2),
    }


def _seconds_per_score(recipe: Recipe, trial: Tensor, draws: int) -> float:
    """Return the seconds that log p of one example takes."""
    module, seconds = fresh_module(recipe, 0), []
    for _ in range(5):
        start = time.perf_counter()
        log_prob(module, trial, draws=draws, seed=0)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[2] / len(trial)


def _lane_counts(recipe: Recipe, splits: Splits) -> list[int]:
    """Return the numbers of lanes worth trying: one, two and four repeats at once, within memory."""
    folds = int(np.bincount(splits.repeat).max())
    size = sum(p.numel() for p in recipe.make_module().parameters())
    most = min(len(splits.repeat), MAX_LANES, max(1, LANE_BYTES // (16 * max(1, size))))
    if not takes_noise(recipe):
        most = min(most, folds)
    return sorted({min(folds * times, most) for times in (1, 2, 4)})
