"""Networks and examples that both libraries are compared on, and what genmem says of them."""

import torch
from gradient_networks import Squares
from torch import nn

from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.products import Features, inner, squared_norms
from genmem.models import VAE, ConvVAE

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-7}
INSTALL = "pip install --no-deps captum==0.8.0 kronfluence==1.0.1 einconv einops accelerate, and pip install matplotlib"
DRAWS, LATENT = 4, 3


def mlp():
    return Squares(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7, bias=False), nn.ReLU(), nn.Linear(7, 4))


def tokens():
    """Linear layers that see (batch, positions, features)."""
    return Squares(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))


def convolutions():
    return Squares(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 5, (3, 2), padding=(2, 1), dilation=(2, 1))
    )


def unknown_layers():
    """Layers that neither library reads: norms, transposed and 1-d convolutions, embeddings' like."""
    return Squares(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.ConvTranspose2d(4, 3, 3, stride=2),
        nn.Flatten(2),
        nn.Conv1d(3, 3, 5, stride=4),
        nn.LayerNorm(20),
        nn.Linear(20, 3),
    )


READ_BY_ALL = {"mlp": (mlp, (6,)), "tokens": (tokens, (5, 3)), "convolutions": (convolutions, (2, 7, 6))}


def fresh(make, dtype, seed=0):
    torch.manual_seed(seed)
    return make().to(dtype).eval()


def data(n, event, dtype, seed=0):
    return torch.randn(n, *event, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def vae(dtype, *, likelihood="bernoulli", conv=False):
    """A VAE's network, and examples and queries with fixed noise, draws first."""
    if conv:
        model, event = ConvVAE(width=4, latent_dim=LATENT, likelihood=likelihood, constants=()), (8, 8)
    else:
        model, event = VAE(hidden=(10, 8), latent_dim=LATENT, likelihood=likelihood, constants=()), (12,)
    module = fresh(lambda: model.make_module(event), dtype)
    rows = [(data(n, event, dtype, n) > 0).to(dtype) for n in (9, 4)]
    noise = [data(DRAWS, (n, LATENT), dtype, n) for n in (9, 4)]
    return module, *zip(rows, noise, strict=True)


def batch_first(pair):
    """Noise with the examples first."""
    return pair[0], pair[1].transpose(0, 1).contiguous()


def ours(module, x, z, names=None):
    """genmem's products and squared norms; of some parameters only, if they are named. x, z: (rows, noise or None)."""
    gradients = PerExampleGradients(module, x[0], noise=x[1])
    found = [gradients.features(*some) for some in (x, z)]
    if names is not None:
        found = [Features({name: some.pieces[name] for name in names}, len(some)) for some in found]
    return inner(*found), squared_norms(found[0]), squared_norms(found[1])


def check(products, squares, truth):
    """Hold another library's products, and squared norms unless None, against ours."""
    pairs, own, others = truth
    tolerance = TOLERANCE[products.dtype]
    assert products.shape == pairs.shape
    assert ((products.double() - pairs) / (own[:, None] * others).sqrt()).abs().max() < tolerance
    if squares is not None:
        assert (squares.double() / own - 1).abs().max() < tolerance
