"""One after another or all at once? Short timed trials on the actual network, data and device."""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from genmem.training.ensemble import Noise, Recipe, fresh_module, isolated_streams, noise_shape
from genmem.training.steppers import BatchedLanes, OneLane, Stepper

TRIAL_SECONDS = 0.4
WARM_UP, TIMED = 3, 5  # steps, if they are fast
BATCH_TOLERANCE = 1e-4
EXACT_TOLERANCE = 1e-9  # in float64
LEAST_GRADIENT = 1e-3  # below, a parameter's gradients are compared to this
OPTIMISER_STATE = 4  # copies of the parameters: themselves, gradients, two moments of Adam
SHARE_OF_MEMORY = 0.5


@dataclass(frozen=True)
class Pace:
    """Seconds per optimizer step of one network: `quick`, if nothing else runs, and on `average`."""

    quick: float
    average: float


def measure_pace(recipe: Recipe, X: Tensor, lanes: int, *, batched: bool) -> Pace:
    """Time optimizer steps of some networks on minibatches drawn from X, as in training."""
    modules = [fresh_module(recipe, i) for i in range(lanes)]
    stepper: Stepper = (
        BatchedLanes(modules, recipe.learning_rate) if batched else OneLane(modules[0], recipe.learning_rate)
    )
    noise = Noise(recipe, [0] * lanes, modules[0])
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        rows = torch.randint(len(X), (lanes, recipe.batch_size), generator=generator).to(X.device)
        stepper.step(X[rows].to(torch.float32), noise.next())

    with isolated_streams(recipe.device, 0):
        times = sorted(_times(step, recipe.device))
    # Other work on the machine only adds time: the lower quartile compares ways, the mean predicts the duration.
    return Pace(times[len(times) // 4] / lanes, sum(times) / len(times) / lanes)


def _times(call: Callable[[], object], device: torch.device) -> list[float]:
    """Return the seconds of several calls after a warm-up; if they are slow, of one or two after one."""
    warm: list[float] = []
    while len(warm) < WARM_UP and sum(warm) < TRIAL_SECONDS:
        warm.append(_seconds(call, device))
    times: list[float] = []
    while (len(times) < TIMED and sum(times) < 2 * TRIAL_SECONDS) or sum(times) < TRIAL_SECONDS:
        times.append(_seconds(call, device))
    return times


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_flops(recipe: Recipe, X: Tensor) -> int:
    """Return the floating-point operations of matrix products and convolutions in a step of one network."""
    rows, noise = _trial_inputs(recipe, X, 1)
    lane = OneLane(fresh_module(recipe, 0), recipe.learning_rate)
    with isolated_streams(recipe.device, 0), FlopCounterMode(display=False) as counter:
        torch.autograd.backward(lane.losses(X[rows].to(torch.float32), noise).mean())
    return int(counter.get_total_flops())


# --- may lanes share a batch?


def can_batch(recipe: Recipe, X: Tensor) -> bool:
    """Return whether the network computes the same gradients in lanes as alone; warn once if it does not.

    If rounding switches a rectifier on or off, gradients change by more than rounding. If they disagree in float32,
    float64 decides: there, they agree to EXACT_TOLERANCE or really differ.
    """
    try:
        agree = _lanes_agree(recipe, X, torch.float32, BATCH_TOLERANCE) or _agree_exactly(recipe, X)
        reason = "its gradients differ between lanes and a plain loop"
    except Exception as error:  # whatever the network raises under vmap, the loop is the answer
        agree, reason = False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if not agree:
        warnings.warn(f"Refits run one after another: the network cannot run in lanes ({reason}).", stacklevel=2)
    return agree


@contextmanager
def _batching_rules_only() -> Iterator[None]:
    """Let vmap raise where an operation has no batching rule: its fallback is a loop, slower than ours (LSTMs)."""
    functorch: Any = getattr(torch._C, "_functorch", None)
    if not hasattr(functorch, "_set_vmap_fallback_enabled"):  # private: a torch without it uses the fallback
        yield
        return
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(before)


def _agree_exactly(recipe: Recipe, X: Tensor) -> bool:
    try:
        return _lanes_agree(recipe, X, torch.float64, EXACT_TOLERANCE)
    except Exception:  # it makes float32 tensors of its own: what float32 said stands
        return False


def _lanes_agree(recipe: Recipe, X: Tensor, dtype: torch.dtype, tolerance: float) -> bool:
    """Return whether two lanes have the gradients each has alone, up to `tolerance` of a parameter's largest."""
    rows, noise = _trial_inputs(recipe, X, 2)
    x, noise = X[rows].to(dtype), None if noise is None else noise.to(dtype)
    with isolated_streams(recipe.device, 0), _batching_rules_only():
        modules = [fresh_module(recipe, i).to(dtype) for i in range(2)]
        together = BatchedLanes(modules, recipe.learning_rate).gradients(x, noise)
    for i in range(2):
        alone = _gradients_alone(recipe, i, x, noise)
        largest = max((float(gradient.abs().max()) for gradient in alone.values()), default=0.0)
        # A bias before a normalization has only rounding, which in float64 is relative to the other gradients.
        least = LEAST_GRADIENT * (largest if dtype == torch.float64 else 1.0)
        for name, expected in alone.items():
            scale = expected.abs().max().clamp(min=least)
            if not bool(((together[name][i] - expected).abs().max() <= tolerance * scale).item()):
                return False
    return True


def _gradients_alone(recipe: Recipe, i: int, x: Tensor, noise: Tensor | None) -> dict[str, Tensor]:
    module = fresh_module(recipe, i).to(x.dtype)
    own_noise = None if noise is None else noise[i : i + 1]
    with isolated_streams(recipe.device, 0):
        torch.autograd.backward(OneLane(module, recipe.learning_rate).losses(x[i : i + 1], own_noise).mean())
    named = module.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named}


def _trial_inputs(recipe: Recipe, X: Tensor, lanes: int) -> tuple[Tensor, Tensor | None]:
    """Return the rows of one minibatch for each lane, (lanes, batch), and its noise."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(X), (lanes, recipe.batch_size), generator=generator).to(X.device)
    shape = noise_shape(fresh_module(recipe, 0))
    if shape is None:
        return rows, None
    noise = torch.randn((lanes, 1, recipe.batch_size, *shape), generator=generator)
    return rows, noise.to(recipe.device)


# --- how many fit into memory?


def fitting_lanes(recipe: Recipe, X: Tensor) -> int:
    """Return how many networks fit into half of the free memory when trained at once; at least 1."""
    module = fresh_module(recipe, 0)
    state = OPTIMISER_STATE * sum(p.numel() * p.element_size() for p in module.parameters())
    each = state + 2 * _kept_for_backward(recipe, module, X)  # gradients of activations take as much again
    return max(1, int(SHARE_OF_MEMORY * free_bytes(recipe.device) / max(1, each)))


def _kept_for_backward(recipe: Recipe, module: nn.Module, X: Tensor) -> int:
    """Return the bytes of activations kept for the backward pass of one step of one network."""
    rows, noise = _trial_inputs(recipe, X, 1)
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    lane = OneLane(module, recipe.learning_rate)
    with isolated_streams(recipe.device, 0), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        lane.losses(X[rows].to(torch.float32), noise)
    return sum(size for storage, size in sizes.items() if storage not in own)


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes; on a CPU, the less of what machine and container leave."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_machine_bytes(), _container_bytes())


def _machine_bytes() -> int:
    information = Path("/proc/meminfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES")) // 2


def _container_bytes(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes left by a memory limit of control groups; a very large number without a limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return max(0, int((root / limit).read_text()) - int((root / used).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return 1 << 62
