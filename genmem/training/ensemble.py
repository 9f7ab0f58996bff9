"""The training loop: minibatch Adam over one network or many.

A *lane* is one network. Lanes run in one batch (`torch.func.vmap` over stacked parameters) or one after
another; either way a lane's numbers depend on its own seeds alone, never on its neighbours.
"""

import copy
import math
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from genmem.seeding import seed_for, stream

OnEpoch = Callable[[int, int, nn.Module], None]
State = dict[str, Tensor]
CACHE_LINE = 16  # float32 values


@dataclass(frozen=True)
class Recipe:
    """What all lanes share.

    `make_module()` returns a fresh network whose forward pass is `module(x) -> (batch,)`: the loss of each
    example in nats. A network with a `noise_shape` takes all its noise as `noise`, shape (1, batch,
    *noise_shape); others draw it from torch's global stream. Every epoch takes `steps_per_epoch` full
    batches: lanes differ by an example or two, and padding would corrupt normalisation.
    """

    make_module: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    steps_per_epoch: int
    learning_rate: float
    seed: int
    device: torch.device


@dataclass(frozen=True)
class Lane:
    """One network to train: the examples it sees, and the split and repeat its streams derive from."""

    keep: NDArray[np.intp]
    split: int
    repeat: int


def batches(n_keep: int, batch_size: int) -> tuple[int, int]:
    """Return (batch size, full batches an epoch) for lanes that see at least `n_keep` examples.

    >>> batches(1437, 64), batches(30, 64)
    ((64, 22), (30, 1))
    """
    size = min(batch_size, n_keep)
    return size, n_keep // size


def train(
    recipe: Recipe,
    X: Tensor,
    lanes: Sequence[Lane],
    *,
    batched: bool,
    on_epoch: OnEpoch | None = None,
    at_epochs: Collection[int] = (),
    tick: Callable[[int, int], None] | None = None,
) -> list[nn.Module]:
    """Train every lane and return its network.

    Args:
        recipe: what all lanes share.
        X: all examples, shape (n, *event); lanes pick their own rows.
        lanes: the networks to train. Those in one batch that draw noise from torch's global stream must
            belong to one repeat.
        batched: all lanes in one batch, or one after another.
        on_epoch: called as (epoch, lane number, network); the network is lent for the call.
        at_epochs: the epochs after which `on_epoch` is called; 0 is before any step.
        tick: called as (lanes finished, epoch) after every epoch.
    """
    modules: list[nn.Module] = []
    for group in [list(lanes)] if batched else [[lane] for lane in lanes]:
        first = len(modules)
        with _own_streams(recipe, group[0].repeat):
            modules += _train_group(
                recipe, X, group, batched, _shifted(on_epoch, first), at_epochs, _first(tick, first)
            )
    return modules


def _shifted(on_epoch: OnEpoch | None, first: int) -> OnEpoch:
    return (lambda *_: None) if on_epoch is None else lambda epoch, lane, module: on_epoch(epoch, first + lane, module)


def _first(tick: Callable[[int, int], None] | None, first: int) -> Callable[[int], None]:
    return (lambda _: None) if tick is None else lambda epoch: tick(first, epoch)


def _train_group(
    recipe: Recipe,
    X: Tensor,
    lanes: Sequence[Lane],
    batched: bool,
    on_epoch: OnEpoch,
    at_epochs: Collection[int],
    tick: Callable[[int], None],
) -> list[nn.Module]:
    n = len(lanes)
    # A batch of one multiplies matrices by another kernel, with other rounding: a lone lane gets a twin.
    lanes = [*lanes, *lanes] if batched and len(lanes) == 1 else lanes
    stepper = _stepper(recipe, lanes, batched)
    orders = [stream(recipe.seed, "order", lane.split) for lane in lanes]
    noise = Noise(recipe, [lane.repeat for lane in lanes], stepper.module(0))
    for epoch in range(recipe.epochs + 1):
        if epoch:
            rows = _minibatches(recipe, lanes, orders).to(X.device)
            for step in range(recipe.steps_per_epoch):
                stepper.step(X[rows[:, step]].to(torch.float32), noise.next())
            tick(epoch)
        if epoch in at_epochs:
            with _own_streams(recipe):  # what is computed in between leaves no trace
                for i in range(n):
                    on_epoch(epoch, i, stepper.module(i))
    return [copy.deepcopy(stepper.module(i)) for i in range(n)]


def _minibatches(recipe: Recipe, lanes: Sequence[Lane], orders: Sequence[np.random.Generator]) -> Tensor:
    """Return the rows of every batch of one epoch: (lanes, steps, batch)."""
    n = recipe.steps_per_epoch * recipe.batch_size
    rows = [lane.keep[order.permutation(len(lane.keep))[:n]] for lane, order in zip(lanes, orders, strict=True)]
    return torch.from_numpy(np.stack(rows)).view(len(lanes), recipe.steps_per_epoch, recipe.batch_size)


class Noise:
    """Training noise: a stream for each repeat, drawn step by step, or nothing for modules that draw their own."""

    def __init__(self, recipe: Recipe, repeat: Sequence[int], module: nn.Module) -> None:
        shape = noise_shape(module)
        self.shape = None if shape is None else (1, recipe.batch_size, *shape)
        repeats = sorted(set(repeat))
        self.of_lane = torch.tensor([repeats.index(r) for r in repeat], device=recipe.device)
        self.device = recipe.device
        self.streams = [
            torch.Generator(recipe.device).manual_seed(seed_for(recipe.seed, "training noise", r)) for r in repeats
        ]

    def next(self) -> Tensor | None:
        """Return noise of one step for every lane: (lanes, 1, batch, *noise_shape)."""
        if self.shape is None:
            return None
        drawn = [torch.randn(self.shape, generator=s, device=self.device) for s in self.streams]
        return torch.stack(drawn)[self.of_lane]


def noise_shape(module: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of one draw of noise that `module` takes, or None if it draws its own."""
    shape = getattr(module, "noise_shape", None)
    return None if shape is None else tuple(shape)


def takes_noise(recipe: Recipe) -> bool:
    """Return whether networks of this recipe take their noise from outside."""
    return noise_shape(fresh_module(recipe, 0)) is not None


# --- steppers: how one optimiser step is taken


class Stepper(Protocol):
    """Takes optimiser steps for a group of lanes."""

    def step(self, x: Tensor, noise: Tensor | None) -> None:
        """Take one step on x: (lanes, batch, *event)."""

    def module(self, lane: int) -> nn.Module:
        """Return the network of a lane; it may be overwritten by the next call."""


def _stepper(recipe: Recipe, lanes: Sequence[Lane], batched: bool) -> Stepper:
    modules = [fresh_module(recipe, lane.split) for lane in lanes]
    return BatchedLanes(modules, recipe.learning_rate) if batched else OneLane(modules[0], recipe.learning_rate)


def fresh_module(recipe: Recipe, split: int) -> nn.Module:
    """Return the untrained network of a split: its initial weights derive from (seed, split)."""
    with isolated_streams(torch.device("cpu"), seed_for(recipe.seed, "weights", split)):
        return recipe.make_module().to(recipe.device).train()


class OneLane:
    """One network, trained the ordinary way."""

    def __init__(self, module: nn.Module, learning_rate: float) -> None:
        self._module = module
        self._optimiser = torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)

    def step(self, x: Tensor, noise: Tensor | None) -> None:
        """Take one step on x: (1, batch, *event)."""
        self._optimiser.zero_grad()
        torch.autograd.backward(self.losses(x, noise).mean())
        self._optimiser.step()

    def losses(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Return the loss of each example of the only lane: (batch,)."""
        result: Tensor = self._module(x[0]) if noise is None else self._module(x[0], noise=noise[0])
        return result

    def module(self, lane: int) -> nn.Module:
        """Return the only network."""
        return self._module


class BatchedLanes:
    """Many networks of one architecture as one: stacked parameters, one fused Adam.

    Adam works element by element, so the lanes share an optimiser without meeting.
    """

    def __init__(self, modules: Sequence[nn.Module], learning_rate: float) -> None:
        self._scratch = modules[0]
        stacked, self._buffers = stack_module_state(list(modules))
        self._flat = {name: _padded(value).clone() for name, value in stacked.items()}
        self._parameters = {name: _unpadded(self._flat[name], value.shape) for name, value in stacked.items()}
        self._optimiser = torch.optim.Adam(list(self._flat.values()), lr=learning_rate, fused=True)
        skeleton = copy.deepcopy(modules[0])

        def loss(parameters: State, buffers: State, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
            result: Tensor = functional_call(skeleton, (parameters, buffers), (x,), noise).mean()
            return result

        # "same": a lane draws the noise it would draw alone, so its result does not depend on the others.
        self._gradients = vmap(grad(loss), randomness="same")

    def step(self, x: Tensor, noise: Tensor | None) -> None:
        """Take one step on x: (lanes, batch, *event)."""
        for name, gradient in self.gradients(x, noise).items():
            self._flat[name].grad = _padded(gradient)
        self._optimiser.step()

    def gradients(self, x: Tensor, noise: Tensor | None) -> State:
        """Return the gradient of every stacked parameter: (lanes, *parameter)."""
        keywords = {} if noise is None else {"noise": noise}
        result: State = self._gradients(self._parameters, self._buffers, x, keywords)
        return result

    def module(self, lane: int) -> nn.Module:
        """Return the network of a lane; the next call overwrites it."""
        state = {**self._parameters, **self._buffers}
        self._scratch.load_state_dict({k: v[lane] for k, v in state.items()}, strict=False)
        return self._scratch


def _padded(stacked: Tensor) -> Tensor:
    """Return the values in a row whose length is a multiple of a cache line.

    Fused Adam rounds what is left over at the end of a tensor differently from the rest; without any left over,
    a lane's numbers do not depend on how many lanes there are.
    """
    flat = stacked.detach().reshape(-1)
    missing = -len(flat) % CACHE_LINE
    return F.pad(flat, (0, missing)) if missing else flat


def _unpadded(flat: Tensor, shape: torch.Size) -> Tensor:
    return flat[: math.prod(shape)].view(shape)


# --- torch's global stream: used by modules that draw their own noise, and by initial weights

_streams_in_use = threading.RLock()


@contextmanager
def isolated_streams(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Give the block torch's global streams (seeded, if asked) and put them back after it.

    The streams are one for all threads, so one thread at a time is inside.
    """
    devices = [device] if device.type == "cuda" else []
    with _streams_in_use, torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed devices that are not put back
            for cuda in devices:
                torch.cuda.default_generators[_index(cuda)].manual_seed(seed)
        yield


def _own_streams(recipe: Recipe, repeat: int | None = None) -> AbstractContextManager[None]:
    """Isolate the global streams for networks that draw from them; others may train in several threads."""
    if takes_noise(recipe):
        return nullcontext()
    seed = None if repeat is None else seed_for(recipe.seed, "training noise", repeat)
    return isolated_streams(recipe.device, seed)


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
