"""Small trained networks of every kind, for tests of TracIn."""

import math

import numpy as np
import oracles_custom as own
import oracles_tracin as oracle
import torch
from torch import nn

from genmem.influence import checkpoint_weights
from genmem.models import VAE, ConvVAE, DiffusionModel, Flow, from_module, from_pyro

QUICK = {"epochs": 2, "batch_size": 4, "checkpoint_every": 1, "device": "cpu"}


RNG = np.random.default_rng(0)


VECTORS = RNG.normal(size=(6, 5)).astype(np.float32)


IMAGES = (255 * RNG.random((4, 8, 8))).astype(np.uint8)


X9 = RNG.normal(size=(9, 4)).astype(np.float32)


class Bare(nn.Module):
    """A layer, a bare parameter, and one that is never used."""

    def __init__(self, shape):
        super().__init__()
        self.layer, self.scale = nn.Linear(math.prod(shape), 3), nn.Parameter(torch.ones(3))
        self.unused = nn.Parameter(torch.ones(2))


def bare_loss(network, x):
    return (torch.tanh(network.layer(x)) * network.scale - 0.5).square().sum(1)


def noisy_loss(network, x):
    return (torch.tanh(network.layer(x + torch.randn_like(x))) * network.scale - 0.5).square().sum(1)


MODELS = {
    "mlp": (lambda: VAE(hidden=(7,), latent_dim=2, **QUICK), VECTORS, 18),
    "conv": (
        lambda: ConvVAE(width=8, latent_dim=2, likelihood="discretized_logistic", **(QUICK | {"epochs": 1})),
        IMAGES,
        2,
    ),
    "flow": (lambda: Flow(transforms=1, hidden=(8,), **QUICK), VECTORS, 3),
    "diffusion": (lambda: DiffusionModel(width=6, depth=1, **QUICK), VECTORS, 18),
}


DRAW_FOR_THEMSELVES = {
    "module": (lambda: from_module(own.UserVAE, loss=own.negative_elbo, bound=True, **QUICK), 3),
    "bare": (lambda: from_module(Bare, loss=noisy_loss, bound=True, **QUICK), 2),
    "pyro": (lambda: from_pyro(pair("vae"), **QUICK), 3),
}


def pair(name):
    import pyro_pairs

    return getattr(pyro_pairs, name)


_fitted = {}


def fitted(name):
    if name not in _fitted:
        make, X = (MODELS | {name: (one, X9) for name, (one, _) in DRAW_FOR_THEMSELVES.items()})[name][:2]
        _fitted[name] = make().fit(X)
    return _fitted[name]


def agree(model, X, Z, found, gradients, *, weights="complete", scale="dot", tolerance=1e-5):
    """Scores against the definition, relative to the norms of both."""
    dot, nx, nz = oracle.tracin(
        model.module_,
        model.trajectory_,
        checkpoint_weights(model.trajectory_, weights),
        torch.from_numpy(X),
        torch.from_numpy(Z),
        gradients,
        adam=weights == "adam",
    )
    norms = np.sqrt(nx)[:, None] * np.sqrt(nz)
    divisor = {"dot": 1.0, "cosine": norms, "query": np.sqrt(nx)[:, None]}[scale]
    assert (abs(found * divisor - dot) / norms).max() < tolerance
