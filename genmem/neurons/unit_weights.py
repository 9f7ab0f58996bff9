"""The weights that belong to single units: incoming ones, and outgoing ones where all readers are known."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from genmem.neurons.contrast import FloatArray
from genmem.neurons.layers import CONVOLUTIONS, TRANSPOSED, incoming
from genmem.neurons.units import Unit, wired
from genmem.neurons.wiring import Wiring

Shares = dict[str, Tensor]  # by parameter, which of its entries
Entries = tuple[int | slice, ...]


def weight_norms(module: nn.Module, units: Sequence[Unit]) -> FloatArray:
    """Return the norm of the incoming weights of each unit, without its bias: (units,)."""
    layers = {layer: module.get_submodule(layer) for layer, _ in units}
    norms = {name: incoming(layer).double().norm(dim=1).cpu().numpy() for name, layer in layers.items()}
    return np.array([norms[layer][index] for layer, index in units])


def learning_weights(module: nn.Module, units: Sequence[Unit], x: Tensor) -> Shares:
    """Return the weights by which units can learn an example: outgoing ones if all readers are known, else incoming.

    Readers are known if each is a Linear or a convolution, and the units are edited where these read them.

    Args:
        module: the network.
        units: those that learn.
        x: (n, *event) examples to find the readers on.
    """
    wirings, _ = wired(module, layers=list(dict.fromkeys(layer for layer, _ in units)), examples=x)
    shares: Shares = {}
    for layer, index in units:
        wiring = wirings[layer]
        readers = [place.module for place in wiring.places if place.side == "input"]
        columns = [_column(module.get_submodule(reader), wiring, index) for reader in readers]
        if wiring.as_read and len(readers) == len(wiring.places) and None not in columns:
            for reader, entries in zip(readers, columns, strict=True):
                _mark(shares, module, reader, "weight", entries or ())
            continue
        part = module.get_submodule(layer)
        for name, _ in part.named_parameters(recurse=False):
            transposed = isinstance(part, TRANSPOSED) and name == "weight"
            _mark(shares, module, layer, name, (slice(None), index) if transposed else (index,))
    return shares


def _column(reader: nn.Module, wiring: Wiring, index: int) -> Entries | None:
    """Return which weights of a layer multiply a unit that it reads; None if it is no such layer."""
    if isinstance(reader, CONVOLUTIONS):
        if reader.groups > 1 or reader.in_channels != wiring.channels:
            return None
        return (index,) if isinstance(reader, TRANSPOSED) else (slice(None), index)
    if isinstance(reader, nn.Linear) and reader.in_features == wiring.channels * wiring.positions:
        return slice(None), slice(index * wiring.positions, (index + 1) * wiring.positions)
    return None


def _mark(shares: Shares, module: nn.Module, layer: str, name: str, entries: Entries) -> None:
    parameter = module.get_submodule(layer).get_parameter(name)
    shares.setdefault(f"{layer}.{name}", torch.zeros_like(parameter, dtype=torch.bool))[entries] = True
