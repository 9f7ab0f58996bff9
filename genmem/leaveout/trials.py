"""How fast do refits go here? Timed trials of each way of doing them, in this process or in several at once."""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genmem.leaveout.executors import local_workers
from genmem.models.base import DeepDensity, as_tensor
from genmem.models.evaluation import BLOCK, log_prob
from genmem.models.naming import fresh
from genmem.models.posterior import has_posterior, refit_posterior
from genmem.training.ensemble import Recipe, fresh_module, noise_shape
from genmem.training.probe import TRIAL_SECONDS, measure_pace

SCORED = 4 * BLOCK  # examples whose log p is timed, at most
FEWEST = 16  # and at least, where it is slow
SLOW = 0.3  # seconds of a step of a whole batch of lanes from which more lanes only pay if so many gained much
GAIN = 0.9  # of the seconds of a step of one network: that much
FIRST, SECOND = 250, 500  # examples that other models are fitted to, in trials


@dataclass(frozen=True)
class Way:
    """One way of doing the refits, and what it was measured to take."""

    workers: int  # processes that refit at once; 1 is this process
    threads: int  # of each
    lanes: int  # networks in one batch; 0 is a plain loop
    quick_step: float  # seconds of one optimiser step of one network within a worker, when nothing disturbs
    step: float  # the same on average
    score: float  # seconds of log p of one example under one network within a worker
    refit: float  # seconds of refitting its posterior; 0 where there is none
    memory: int  # bytes that a worker held at most

    @property
    def label(self) -> str:
        """The way as the plan names it."""
        how = f"{self.lanes} lanes" if self.lanes else "loop"
        return how if self.workers == 1 else f"{self.workers} workers, {how}"

    def seconds(self, refits: int, steps: int, scores: int) -> float:
        """Return the time of all refits: each takes `steps` optimiser steps and the log p of `scores` examples."""
        return -(-refits // self.workers) * (steps * self.step + scores * self.score)

    def quick_seconds(self, steps: int, scores: int) -> float:
        """Return what one refit takes of the machine when nothing disturbs: what ways are compared by."""
        return (steps * self.quick_step + scores * self.score) / self.workers


def try_here(recipe: Recipe, X: Tensor, lane_counts: Sequence[int], draws: int, known: Sequence[Way] = ()) -> list[Way]:
    """Time each number of lanes in this process, in ascending order; 0 is the plain loop.

    Where a step is slow and so many lanes gain little, larger numbers are not tried. `known` are ways tried here
    before: log p takes what it took then.
    """
    found: list[Way] = []
    for lanes in lane_counts:
        pace = measure_pace(recipe, X, max(1, lanes), batched=lanes > 0)
        before = [*known, *found]
        score, refit = (before[0].score, before[0].refit) if before else _other_seconds(recipe, X, draws)
        found.append(Way(1, torch.get_num_threads(), lanes, pace.quick, pace.average, score, refit, _peak_bytes()))
        little = any(pace.quick > GAIN * way.quick_step for way in before)
        if lanes and lanes * pace.quick > SLOW and little:
            break
    return found


def try_workers(
    model: DeepDensity, X: NDArray[Any], n_keep: int, workers: int, lane_counts: Sequence[int], draws: int
) -> list[Way]:
    """Do `try_here` in several processes at once, so that they share what they will share."""
    rows = np.array(X[: max(SCORED, 32 * model.batch_size)])
    with local_workers(workers, 1) as executor:
        tried = [executor.submit(_try_worker, model, rows, n_keep, lane_counts, draws) for _ in range(workers)]
        ways = [future.result() for future in tried]
    return [_slowest(workers, same) for same in zip(*ways, strict=False)]  # each may have stopped early


def _try_worker(model: DeepDensity, X: NDArray[Any], n_keep: int, lane_counts: Sequence[int], draws: int) -> list[Way]:
    recipe = model.recipe(X.shape[1:], n_keep, seed=0)
    return try_here(recipe, as_tensor(X, recipe.device), lane_counts, draws)


def _slowest(workers: int, ways: Sequence[Way]) -> Way:
    return Way(
        workers,
        ways[0].threads,
        ways[0].lanes,
        max(way.quick_step for way in ways),
        max(way.step for way in ways),
        max(way.score for way in ways),
        max(way.refit for way in ways),
        max(way.memory for way in ways),
    )


def _other_seconds(recipe: Recipe, X: Tensor, draws: int) -> tuple[float, float]:
    """Return the seconds of log p of an example, and of refitting its posterior; 0 where there is none."""
    module = fresh_module(recipe, 0)
    fewest = BLOCK if noise_shape(module) is None else FEWEST  # what draws its own noise sees whole blocks
    score = _seconds_each(lambda some: log_prob(module, some, draws=draws, seed=0), X, fewest)
    if not has_posterior(module):
        return score, 0.0
    return score, _seconds_each(lambda some: refit_posterior(module, some, seed=0), X, FEWEST)


def _seconds_each(call: Callable[[Tensor], object], X: Tensor, fewest: int) -> float:
    """Return the seconds of an example, from as many examples, and calls, as a short trial allows."""
    most = min(SCORED, len(X))
    count = min(fewest, most)
    times = [_seconds(call, X[:count])]
    while times[0] < TRIAL_SECONDS / 4 and count < most:  # the first call of all, which warms up, is not the last
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
    """Return the most memory this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def fit_seconds(model: Any, X: NDArray[Any], n_keep: int) -> float:
    """Guess the seconds of one refit of a model without a network, from two fits to a few examples."""
    if len(X) <= 2 * SECOND:
        return _fit_seconds(model, X, min(n_keep, len(X)))
    first, second = _fit_seconds(model, X, FIRST), _fit_seconds(model, X, SECOND)
    power = np.clip(np.log2(second / max(first, 1e-6)), 1.0, 2.0)  # linear for most, quadratic for kernel densities
    return float(second * (len(X) / SECOND) ** power)


def _fit_seconds(model: Any, X: NDArray[Any], n: int) -> float:
    start = time.perf_counter()
    fresh(model).fit(X[:n]).score_samples(X[:n])
    return time.perf_counter() - start
