"""Which layers have units, and how the values of a layer's units are arranged in its output."""

import difflib
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from genmem.errors import ModelError

CONVOLUTIONS = nn.modules.conv._ConvNd
TRANSPOSED = nn.modules.conv._ConvTransposeNd
CHANNELS_SECOND = (CONVOLUTIONS, nn.modules.batchnorm._NormBase, nn.GroupNorm)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)


def channels_of(layer: nn.Module) -> int | None:
    """Return the number of units of a layer; None if genmem cannot edit units of such a layer.

    A unit is an output of a Linear, an output channel of a convolution (transposed or not), or a channel that a norm
    scales by a weight of its own.

    >>> channels_of(nn.Linear(2, 3)), channels_of(nn.BatchNorm2d(4)), channels_of(nn.GRU(2, 3))
    (3, 4, None)
    """
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, CONVOLUTIONS):
        return layer.out_channels
    if getattr(layer, "weight", None) is None:  # of norms: they scale nothing
        return None
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        return layer.num_features
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and len(layer.normalized_shape) == 1:
        return int(layer.normalized_shape[0])
    return None


def layers_with_units(module: nn.Module) -> dict[str, nn.Module]:
    """Return all layers of a network whose units can be edited, by name; a layer with several names by its first."""
    return {name: layer for name, layer in module.named_modules() if channels_of(layer) is not None}


def without_units(module: nn.Module) -> dict[str, nn.Module]:
    """Return the other modules that have parameters of their own, by name."""
    covered = {id(part) for layer in layers_with_units(module).values() for part in layer.modules()}
    return {
        name: part
        for name, part in module.named_modules()
        if id(part) not in covered and any(True for _ in part.parameters(recurse=False))
    }


def positions_in(layer: nn.Module, output: Tensor) -> int | None:
    """Return at how many positions a unit has a value in the output for one row; None if there is no row.

    The output can then be reshaped to (rows, channels, positions).
    """
    if isinstance(layer, CHANNELS_LAST):
        return 1 if output.ndim > 1 else None
    spatial = len(layer.kernel_size) if isinstance(layer, CONVOLUTIONS) else 0
    if output.ndim < 2 or (spatial and output.ndim != spatial + 2):
        return None
    return int(output.shape[2:].numel())


def require_layer(layers: Mapping[str, nn.Module], name: str, part: str = "the network") -> nn.Module:
    """Return a layer by its name.

    Raises:
        ModelError: there is none of that name; the message has the closest names.
    """
    if name in layers:
        return layers[name]
    close = difflib.get_close_matches(str(name), layers, n=3, cutoff=0.3) or list(layers)[:3]
    raise ModelError(
        expected=f"the name of a layer with units in {part}",
        got=repr(name),
        do=f"The closest are {', '.join(map(repr, close))}." if close else "It has no layer with units.",
    )


def effective_weight(layer: nn.Linear) -> Tensor:
    """Return the matrix that a Linear multiplies by, (out, in): masks and parametrizations included."""
    if type(layer).forward is nn.Linear.forward:
        return layer.weight.detach()
    with torch.no_grad():
        one = torch.eye(layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
        found: Tensor = layer.forward(one) - layer.forward(torch.zeros_like(one[:1]))
    return found.T


def per_unit(layer: nn.Module, values: Tensor, bias: bool = False) -> Tensor:
    """Return numbers of a layer's weights or biases, (n, numbers) each flat, by unit: (n, channels, numbers)."""
    channels = channels_of(layer) or 1
    if bias or not isinstance(layer, TRANSPOSED):
        return values.reshape(len(values), channels, -1)
    grouped = values.reshape(len(values), layer.groups, layer.in_channels // layer.groups, channels // layer.groups, -1)
    return grouped.movedim(3, 2).reshape(len(values), channels, -1)


def incoming(layer: nn.Module) -> Tensor:
    """Return the weights that make each unit, without its bias: (channels, weights)."""
    if isinstance(layer, nn.Linear):
        return effective_weight(layer)
    return per_unit(layer, cast(Tensor, layer.weight).detach().reshape(1, -1))[0]


def outgoing(layer: nn.Module) -> Tensor:
    """Return the weights by which a layer multiplies each channel of its input: (channels, weights)."""
    if isinstance(layer, nn.Linear):
        return effective_weight(layer).T
    weight = cast(Tensor, layer.weight).detach()
    if isinstance(layer, TRANSPOSED) or not isinstance(layer, CONVOLUTIONS):
        return weight.reshape(len(weight), -1)
    grouped = weight.reshape(layer.groups, layer.out_channels // layer.groups, -1, *weight.shape[2:])
    return grouped.movedim(2, 1).reshape(layer.in_channels, -1)
