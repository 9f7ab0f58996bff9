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
