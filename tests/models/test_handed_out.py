"""A network that exists already is refused whatever hides it, and left as it was: its weights, buffers and mode."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from genmem.errors import ModelError
from genmem.models import DiffusionModel, from_module

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t[:, None].to(x.dtype)], 1))


class Holder(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, t):
        return self.network(x, t)


WAYS = {
    "itself": lambda net: net,
    "a method": lambda net: net.forward,
    "partial": lambda net: functools.partial(net),
    "partial of a method": lambda net: functools.partial(net.forward),
    "a function": lambda net: lambda shape: net,
    "a default": lambda net: lambda shape, net=net: net,
    "in another module": lambda net: lambda shape: Holder(net),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_network_that_exists_is_refused_and_left_alone(way):
    net = Denoiser()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ModelError, match="exists already|the same weights in two networks"):
        DiffusionModel(network=WAYS[way](net), timesteps=10, epochs=1).fit(X)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_partial_of_a_network_is_refused_by_from_module():
    with pytest.raises(ModelError, match="exists already"):
        from_module(functools.partial(nn.Linear(4, 4)), loss=lambda net, x: net(x).sum(1), bound=True)
    model = from_module(functools.partial(lambda size, shape: nn.Linear(4, size), 4), loss=len, bound=True)
    assert model is not None
