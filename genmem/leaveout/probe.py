"""How a run's refits are computed and what they will take, decided once, when the run is planned.

Whether networks train as lanes of one batch or in a loop changes numbers, so a rule on the plan decides, never a clock.
Short timed trials estimate how long it will take, and so whether worker processes pay.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import cpu_count
from numpy.typing import NDArray
from torch import Tensor

from genmem.errors import GenmemError, ModelError
from genmem.leaveout.tasks import refit_recipe
from genmem.models.base import DeepDensity, as_tensor
from genmem.models.evaluation import BLOCK, estimate_of, log_prob
from genmem.models.factory import fresh, model_of_plan
from genmem.models.fresh import check_fresh
from genmem.models.posterior import has_posterior, refit_posterior
from genmem.models.state_checks import check_state
from genmem.models.trust import foreign_names
from genmem.models.weights import refuse_weights
from genmem.run.directory import Run
from genmem.run.plan import free_params, planned_description, refuse_other_plan, with_free_params
from genmem.run.remembered import is_remembered, remember
from genmem.run.splits import Splits
from genmem.run.storage import HELD
from genmem.training.ensemble import Recipe, fresh_module, noise_shape, takes_noise
from genmem.training.probe import TRIAL_SECONDS, can_batch, fitting_lanes, measure_pace, step_flops

SCORED = 4 * BLOCK  # examples whose log p is timed, at most
FEWEST = 16  # and at least, if it is slow
FIRST, SECOND = 250, 500  # examples that other models are fitted to in trials


def _other_seconds(recipe: Recipe, X: Tensor, draws: int) -> tuple[float, float]:
    """Return the seconds per example of log p and of fitting its posterior; 0 if there is none."""
    module = fresh_module(recipe, 0)
    fewest = BLOCK if noise_shape(module) is None else FEWEST  # a network that draws its own noise takes whole blocks
    score = _seconds_each(lambda some: log_prob(module, some, draws=draws, seed=0), X, fewest)
    if not has_posterior(module):
        return score, 0.0
    return score, _seconds_each(lambda some: refit_posterior(module, some, seed=0), X, FEWEST)


def _seconds_each(call: Callable[[Tensor], object], X: Tensor, fewest: int) -> float:
    """Return the seconds per example, from as many examples, and calls, as a short trial allows."""
    most = min(SCORED, len(X))
    count = min(fewest, most)
    times = [_seconds(call, X[:count])]
    while times[0] < TRIAL_SECONDS / 4 and count < most:  # the first call of all warms up and is not the last
        count = min(4 * count, most)
        times = [_seconds(call, X[:count])]
    while len(times) < 3 and sum(times) < TRIAL_SECONDS:
        times.append(_seconds(call, X[:count]))
    return sorted(times)[(len(times) - 1) // 2] / count


def _seconds(call: Callable[[Tensor], object], some: Tensor) -> float:
    start = time.perf_counter()
    call(some)
    return time.perf_counter() - start


def _peak_bytes() -> int:
    """Return the peak memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def fit_seconds(model: Any, X: NDArray[Any], n_keep: int) -> float:
    """Estimate the seconds of one refit of a model without a network, from two fits to a few examples."""
    if len(X) <= 2 * SECOND:
        return _fit_seconds(model, X, min(n_keep, len(X)))
    first, second = _fit_seconds(model, X, FIRST), _fit_seconds(model, X, SECOND)
    power = np.clip(np.log2(second / max(first, 1e-6)), 1.0, 2.0)  # most are linear, kernel densities quadratic
    return float(second * (len(X) / SECOND) ** power)


def _fit_seconds(model: Any, X: NDArray[Any], n: int) -> float:
    start = time.perf_counter()
    fresh(model).fit(X[:n]).score_samples(X[:n])
    return time.perf_counter() - start


# --- the choice


MAX_LANES = {"cpu": 40, "cuda": 400}
# Lanes save what a step costs besides its arithmetic: about 1 ms in a loop, about 3 ms in a batch, shared by its lanes.
# Measured on a CPU (bench/RESULTS.md), they pay from 4 lanes and up to 1e9 operations a step of one network (2.9 times
# at 1e7, 1.4 at 4e8, 1.1 at 1.4e9, 0.8 at 5e9). Beyond 8e9 in one step of all lanes they slow each other down.
FEWEST_LANES = 4
MOST_FLOPS = 1e9
FLOPS_AT_ONCE = 8e9
WORTH_WORKERS = 30.0  # seconds of refits from which starting processes pays


def planned_model(run: Run, model: Any) -> Any:
    """Return the planned model: the given one, checked against the plan; the one the run was created with; or rebuilt.

    Raises:
        RunMismatchError: the given model is not the planned one.
        ModelError: the planned model cannot be imported here or is not trusted (see `Run.open`), or the given one was
            fitted with sample weights.
    """
    if model is None:
        if run.model is None:
            _refuse_foreign(run)
            run.model = _checked(run, model_of_plan(run.plan["model"]))
        return run.model
    refuse_weights(model)
    chosen = _checked(run, model)
    remember_choice(run)
    return chosen


def remember_choice(run: Run) -> None:
    """Remember that this user chose the model of the run, if it needs code that is not genmem's."""
    if foreign_names(run.plan["model"]):
        remember(run.plan["model"])


def _refuse_foreign(run: Run) -> None:
    """Refuse to import what a plan names, if that is neither genmem's own nor this user's choice."""
    described = run.plan["model"]
    if run.trusted or not (named := foreign_names(described)) or is_remembered(described):
        return
    raise ModelError(
        expected="a model of genmem or scikit-learn, a model that you planned from this folder, or your trust",
        got=f"{', '.join(named)} in {run.path / 'run.json'}, which would be imported and called",
        do="If you know where the run is from, use --trust (trust=True in Run.open), or pass the model again.",
    )


def _checked(run: Run, model: Any) -> Any:
    """Return the model resolved for the data, if it is the planned one: a function may have been edited since."""
    resolved = _resolved(run, model)
    given = model if hasattr(model, "made_by") else resolved
    described = with_free_params(planned_description(given), run.plan["model"], free_params(given))
    refuse_other_plan(run.plan, {**run.plan, "model": described})
    return resolved


def _resolved(run: Run, model: Any) -> Any:
    return model.resolve(run.data().X) if isinstance(model, DeepDensity) else model


def scored_epochs(model: Any, asked: Sequence[int]) -> tuple[int, ...]:
    """Return the epochs to score with -1 resolved, in order, each once.

    Raises:
        ModelError: an epoch is after the end of training, or the model has no epochs.
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
    """Return how the run's refits are computed; decide it if the plan does not say yet."""
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
    except Exception:  # the refits will report what is wrong, and for which split
        return found
    if seconds > WORTH_WORKERS and (cores := cpu_count()) > 1:
        return {**found, "threads": 1, "workers": cores, "expected_seconds": round(seconds / cores, 1)}
    return {**found, "expected_seconds": round(seconds, 2)}


def _probe(run: Run, model: DeepDensity) -> dict[str, Any]:
    splits, data = run.splits(), run.data().X
    n_keep = int((~splits.held_out).sum(1).min())
    recipe = refit_recipe(model, data.shape[1:], n_keep, run.n_matched, run.seed)
    X, module = as_tensor(np.asarray(data), recipe.device), fresh_module(recipe, 0)
    if model.runs_user_code:
        check_fresh(module, fresh_module(recipe, 1))
    model.check_trained(module, X)
    check_state(recipe, X)
    refits, steps = splits.n_splits, recipe.steps_per_epoch * recipe.epochs
    scores = len(scored_epochs(model, run.score_epochs)) * len(X)
    lanes = lanes_for(recipe, X, splits)
    alone = measure_pace(recipe, X, 1, batched=False).average
    score, posterior = _other_seconds(recipe, X, run.importance_samples)
    step = measure_pace(recipe, X, lanes, batched=True).average if lanes else alone
    seconds, workers, threads = refits * (steps * step + scores * score), 1, torch.get_num_threads()
    if recipe.device.type == "cpu" and seconds > WORTH_WORKERS and (most := min(cpu_count(), refits)) > 1:
        # Each on one core: threads within a process gain little on matrices this small.
        workers, threads, lanes = most, 1, min(lanes, -(-refits // most))
        with _threads(1):
            step = measure_pace(recipe, X, max(1, lanes), batched=lanes > 0).average
            score, posterior = _other_seconds(recipe, X, run.importance_samples)
        seconds = -(-refits // workers) * (steps * step + scores * score)
    return {
        "method": "lanes" if lanes else "loop",
        "lanes": max(1, lanes),
        "workers": workers,
        "threads": threads,
        "device": str(recipe.device),
        "estimate": estimate_of(module),
        "encoder": has_posterior(module),
        "step_seconds": round(step, 7),
        "alone_seconds": round(alone, 7),
        "score_seconds": round(score, 7),
        "posterior_seconds": round(posterior, 7),
        "worker_bytes": _peak_bytes(),
        "weight_bytes": sum(p.numel() * p.element_size() for p in module.parameters()),
        "refit_steps": steps,
        "expected_seconds": round(seconds, 1),
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    here = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(here)


def lanes_for(recipe: Recipe, X: Tensor, splits: Splits) -> int:
    """Return how many networks train in one batch; 0 is a plain loop. The plan and the device decide, not their speed.

    If memory does not hold as many lanes as the rule gives, there are fewer, or none on a GPU.
    """
    device = recipe.device.type
    most = min(splits.n_splits, MAX_LANES[device])
    if not takes_noise(recipe):  # they share their noise within a repeat
        most = min(most, int(np.bincount(splits.repeat).max()))
    fitting = fitting_lanes(recipe, X)
    if device == "cpu":
        flops = step_flops(recipe, X)
        if most < FEWEST_LANES or flops > MOST_FLOPS:
            return 0
        most = max(FEWEST_LANES, min(most, int(FLOPS_AT_ONCE / max(1, flops))))
    elif min(most, fitting) < 2:
        return 0
    return min(most, fitting) if can_batch(recipe, X) else 0


# --- the estimate for an audit


FLOPS = 4e10  # multiply-adds a second of the nearest-neighbour search, and of small work like it
PER_SCORE = 4e-7  # seconds of arithmetic for each number of the matrix of log p, placebos included
FIXED = 6.0  # seconds for imports, regions and the report
PROCESS = 450 << 20  # bytes of a process that has loaded everything
START = 4.0  # seconds for worker processes to start
REPORT = 7 << 20  # bytes of report.html
PLACEBOS = 8


@dataclass(frozen=True)
class Estimate:
    """What an audit is expected to take.

    Attributes:
        seconds: by stage; stages of unknown duration are missing.
        memory: bytes at the peak, of all processes together.
        disk: bytes of the run directory.
    """

    seconds: dict[str, float]
    memory: int
    disk: int

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


def estimate(run: Run) -> Estimate:
    """Estimate what an audit will take once its plan is written, for the repeats in use."""
    probe, splits, about = run.probe or {}, run.used_splits(), run.plan["data"]
    n, width = about["n"], int(np.prod(about["event_shape"]))
    share = splits.n_splits / run.splits().n_splits
    numbers, start = splits.n_splits * n, START if probe.get("workers", 1) > 1 else 0.0
    seconds = {"neighbors": n * n * width / FLOPS, "score": numbers * len(run.score_epochs) * PER_SCORE, "other": FIXED}
    if "expected_seconds" in probe:
        seconds["refit"] = probe["expected_seconds"] * share + start
    if "step_seconds" in probe:
        fewer = 1.0 if run.n_matched is not None else 1 - float(splits.held_out.mean())  # steps of a refit
        seconds["fit"] = probe["refit_steps"] / fewer * probe["alone_seconds"]
        # The amortization gap is rarely below 5% of a score, so posteriors are fitted to all examples.
        seconds["posterior"] = -(-splits.n_splits // probe.get("workers", 1)) * n * probe["posterior_seconds"] + start
    held = min(HELD, numbers * len(run.score_epochs) * 4)
    return Estimate(seconds, _memory(probe, splits.n_splits, n, width) + held, _disk(run, probe, splits.n_splits))


def _memory(probe: dict[str, Any], n_splits: int, n: int, width: int) -> int:
    scoring = n * (n_splits * 24 + (PLACEBOS + 8) * 40 + 8 * width)
    workers = probe.get("worker_bytes", PROCESS) * (probe.get("workers", 1))
    if probe.get("workers", 1) > 1:
        return int(PROCESS + scoring + workers)
    return int(max(PROCESS + scoring, workers))


def _disk(run: Run, probe: dict[str, Any], n_splits: int) -> int:
    about = run.plan["data"]
    n, width = about["n"], int(np.prod(about["event_shape"]))
    examples = n * (width * np.dtype(about["dtype"]).itemsize + 8)
    weights = probe.get("weight_bytes", 0)
    shards = n_splits * (len(run.score_epochs) * n * 4 + weights)
    results = n * 8 * (PLACEBOS + 2 * run.repeats + 40)
    return int(examples + shards + 21 * weights + results + run.splits().held_out.nbytes + REPORT)
