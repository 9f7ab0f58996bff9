"""Weights that a mask is multiplied with, as in flows, and noise that all examples share."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gradient_checks import TOLERANCE, Largest, check, data
from gradient_networks import Squares
from oracles_gradients import gradients_by_loop
from torch import nn
from zuko.nn import MaskedLinear, MaskedMLP

from genmem.gradients import factored
from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.factored import Mask, Masked, steps_of
from genmem.gradients.products import Features, along, gram, inner, squared_norms
from genmem.models import Flow, MixtureOfFactorAnalysers

AUTOREGRESSIVE = torch.tril(torch.ones(5, 5, dtype=torch.bool), -1)
MASKS = {
    "a staircase": np.tril(np.ones((6, 6), bool), -1)[[3, 1, 5, 0, 1, 2, 3]],
    "any": np.random.default_rng(0).random((9, 7)) < 0.5,
    "nothing masked": np.ones((4, 5), bool),
    "nothing left": np.zeros((4, 5), bool),
    "two halves": np.kron(np.eye(2), np.ones((3, 2))).astype(bool),
    "one row": np.array([[True, False, True]]),
}


@pytest.fixture(params=["steps", "written out"])
def dear(request, monkeypatch):
    """Make one way or the other look cheap."""
    monkeypatch.setattr(Mask, "cost", 0 if request.param == "steps" else 10**9)


@pytest.mark.parametrize("name", MASKS)
def test_steps_cover_exactly_what_the_mask_leaves(name):
    mask = MASKS[name]
    rows, columns, steps = steps_of(mask)
    seen, first = np.zeros_like(mask, dtype=int), 0
    for step in steps:
        first = step.columns.start if step.afresh else first
        seen[np.ix_(rows[step.rows], columns[first : step.columns.stop])] += 1
    np.testing.assert_array_equal(seen, mask)
    if name == "a staircase":  # what makes it as cheap as a layer without a mask
        assert len(columns) == 5 and [step.afresh for step in steps] == [True] + [False] * 3


@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize("name", MASKS)
def test_products_equal_those_of_masked_matrices(name, terms, dear):
    mask = torch.from_numpy(MASKS[name])
    layer = nn.Linear(*reversed(mask.shape)).double()
    layer.mask = mask
    generator = torch.Generator().manual_seed(0)

    def some(n):
        left, right = (torch.randn(1, n, terms, w, generator=generator, dtype=torch.float64) for w in mask.shape)
        piece = Masked(left, right, Mask.of(layer))
        return Features({"w": piece}, n, 2), (torch.einsum("ntl,ntr->nlr", left[0], right[0]) * mask).flatten(1)

    (x, rows), (z, others) = some(6), some(4)
    torch.testing.assert_close(inner(x, z), rows @ others.T)
    torch.testing.assert_close(squared_norms(x), rows.square().sum(1))
    torch.testing.assert_close(gram(x), torch.einsum("njp,nkp->njk", rows.view(3, 2, -1), rows.view(3, 2, -1)))
    torch.testing.assert_close(x.pieces["w"].dense(1, 4), rows[1:4])
    torch.testing.assert_close(x.pieces["w"].sum(), rows.sum(0))
    v, scale = (torch.rand(mask.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(along(x, {"w": v}), rows @ v.flatten())
    torch.testing.assert_close(inner(x, z, scale={"w": scale}), (rows * scale.flatten()) @ others.T)
    torch.testing.assert_close(squared_norms(x, scale={"w": scale}), rows.square() @ scale.flatten())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("residual", [False, True])
def test_masked_networks_equal_the_loop(dtype, residual, dear):
    torch.manual_seed(0)
    scattered = torch.rand(4, 5) < 0.5
    module = Squares(
        MaskedMLP(AUTOREGRESSIVE, [8, 8], nn.Tanh, residual), nn.Tanh(), MaskedLinear(scattered), nn.Linear(4, 2)
    ).to(dtype)
    gradients = check(module, data(7, (5,), dtype), data(4, (5,), dtype, 1))
    assert set(gradients.coverage.hooks) == set(gradients.trained)
    positions = Squares(MaskedLinear(scattered), nn.Tanh(), MaskedLinear(scattered.T)).to(dtype)  # several terms
    assert not check(positions, data(7, (3, 5), dtype), data(4, (3, 5), dtype, 1)).coverage.vmap


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"kind": "affine", "transforms": 3}, {"passes": 2}, {"noise": 0.0}], ids=str)
def test_flows_equal_the_loop(settings, dear):
    torch.manual_seed(5)
    module = Flow(**{"transforms": 2, "hidden": (8, 9)} | settings).make_module((4,)).eval()
    noise = (torch.randn(3, 6, 4), torch.randn(2, 4, 4)) if module.noise else (None, None)
    x, z = data(6, (4,), torch.float32), data(4, (4,), torch.float32, 1)
    gradients = check(module, x, z, noise=noise)
    assert set(gradients.coverage.hooks) == set(gradients.trained)


@pytest.mark.parametrize("blocks", [6, 3])
def test_draws_of_a_flow_equal_the_loop(blocks, dear):
    torch.manual_seed(6)
    module = Flow(transforms=2, hidden=(8, 9)).make_module((4,)).eval().double()
    x, noise = data(3, (4,), torch.float64), torch.randn(6, 3, 4, dtype=torch.float64)
    found = gram(PerExampleGradients(module, x, noise=noise).features_by_draw(x, noise, draws=blocks))
    for i in range(3):
        each = [module(x[i : i + 1], 1, noise[j : j + 1, i : i + 1])[0] for j in range(6)]
        rows = gradients_by_loop(module, each).view(blocks, 6 // blocks, -1).mean(1)
        torch.testing.assert_close(found[i], rows @ rows.T)


def test_no_gradient_of_a_masked_weight_is_written_out(monkeypatch):
    monkeypatch.setattr(factored, "AT_ONCE", 2**14)
    torch.manual_seed(7)
    n, draws, width = 16, 4, 200
    module = Flow(transforms=1, hidden=(width, width), noise=0.1).make_module((30,)).eval()
    x, noise = data(n, (30,), torch.float32), torch.randn(draws, n, 30)
    gradients = PerExampleGradients(module, x, noise=noise)
    gradients.features(x, noise)  # the first batch is checked against a plain backward pass
    with Largest() as mode:
        each = gradients.features_by_draw(x, noise)
        squared_norms(each), gram(each), inner(each, each)
    assert mode.most < n * draws * width * width / 8


class Taken(nn.Linear):
    """A layer with a mask that it does something else with."""

    def __init__(self, use):
        super().__init__(5, 4)
        self.use = use
        self.register_buffer("mask", torch.rand(4, 5) < 0.5)

    def forward(self, x):
        if self.use == "not":
            return super().forward(x)
        if self.use == "replaced":
            return F.linear(x, torch.where(self.mask, self.weight, 1.0), self.bias)
        return F.linear(x, self.weight * (2 * self.mask - 1), self.bias)


@pytest.mark.parametrize("use", ["not", "replaced", "signs"])
def test_a_mask_that_is_none_is_found_out(use):
    torch.manual_seed(8)
    module = Squares(Taken(use), nn.Tanh(), nn.Linear(4, 2)).double()
    ways = check(module, data(6, (5,), torch.float64), data(4, (5,), torch.float64, 1)).coverage
    assert ("net.0.weight" in ways.hooks) == (use == "replaced")  # an entry that is replaced has no gradient either


def test_masks_of_other_numbers_go_by_vmap_and_new_ones_are_noticed():
    torch.manual_seed(9)
    module = Squares(MaskedLinear(torch.rand(4, 5) < 0.5)).double()
    x, z = data(6, (5,), torch.float64), data(4, (5,), torch.float64, 1)
    check(module, x, z)
    with torch.no_grad():
        module.net[0].mask ^= True  # in place
    assert not check(module, x, z).coverage.vmap
    module.net[0].mask = torch.rand(4, 5).double()
    assert set(check(module, x, z).coverage.vmap) == {"net.0.weight"}
    assert Mask.of(nn.Linear(3, 2)) is None
    assert len(factored._MADE) < 100  # those of layers that are gone are forgotten


class SharedNoise(nn.Module):
    """Draws weights that all examples of a batch share, from a distribution of bare parameters."""

    def __init__(self, own=False):
        super().__init__()
        self.mean, self.spread, self.own = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.rand(3, 4)), own

    def forward(self, x, draws=1):
        losses = 0
        for _ in range(draws):
            weights = self.mean + self.spread.exp() * torch.randn(3, 4, dtype=x.dtype)
            blurred = x + torch.randn_like(x) if self.own else x
            losses = losses + torch.logsumexp(torch.tanh(blurred @ weights.T), 1)
        return losses / draws


@pytest.mark.parametrize("own", [False, True])
def test_noise_that_all_share_goes_by_vmap_and_that_of_each_by_a_loop(own, monkeypatch):
    monkeypatch.setattr("genmem.gradients.fallback.AT_ONCE", 50)  # two at once
    torch.manual_seed(10)
    module, x = SharedNoise(own).double(), data(5, (4,), torch.float64)
    gradients = PerExampleGradients(module, x)
    assert set(gradients.coverage.loop if own else gradients.coverage.vmap) == {"mean", "spread"}
    before = torch.random.get_rng_state()
    found = gradients.features(x, draws=3, seed=8)
    assert torch.equal(before, torch.random.get_rng_state())
    rows = gradients_by_loop(module, gradients._run(x, None, draws=3, seed=8))
    torch.testing.assert_close(inner(found, found), rows @ rows.T)


@pytest.mark.slow
def test_mixtures_of_factor_analysers_need_no_loop():
    X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    model = MixtureOfFactorAnalysers(components=2, factors=1, epochs=1, device="cpu").fit(X)
    module, x = model.module_.eval(), torch.from_numpy(X[:5])
    gradients = PerExampleGradients(module, x)
    assert set(gradients.coverage.vmap) == set(gradients.trained)
    found = gradients.features(x, draws=2, seed=3)
    rows = gradients_by_loop(module, gradients._run(x, None, draws=2, seed=3)).double()
    norms = rows.norm(dim=1)
    assert ((inner(found, found) - rows @ rows.T) / norms / norms[:, None]).abs().max() < 1e-5
