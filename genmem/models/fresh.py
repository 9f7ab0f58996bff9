"""Does a user's function make a fresh network for every refit? Checked before training."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from genmem.errors import ModelError

HALVES = (torch.float16, torch.bfloat16)


def check_callable(name: str, value: Any, *, needed: bool, makes_network: bool = False) -> None:
    """Check that a value is a function, and not bound to an existing network.

    Raises:
        ModelError: it is not.
    """
    if value is None and not needed:
        return
    given, value = value, value.func if isinstance(value, partial) else value
    if isinstance(value, nn.Module) or isinstance(getattr(value, "__self__", None), nn.Module):
        what = " that makes a fresh network" if makes_network else " of the network it is given"
        raise ModelError(
            expected=f"{name} to be a function{what}",
            got=f"{'a' if isinstance(value, nn.Module) else 'a method of a'} {_class_of(value)} that exists already",
            do="An audit trains many networks, each without some examples. Create the network inside the function, "
            f"for example {name if makes_network else 'make_module'}=lambda shape: Net(), and use the network that "
            "each function receives.",
        )
    if not callable(given):
        raise ModelError(
            expected=f"{name} to be a function", got=type(given).__name__, do=f"Pass a function as {name}."
        )


def _class_of(value: Any) -> str:
    return type(value if isinstance(value, nn.Module) else value.__self__).__name__


def check_network(network: Any, maker: str = "make_module") -> None:
    """Check the network that a user's function returned.

    Raises:
        ModelError: it is not a network, has no parameters to train, or has some in half precision.
    """
    if not isinstance(network, nn.Module):
        got = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
        raise ModelError(
            expected=f"{maker}(event_shape) to return a torch.nn.Module",
            got=got,
            do=f"Return the network itself: {maker}=lambda shape: Net().",
        )
    if not any(p.requires_grad for p in network.parameters()):
        raise ModelError(
            expected="a network with parameters to train",
            got=f"{type(network).__name__} with none that require a gradient",
            do="Register them with nn.Parameter or nn.Module, and leave requires_grad on for some.",
        )
    check_precision(network, maker)


def check_precision(network: nn.Module, maker: str) -> None:
    """Check that no parameter is in half precision.

    Raises:
        ModelError: one is.
    """
    half = next(((name, p.dtype) for name, p in network.named_parameters() if p.dtype in HALVES), None)
    if half is not None:
        raise ModelError(
            expected="a network in float32 or float64",
            got=f"{half[0]!r} in {str(half[1]).removeprefix('torch.')}, whose rounding adds up to nats of log p",
            do=f"Return net.float() from {maker}.",
        )


def check_fresh(first: nn.Module, second: nn.Module, maker: str = "make_module") -> None:
    """Check that two networks are distinct, and warn if both start from the same, possibly trained, weights.

    Raises:
        ModelError: they share weights.
    """
    ones, others = _weights(first), _weights(second)
    if {p.data_ptr() for p in ones} & {p.data_ptr() for p in others}:
        raise ModelError(
            expected=f"a fresh network at every call of {maker}",
            got="the same weights in two networks",
            do=f"Create the network inside the function {maker}; all refits would train one that is created outside.",
        )
    same = len(ones) == len(others) and all(torch.equal(p, q) for p, q in zip(ones, others, strict=True))
    if same and any(len(torch.unique(p)) > max(2, p.numel() // 2) for p in ones):  # not zeros, ones or an identity
        warnings.warn(
            f"{maker} returns the same weights whatever the seed. If they were trained on these data, refits know "
            "the examples they leave out, and scores are too small.",
            stacklevel=2,
        )


def _weights(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if not is_lazy(p) and p.numel()]
