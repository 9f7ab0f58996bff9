"""The module around a user's network: it is tested on a few examples before training, and every result is checked."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genmem.errors import GenmemError, ModelError
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


def trial_rows(x: Tensor) -> Tensor:
    """Return a few rows of x; their number differs from any other size, so that sums over a wrong axis show."""
    count = next(k for k in range(TRIED, TRIED + x.ndim) if k not in x.shape[1:])
    return x[torch.arange(count) % len(x)]


def check_callable(name: str, value: Any, *, needed: bool) -> None:
    """Check that a value is a function, and not bound to an existing network.

    Raises:
        ModelError: it is not.
    """
    if value is None and not needed:
        return
    if isinstance(value, nn.Module) or isinstance(getattr(value, "__self__", None), nn.Module):
        raise ModelError(
            expected=f"{name} to be a function"
            + (" that makes a fresh network" if name == "make_module" else " of the network it is given"),
            got=f"{'a' if isinstance(value, nn.Module) else 'a method of a'} {_class_of(value)} that exists already",
            do="An audit trains many networks, each without some examples. Create the network inside make_module, "
            "for example make_module=lambda shape: Net(), and use the network that each function receives.",
        )
    if not callable(value):
        raise ModelError(
            expected=f"{name} to be a function", got=type(value).__name__, do=f"Pass a function as {name}."
        )


def _class_of(value: Any) -> str:
    return type(value if isinstance(value, nn.Module) else value.__self__).__name__


def check_network(network: Any) -> None:
    """Check the return value of make_module.

    Raises:
        ModelError: it is not a network, or has no parameters to train.
    """
    if not isinstance(network, nn.Module):
        got = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
        raise ModelError(
            expected="make_module(event_shape) to return a torch.nn.Module",
            got=got,
            do="Return the network itself: make_module=lambda shape: Net().",
        )
    if not any(p.requires_grad for p in network.parameters()):
        raise ModelError(
            expected="a network with parameters to train",
            got=f"{type(network).__name__} with none that require a gradient",
            do="Register them with nn.Parameter or nn.Module, and leave requires_grad on for some.",
        )


def check_fresh(first: UserModule, second: UserModule) -> None:
    """Check that two networks are distinct, and warn if both start from the same, possibly trained, weights.

    Raises:
        ModelError: they share weights.
    """
    ones, others = list(first.parameters()), list(second.parameters())
    if first.network is second.network or {p.data_ptr() for p in ones} & {p.data_ptr() for p in others if p.numel()}:
        raise ModelError(
            expected="a fresh network at every call of make_module",
            got="the same weights in two networks",
            do="Create the network inside make_module; all refits would train one that is created outside.",
        )
    same = len(ones) == len(others) and all(torch.equal(p, q) for p, q in zip(ones, others, strict=True))
    if same and any(len(torch.unique(p)) > max(2, p.numel() // 2) for p in ones):  # not zeros, ones or an identity
        warnings.warn(
            "make_module returns the same weights whatever the seed. If they were trained on these data, refits know "
            "the examples they leave out, and scores are too small.",
            stacklevel=2,
        )


def try_module(module: UserModule, x: Tensor, seed: int) -> None:
    """Check a network's loss, gradient and log p on a few examples.

    Raises:
        ModelError: a function raises, or violates the contract of `from_module`.
    """
    with isolated_streams(x.device, seed):
        _try_loss(module.train(), x)

    def log_p(rows: Tensor) -> Tensor:
        with isolated_streams(x.device, seed), torch.no_grad():
            found: Tensor = module.eval().log_weights(rows, 2)
            return found

    _try_log_p(log_p, x)


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


def _try_log_p(log_p: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with blamed("log_prob, log_weights or loss", x):
        found = log_p(x)
    if bool((found.isnan() | (found == torch.inf)).any()):
        raise ModelError(
            expected="log p of the untrained network to be a number",
            got=f"{found[0].cpu().tolist()}",
            do="Check the function for log(0), overflow and 0 / 0.",
        )
    other = x.clone()
    other[-1] = x[0]
    if not torch.allclose(found[:, :-1], log_p(other)[:, :-1], rtol=1e-3, atol=1e-3):
        raise ModelError(
            expected="log p of an example that does not depend on the others of its batch",
            got="other values when one of the others changed",
            do="Compute it for each example separately: no mean over the batch, no batch statistics when evaluated.",
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
