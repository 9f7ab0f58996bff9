"""Layers with parameters that no rule is for, and operations that resist differentiation."""

import pytest
import torch
from gradient_checks import check, data
from gradient_networks import Squares
from oracles_gradients import gradients_by_loop
from torch import nn
from torch.nn.utils import parametrizations, prune

from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.products import along

SHAPE = (5,)


def linear(change):
    layer = nn.Linear(5, 4)
    change(layer)
    return Squares(layer, nn.Tanh(), nn.Linear(4, 2))


def pruned_conv():
    layer = nn.Conv1d(5, 4, 1)
    prune.random_unstructured(layer, "weight", 0.5)
    return Squares(nn.Unflatten(1, (5, 1)), layer, nn.Flatten(), nn.Linear(4, 2))


class Rooted(nn.RMSNorm):
    """A norm with a bias of its own."""

    def __init__(self):
        super().__init__(5)
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x):
        return super().forward(x) + self.bias


class Recurrent(nn.Module):
    """A layer without rules for it, in compiled operations."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(1, 3, batch_first=True)

    def forward(self, x):
        return self.cell(x[..., None])[0][:, -1]


class Bags(nn.Module):
    """Sums of embedded words, which cannot be differentiated twice."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.EmbeddingBag(7, 3), nn.Linear(3, 2)

    def forward(self, x, draws=1):
        return self.out(torch.tanh(self.words(x))).square().sum(1)


ODD = {  # and what is still read off layers
    "pruned": (lambda: linear(lambda layer: prune.random_unstructured(layer, "weight", 0.5)), True),
    "pruned convolution": (pruned_conv, True),
    "spectral norm": (lambda: linear(parametrizations.spectral_norm).eval(), True),
    "an own parameter": (
        lambda: linear(lambda layer: layer.register_parameter("gain", nn.Parameter(torch.ones(4)))),
        True,
    ),
    "a norm with a bias": (lambda: Squares(Rooted(), nn.Linear(5, 2)), True),
    "slopes": (lambda: Squares(nn.Linear(5, 4), nn.PReLU(4), nn.Linear(4, 2)), True),
    "recurrent": (lambda: Squares(Recurrent()), False),
}


@pytest.mark.parametrize("name", ODD)
def test_what_no_rule_is_for_goes_another_way(name):
    torch.manual_seed(0)
    make, hooked = ODD[name]
    module = make().double()
    ways = check(module, data(6, SHAPE, torch.float64), data(4, SHAPE, torch.float64, 1), tolerance=1e-9).coverage
    assert str(ways).startswith("100% of") and bool(ways.hooks) == hooked


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_weights_normalised_in_the_old_way():
    torch.manual_seed(1)
    module = linear(nn.utils.weight_norm).double()
    ways = check(module, data(6, SHAPE, torch.float64), data(4, SHAPE, torch.float64, 1), tolerance=1e-9).coverage
    assert not {"net.0.weight_g", "net.0.weight_v"} & set(ways.hooks) and "net.2.weight" in ways.hooks


def test_what_has_no_second_derivative_goes_by_gradients():
    torch.manual_seed(2)
    module = Bags().double()
    x = torch.randint(0, 7, (6, 4), generator=torch.Generator().manual_seed(0))
    gradients = PerExampleGradients(module, x)
    rows = gradients_by_loop(module, module(x))
    direction = gradients.gradient(x[:2])
    truth = rows @ rows[:2].sum(0)
    torch.testing.assert_close(gradients.along(x, direction), truth)
    torch.testing.assert_close(along(gradients.features(x), direction), truth)
    weights = {name: v for name, v in direction.items() if name == "out.weight"}  # what is left out counts as 0
    flat = torch.cat([(v if n in weights else 0 * v).flatten() for n, v in direction.items()])
    torch.testing.assert_close(gradients.along(x, weights), rows @ flat)
