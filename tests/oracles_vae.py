"""Likelihoods, VAEs and the convolutional network by their definitions, in float64."""

import math

import numpy as np
import torch
from scipy import stats
from scipy.special import log_softmax, logsumexp
from torch import nn


def log_likelihood(likelihood, x, output, log_variance=None):
    """Return log p(x | z) of one flat example (d,) from one row of outputs, value by value."""
    x, output = np.asarray(x, np.float64), np.asarray(output, np.float64)
    if likelihood.name == "bernoulli":
        return sum(stats.bernoulli.logpmf(int(v), 1 / (1 + math.exp(-o))) for v, o in zip(x, output, strict=True))
    if likelihood.name == "discretized_logistic":
        return logistic_mixture(x, output, likelihood)
    d, total = len(x), 0.0
    for i, value in enumerate(x):
        log_var = max(-7.0, output[d + i] if log_variance is None else float(log_variance))
        sd = math.exp(0.5 * log_var)
        if likelihood.name == "logit_normal":
            s = 0.05 + 0.9 * value
            total += math.log(0.9 / (s * (1 - s)))
            value = math.log(s / (1 - s))
        total += stats.norm.logpdf(value, output[i], sd) - (math.log(likelihood.levels) if likelihood.levels else 0.0)
    return total


def logistic_mixture(x, output, likelihood):
    """Return the log probability of levels: the mixture is summed inside, pixels outside."""
    k, colours, levels = likelihood.components, likelihood.channels, likelihood.levels
    pixels, total = len(x) // colours, 0.0
    means, scales = output[k * pixels : k * pixels + k * len(x)], output[k * pixels + k * len(x) :]
    for p in range(pixels):
        weights = log_softmax([output[j * pixels + p] for j in range(k)])
        terms = []
        for j in range(k):
            term = weights[j]
            for c in range(colours):
                at = (j * pixels + p) * colours + c
                mean = means[at] + (2 * j + 1 - k) / k
                scale = math.exp(min(7.0, max(-math.log(levels - 1) - 2, scales[at])))
                level = round(x[p * colours + c] / likelihood.top * (levels - 1))
                term += log_level(level, levels, mean, scale)
            terms.append(term)
        total += logsumexp(terms)
    return total


def log_level(level, levels, mean, scale):
    """Return the log probability that a logistic on [-1, 1] falls into the bin of a level; outer bins are open."""
    edges = [-math.inf, *((2 * k + 1) / (levels - 1) - 1 for k in range(levels - 1)), math.inf]
    low, high = edges[level], edges[level + 1]
    if low > mean:  # above the mean the upper tail has the digits
        return _log(stats.logistic.sf(low, mean, scale) - stats.logistic.sf(high, mean, scale))
    return _log(stats.logistic.cdf(high, mean, scale) - stats.logistic.cdf(low, mean, scale))


def _log(p):
    return math.log(p) if p > 0 else -math.inf


def log_prob_by_grid(module, X, span=6.0, points=301):
    """Return log p(x) of a VAE with one latent dimension by summing p(x | z) p(z) over a grid of z."""
    z = np.linspace(-span, span, points)
    weight = next(module.decoder.parameters())
    with torch.no_grad():
        output = module.decoder(torch.as_tensor(z[:, None], dtype=weight.dtype)).numpy()
    shared = module.log_variance.item() if module.likelihood.learns_variance else None
    log_prior = stats.norm.logpdf(z) + math.log(z[1] - z[0])
    kept = [i for i in range(int(np.prod(module.event_shape))) if i not in module.constants]
    values = []
    for x in np.asarray(X, np.float64).reshape(len(X), -1)[:, kept]:
        values.append(logsumexp([log_likelihood(module.likelihood, x, o, shared) for o in output] + log_prior))
    return np.array(values)


def paper_network(colours, latent, outputs, width=32):
    """Return encoder, mean, log variance and decoder of the DCVAE of the paper for 32 x 32, written out."""
    f, c = width, colours
    encoder = nn.Sequential(
        nn.Conv2d(c, f, 4, 2, 1, bias=False), nn.LeakyReLU(0.2),
        nn.Conv2d(f, 2 * f, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * f), nn.LeakyReLU(0.2),
        nn.Conv2d(2 * f, 4 * f, 4, 2, 1, bias=False), nn.BatchNorm2d(4 * f), nn.LeakyReLU(0.2),
        nn.Conv2d(4 * f, 8 * f, 4, 2, 1, bias=False), nn.BatchNorm2d(8 * f), nn.LeakyReLU(0.2),
        nn.Flatten(),
    )  # fmt: skip
    mean, log_variance = nn.Linear(8 * f * 4, latent), nn.Linear(8 * f * 4, latent)
    decoder = nn.Sequential(
        nn.Unflatten(1, (latent, 1, 1)),
        nn.ConvTranspose2d(latent, 8 * f, 2, 1, 0, bias=False), nn.BatchNorm2d(8 * f), nn.ReLU(),
        nn.ConvTranspose2d(8 * f, 4 * f, 4, 2, 1, bias=False), nn.BatchNorm2d(4 * f), nn.ReLU(),
        nn.ConvTranspose2d(4 * f, 2 * f, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * f), nn.ReLU(),
        nn.ConvTranspose2d(2 * f, f, 4, 2, 1, bias=False), nn.BatchNorm2d(f), nn.ReLU(),
        nn.ConvTranspose2d(f, outputs, 4, 2, 1, bias=False),
    )  # fmt: skip
    return encoder, mean, log_variance, decoder


def adam_by_loop(recipe, X, lane):
    """Return the network of a lane after plain minibatch Adam with its buffers updated in the ordinary way."""
    from genmem.seeding import seed_for, stream
    from genmem.training.ensemble import fresh_module

    module = fresh_module(recipe, lane.split)
    optimiser = torch.optim.Adam(module.parameters(), lr=recipe.learning_rate)
    order = stream(recipe.seed, "order", lane.split)
    noise = torch.Generator().manual_seed(seed_for(recipe.seed, "training noise", lane.repeat))
    for _ in range(recipe.epochs):
        rows = lane.keep[order.permutation(len(lane.keep))]
        for step in range(recipe.steps_per_epoch):
            batch = X[rows[step * recipe.batch_size : (step + 1) * recipe.batch_size]].float()
            eps = torch.randn((1, len(batch), *module.noise_shape), generator=noise)
            optimiser.zero_grad()
            module(batch, noise=eps).mean().backward()
            optimiser.step()
    return module
