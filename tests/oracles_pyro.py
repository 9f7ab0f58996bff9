"""Slow, obvious versions of what Pyro models compute."""

import math

import numpy as np
import torch
from pyro.infer import Trace_ELBO
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm


def trace_elbo(module, x, seed):
    """Return the loss of Pyro itself for the pair of a network."""
    torch.manual_seed(seed)
    with module.running() as (model, guide):
        return Trace_ELBO().loss(model, guide, x)


def vae_log_prob(net, x):
    """Return log p(x) of a VAE with one latent by quadrature; `net` has `decoder` and `log_scale`."""
    z = torch.linspace(-9, 9, 6001, dtype=torch.float32)[:, None]
    with torch.no_grad():
        mean, scale = net.decoder(z).numpy(), math.exp(float(net.log_scale))
    prior = norm.logpdf(z.numpy()[:, 0]) + math.log(18 / 6000)
    return np.array([logsumexp(prior + norm.logpdf(row, mean, scale).sum(1)) for row in x])


def conjugate_predictive(X, prior_scale, scale):
    """Return mean and standard deviation of p(x new | X) for x ~ N(mu, scale), mu ~ N(0, prior_scale)."""
    precision = 1 / prior_scale**2 + len(X) / scale**2
    return X.sum(0) / scale**2 / precision, math.sqrt(1 / precision + scale**2)


def factor_analysers(x, weights, means, loadings, variance):
    """Return log p(x) of a mixture of factor analysers from full covariances."""
    terms = [
        math.log(w) + multivariate_normal(m, np.asarray(L) @ np.asarray(L).T + np.diag(v)).logpdf(x)
        for w, m, L, v in zip(weights, means, loadings, variance, strict=True)
    ]
    return logsumexp(np.stack(terms), axis=0)
