"""Per-example gradients and their products, against autograd one example at a time."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from gradient_checks import TOLERANCE, Largest, check, data
from gradient_networks import NETWORKS, ConvVAE, OwnNoise, Squares, Words, mlp
from oracles_gradients import gradients_by_loop, self_influence_by_definition
from torch import nn

from genmem.errors import ModelError
from genmem.gradients import factored, layers
from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.products import gram, inner, squared_norms, unbiased_self_influence
from genmem.models import VAE


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_products_equal_the_loop(name, dtype):
    torch.manual_seed(1)
    make, event = NETWORKS[name]
    module = make().to(dtype)
    gradients = check(module, data(7, event, dtype), data(5, event, dtype, 1))
    ways = gradients.coverage
    assert str(ways).startswith(f"100% of {sum(p.numel() for p in module.parameters()):,} parameters")
    if name == "bare":
        assert set(ways.unused) == {"unused.weight", "unused.bias"}
        assert {"sly.weight", "norm.parametrizations.weight.original0", "attention.in_proj_weight"} <= set(ways.vmap)
        assert {"scale"} <= set(ways.copies)
        assert {"first.weight", "first.bias", "twice.weight", "twice.bias", "tied.bias", "sly.bias"} <= set(ways.hooks)
    else:
        assert not ways.copies and not ways.vmap and not ways.loop and not ways.unused


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("kept", ["terms", "chunks"])
@pytest.mark.parametrize("name", ["conv", "conv 1-d", "conv 3-d"])
def test_patches_of_convolutions_equal_the_loop(name, kept, monkeypatch):
    torch.manual_seed(2)
    make, event = NETWORKS[name]
    for kind, known in layers.KINDS.items():
        monkeypatch.setitem(layers.KINDS, kind, replace(known, rows=None))
    if kept == "terms":  # as on a layer with many channels and few positions
        monkeypatch.setattr(layers.Outer, "kept", 0)
    module = make().double()
    gradients = check(module, data(7, event, torch.float64), data(5, event, torch.float64, 1))
    assert set(gradients.coverage.hooks) == set(gradients.trained)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_embeddings_and_tied_weights_equal_the_loop(dtype):
    torch.manual_seed(2)
    module = Words().to(dtype)
    x = torch.randint(0, 11, (6, 5), generator=torch.Generator().manual_seed(0))
    assert set(check(module, x, x.flip(0)[:4]).coverage.hooks) == {"embed.weight", "mix.weight", "mix.bias"}

    untied = Words().to(dtype)
    untied.embed = nn.Embedding(11, 4, padding_idx=0, dtype=dtype)
    assert "embed.weight" in check(untied, x, x.flip(0)[:4]).coverage.hooks


@pytest.mark.parametrize("sparse", [False, True])
def test_a_wide_embedding_is_not_written_out(sparse):
    module = nn.Sequential(nn.Embedding(5000, 6, sparse=sparse), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randint(0, 50, (6, 5), generator=torch.Generator().manual_seed(0))
    loss = lambda module, x: module(x).square().sum((1, 2))  # noqa: E731
    gradients = PerExampleGradients(module, x, loss=loss)
    rows = gradients_by_loop(module, loss(module, x)).double()
    found = gradients.features(x)
    assert isinstance(found.pieces["0.weight"], factored.Lookup)
    torch.testing.assert_close(inner(found, found), rows @ rows.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(squared_norms(found), rows.square().sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("hooks", [True, False])
def test_vae_with_draws_equals_the_loop(likelihood, hooks):
    torch.manual_seed(3)
    module = VAE(hidden=(9, 8), latent_dim=3, likelihood=likelihood).make_module((12,)).eval()
    x, z = torch.rand(7, 12), torch.rand(4, 12)
    noise = torch.randn(3, 7, 3), torch.randn(5, 4, 3)  # as many draws as examples are tried, and more
    gradients = check(module, x.round(), z.round(), noise=noise, hooks=hooks)
    bare = {"log_variance"} if likelihood == "gaussian" else set()
    assert set(gradients.coverage.copies) == (bare if hooks else set())
    assert set(gradients.coverage.vmap) == (set() if hooks else set(gradients.trained))


@pytest.mark.parametrize("per", ["call", "example"])
def test_conv_vae_with_flattened_draws_equals_the_loop(per):
    torch.manual_seed(4)
    module = ConvVAE(per).double()
    noise = torch.randn(4, 6, 4, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    gradients = check(module, data(6, (1, 8, 8), torch.float64), data(5, (1, 8, 8), torch.float64, 1), noise=noise)
    assert set(gradients.coverage.hooks) == set(gradients.trained)


@pytest.mark.parametrize("per", ["call", "example"])
def test_tried_with_one_draw_and_used_with_more(per):
    torch.manual_seed(4)
    module = ConvVAE(per).double()
    x, noise = data(6, (1, 8, 8), torch.float64), torch.randn(4, 6, 4, dtype=torch.float64)
    gradients = PerExampleGradients(module, x, noise=noise[:1])
    for count in (1, 6):  # examples
        for draws in (1, 3, 4):
            some = x[:count], noise[:draws, :count]
            rows = gradients_by_loop(module, module(some[0], draws, some[1]))
            found = gradients.features(*some)
            torch.testing.assert_close(inner(found, found), rows @ rows.T)


def test_products_of_draws_and_unbiased_self_influence_equal_their_definitions():
    torch.manual_seed(6)
    module = VAE(hidden=(9,), latent_dim=3).make_module((12,)).double().eval()
    x, noise = data(5, (12,), torch.float64), torch.randn(6, 5, 3, dtype=torch.float64)
    gradients = PerExampleGradients(module, x, noise=noise)
    products_of_draws = gram(gradients.features_by_draw(x, noise))
    estimate, error = unbiased_self_influence(products_of_draws)
    for i in range(5):
        each = torch.stack([module(x[i : i + 1], 1, noise[j : j + 1, i : i + 1])[0] for j in range(6)])
        rows = gradients_by_loop(module, each)
        torch.testing.assert_close(products_of_draws[i], rows @ rows.T)
        truth = self_influence_by_definition(rows)
        torch.testing.assert_close((estimate[i], error[i]), truth)
    whole = gradients.features(x, noise)
    torch.testing.assert_close(squared_norms(whole), products_of_draws.mean((1, 2)))

    blocks = gram(gradients.features_by_draw(x, noise, draws=3))
    torch.testing.assert_close(blocks, products_of_draws.view(5, 3, 2, 3, 2).mean((2, 4)))
    with pytest.raises(ModelError, match="divides"):
        gradients.features_by_draw(x, noise, draws=4)


def test_convolutions_by_draw_equal_the_loop():
    torch.manual_seed(7)
    module = ConvVAE("call").double()
    x, noise = data(3, (1, 8, 8), torch.float64), torch.randn(4, 3, 4, dtype=torch.float64)
    found = gram(PerExampleGradients(module, x, noise=noise).features_by_draw(x, noise))
    for i in range(3):
        rows = gradients_by_loop(module, [module(x[i : i + 1], 1, noise[j : j + 1, i : i + 1])[0] for j in range(4)])
        torch.testing.assert_close(found[i], rows @ rows.T)


def test_few_draws_have_no_error():
    products_of_draws = torch.tensor([[[3.0, 1.0], [1.0, 2.0]]], dtype=torch.float64)
    estimate, error = unbiased_self_influence(products_of_draws)
    assert estimate.item() == 1.0 and error.isnan().all()
    assert unbiased_self_influence(products_of_draws[:, :1, :1])[0].isnan().all()


def test_self_influence_is_unbiased_over_noise():
    torch.manual_seed(8)
    module = VAE(hidden=(6,), latent_dim=2).make_module((4,)).double().eval()
    x = data(1, (4,), torch.float64)
    many = torch.randn(4, 4000, 2, dtype=torch.float64)
    copies = x.expand(4000, 4)
    gradients = PerExampleGradients(module, copies, noise=many)
    truth = squared_norms(gradients.features(x, torch.randn(200_000, 1, 2, dtype=torch.float64))).item()
    estimate, error = unbiased_self_influence(gram(gradients.features_by_draw(copies, many)))
    spread = estimate.std() / len(estimate) ** 0.5
    assert abs(estimate.mean() - truth) < 4 * spread
    biased = squared_norms(gradients.features(copies, many))
    assert biased.mean() - truth > 10 * spread
    assert 0.7 < error.square().mean().sqrt() / estimate.std() < 1.5


def test_numbers_do_not_depend_on_batches_or_chunks(monkeypatch):
    torch.manual_seed(9)
    module = VAE(hidden=(40, 30), latent_dim=3).make_module((20,)).eval()
    x, noise = data(11, (20,), torch.float32), torch.randn(4, 11, 3)
    gradients = PerExampleGradients(module, x, noise=noise)
    whole = inner(gradients.features(x, noise), gradients.features(x[:5], noise[:, :5]))
    draws = gram(gradients.features_by_draw(x, noise))
    size = squared_norms(gradients.features(x, noise))
    assert torch.equal(whole, inner(gradients.features(x, noise), gradients.features(x[:5], noise[:, :5])))
    monkeypatch.setattr(factored, "AT_ONCE", 50)
    one = torch.cat(
        [
            inner(gradients.features(x[i : i + 3], noise[:, i : i + 3]), gradients.features(x[:5], noise[:, :5]))
            for i in range(0, 11, 3)
        ]
    )
    scale = (size[:, None] * size[:5]).sqrt()
    assert ((one - whole) / scale).abs().max() < 1e-6
    torch.testing.assert_close(gram(gradients.features_by_draw(x, noise)), draws, rtol=1e-5, atol=1e-5)


def test_network_that_decodes_in_parts_adds_them_up(monkeypatch):
    torch.manual_seed(10)
    module = VAE(hidden=(9,), latent_dim=3).make_module((12,)).double().eval()
    x, noise = data(6, (12,), torch.float64), torch.randn(5, 6, 3, dtype=torch.float64)
    whole = squared_norms(PerExampleGradients(module, x, noise=noise).features(x, noise))
    monkeypatch.setattr("genmem.models.vae_module.VALUES_AT_ONCE", {"cpu": 12 * 6 * 2})
    parts = PerExampleGradients(module, x, noise=noise).features(x, noise)  # 3 calls, of 2, 2 and 1 draws
    torch.testing.assert_close(squared_norms(parts), whole)


def test_no_gradient_is_written_out_on_a_factored_layer():
    torch.manual_seed(11)
    width, n, draws = 300, 16, 4
    module = VAE(hidden=(width, width), latent_dim=8).make_module((200,)).eval()
    module.log_variance.requires_grad_(False)
    x, noise = data(n, (200,), torch.float32), torch.randn(draws, n, 8)
    gradients = PerExampleGradients(module, x, noise=noise)
    gradients.features(x, noise)  # the first batch is checked against a plain backward pass
    with Largest() as mode:
        found = gradients.features(x, noise)
        inner(found, found), squared_norms(found), gram(gradients.features_by_draw(x, noise))
    assert mode.most <= max(n * draws * width, (n * draws) ** 2, width * width) < n * width * width / 4
    assert found.bytes < 4 * n * sum(p.numel() for p in module.parameters()) / 10
    with Largest() as mode:
        PerExampleGradients(module, x, noise=noise, hooks=False).features(x, noise)
    assert mode.most >= n * width * width  # the test can see what it looks for


def test_a_layer_hidden_behind_zeros_is_laid_out_right():
    torch.manual_seed(12)

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.deep, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
            nn.init.zeros_(self.last.weight)

        def forward(self, x, draws=1):
            return (self.last(torch.tanh(self.deep(x.transpose(0, 1)))) - 1).square().sum((0, 2))

    module = Hidden().double()
    x = data(6, (3, 4), torch.float64)  # (3 examples are tried) x (3 positions), positions first
    gradients = PerExampleGradients(module, x)
    assert set(gradients.coverage.hooks) == set(gradients.trained)
    nn.init.normal_(module.last.weight)
    rows = gradients_by_loop(module, module(x))
    found = gradients.features(x)
    torch.testing.assert_close(inner(found, found), rows @ rows.T)


def test_a_network_with_noise_of_its_own_is_differentiated_under_one_noise():
    torch.manual_seed(13)
    module = OwnNoise().double()
    x = data(5, (4,), torch.float64)
    gradients = PerExampleGradients(module, x)
    assert set(gradients.coverage.copies) == {"bare"}
    assert set(PerExampleGradients(module, x, hooks=False).coverage.loop) == set(gradients.trained)
    before = torch.random.get_rng_state()
    found = gradients.features(x, draws=3, seed=8)
    assert torch.equal(before, torch.random.get_rng_state())
    rows = gradients_by_loop(module, gradients._run(x, None, draws=3, seed=8))
    torch.testing.assert_close(inner(found, found), rows @ rows.T)
    direction = gradients.gradient(x, draws=3, seed=8)
    torch.testing.assert_close(gradients.along(x, direction, draws=3, seed=8), rows @ rows.sum(0))
    assert gram(gradients.features_by_draw(x, None, draws=4)).shape == (5, 4, 4)


def test_plain_losses_frozen_parameters_and_uint8():
    torch.manual_seed(14)
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    module[0].bias.requires_grad_(False)
    x = torch.randint(0, 255, (6, 4), dtype=torch.uint8)
    gradients = check(module, x, x[:3], loss=lambda module, x: module(x / 255).square().sum(1))
    assert set(gradients.coverage.frozen) == {"0.bias"}
    assert str(gradients.coverage) == (
        "87% of 23 parameters (20 by hooks); 3 are frozen (requires_grad=False) and left out: 0.bias"
    )


def test_operations_without_forward_mode_go_backward_twice(monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr("genmem.gradients.fallback.forward_mode", refuse)
    torch.manual_seed(15)
    check(mlp().double(), data(6, (5,), torch.float64), data(4, (5,), torch.float64, 1))


def test_a_network_that_changes_its_ways_is_refused():
    class Fickle(nn.Module):
        def __init__(self, change):
            super().__init__()
            self.layer, self.other, self.change = nn.Linear(4, 4), nn.Linear(4, 4), change

        def forward(self, x, draws=1):
            if len(x) <= 4:
                return self.layer(x).square().sum(1)
            if self.change == "unused":
                return self.other(self.layer(x)).square().sum(1)
            if self.change == "behind":
                return self.layer(x).square().sum(1) + F.linear(x, self.layer.weight).exp().sum(1)
            return self.layer(x.repeat(2, 1)).square().sum(1).view(2, -1).mean(0)

    x = data(8, (4,), torch.float32)
    for change, message in [("unused", "in every batch"), ("behind", "add up"), ("layout", "the same way for every")]:
        with pytest.raises(ModelError, match=message):
            PerExampleGradients(Fickle(change), x).features(x)


def test_errors_say_what_to_do():
    x = data(6, (5,), torch.float32)
    normed = Squares(nn.Linear(5, 4), nn.BatchNorm1d(4))
    with pytest.raises(ModelError, match=r"BatchNorm1d 'net.1' in training mode.*\.eval\(\)"):
        PerExampleGradients(normed, x)
    PerExampleGradients(normed.eval(), x)
    with pytest.raises(ModelError, match="track_running_stats=True"):
        PerExampleGradients(Squares(nn.BatchNorm1d(5, track_running_stats=False)).eval(), x)
    with pytest.raises(ModelError, match=r"drops values at random.*\.eval\(\)"):
        PerExampleGradients(Squares(nn.Linear(5, 4), nn.Dropout(0.1)), x)
    counted = nn.Embedding(9, 3, scale_grad_by_freq=True)
    with pytest.raises(ModelError, match="scale_grad_by_freq=False"):
        PerExampleGradients(counted, x.abs().long(), loss=lambda module, x: module(x).square().sum((1, 2)))
    linear = nn.Linear(5, 4)
    with pytest.raises(ModelError, match=r"shape \(3,\); got shape \(\)"):
        PerExampleGradients(linear, x, loss=lambda module, x: module(x).square().mean())
    with pytest.raises(ModelError, match="depends on none of them"):
        PerExampleGradients(linear, x, loss=lambda module, x: module(x).detach().sum(1))
    for mixed in (
        lambda module, x: module(x).square().sum(1) / len(x),
        lambda module, x: 1e-6 * module(x).square().sum(1) / len(x),
        lambda module, x: module(x - x.mean(0)).square().sum(1),
        lambda module, x: module(x - x.mean(0) + torch.randn_like(x)).square().sum(1),
    ):
        with pytest.raises(ModelError, match="does not depend on the others"):
            PerExampleGradients(linear, x, loss=mixed)
    with pytest.raises(ModelError, match="none that has requires_grad=True"):
        PerExampleGradients(linear.requires_grad_(False), x, loss=lambda module, x: module(x).sum(1))


# --- other parameters, the same network


class Gated(nn.Module):
    """Shows what it does behind a gate only once the gate is open."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.gate, self.kind = nn.Linear(4, 4), nn.Parameter(torch.tensor(-1.0)), kind

    def forward(self, x):
        found, gate = self.layer(x).square().sum(1), torch.relu(self.gate)
        if gate == 0:
            return found + gate
        if self.kind == "reused":
            return found + gate * F.linear(x, self.layer.weight).exp().sum(1)
        if self.kind == "noisy":
            return found + gate * torch.randn(1) * self.layer(x).sum(1)
        return found + gate * (self.layer(x) - self.layer(x).mean(0)).exp().sum(1)


def opened(kind):
    torch.manual_seed(0)
    gradients, x = PerExampleGradients(Gated(kind), data(8, (4,), torch.float32)), data(5, (4,), torch.float32, 1)
    with torch.no_grad():
        gradients.module.gate.fill_(0.5)
    return gradients, x


def test_ways_stay_with_other_parameters(monkeypatch):
    gradients = PerExampleGradients(mlp(), data(8, (5,), torch.float32))
    direction = {name: torch.ones_like(p) for name, p in gradients.trained.items()}
    x = data(6, (5,), torch.float32, 1)
    gradients.along(x, direction)
    for name in ("_find_ways", "_find_way_along"):
        monkeypatch.delattr(PerExampleGradients, name)  # nothing is found out again
    with torch.no_grad():
        for p in gradients.module.parameters():
            p.mul_(1.5).add_(0.1)
    gradients.renew()
    rows = gradients_by_loop(gradients.module, gradients.loss(x, None))
    found = squared_norms(gradients.features(x))
    assert (found / rows.square().sum(1).double() - 1).abs().max() < 1e-5
    flat = torch.cat([v.flatten() for v in direction.values()])
    torch.testing.assert_close(gradients.along(x, direction), (rows @ flat).double(), rtol=1e-4, atol=1e-4)


def test_what_shows_at_other_parameters_only_goes_another_way():
    gradients, x = opened("reused")
    assert "layer.weight" in gradients.coverage.hooks
    gradients.renew()
    assert "layer.weight" not in gradients.coverage.hooks
    rows = gradients_by_loop(gradients.module, gradients.loss(x, None))
    found = squared_norms(gradients.features(x))
    assert (found / rows.square().sum(1).double() - 1).abs().max() < 1e-5


def test_examples_that_see_each_other_at_other_parameters_only_are_refused():
    gradients, _ = opened("mixed")
    with pytest.raises(ModelError, match="depend on the others in its batch"):
        gradients.renew()


def test_chance_at_other_parameters_only_is_seen():
    gradients, x = opened("noisy")
    assert not gradients._draws_own
    gradients.renew()
    assert gradients._draws_own
    assert not torch.equal(*(squared_norms(gradients.features(x, seed=seed)) for seed in (0, 1)))
