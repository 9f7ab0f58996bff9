"""Ablation by the obvious loop: one unit at a time, written into the forward pass."""

import math

import numpy as np
import torch

from genmem.models.evaluation import stream_noise
from genmem.seeding import seed_for


def replacing(layer, units, shape, new):
    """Return an `edit` for the networks of tests/neuron_networks.py: units (of one layer) get `new`."""
    channels, positions = shape

    def edit(name, value):
        if name != layer:
            return value
        rows = value.reshape(-1, channels, positions).clone()
        for unit in units:
            rows[:, unit] = new if isinstance(new, float) else new[unit]
        return rows.reshape(value.shape)

    return edit


def mean_values(network, layer, shape, X):
    """Return the mean over examples and calls of each unit at each position: (channels, positions)."""
    seen = []

    def edit(name, value):
        if name == layer:
            seen.append(value.detach().reshape(-1, *shape).double().clone())
        return value

    network(X, edit)
    return torch.cat(seen).mean(0).float()


@torch.no_grad()
def drops_by_loop(network, log_p, X, layer, shape, baseline, reference):
    """Return log p minus log p with each unit of a layer replaced: (n, channels); `log_p(outputs, X)`."""
    new = 0.0 if baseline == "zero" else mean_values(network, layer, shape, reference)
    before = log_p(network(X), X)
    columns = [before - log_p(network(X, replacing(layer, [u], shape, new)), X) for u in range(shape[0])]
    return torch.stack(columns, 1).double().numpy()


@torch.no_grad()
def vae_log_p(module, x, row, decode, posterior, draws, seed):
    """Return log p of one example of a Gaussian VAE by importance draws, with a decoder of one's own."""
    mean, log_variance = (torch.as_tensor(part) for part in posterior)
    weights = []
    for s in range(draws):
        noise = stream_noise(mean.shape, seed_for(seed, "evaluation noise", row // 128, s // 16), x.device)
        eps = noise[s % 16, row % 128]
        z = mean + (0.5 * log_variance).exp() * eps
        output = decode(z)
        variance = module.log_variance.clamp(min=-7).exp()
        log_x = -0.5 * ((x - output).square() / variance + torch.log(2 * math.pi * variance)).sum()
        log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum()
        log_q = -0.5 * (eps.square() + log_variance + math.log(2 * math.pi)).sum()
        weights.append(float(log_x + log_prior - log_q))
    top = max(weights)
    return top + math.log(np.mean([math.exp(w - top) for w in weights]))


def decoder_with(layers, after, unit, new):
    """Return a decoder, a list of layers, whose unit is replaced behind the layer with number `after`."""

    def decode(z):
        for number, layer in enumerate(layers):
            z = layer(z)
            if number == after:
                z = z.clone()
                z[unit] = new
        return z

    return decode
