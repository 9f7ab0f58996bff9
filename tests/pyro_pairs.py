"""Pyro model/guide pairs for the tests, importable by name as a plan needs them."""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

PRIOR_SCALE, SCALE = 2.0, 0.5


class Net(nn.Module):
    """A VAE as Pyro's own tutorial writes it: one module with methods model and guide, and pyro.module."""

    def __init__(self, size, latent=1, beta=1.0):
        super().__init__()
        self.latent, self.beta = latent, beta
        self.encoder = nn.Sequential(nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, 8), nn.Tanh(), nn.Linear(8, size))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=self.beta):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.latent), 1.0).to_event(1))
            mean = self.decoder(z)
            pyro.sample("x", dist.Normal(mean, self.log_scale.exp()).to_event(1), obs=x.flatten(1))

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=self.beta):
            mean, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


def vae(event_shape):
    net = Net(math.prod(event_shape))
    return net.model, net.guide


def scaled_vae(event_shape):
    net = Net(math.prod(event_shape), beta=0.3)
    return net.model, net.guide


def mixture(event_shape):
    """Functions with bare parameters, nothing latent: component marginalised. One name has a dot, one is a method's."""
    size = math.prod(event_shape)

    def model(x):
        logits = pyro.param("type", lambda: torch.zeros(3))
        mean = pyro.param("mean.of.component", lambda: torch.randn(3, size))
        scale = pyro.param("scale", lambda: torch.ones(3, size), constraint=constraints.positive)
        parts = dist.Normal(mean, scale).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(logits=logits), parts), obs=x.flatten(1))

    def guide(x):
        pass

    return model, guide


def _normal(x, plate):
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(x.shape[1:]), PRIOR_SCALE).to_event(1))
    with plate:
        pyro.sample("x", dist.Normal(mean, SCALE).to_event(1), obs=x)


def bare_guide(event_shape):
    """A model with a global latent, conjugate, and a guide of bare pyro.param."""

    def model(x):
        _normal(x, pyro.plate("data", len(x)))

    def guide(x):
        mean = pyro.param("mean_of_q", lambda: 0.1 * torch.randn(event_shape))
        scale = pyro.param("scale_of_q", lambda: torch.full(event_shape, 0.3), constraint=constraints.positive)
        pyro.sample("mean", dist.Normal(mean, scale).to_event(1))

    return model, guide


def auto_guide(event_shape):
    model, _ = bare_guide(event_shape)
    return model, AutoNormal(model)


TOTAL = 1000


def fixed_total(event_shape):
    """The plate stands for a fixed number of examples, of which x is a part."""
    _, guide = bare_guide(event_shape)
    return lambda x: _normal(x, pyro.plate("data", TOTAL, subsample=x)), guide


class Both(PyroModule):
    """A global latent and one of each example; both learned by PyroParam, in a plate to the left of another."""

    def __init__(self, size):
        super().__init__()
        self.decoder = nn.Linear(1, size)
        self.scale = PyroParam(torch.ones(size), constraints.positive)

    def forward(self, x):
        shift = pyro.sample("shift", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0))
            pyro.deterministic("mean", self.decoder(z))
            with pyro.plate("columns", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(self.decoder(z) + shift, self.scale), obs=x)


class GuideOfBoth(PyroModule):
    """It has a `scale` too: in Pyro's store the two would be one parameter."""

    def __init__(self, size):
        super().__init__()
        self.encoder = nn.Linear(size, 2)
        self.mean = nn.Parameter(torch.zeros(size))
        self.scale = PyroParam(torch.full((size,), 0.2), constraints.positive)

    def forward(self, x):
        pyro.sample("shift", dist.Normal(self.mean, self.scale).to_event(1))
        with pyro.plate("data", len(x), dim=-2):
            mean, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()))


def both(event_shape):
    return Both(*event_shape), GuideOfBoth(*event_shape)


class Flow(nn.Module):
    """A transform that remembers its last call by tensor identity."""

    def __init__(self, size):
        super().__init__()
        self.flow = dist.transforms.spline(size)

    def forward(self, x):
        base = dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.TransformedDistribution(base, [self.flow]), obs=x)


def flow(event_shape):
    return Flow(*event_shape), lambda x: None


def transposed(event_shape):
    """The plate of examples to the right of another."""
    (size,) = event_shape

    def model(x):
        mean = pyro.param("mean", lambda: torch.randn(size, 1))
        log_scale = pyro.param("log_scale", lambda: torch.randn(size, 1))
        with pyro.plate("data", len(x), dim=-1), pyro.plate("columns", size, dim=-2):
            pyro.sample("x", dist.Normal(mean, log_scale.exp()), obs=x.T)

    return model, lambda x: None
