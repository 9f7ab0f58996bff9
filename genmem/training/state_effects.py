"""Does a network compute anything from what it remembers? Each changed value is replaced, and the results compared."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genmem.training.ensemble import isolated_streams, noise_shape
from genmem.training.module_state import Slot, copied, poisons, same, slots

MOST_SLOTS = 24  # changed values that are examined
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Trial:
    """Examples, (batch, *event), and their noise, (1, batch, *noise_shape), on which results are compared."""

    x: Tensor
    noise: Tensor | None
    seed: int = 0

    def loss(self, module: nn.Module) -> Tensor:
        """Return the training loss of each example: (batch,)."""
        return self._call(module.train(), "forward", 1)

    def score(self, module: nn.Module) -> Tensor:
        """Return the log weights in evaluation mode: (draws, batch); minus the loss of a network without any."""
        if callable(getattr(module, "log_weights", None)):
            return self._call(module.eval(), "log_weights", 2)
        return -self._call(module.eval(), "forward", 1)

    def _call(self, module: nn.Module, name: str, draws: int) -> Tensor:
        call: Any = module if name == "forward" else getattr(module, name)
        given: dict[str, Any] = {} if name == "forward" else {"draws": draws}
        if self.noise is not None:
            given["noise"] = self.noise.expand(draws, *self.noise.shape[1:])
        with isolated_streams(self.x.device, self.seed), torch.no_grad():
            found: Tensor = call(self.x, **given)
        return found.detach()


@dataclass(frozen=True)
class Effects:
    """What depends on a value that changed in training: `loss`, `score`, or its own next value (`kept`)."""

    slot: Slot
    loss: bool
    score: bool
    kept: bool


def effects(module: nn.Module, among: Iterable[Slot], trial: Trial) -> list[Effects]:
    """Return what depends on each of some changed values of a network, which is copied, not changed."""
    expected = _results(module, trial, None, None)
    return [_effects(module, slot, trial, expected) for slot, _ in zip(among, range(MOST_SLOTS), strict=False)]


def _effects(module: nn.Module, slot: Slot, trial: Trial, expected: list[Any]) -> Effects:
    usual = _results(module, trial, slot, None)[2]
    differing = [False, False, False]
    for poison in poisons(slot.value):
        try:
            loss, score, value = _results(module, trial, slot, poison)
            differs = [not close(expected[0], loss), not close(expected[1], score), not alike(usual, value)]
        except Exception:  # what the network raises if the value is another: it reads it
            differs = [True, True, True]
        differing = [one or other for one, other in zip(differing, differs, strict=True)]
    return Effects(slot, *differing)


def _results(module: nn.Module, trial: Trial, slot: Slot | None, poison: Any) -> list[Any]:
    """Return the loss and the score of copies, and the value of a slot after the loss, once it was replaced."""
    loss, value = _result(copied(module), trial.loss, slot, poison)
    return [loss, _result(copied(module), trial.score, slot, poison)[0], value]


def _result(copy: nn.Module, result: Callable[[nn.Module], Tensor], slot: Slot | None, poison: Any) -> tuple[Any, Any]:
    if slot is None:
        return result(copy), None
    there = slots(copy)[slot.path]
    if poison is None:
        return result(copy), slots(copy)[slot.path].value
    there.put(poison.clone() if isinstance(poison, Tensor) else poison)
    try:
        return result(copy), slots(copy)[slot.path].value
    finally:
        there.put(there.held)  # copies share variables around functions with the network


def alike(one: Any, other: Any) -> bool:
    """Return whether two values of a slot are the same, tensors up to what a device may round."""
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape:
        return close(one, other)
    return same(one, other)


def close(one: Tensor, other: Tensor) -> bool:
    """Return whether two results agree, NaN included, up to what a device may round."""
    if one.shape != other.shape:
        return False
    return torch.allclose(one.double(), other.double(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def trial_noise(module: nn.Module, batch: int, device: torch.device) -> Tensor | None:
    """Return standard normal noise for a batch, (1, batch, *noise_shape); None if the network draws its own."""
    shape = noise_shape(module)
    if shape is None:
        return None
    return torch.randn((1, batch, *shape), generator=torch.Generator().manual_seed(1)).to(device)
