"""Do networks in lanes compute what they compute alone? Compared over several steps, state included."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genmem.training.ensemble import Recipe, fresh_module, isolated_streams, noise_shape
from genmem.training.module_state import Slot, changed, slots
from genmem.training.state_effects import Trial, effects
from genmem.training.steppers import BatchedLanes, OneLane, State
from genmem.training.tensors import cloned, put_back, state_of

STEPS = 3
LEAST_GRADIENT = 1e-3  # below, a parameter's gradients are compared to this
Inputs = list[tuple[Tensor, Tensor | None]]  # of each step: x (lanes, batch, *event), noise (lanes, 1, batch, ...)


@dataclass(frozen=True)
class _Step:
    """What lanes computed in one step: parameters before it, gradients, and their state after the forward pass."""

    parameters: list[State]
    gradients: State
    state: list[State]


def trial_inputs(recipe: Recipe, X: Tensor, lanes: int, steps: int = 1) -> Inputs:
    """Return minibatches drawn from X for each lane and step, and their noise."""
    generator = torch.Generator().manual_seed(0)
    shape, found = noise_shape(fresh_module(recipe, 0)), []
    for _ in range(steps):
        rows = torch.randint(len(X), (lanes, recipe.batch_size), generator=generator).to(X.device)
        drawn = None if shape is None else torch.randn((lanes, 1, recipe.batch_size, *shape), generator=generator)
        found.append((X[rows].to(torch.float32), None if drawn is None else drawn.to(recipe.device)))
    return found


def difference(recipe: Recipe, X: Tensor, dtype: torch.dtype, tolerance: float) -> str | None:
    """Return what differs between two lanes and the same networks alone by more than `tolerance`, or None.

    Networks alone get the parameters of the lanes before each step, because Adam turns rounding into differences of
    the size of the learning rate; buffers and whatever else they remember are their own.
    """
    inputs = [(x.to(dtype), None if n is None else n.to(dtype)) for x, n in trial_inputs(recipe, X, 2, STEPS)]
    with isolated_streams(recipe.device, 0):
        stepper = BatchedLanes([fresh_module(recipe, i).to(dtype) for i in range(2)], recipe.learning_rate)
        steps = [_step(stepper, x, noise) for x, noise in inputs]
    for i in range(2):
        module = fresh_module(recipe, i).to(dtype)
        found = _difference_alone(module, i, inputs, steps, tolerance)
        if found is None and not _scores_agree(module, stepper.module(i), i, inputs[-1], tolerance):
            found = "its log p differs"
        if found is not None:
            return f"{found} between lanes and a plain loop"
    return None


def _step(stepper: BatchedLanes, x: Tensor, noise: Tensor | None) -> _Step:
    before = [cloned(dict(stepper.module(i).named_parameters())) for i in range(len(x))]
    gradients = stepper.gradients(x, noise)
    state = [cloned(state_of(stepper.module(i))) for i in range(len(x))]
    stepper.descend(gradients)
    return _Step(before, gradients, state)


def _difference_alone(module: nn.Module, i: int, inputs: Inputs, steps: list[_Step], tolerance: float) -> str | None:
    """Take the steps of one lane with a network alone; return what differs."""
    with isolated_streams(inputs[0][0].device, 0):
        for (x, noise), step in zip(inputs, steps, strict=True):
            put_back(module, step.parameters[i])
            module.zero_grad()
            lane = OneLane(module, 0.0)
            torch.autograd.backward(lane.losses(x[i : i + 1], None if noise is None else noise[i : i + 1]).mean())
            alone = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in module.named_parameters()}
            if not _gradients_agree(alone, {n: g[i] for n, g in step.gradients.items()}, tolerance):
                return "its gradients differ"
            state = state_of(module)
            if names := [n for n, v in step.state[i].items() if n not in state or not _agree(v, state[n], tolerance)]:
                return f"its buffer {names[0]} differs"
    return None


def _gradients_agree(alone: State, together: State, tolerance: float) -> bool:
    largest = max((float(gradient.abs().max()) for gradient in alone.values()), default=0.0)
    for name, expected in alone.items():
        # A bias before a normalization has only rounding, which in float64 is relative to the other gradients.
        least = LEAST_GRADIENT * (largest if expected.dtype == torch.float64 else 1.0)
        scale = expected.abs().max().clamp(min=least)
        if not bool(((together[name] - expected).abs().max() <= tolerance * scale).item()):
            return False
    return True


def _scores_agree(alone: nn.Module, lane: nn.Module, i: int, last: tuple[Tensor, Tensor | None], to: float) -> bool:
    x, noise = last
    trial = Trial(x[i], None if noise is None else noise[i])
    put_back(alone, dict(lane.named_parameters()))
    return _agree(trial.score(lane), trial.score(alone), to)


def _agree(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Return whether values agree up to `tolerance` of the largest; integers, and what is not finite, exactly."""
    if one.shape != other.shape or not one.is_floating_point():
        return torch.equal(one, other)
    scale = max(float(other.detach().nan_to_num(0, 0, 0).abs().max()), 1.0) if other.numel() else 1.0
    return torch.allclose(one, other, rtol=0.0, atol=max(tolerance, 0.0) * scale, equal_nan=True)


# --- what lanes would share


def shared_by_lanes(recipe: Recipe, X: Tensor) -> str | None:
    """Return what a network remembers outside its parameters and buffers and lanes would share, or None.

    Harmless are a plain tensor that every forward pass computes anew and nothing reads, a loss kept for a log, and what
    the first pass sets to one value in every network and no other changes, a mask for example.
    """
    module, inputs = fresh_module(recipe, 0), trial_inputs(recipe, X, 1, STEPS)
    before, first = slots(module), _after(fresh_module(recipe, 1), recipe, inputs[1:2])
    after = _after(module, recipe, inputs)
    constant = after.keys() - {slot.path for slot in changed(first, after)}
    found = [slot for slot in changed(before, after) if slot.path not in constant]
    for slot in found:
        if not isinstance(slot.value, Tensor):
            return _told(slot.path)
    x, noise = inputs[-1]
    trial = Trial(x[0], None if noise is None else noise[0])
    return next((_told(e.slot.path) for e in effects(module, found, trial) if e.loss or e.score or e.kept), None)


def _after(module: nn.Module, recipe: Recipe, inputs: Inputs) -> dict[str, Slot]:
    """Return the state of a network outside parameters and buffers after some steps."""
    lane = OneLane(module, recipe.learning_rate)
    with isolated_streams(recipe.device, 0):
        for x, noise in inputs:
            lane.step(x, noise)
    return slots(module)


def _told(path: str) -> str:
    return f"{path} changes in training and is no buffer"
