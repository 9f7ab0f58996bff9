"""Small runs to refit, and a network that draws its own noise: shared by tests of several packages."""

import numpy as np
import torch
from torch import nn

from genmem.data import load
from genmem.models import VAE, DeepDensity
from genmem.run import Run, Splits

ARRAYS = ("log_probs", "effective_draws", "variance_in", "variance_out")


def planned(path, X, model=None, splits=None, method=None, device="cpu", lanes=6, **changes):
    model = model or VAE(hidden=[16], latent_dim=2, epochs=6, batch_size=16, device=device)
    if isinstance(model, DeepDensity):
        model = model.resolve(X)
    run = Run.create(
        path,
        model=model,
        data=load(X),
        splits=splits or Splits.k_fold(len(X), 3, 4, 0),
        score_epochs=changes.pop("score_epochs", (3, 6)),
        importance_samples=changes.pop("importance_samples", 16),
        **changes,
    )
    if method:
        run.set_probe({"method": method, "lanes": lanes, "device": device})
    return run


def assert_same(one, other, **tolerance):
    for name in ARRAYS:
        if tolerance:
            np.testing.assert_allclose(one.shard_arrays(name), other.shard_arrays(name), **tolerance)
        else:
            np.testing.assert_array_equal(one.shard_arrays(name), other.shard_arrays(name))


class PlainModule(nn.Module):
    """A Gaussian with learned mean; draws its own noise, exact log p."""

    def __init__(self, size):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(size))

    def forward(self, x, draws=1):
        return -self.log_weights(x + 0.01 * torch.randn_like(x))[0]

    def log_weights(self, x, draws=1):
        return (-0.5 * (x - self.mean).square() - 0.9189385).sum(-1)[None]

    def sample(self, n):
        return self.mean + torch.randn(n, len(self.mean))


class PlainDensity(DeepDensity):
    def make_module(self, event_shape):
        return PlainModule(event_shape[0])
