"""Does a user's network answer as it should? It is tried on a few examples before it is trained."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genmem.errors import GenmemError, ModelError
from genmem.models.custom_module import UserModule
from genmem.training.ensemble import isolated_streams

TRIED = 7  # examples


def trial_rows(x: Tensor) -> Tensor:
    """Return a few rows of x; their number is unlike any other size, so that sums over a wrong axis show."""
    count = next(k for k in range(TRIED, TRIED + x.ndim) if k not in x.shape[1:])
    return x[torch.arange(count) % len(x)]


def check_callable(name: str, value: Any, *, needed: bool) -> None:
    """Check that a function is one, and not bound to a network that exists already.

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
            do="An audit trains many networks, each without some examples: make it inside make_module, "
            "for example make_module=lambda shape: Net(), and use the network that the functions are given.",
        )
    if not callable(value):
        raise ModelError(
            expected=f"{name} to be a function", got=type(value).__name__, do=f"Pass a function as {name}."
        )


def _class_of(value: Any) -> str:
    return type(value if isinstance(value, nn.Module) else value.__self__).__name__


def check_network(network: Any) -> None:
    """Check what make_module returned.

    Raises:
        ModelError: it is not a network, or has nothing to train.
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
    """Check that two networks are two, and warn where both start with what was learned before.

    Raises:
        ModelError: they share weights.
    """
    ones, others = list(first.parameters()), list(second.parameters())
    if first.network is second.network or {p.data_ptr() for p in ones} & {p.data_ptr() for p in others if p.numel()}:
        raise ModelError(
            expected="a fresh network at every call of make_module",
            got="the same weights in two networks",
            do="Make the network inside make_module; what is made outside would be trained by all refits at once.",
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
        ModelError: a function raises, or does not answer as `from_module` says.
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
            do="Answer for each example by itself: no mean over the batch, no statistics of it in evaluation mode.",
        )


@contextmanager
def blamed(what: str, x: Tensor | None = None) -> Iterator[None]:
    """Turn what a user's function raises into an error that says which."""
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
