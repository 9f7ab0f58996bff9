"""The training loop: minibatch Adam over one network or many.

A *lane* is one network. Lanes run in one batch (`torch.func.vmap` over stacked parameters) or one after
another; either way a lane's numbers depend on its own seeds alone, never on other lanes.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.seeding import seed_for, stream
from genmem.training.module_state import copied, detached
from genmem.training.steppers import BatchedLanes, OneLane, State, Stepper

OnEpoch = Callable[[int, int, nn.Module], None]
OnMoments = Callable[[int, int, State], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """The settings that all lanes share.

    `make_module()` returns a fresh network whose forward pass is `module(x) -> (batch,)`: the loss of each
    example in nats. A network with a `noise_shape` takes all its noise as `noise`, shape (1, batch,
    *noise_shape); others draw it from torch's global stream. Batches are full: lanes differ by an example
    or two, and padding would corrupt normalization. A lane's examples are permuted anew every
    `steps_per_pass` steps; None is once per epoch. Refits that take the steps of a model trained on more
    examples pass over their own more often than once per epoch.
    """

    make_module: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    steps_per_epoch: int
    learning_rate: float
    seed: int
    device: torch.device
    steps_per_pass: int | None = None

    def with_steps_of(self, steps_per_epoch: int) -> "Recipe":
        """Return the recipe with other steps per epoch, in passes over the examples of as many steps as before."""
        return replace(self, steps_per_epoch=steps_per_epoch, steps_per_pass=self.steps_per_epoch)


@dataclass(frozen=True)
class Lane:
    """One network to train: its training examples, and the split and repeat that its streams derive from."""

    keep: NDArray[np.intp]
    split: int
    repeat: int


def batches(n_keep: int, batch_size: int) -> tuple[int, int]:
    """Return (batch size, full batches per epoch) for lanes with at least `n_keep` training examples.

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
    on_moments: OnMoments | None = None,
    at_epochs: Collection[int] = (),
    tick: Callable[[int, int], None] | None = None,
) -> list[nn.Module]:
    """Train every lane and return its network.

    Args:
        recipe: the settings that all lanes share.
        X: all examples, shape (n, *event); each lane takes its own rows.
        lanes: the networks to train. Those in one batch that draw noise from torch's global stream must
            belong to one repeat.
        batched: all lanes in one batch, or one after another.
        on_epoch: called as (epoch, lane number, network); the network may be overwritten after the call.
        on_moments: called before `on_epoch` as (epoch, lane number, Adam's bias-corrected second moment of every
            parameter; none before the first step).
        at_epochs: the epochs after which both are called; 0 is before any step.
        tick: called as (lanes finished, epoch) after every epoch.
    """
    modules: list[nn.Module] = []
    for group in [list(lanes)] if batched else [[lane] for lane in lanes]:
        first = len(modules)
        with _own_streams(recipe, group[0].repeat):
            modules += _train_group(
                recipe,
                X,
                group,
                batched,
                _shifted(on_epoch, first),
                _shifted(on_moments, first),
                at_epochs,
                _first(tick, first),
            )
    return modules


def _shifted(listener: Callable[[int, int, T], None] | None, first: int) -> Callable[[int, int, T], None] | None:
    """Return a listener that counts the lanes of one group from `first`."""
    return None if listener is None else lambda epoch, lane, what: listener(epoch, first + lane, what)


def _first(tick: Callable[[int, int], None] | None, first: int) -> Callable[[int], None]:
    return (lambda _: None) if tick is None else lambda epoch: tick(first, epoch)


def _train_group(
    recipe: Recipe,
    X: Tensor,
    lanes: Sequence[Lane],
    batched: bool,
    on_epoch: OnEpoch | None,
    on_moments: OnMoments | None,
    at_epochs: Collection[int],
    tick: Callable[[int], None],
) -> list[nn.Module]:
    n = len(lanes)
    # A batch of one multiplies matrices by another kernel, with other rounding: a lone lane is doubled.
    lanes = [*lanes, *lanes] if batched and len(lanes) == 1 else lanes
    stepper = _stepper(recipe, lanes, batched)
    batches = _minibatches(recipe, lanes, X.device)
    noise = Noise(recipe, [lane.repeat for lane in lanes], stepper.module(0))
    for epoch in range(recipe.epochs + 1):
        if epoch:
            for rows in islice(batches, recipe.steps_per_epoch):
                stepper.step(X[rows].to(torch.float32), noise.next())
            tick(epoch)
        if epoch in at_epochs:
            with _own_streams(recipe):  # scoring in between does not change training
                for i in range(n):
                    if on_moments is not None:
                        on_moments(epoch, i, stepper.second_moments(i))
                    if on_epoch is not None:
                        on_epoch(epoch, i, stepper.module(i))
    if not batched:  # its own network: a hook that refers to the network would not be copied with it
        return [detached(stepper.module(0))]
    return [copied(stepper.module(i)) for i in range(n)]


def _minibatches(recipe: Recipe, lanes: Sequence[Lane], device: torch.device) -> Iterator[Tensor]:
    """Yield the rows of one batch after another, pass after pass: (lanes, batch)."""
    steps = recipe.steps_per_pass or recipe.steps_per_epoch
    orders = [stream(recipe.seed, "order", lane.split) for lane in lanes]
    while True:
        rows = [lane.keep[order.permutation(len(lane.keep))] for lane, order in zip(lanes, orders, strict=True)]
        of_pass = np.stack([kept[: steps * recipe.batch_size] for kept in rows])
        yield from torch.from_numpy(of_pass).view(len(lanes), steps, -1).to(device).unbind(1)


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
        """Return the noise of one step for every lane: (lanes, 1, batch, *noise_shape)."""
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


def _stepper(recipe: Recipe, lanes: Sequence[Lane], batched: bool) -> Stepper:
    modules = [fresh_module(recipe, lane.split) for lane in lanes]
    return BatchedLanes(modules, recipe.learning_rate) if batched else OneLane(modules[0], recipe.learning_rate)


def fresh_module(recipe: Recipe, split: int) -> nn.Module:
    """Return the untrained network of a split: its initial weights derive from (seed, split)."""
    with isolated_streams(torch.device("cpu"), seed_for(recipe.seed, "weights", split)):
        return recipe.make_module().to(recipe.device).train()


# --- torch's global stream: used by modules that draw their own noise, and by initial weights

_streams_in_use = threading.RLock()


@contextmanager
def isolated_streams(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Isolate torch's global random streams (seeded, if `seed` is given) and restore them after the block.

    All threads share these streams, so only one thread at a time is inside.
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
