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
from genmem.training.ensemble import Recipe, fresh_module
from genmem.training.probe import measure_pace

SCORED = 4 * BLOCK  # examples whose log p is timed
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


def try_here(recipe: Recipe, X: Tensor, lane_counts: Sequence[int], draws: int) -> list[Way]:
    """Time each number of lanes in this process, in order; 0 is the plain loop."""
    if not lane_counts:
        return []
    score, refit = _score_seconds(recipe, X, draws), _refit_seconds(recipe, X)
    found = []
    for lanes in lane_counts:
        pace = measure_pace(recipe, X, max(1, lanes), batched=lanes > 0)
        found.append(Way(1, torch.get_num_threads(), lanes, pace.quick, pace.average, score, refit, _peak_bytes()))
    return found


def try_workers(
    model: DeepDensity, X: NDArray[Any], n_keep: int, workers: int, lane_counts: Sequence[int], draws: int
) -> list[Way]:
    """Do `try_here` in several processes at once, so that they share what they will share."""
    rows = np.array(X[: max(SCORED, 32 * model.batch_size)])
    with local_workers(workers, 1) as executor:
        tried = [executor.submit(_try_worker, model, rows, n_keep, lane_counts, draws) for _ in range(workers)]
        ways = [future.result() for future in tried]
    return [_slowest(workers, same) for same in zip(*ways, strict=True)]


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


def _score_seconds(recipe: Recipe, X: Tensor, draws: int) -> float:
    module, some = fresh_module(recipe, 0), X[:SCORED]
    return _usual_seconds(lambda: log_prob(module, some, draws=draws, seed=0)) / len(some)


def _refit_seconds(recipe: Recipe, X: Tensor) -> float:
    module, some = fresh_module(recipe, 0), X[:SCORED]
    if not has_posterior(module):
        return 0.0
    return _usual_seconds(lambda: refit_posterior(module, some, seed=0)) / len(some)


def _usual_seconds(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[1]


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
