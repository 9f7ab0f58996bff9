"""Networks as users write them, at the top of a module so that a plan can name them."""

import math

import torch
from torch import nn


class UserVAE(nn.Module):
    """A textbook VAE: fixed unit variance, an encoder and a decoder of one hidden layer."""

    def __init__(self, shape, latent=2):
        super().__init__()
        size = math.prod(shape)
        self.shape, self.latent = shape, latent
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, 16), nn.ReLU(), nn.Linear(16, size))

    def terms(self, x, draws):
        mean, log_variance = self.encoder(x).chunk(2, -1)
        q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        z = mean + q.stddev * torch.randn(draws, *mean.shape, device=x.device)
        p = torch.distributions.Normal(self.decoder(z), 1.0)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
        return p.log_prob(x.flatten(1)).sum(-1), prior.sum(-1), q.log_prob(z).sum(-1)


def negative_elbo(network, x):
    x_given_z, prior, posterior = network.terms(x, 1)
    return (posterior - prior - x_given_z)[0]


def importance_weights(network, x, draws):
    x_given_z, prior, posterior = network.terms(x, draws)
    return x_given_z + prior - posterior


def vae_sample(network, n):
    mean = network.decoder(torch.randn(n, network.latent))
    return (mean + torch.randn_like(mean)).view(n, *network.shape)


class Gaussian(nn.Module):
    """Independent Gaussians: log p is known."""

    def __init__(self, shape):
        super().__init__()
        self.mean = nn.Parameter(0.01 * torch.randn(shape))
        self.log_sd = nn.Parameter(torch.zeros(shape))


def gaussian_nll(network, x):
    z = (x - network.mean) * (-network.log_sd).exp()
    return (0.5 * z.square() + network.log_sd + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


def gaussian_log_prob(network, x):
    return -gaussian_nll(network, x)


def gaussian_sample(network, n):
    return network.mean + network.log_sd.exp() * torch.randn(n, *network.mean.shape)
