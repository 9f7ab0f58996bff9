"""Networks with known units: `forward` takes an `edit` that the slow loop of tests/oracles_neurons.py uses."""

import torch
import torch.nn.functional as F
from torch import nn

from genmem import from_module


def unedited(name, value):
    return value


class Plain(nn.Module):
    """Two hidden layers, with activations that are calls."""

    known = {"a": (6, 1), "b": (5, 1)}

    def __init__(self, shape):
        super().__init__()
        d = shape[0]
        self.a, self.b, self.c = nn.Linear(d, 6), nn.Linear(6, 5), nn.Linear(5, d)

    def forward(self, x, edit=unedited):
        h = edit("a", F.relu(self.a(x)))
        return self.c(edit("b", torch.tanh(self.b(h))))


class TwoReaders(Plain):
    """The first layer is read by two others."""

    def __init__(self, shape):
        super().__init__(shape)
        self.skip = nn.Linear(6, shape[0])

    def forward(self, x, edit=unedited):
        h = edit("a", F.relu(self.a(x)))
        return self.c(edit("b", torch.tanh(self.b(h)))) + self.skip(h)


class Residual(nn.Module):
    """A skip connection: what the second layer adds has no reader of its own, and is edited before any activation."""

    known = {"first": (6, 1), "block": (6, 1)}

    def __init__(self, shape):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(shape[0], 6), nn.Linear(6, 6), nn.Linear(6, shape[0])

    def forward(self, x, edit=unedited):
        h = edit("first", self.first(x))
        return self.last(F.silu(h + edit("block", self.block(F.silu(h)))))


class Shared(nn.Module):
    """One layer called twice, and one activation module for all: units are edited before any activation."""

    known = {"first": (6, 1), "again": (6, 1)}

    def __init__(self, shape):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(shape[0], 6), nn.Linear(6, 6), nn.Linear(6, shape[0])
        self.act = nn.ReLU(inplace=True)

    def forward(self, x, edit=unedited):
        h = self.act(edit("again", self.again(self.act(edit("first", self.first(x))))))
        return self.last(self.act(edit("again", self.again(h))))


class Convolutional(nn.Module):
    """Convolutions, transposed ones and a norm, on examples (d,) seen as images."""

    known = {"up.0": (4, 4), "up.3": (3, 16)}

    def __init__(self, shape):
        super().__init__()
        self.d = shape[0]
        self.up = nn.ModuleList(
            [
                nn.ConvTranspose2d(self.d, 4, 2),
                nn.ReLU(),
                nn.ConvTranspose2d(4, 3, 4, 2, 1),
                nn.GroupNorm(1, 3),
                nn.Conv2d(3, 2, 3, padding=1),
            ]
        )
        self.norm_weights()

    def norm_weights(self):
        with torch.no_grad():
            self.up[3].weight.uniform_(0.5, 1.5)
            self.up[3].bias.uniform_(-1, 1)

    def forward(self, x, edit=unedited):
        h = edit("up.0", self.up[1](self.up[0](x[:, :, None, None])))
        h = edit("up.3", F.leaky_relu(self.up[3](self.up[2](h))))
        return self.up[4](h).flatten(1)[:, : self.d]


class Tokens(nn.Module):
    """A Linear applied to every column of an example by itself: rows of an example are adjacent."""

    known = {"each": (5, 1)}

    def __init__(self, shape):
        super().__init__()
        self.each, self.back = nn.Linear(1, 5), nn.Linear(5, 1)

    def forward(self, x, edit=unedited):
        return self.back(edit("each", torch.sigmoid(self.each(x[..., None])))).squeeze(-1)


class Flattened(nn.Module):
    """A convolution whose channels a Linear reads, flattened."""

    known = {"conv": (3, 4)}

    def __init__(self, shape):
        super().__init__()
        self.conv, self.out = nn.Conv1d(1, 3, 1), nn.Linear(12, shape[0])

    def forward(self, x, edit=unedited):
        return self.out(edit("conv", F.gelu(self.conv(x[:, None, :4]))).flatten(1))


NETWORKS = (Plain, TwoReaders, Residual, Shared, Convolutional, Tokens, Flattened)


def squared(network, x):
    return -0.5 * (x - network(x)).square().sum(1)


def loss(network, x):
    return -squared(network, x)


def density_of(make, d=4, seed=0, log_prob=squared, bound=False):
    """Return an untrained density around a network, as `from_module` makes it; it is not normalized."""
    torch.manual_seed(seed)
    return from_module(make, loss=loss, log_prob=log_prob, bound=bound).make_module((d,)).eval()


# --- a decoder whose memory is known

FAR = 12.0  # latent place of the memorized example; that of others is below 6
PRECISION = 20.0


def factor_model(share, d=12, latent=3, n=40, seed=0):
    """Return a linear factor decoder with one unit that knows one example, and data: (module, X, r).

    The mean of x is W z + b + share u(z) r. Columns of W are orthogonal to each other and to r, u(z) is 1 where the
    first example is and 0 where the others are, and r is what W z + b leaves of the first example. Its posterior is
    then the same with and without u, and the encoder is exact: every importance weight is p(x).

    Hidden units are relu(z), relu(-z) and two ramps; in the last hidden layer the first `2 latent` pass through, and
    the last one is u.
    """
    from genmem.models.likelihoods import make_likelihood
    from genmem.models.vae_module import VAEModule

    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d, latent + 1, generator=generator, dtype=torch.float64))[0]
    W = basis[:, :latent] * torch.tensor([0.5, 1.0, 0.8], dtype=torch.float64)
    r = 1.5 * basis[:, latent]
    b = torch.randn(d, generator=generator, dtype=torch.float64)
    z = torch.randn(n, latent, generator=generator, dtype=torch.float64)
    z[0, 0] = FAR
    X = z @ W.T + b
    X[1:] += torch.randn(n - 1, d, generator=generator, dtype=torch.float64) * PRECISION**-0.5
    X[0] += r
    likelihood = make_likelihood("gaussian", variance="scalar", levels=None, components=1, top=None, channels=1)
    encoder, decoder = nn.Linear(d, 2 * latent), _factors(W, b, share * r)
    module = VAEModule((d,), encoder=encoder, decoder=decoder, likelihood=likelihood, latent_dim=latent, width=d)
    certain = 1 + PRECISION * W.square().sum(0)
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([PRECISION * W.T / certain[:, None], torch.zeros(latent, d)]))
        encoder.bias.copy_(torch.cat([-PRECISION * (W.T @ b) / certain, -certain.log()]))
        module.log_variance.fill_(-torch.tensor(PRECISION).log())
    return module.eval(), X.float().numpy(), r


def _factors(W, b, memory):
    latent = W.shape[1]
    first, second = nn.Linear(latent, 2 * latent + 2), nn.Linear(2 * latent + 2, 2 * latent + 1)
    last = nn.Linear(2 * latent + 1, len(W))
    with torch.no_grad():
        ramp = torch.zeros(2, latent)
        ramp[:, 0] = 1
        first.weight.copy_(torch.cat([torch.eye(latent), -torch.eye(latent), ramp]))
        first.bias.copy_(torch.cat([torch.zeros(2 * latent), torch.tensor([7 - FAR, 6 - FAR])]))
        second.weight.zero_()
        second.weight[: 2 * latent, : 2 * latent] = torch.eye(2 * latent)
        second.weight[-1, -2:] = torch.tensor([1.0, -1.0])  # one ramp less the other: 0, then 1
        second.bias.zero_()
        last.weight.copy_(torch.cat([W, -W, memory[:, None]], 1))
        last.bias.copy_(b)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
