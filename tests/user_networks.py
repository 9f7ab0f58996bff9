"""Densities around networks that a user might bring: shared by tests of what works and of what is refused."""

import numpy as np
import oracles_custom as own

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
