"""The parameters and buffers of a network by name: copied, compared and put back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers, those that no state dict holds too."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def cloned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies without gradients."""
    return {name: value.detach().clone() for name, value in state.items()}


@torch.no_grad()
def put_back(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the parameters and buffers of these names these values."""
    for name, value in state_of(module).items():
        if name in state:
            value.copy_(state[name])


def equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have one shape, dtype and the same values, NaN included."""
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and bool(((one == other) | (one != one) & (other != other)).all())
