"""The network around a user's network: it asks the user's functions, and checks what they answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genmem.errors import ModelError

Network = Callable[[tuple[int, ...]], nn.Module]
PerExample = Callable[[Any, Tensor], Tensor]
PerDraw = Callable[[Any, Tensor, int], Tensor]
Sampler = Callable[[Any, int], Any]


@dataclass(frozen=True)
class Calls:
    """The functions of `from_module`."""

    loss: PerExample
    log_prob: PerExample | None
    log_weights: PerDraw | None
    sample: Sampler | None
    bound: bool | None

    @property
    def estimate(self) -> str:
        """What the mean of the log weights is: "importance", "bound" or "exact"."""
        if self.log_weights is not None:
            return "importance"
        bound = self.log_prob is None if self.bound is None else self.bound
        return "bound" if bound else "exact"


class UserModule(nn.Module):
    """A user's network as the contract of `DeepDensity` has it; its state dict is the user's, under "network."."""

    def __init__(self, network: nn.Module, calls: Calls, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.calls, self.event_shape, self.estimate = network, calls, event_shape, calls.estimate

    def forward(self, x: Tensor, draws: int = 1, noise: Tensor | None = None) -> Tensor:
        """Return the loss of each example, averaged over draws: (batch,)."""
        losses = [_per_example("loss", self.calls.loss(self.network, x), x) for _ in range(draws)]
        return torch.stack(losses).mean(0)

    def log_weights(self, x: Tensor, draws: int = 1, noise: Tensor | None = None) -> Tensor:
        """Return what log p is a mean of: (draws, batch), nats; (1, batch) where log p is exact."""
        if self.calls.log_weights is not None:
            return _per_draw(self.calls.log_weights(self.network, x, draws), x, draws)
        first = self._log_prob(x)
        if self.estimate == "exact" or draws == 1:
            return first.unsqueeze(0)
        second = self._log_prob(x)
        if torch.equal(first, second):  # nothing is drawn
            return first.expand(draws, len(x))
        return torch.stack([first, second, *(self._log_prob(x) for _ in range(draws - 2))])

    def sample(self, n: int) -> Tensor:
        """Return n draws of x: (n, *event).

        Raises:
            ModelError: there is no function that samples, or it returns another shape.
        """
        if self.calls.sample is None:
            raise ModelError(
                expected="a function that samples",
                got="from_module without `sample`",
                do="Pass sample=lambda network, n: ..., which returns n draws as a tensor (n, *event).",
            )
        drawn = torch.as_tensor(self.calls.sample(self.network, n)).detach()
        if drawn.shape != (n, *self.event_shape):
            raise ModelError(
                expected=f"sample(network, {n}) of shape {(n, *self.event_shape)}",
                got=f"{tuple(drawn.shape)}",
                do="Return one draw a row, each of the shape of an example.",
            )
        return drawn.to(torch.float32)

    def _log_prob(self, x: Tensor) -> Tensor:
        if self.calls.log_prob is None:
            return -_per_example("loss", self.calls.loss(self.network, x), x)
        return _per_example("log_prob", self.calls.log_prob(self.network, x), x)


def _per_example(name: str, found: Any, x: Tensor) -> Tensor:
    """Return what a function found, checked by its shape alone: values are not known where lanes share a batch.

    Raises:
        ModelError: it is not one number for each example.
    """
    if isinstance(found, Tensor) and found.shape == x.shape[:1] and found.is_floating_point():
        return found
    raise ModelError(
        expected=f"{name}(network, x) to return one number for each example, a float tensor of shape ({len(x)},)",
        got=_described(found),
        do="Sum over the values of an example, and neither sum nor average over examples "
        "(reduction='none', then .flatten(1).sum(1)).",
    )


def _per_draw(found: Any, x: Tensor, draws: int) -> Tensor:
    if isinstance(found, Tensor) and found.shape == (draws, len(x)) and found.is_floating_point():
        return found
    raise ModelError(
        expected=f"log_weights(network, x, {draws}) to return a float tensor of shape ({draws}, {len(x)})",
        got=_described(found),
        do="Return log p(x, z) - log q(z | x) of `draws` values of z for each example, a row for each draw.",
    )


def _described(found: Any) -> str:
    if not isinstance(found, Tensor):
        return type(found).__name__
    what = "a single number" if found.ndim == 0 else f"shape {tuple(found.shape)}"
    return what if found.is_floating_point() else f"{what} of {found.dtype}"
