"""One optimizer step: for one network, or for many of one architecture in one batch."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from genmem.training.module_state import copied

State = dict[str, Tensor]
CACHE_LINE = 16  # float32 values


class Stepper(Protocol):
    """Takes optimizer steps for a group of lanes."""

    def step(self, x: Tensor, noise: Tensor | None) -> None:
        """Take one step on x: (lanes, batch, *event)."""

    def module(self, lane: int) -> nn.Module:
        """Return the network of a lane; it may be overwritten by the next call."""

    def second_moments(self, lane: int) -> State:
        """Return Adam's bias-corrected running mean of squared gradients; none before any step."""


class OneLane:
    """One network with its own optimizer."""

    def __init__(self, module: nn.Module, learning_rate: float) -> None:
        self._module = module
        self._optimiser = torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)

    def step(self, x: Tensor, noise: Tensor | None) -> None:
        """Take one step on x: (1, batch, *event)."""
        self._optimiser.zero_grad()
        torch.autograd.backward(self.losses(x, noise).mean())
        self._optimiser.step()

    def losses(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Return the loss of each example: (batch,)."""
        result: Tensor = self._module(x[0]) if noise is None else self._module(x[0], noise=noise[0])
        return result

    def module(self, lane: int) -> nn.Module:
        """Return the only network."""
        return self._module

    def second_moments(self, lane: int) -> State:
        """Return Adam's second moments of the only network."""
        return {name: v for name, p in self._module.named_parameters() for v in _second_moment(self._optimiser, p)}


class BatchedLanes:
    """Many networks of one architecture in one batch: stacked parameters, one fused Adam.

    Adam works element by element, so lanes share an optimizer without influencing each other.
    """

    def __init__(self, modules: Sequence[nn.Module], learning_rate: float) -> None:
        self._scratch = modules[0]
        stacked, self._buffers = stack_module_state(list(modules))
        self._flat = {name: _padded(value).clone() for name, value in stacked.items()}
        self._parameters = {name: _unpadded(self._flat[name], value.shape) for name, value in stacked.items()}
        self._optimiser = torch.optim.Adam(list(self._flat.values()), lr=learning_rate, fused=True)
        skeleton = _Reassigning(copied(modules[0]))

        def loss(parameters: State, buffers: State, x: Tensor, noise: dict[str, Tensor]) -> tuple[Tensor, State]:
            state = ({f"module.{name}": value for name, value in part.items()} for part in (parameters, buffers))
            result: tuple[Tensor, State] = functional_call(skeleton, tuple(state), (x,), noise)
            return result

        # "same": a lane draws the noise it would draw alone, so its result does not depend on the others.
        self._gradients = vmap(grad(loss, has_aux=True), randomness="same")

    def step(self, x: Tensor, noise: Tensor | None) -> None:
        """Take one step on x: (lanes, batch, *event)."""
        self.descend(self.gradients(x, noise))

    def gradients(self, x: Tensor, noise: Tensor | None) -> State:
        """Return the gradient of every stacked parameter, (lanes, *parameter); buffers change as in any forward pass.

        Those that it changes in place are stacked tensors already, and those that it assigns anew are put back.
        """
        keywords = {} if noise is None else {"noise": noise}
        result, assigned = self._gradients(self._parameters, self._buffers, x, keywords)
        self._buffers.update({name: value.detach() for name, value in assigned.items()})
        found: State = result
        return found

    def descend(self, gradients: State) -> None:
        """Take a step of Adam along the gradients."""
        for name, gradient in gradients.items():
            self._flat[name].grad = _padded(gradient)
        self._optimiser.step()

    def module(self, lane: int) -> nn.Module:
        """Return the network of a lane; the next call overwrites it."""
        state = {**self._parameters, **self._buffers}
        own = self._scratch.load_state_dict({k: v[lane] for k, v in state.items()}, strict=False)
        for name in own.unexpected_keys:  # buffers that a state dict leaves out
            parent, _, last = name.rpartition(".")
            setattr(self._scratch.get_submodule(parent), last, state[name][lane].clone())
        return self._scratch

    def second_moments(self, lane: int) -> State:
        """Return Adam's second moments of a lane."""
        shapes = {name: value.shape for name, value in self._parameters.items()}
        return {
            name: _unpadded(v, shapes[name])[lane]
            for name, flat in self._flat.items()
            for v in _second_moment(self._optimiser, flat)
        }


class _Reassigning(nn.Module):
    """A network that also returns the buffers that its forward pass assigned anew: `functional_call` drops them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, **noise: Tensor) -> tuple[Tensor, State]:
        """Return the mean loss, and the assigned buffers by name."""
        before = dict(self.module.named_buffers())
        loss = self.module(x, **noise).mean()
        after = self.module.named_buffers()
        return loss, {name: value for name, value in after if value is not before.get(name)}


def _second_moment(optimiser: torch.optim.Adam, parameter: Tensor) -> Iterator[Tensor]:
    """Yield the bias-corrected second moment of a parameter, if it has taken a step."""
    state, (_, beta) = optimiser.state.get(parameter, {}), optimiser.param_groups[0]["betas"]
    if state:
        yield state["exp_avg_sq"] / (1 - beta ** float(state["step"]))


def _padded(stacked: Tensor) -> Tensor:
    """Return the values in a row whose length is a multiple of a cache line.

    Fused Adam rounds a remainder at the end of a tensor differently from the rest; without a remainder, a lane's
    numbers do not depend on the number of lanes.
    """
    flat = stacked.detach().reshape(-1)
    missing = -len(flat) % CACHE_LINE
    return F.pad(flat, (0, missing)) if missing else flat


def _unpadded(flat: Tensor, shape: torch.Size) -> Tensor:
    return flat[: math.prod(shape)].view(shape)
