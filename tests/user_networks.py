"""Densities around networks that a user might bring: shared by tests of what works and of what is refused."""

import numpy as np
import oracles_custom as own
import torch
from torch import nn

from genmem.models import from_module

QUICK = {"epochs": 5, "learning_rate": 0.01, "batch_size": 32, "device": "cpu"}


def normal(n=60, shape=(3,), seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def user_vae(**changes):
    functions = {"loss": own.negative_elbo, "log_weights": own.importance_weights, "sample": own.vae_sample}
    return from_module(own.UserVAE, **{**functions, **QUICK, **changes})


def user_gaussian(**changes):
    functions = {"loss": own.gaussian_nll, "log_prob": own.gaussian_log_prob, "sample": own.gaussian_sample}
    return from_module(own.Gaussian, **{**functions, **QUICK, **changes})


class Remembering(nn.Module):
    """An autoencoder of 4 values whose loss has a factor, which may depend on what it remembers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)

    def factor(self, h):
        return 1.0

    def forward(self, x):
        h = torch.tanh(self.first(x))
        factor = self.factor(h)
        return factor * (self.last(h) - x).square().sum(1)
