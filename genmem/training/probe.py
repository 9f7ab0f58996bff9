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

from genmem.training.agreement import difference, shared_by_lanes, trial_inputs
from genmem.training.ensemble import Noise, Recipe, fresh_module, isolated_streams
from genmem.training.steppers import BatchedLanes, OneLane, Stepper

TRIAL_SECONDS = 0.4
WARM_UP, TIMED = 3, 5  # steps, if they are fast
BATCH_TOLERANCE = 1e-4
EXACT_TOLERANCE = 1e-9  # in float64
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
    ((x, noise),) = trial_inputs(recipe, X, 1)
    lane = OneLane(fresh_module(recipe, 0), recipe.learning_rate)
    with isolated_streams(recipe.device, 0), FlopCounterMode(display=False) as counter:
        torch.autograd.backward(lane.losses(x, noise).mean())
    return int(counter.get_total_flops())


# --- may lanes share a batch?


def can_batch(recipe: Recipe, X: Tensor) -> bool:
    """Return whether the network computes the same in lanes as alone, for several steps; warn once if it does not.

    Gradients, buffers and log p have to agree, and no other state may change in training: lanes would share it.

    If rounding switches a rectifier on or off, gradients change by more than rounding. If they disagree in float32,
    float64 decides: there, they agree to EXACT_TOLERANCE or really differ.
    """
    try:
        reason = _obstacle(recipe, X)
    except Exception as error:  # whatever the network raises under vmap, the loop is the answer
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if reason is not None:
        warnings.warn(f"Refits run one after another: the network cannot run in lanes ({reason}).", stacklevel=2)
    return reason is None


def _obstacle(recipe: Recipe, X: Tensor) -> str | None:
    """Return why the network may not run in lanes, or None."""
    if (shared := shared_by_lanes(recipe, X)) is not None:
        return shared
    with _batching_rules_only():
        found = difference(recipe, X, torch.float32, BATCH_TOLERANCE)
    return None if found is None else _difference_exactly(recipe, X, found)


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


def _difference_exactly(recipe: Recipe, X: Tensor, found: str) -> str | None:
    try:
        with _batching_rules_only():
            return difference(recipe, X, torch.float64, EXACT_TOLERANCE)
    except Exception:  # it makes float32 tensors of its own: what float32 said stands
        return found


# --- how many fit into memory?


def fitting_lanes(recipe: Recipe, X: Tensor) -> int:
    """Return how many networks fit into half of the free memory when trained at once; at least 1."""
    module = fresh_module(recipe, 0)
    state = OPTIMISER_STATE * sum(p.numel() * p.element_size() for p in module.parameters())
    each = state + 2 * _kept_for_backward(recipe, module, X)  # gradients of activations take as much again
    return max(1, int(SHARE_OF_MEMORY * free_bytes(recipe.device) / max(1, each)))


def _kept_for_backward(recipe: Recipe, module: nn.Module, X: Tensor) -> int:
    """Return the bytes of activations kept for the backward pass of one step of one network."""
    ((x, noise),) = trial_inputs(recipe, X, 1)
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    lane = OneLane(module, recipe.learning_rate)
    with isolated_streams(recipe.device, 0), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        lane.losses(x, noise)
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
