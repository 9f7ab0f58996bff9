"""The weights that belong to single units: incoming ones, and outgoing ones where one Linear reads the units."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from genmem.neurons.contrast import FloatArray
from genmem.neurons.layers import incoming
from genmem.neurons.units import Unit, wired

Shares = dict[str, Tensor]  # by parameter, which of its entries
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def weight_norms(module: nn.Module, units: Sequence[Unit]) -> FloatArray:
    """Return the norm of the incoming weights of each unit, without its bias: (units,)."""
    layers = {layer: module.get_submodule(layer) for layer, _ in units}
    norms = {name: incoming(layer).double().norm(dim=1).cpu().numpy() for name, layer in layers.items()}
    return np.array([norms[layer][index] for layer, index in units])


def learning_weights(module: nn.Module, units: Sequence[Unit], x: Tensor) -> Shares:
    """Return the weights by which units can learn an example: outgoing ones if one Linear reads them, else incoming.

    Args:
        module: the network.
        units: those that learn.
        x: (n, *event) examples to find the readers on.
    """
    wirings, _ = wired(module, layers=list(dict.fromkeys(layer for layer, _ in units)), examples=x)
    shares: Shares = {}
    for layer, index in units:
        reader = wirings[layer].reader
        if reader is not None:
            _mark(shares, module, reader, "weight", (slice(None), index))
            continue
        part = module.get_submodule(layer)
        for name, _ in part.named_parameters(recurse=False):
            transposed = isinstance(part, TRANSPOSED) and name == "weight"
            _mark(shares, module, layer, name, (slice(None), index) if transposed else (index,))
    return shares


def _mark(shares: Shares, module: nn.Module, layer: str, name: str, entries: tuple[int | slice, ...]) -> None:
    parameter = module.get_submodule(layer).get_parameter(name)
    shares.setdefault(f"{layer}.{name}", torch.zeros_like(parameter, dtype=torch.bool))[entries] = True
