"""One after another or all at once? A short timed trial on the actual network and device decides, once."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from genmem.training.ensemble import (
    BatchedLanes,
    OneLane,
    Recipe,
    fresh_module,
    isolated_streams,
    noise_shape,
)

TRIAL_SECONDS = 0.4
BATCH_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Choice:
    """How refits run. The method is part of the plan; the number of lanes may vary without changing a number."""

    method: str  # "lanes" or "loop"
    lanes: int
    device: str
    threads: int
    seconds_per_step: dict[str, float]  # per network and optimiser step, for each number of lanes tried; "loop"

    @property
    def best_seconds(self) -> float:
        """Seconds that one optimiser step of one network takes the chosen way."""
        return self.seconds_per_step["loop" if self.method == "loop" else str(self.lanes)]

    def as_dict(self) -> dict[str, Any]:
        """Return the choice as the plan stores it."""
        return asdict(self)


def probe(recipe: Recipe, X: Tensor, candidates: Sequence[int]) -> Choice:
    """Time one optimiser step in a loop and with each number of lanes, and return the fastest.

    Lanes are considered only where they are proven to compute the same (`can_batch`) and their memory fits.
    """
    seconds = {"loop": _seconds_per_step(recipe, X, 1, batched=False)}
    counts = [c for c in candidates if c > 1]
    if counts and can_batch(recipe, X):
        for count in counts:
            seconds[str(count)] = _seconds_per_step(recipe, X, count, batched=True)
    fastest = min(seconds, key=lambda key: seconds[key])
    return Choice(
        method="loop" if fastest == "loop" else "lanes",
        lanes=1 if fastest == "loop" else int(fastest),
        device=str(recipe.device),
        threads=torch.get_num_threads(),
        seconds_per_step={key: round(value, 7) for key, value in seconds.items()},
    )


def can_batch(recipe: Recipe, X: Tensor) -> bool:
    """Return whether the network computes the same gradients in lanes as alone; warn once if it does not."""
    rows, noise = _trial_inputs(recipe, X, 2)
    x = X[rows].to(torch.float32)
    try:
        with isolated_streams(recipe.device, 0):
            batched = BatchedLanes([fresh_module(recipe, i) for i in range(2)], recipe.learning_rate)
            together = batched.gradients(x, noise)
        agree = all(_lane_agrees(recipe, i, x, noise, together) for i in range(2))
        reason = "its gradients differ between lanes and a plain loop"
    except Exception as error:  # whatever the network raises under vmap, the loop is the answer
        agree, reason = False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if not agree:
        warnings.warn(f"Refits run one after another: the network cannot run in lanes ({reason}).", stacklevel=2)
    return agree


def _lane_agrees(recipe: Recipe, i: int, x: Tensor, noise: Tensor | None, together: dict[str, Tensor]) -> bool:
    alone = fresh_module(recipe, i)
    own_noise = None if noise is None else noise[i : i + 1]
    with isolated_streams(recipe.device, 0):
        torch.autograd.backward(OneLane(alone, recipe.learning_rate).losses(x[i : i + 1], own_noise).mean())
    for name, parameter in alone.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        scale = expected.abs().max().clamp(min=1e-3)
        if not bool(((together[name][i] - expected).abs().max() <= BATCH_TOLERANCE * scale).item()):
            return False
    return True


def _trial_inputs(recipe: Recipe, X: Tensor, lanes: int) -> tuple[Tensor, Tensor | None]:
    """Return the rows of one minibatch for each lane, (lanes, batch), and its noise."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(X), (lanes, recipe.batch_size), generator=generator).to(X.device)
    shape = noise_shape(fresh_module(recipe, 0))
    if shape is None:
        return rows, None
    noise = torch.randn((lanes, 1, recipe.batch_size, *shape), generator=generator)
    return rows, noise.to(recipe.device)


def _seconds_per_step(recipe: Recipe, X: Tensor, lanes: int, *, batched: bool) -> float:
    modules = [fresh_module(recipe, i) for i in range(lanes)]
    stepper = BatchedLanes(modules, recipe.learning_rate) if batched else OneLane(modules[0], recipe.learning_rate)
    rows, noise = _trial_inputs(recipe, X, lanes)
    with isolated_streams(recipe.device, 0):
        return _usual_seconds(lambda: stepper.step(X[rows].to(torch.float32), noise), recipe.device) / lanes


def _usual_seconds(call: Callable[[], object], device: torch.device) -> float:
    for _ in range(3):
        call()
    times: list[float] = []
    while len(times) < 5 or sum(times) < TRIAL_SECONDS:
        _synchronize(device)
        start = time.perf_counter()
        call()
        _synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 4]  # other work on the machine only ever adds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
