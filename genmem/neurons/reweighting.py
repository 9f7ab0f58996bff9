"""Units with other incoming weights: noise, a fresh draw, or those of an earlier checkpoint.

The layer's output is computed a second time, by a copy of the layer with other weights, and only the chosen channels
are taken from it. Parameters of the network stay as they are, also those that several layers share.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from genmem.errors import ModelError
from genmem.neurons.edits import in_rows
from genmem.neurons.runs import seed_of
from genmem.neurons.wiring import Wiring, edits_rest
from genmem.training.ensemble import isolated_streams
from genmem.training.module_state import copied

REWEIGHTINGS = ("noise", "reinit", "rewind")


@contextmanager
def reweighted(
    module: nn.Module,
    masks: Mapping[str, Tensor],
    wirings: Mapping[str, Wiring],
    mode: str,
    *,
    sigma: float,
    weights: Mapping[str, Tensor] | None,
    seed: int,
) -> Iterator[None]:
    """Give units other incoming weights and biases in every call inside the block.

    Raises:
        ModelError: `sigma` or `weights` do not suit the mode, or a layer's weights cannot be set.
    """
    with ExitStack() as hooks:
        for number, (name, mask) in enumerate(masks.items()):
            layer = module.get_submodule(name)
            other = _plain_copy(layer, name)
            with torch.no_grad(), isolated_streams(torch.device("cpu"), seed_of(seed, f"{mode} {number}")):
                _set(other, layer, name, mode, sigma, weights)
            hook = layer.register_forward_hook(_taking(other, wirings[name], mask[0]), with_kwargs=True)
            hooks.callback(hook.remove)
        yield


def _plain_copy(layer: nn.Module, name: str) -> nn.Module:
    """Return a copy without hooks whose `weight` is a parameter of its own."""
    other = copied(layer)
    for part in other.modules():
        for hooks in (part._forward_hooks, part._forward_hooks_with_kwargs, part._forward_pre_hooks_with_kwargs):
            hooks.clear()
    if parametrize.is_parametrized(other):
        computed = {local: getattr(layer, local).detach().clone() for local in other._modules["parametrizations"]}  # type: ignore[union-attr]
        del other._modules["parametrizations"]
        other.__class__ = parametrize.type_before_parametrizations(layer)  # the network's class is left as it is
        for local, value in computed.items():
            other.register_parameter(local, nn.Parameter(value))
    if not isinstance(other._parameters.get("weight"), nn.Parameter):  # of torch.nn.utils.weight_norm
        raise ModelError(
            expected=f"a layer {name} whose weight is a parameter",
            got="a weight that a hook computes",
            do="Use torch.nn.utils.parametrizations in place of torch.nn.utils.weight_norm, or another mode.",
        )
    other._forward_pre_hooks.clear()
    return other


def _set(
    other: nn.Module, layer: nn.Module, name: str, mode: str, sigma: float, weights: Mapping[str, Tensor] | None
) -> None:
    if mode == "noise":
        if not (isinstance(sigma, int | float) and 0 <= sigma < math.inf):
            raise ModelError(expected="sigma to be a number >= 0", got=repr(sigma), do="Change sigma.")
        other.weight.add_(sigma * torch.randn(other.weight.shape).to(other.weight))  # type: ignore[operator, arg-type]
    elif mode == "reinit":
        other.reset_parameters()  # type: ignore[operator]
    else:
        _rewind(other, name, weights)


def _rewind(other: nn.Module, name: str, weights: Mapping[str, Tensor] | None) -> None:
    for local, parameter in other.named_parameters(recurse=False):
        value = (weights or {}).get(f"{name}.{local}")
        if value is None or value.shape != parameter.shape:
            raise ModelError(
                expected=f"weights with {name}.{local} of shape {tuple(parameter.shape)}",
                got="none" if value is None else f"shape {tuple(value.shape)}",
                do="Pass weights=, the state dict of an earlier checkpoint of this network.",
            )
        parameter.copy_(value)


def _taking(other: nn.Module, wiring: Wiring, mask: Tensor) -> Callable[..., Any]:
    def take(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> Tensor:
        if edits_rest():
            return output
        new, old = in_rows(wiring, other(*args, **keywords)), in_rows(wiring, output)
        return torch.where(mask[:, None].to(output.device), new, old).reshape(output.shape)

    return take
