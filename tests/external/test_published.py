"""TracIn of variational auto-encoders as published code has it, from genmem's gradients against plain torch.

Three things are otherwise there than in `genmem.influence`: the loss is squared error plus beta KL whatever
likelihood was trained, with the same draws for all examples; a checkpoint stands for the steps *before* it, times the
batch size; and self-influence is |g|^2 at the last checkpoint alone.

References:
    Understanding Instance-based Interpretability of Variational Auto-Encoders (Kong & Chaudhuri, 2021),
    https://arxiv.org/abs/2105.14203
"""

import numpy as np
import pytest
import torch

from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.products import inner, squared_norms
from genmem.models import VAE, ConvVAE

DRAWS, RGB = 3, 3
RNG = np.random.default_rng(0)
QUICK = {"latent_dim": 2, "epochs": 3, "batch_size": 4, "checkpoint_every": 1, "device": "cpu"}


def published_loss(module, x, noise):
    """|x - x_hat|^2 + beta KL of each example, averaged over draws: (batch,); the square / 3 for colour images."""
    mean, log_variance = module.posterior(x)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    outputs = module.decoder(mean + (0.5 * log_variance).exp() * noise)
    flat = module.described(x)
    guess = torch.sigmoid(outputs) if module.likelihood.name == "bernoulli" else outputs[..., : flat.shape[1]]
    square = (flat - guess).square().sum(-1).mean(0)
    return square / (RGB if x.dim() == 4 and x.shape[-1] == RGB else 1) + module.beta * kl


def published_weights(trajectory):
    """eta_c B D_c / N, with D_c the steps since the checkpoint before."""
    before = np.diff([checkpoint.step for checkpoint in trajectory], prepend=0)
    rates = [checkpoint.learning_rate for checkpoint in trajectory]
    return np.array(rates) * trajectory.batch_size * before / trajectory.n_train


def published_influence(model, X):
    """Scores of all pairs, (n, n), and self-influence, (n,)."""
    module, total = model.module_, 0.0
    noise = torch.randn(DRAWS, 1, *module.noise_shape, generator=torch.Generator().manual_seed(0))
    noise = noise.expand(-1, len(X), *module.noise_shape)
    for checkpoint, weight in zip(model.trajectory_, published_weights(model.trajectory_), strict=True):
        module.load_state_dict(checkpoint.state_dict())
        found = PerExampleGradients(module, X, noise=noise, loss=published_loss).features(X, noise)
        total = total + weight * inner(found, found)
    return total, squared_norms(found), noise


def by_loop(model, X, noise):
    """The same from one backward pass for each example, with the loss written out."""
    module, total = model.module_, 0.0
    path = list(model.trajectory_)
    for checkpoint, earlier in zip(path, [None, *path], strict=False):
        module.load_state_dict(checkpoint.state_dict())
        rows = []
        for i in range(len(X)):
            mean, log_variance = module.posterior(X[i : i + 1])
            kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()
            guess = module.decoder(mean + (log_variance / 2).exp() * noise[:, 0])
            guess = guess.sigmoid() if module.likelihood.name == "bernoulli" else guess[:, : X[i].numel()]
            square = ((guess - X[i].flatten()) ** 2).sum(1).mean() / (3 if X.dim() == 4 else 1)
            loss, parameters = square + module.beta * kl, list(module.parameters())
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]).double())
        g = torch.stack(rows)
        steps = checkpoint.step - (0 if earlier is None else earlier.step)
        weight = checkpoint.learning_rate * model.trajectory_.batch_size * steps / len(X)
        total = total + weight * g @ g.T
    return total, g.square().sum(1)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_influence_as_published(likelihood, colour):
    X = RNG.random((8, 8, 8, 3) if colour else (8, 6)).astype(np.float32)
    X = X.round() if likelihood == "bernoulli" else X
    model = ConvVAE(width=8, **QUICK) if colour else VAE(hidden=(10,), **QUICK)
    model = model.set_params(likelihood=likelihood, constants=()).fit(X)
    pairs, own, noise = published_influence(model, torch.from_numpy(X))
    expected, squares = by_loop(model, torch.from_numpy(X), noise)
    norms = expected.diagonal().sqrt()
    assert ((pairs - expected).abs() / (norms[:, None] * norms)).max() < 1e-5
    torch.testing.assert_close(own.double(), squares, rtol=1e-5, atol=0)
    assert published_weights(model.trajectory_)[0] == 0  # the start of training, before any step
