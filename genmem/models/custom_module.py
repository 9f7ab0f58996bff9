"""The module around a user's network: it is tested on a few examples before training, and every result is checked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genmem.errors import GenmemError, ModelError
from genmem.models.coupling import check_scoring
from genmem.training.ensemble import isolated_streams

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
        """The meaning of the mean of the log weights: "importance", "bound" or "exact"."""
        if self.log_weights is not None:
            return "importance"
        bound = self.log_prob is None if self.bound is None else self.bound
        return "bound" if bound else "exact"


class UserModule(nn.Module):
    """A user's network under the contract of `DeepDensity`; its state dict is the user's, under "network."."""

    loops_over_draws = True  # the loss is called once for each draw

    def __init__(self, network: nn.Module, calls: Calls, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.calls, self.event_shape, self.estimate = network, calls, event_shape, calls.estimate

    def forward(self, x: Tensor, draws: int = 1, noise: Tensor | None = None) -> Tensor:
        """Return the loss of each example, averaged over draws: (batch,)."""
        losses = [_per_example("loss", self.calls.loss(self.network, x), x) for _ in range(draws)]
        return torch.stack(losses).mean(0)

    def log_weights(self, x: Tensor, draws: int = 1, noise: Tensor | None = None) -> Tensor:
        """Return values whose mean gives log p: (draws, batch), nats; (1, batch) if log p is exact."""
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
                do="Return one draw per row, each of the shape of an example.",
            )
        return drawn.to(torch.float32)

    def _log_prob(self, x: Tensor) -> Tensor:
        if self.calls.log_prob is None:
            return -_per_example("loss", self.calls.loss(self.network, x), x)
        return _per_example("log_prob", self.calls.log_prob(self.network, x), x)


def _per_example(name: str, found: Any, x: Tensor) -> Tensor:
    """Return a function's result, checked by its shape alone: lanes that share a batch hide the values.

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
        do="Return log p(x, z) - log q(z | x) of `draws` values of z for each example, one row for each draw.",
    )


def _described(found: Any) -> str:
    if not isinstance(found, Tensor):
        return type(found).__name__
    what = "a single number" if found.ndim == 0 else f"shape {tuple(found.shape)}"
    return what if found.is_floating_point() else f"{what} of {found.dtype}"


# --- the test before training


TRIED = 7  # examples
TRIAL_STEPS, TRIAL_RATE = 10, 1e-2


def trial_rows(x: Tensor) -> Tensor:
    """Return a few rows of x; their number differs from any other size, so that sums over a wrong axis show."""
    count = next(k for k in range(TRIED, TRIED + x.ndim) if k not in x.shape[1:])
    return x[torch.arange(count) % len(x)]


def try_module(module: UserModule, x: Tensor, seed: int) -> None:
    """Check a network's loss, gradient and log p on a few examples.

    Raises:
        ModelError: a function raises, or violates the contract of `from_module`.
    """
    with isolated_streams(x.device, seed):
        _try_loss(module.train(), x)

    with blamed("log_prob, log_weights or loss", x), isolated_streams(x.device, seed), torch.no_grad():
        _try_log_p(module.eval().log_weights(x, 2))


def try_scoring(module: UserModule, x: Tensor, seed: int) -> None:
    """Check log p of an untrained network, then of one after a few steps, when its parts have begun to matter.

    Args:
        module: is trained by this.
        x: some examples, float32 (n, *event).
        seed: of the noise.

    Raises:
        UnfitToScore: see `check_scoring`.
        ModelError: a function raises.
    """
    for steps in (0, TRIAL_STEPS):
        with isolated_streams(x.device, seed), blamed("loss", x):
            _step(module.train(), x, steps)
        with blamed("log_prob, log_weights or loss", x):
            check_scoring(module, x, seed)


def _step(module: UserModule, x: Tensor, steps: int) -> None:
    optimiser = torch.optim.Adam(module.parameters(), lr=TRIAL_RATE)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.autograd.backward(module(x).mean())
        optimiser.step()


def _try_loss(module: UserModule, x: Tensor) -> None:
    with blamed("loss", x):
        loss = module(x)
    if not torch.isfinite(loss).all():
        raise ModelError(
            expected="a finite loss of the untrained network",
            got=f"{loss.detach().cpu().tolist()}",
            do="Check the loss for log(0) and overflow, and rescale the data.",
        )
    if not loss.requires_grad:
        raise ModelError(
            expected="a loss that depends on the parameters of the network it is given",
            got="one without a gradient",
            do="Compute it from the network in the call, without .detach(), .item(), numpy or torch.no_grad().",
        )
    with blamed("the gradient of loss", x):
        torch.autograd.backward(loss.mean())


def _try_log_p(found: Tensor) -> None:
    if bool((found.isnan() | (found == torch.inf)).any()):
        raise ModelError(
            expected="log p of the untrained network to be a number",
            got=f"{found[0].cpu().tolist()}",
            do="Check the function for log(0), overflow and 0 / 0.",
        )


@contextmanager
def blamed(what: str, x: Tensor | None = None) -> Iterator[None]:
    """Turn what a user's function raises into an error that names the function."""
    try:
        yield
    except GenmemError:
        raise
    except Exception as error:
        on = "" if x is None else f" on examples of shape {tuple(x.shape)}, {str(x.dtype).removeprefix('torch.')}"
        raise ModelError(
            expected=f"{what} to work{on}",
            got=f"{type(error).__name__}: {error}",
            do="Correct it; x is (batch, *event_shape), on the device of the network.",
        ) from error
