"""Networks that draw their own noise: noise of single rows is drawn in one call, shared noise once for each draw."""

import pytest
import torch
from torch import nn

from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.own_noise import by_row

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))


def of_rows(net, x):
    return ((net.layer(x) + torch.randn_like(x)) * net.scale).square().sum(1)


def shared(net, x):
    return ((net.layer(x) + torch.randn(4)) * net.scale).square().sum(1)


def both(net, x):
    return (net.layer(x + torch.randn_like(x)) * torch.rand(()) * net.scale).square().sum(1)


def dropped(net, x):
    return (nn.functional.dropout(net.layer(x), 0.5) * net.scale).square().sum(1)


def weights_dropped(net, x):
    return nn.functional.linear(x, nn.functional.dropout(net.layer.weight, 0.5)).square().sum(1) * net.scale.sum()


def permuted(net, x):
    return (net.layer(x)[:, torch.randperm(4)] * net.scale).square().sum(1)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(of_rows, True), (dropped, True), (shared, False), (both, False), (weights_dropped, False), (permuted, False)],
)
def test_noise_of_rows_is_told_from_shared_noise(loss, expected):
    torch.manual_seed(0)
    net = Noisy()
    assert by_row(lambda x: loss(net, x), X) is expected
    assert PerExampleGradients(net, X, loss=loss).loss.repeats is expected


@pytest.mark.parametrize("loss", [of_rows, dropped, shared])
def test_averaged_draws_have_the_gradient_of_their_losses(loss):
    torch.manual_seed(0)
    gradients = PerExampleGradients(Noisy(), X, loss=loss)
    found = gradients.features(X, draws=5, seed=3)
    losses = gradients._run(X, None, draws=5, seed=3)
    for i in range(len(X)):
        truth = torch.autograd.grad(losses[i], list(gradients.trained.values()), retain_graph=True)
        for name, expected in zip(gradients.trained, truth, strict=True):
            torch.testing.assert_close(found.pieces[name].dense(i, i + 1)[0], expected.flatten(), rtol=1e-4, atol=1e-5)
