"""Likelihoods against scipy, and VAEs with each of them against quadrature."""

import math

import numpy as np
import pytest
import torch
from contract import check_density
from oracles_vae import log_likelihood, log_prob_by_grid
from scipy import stats

from genmem.errors import DataError, ModelError
from genmem.models import VAE
from genmem.models.likelihoods import DiscretizedLogistic, find_levels, log_bin, make_likelihood
from genmem.protocols import draw

KINDS = {
    "bernoulli": {"likelihood": "bernoulli"},
    "gaussian": {"likelihood": "gaussian"},
    "gaussian, pixel": {"likelihood": "gaussian", "variance": "pixel"},
    "logit_normal": {"likelihood": "logit_normal"},
    "logit_normal, pixel, 256 levels": {"likelihood": "logit_normal", "variance": "pixel", "levels": 256},
    "discretized_logistic": {"likelihood": "discretized_logistic", "components": 3},
}


def data_for(kind, n=60, shape=(3,), seed=0):
    rng = np.random.default_rng(seed)
    name = KINDS[kind]["likelihood"]
    if name == "bernoulli":
        return (rng.random((n, *shape)) < 0.4).astype(np.uint8)
    if name == "discretized_logistic":
        return (rng.binomial(4, rng.beta(2, 3, (n, *shape))) / 4).astype(np.float32)
    if name == "logit_normal":
        return rng.beta(2, 3, (n, *shape)).astype(np.float32)
    return rng.normal(size=(n, *shape)).astype(np.float32)


def small_vae(kind, **changes):
    return VAE(**{"hidden": [16], "latent_dim": 2, "epochs": 5, **KINDS[kind], **changes})


def some_likelihood(kind, channels=1):
    settings = {"variance": "scalar", "levels": None, "components": 3, "top": None, **KINDS[kind]}
    if kind == "discretized_logistic":
        settings |= {"levels": 5, "top": 1.0}
    return make_likelihood(settings.pop("likelihood"), channels=channels, **settings)


def some_outputs(likelihood, values, rows=(4, 7), scale=2.0, seed=1):
    count = likelihood.per_value * values + likelihood.per_pixel * values // getattr(likelihood, "channels", 1)
    return scale * torch.randn(*rows, count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_log_likelihood_is_its_definition(kind, channels):
    likelihood, x = some_likelihood(kind, channels), torch.from_numpy(data_for(kind, n=7, shape=(6,))).float()
    output, shared = some_outputs(likelihood, 6), torch.tensor(-0.7) if "pixel" not in kind else None
    found = likelihood.log_prob(x, output, shared)
    expected = [[log_likelihood(likelihood, row, o, shared) for row, o in zip(x, part, strict=True)] for part in output]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_as_good_as_float64(kind):
    likelihood, x = some_likelihood(kind), torch.from_numpy(data_for(kind, n=7, shape=(6,))).float()
    output, shared = some_outputs(likelihood, 6), torch.tensor(-0.7) if "pixel" not in kind else None
    double = likelihood.log_prob(x.double(), output.double(), None if shared is None else shared.double())
    np.testing.assert_allclose(likelihood.log_prob(x, output, shared), double, rtol=1e-5, atol=1e-5)


# --- whole levels


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("scale", [1.0, 6.0, 50.0])
def test_probabilities_of_all_levels_sum_to_one(levels, scale):
    likelihood = DiscretizedLogistic(levels, components=4)
    x = (torch.arange(levels) / (levels - 1))[:, None]
    output = some_outputs(likelihood, 1, rows=(200, 1), scale=scale)
    log_p = likelihood.log_prob(x, output.expand(200, levels, -1))
    np.testing.assert_allclose(log_p.double().logsumexp(1), 0, atol=2e-4)


def test_probabilities_of_all_colours_sum_to_one():
    likelihood = DiscretizedLogistic(3, components=2, channels=3)
    x = torch.cartesian_prod(*[torch.arange(3.0)] * 3) / 2
    output = some_outputs(likelihood, 3, rows=(50, 1))
    log_p = likelihood.log_prob(x, output.expand(50, 27, -1))
    np.testing.assert_allclose(log_p.double().logsumexp(1), 0, atol=1e-5)
    # The channels share the component: their joint is not the product of what each is alone.
    alone = torch.stack([torch.stack([log_p[:, x[:, c] == v].logsumexp(1) for v in (0, 0.5, 1)]) for c in range(3)])
    product = alone[0][0] + alone[1][0] + alone[2][0]
    assert (log_p[:, 0] - product).abs().max() > 0.1


def test_a_bin_far_from_the_mean_has_the_right_log_probability_in_float32():
    level = torch.linspace(-1, 1, 256)
    for mean, scale in [(30.0, 0.05), (-400.0, 0.3), (0.3, math.exp(-7.5)), (5e4, 1.0)]:
        found = log_bin(level, torch.tensor(mean), torch.tensor(math.log(scale)), 1 / 255)
        edges = np.concatenate([[-np.inf], (2 * np.arange(255) + 1) / 255 - 1, [np.inf]])
        a, b = (edges[1:] - mean) / scale, (edges[:-1] - mean) / scale
        with np.errstate(invalid="ignore"):
            middle = stats.logistic.logcdf(a) + stats.logistic.logsf(b) + np.log(-np.expm1(b - a))
        middle[0], middle[-1] = stats.logistic.logcdf(a[0]), stats.logistic.logsf(b[-1])
        np.testing.assert_allclose(found, middle, rtol=2e-4, atol=1e-4)


def test_extreme_outputs_have_finite_values_and_gradients():
    likelihood = DiscretizedLogistic(256, components=3)
    x = torch.tensor([[0.0, 1.0, 0.5, 128 / 255]])
    for size in (0.0, 1e2, 1e5, -1e5):
        output = torch.full((1, 1, 4 * 3 * 3), size).requires_grad_()
        log_p = likelihood.log_prob(x, output)
        log_p.sum().backward()
        assert torch.isfinite(log_p).all() and (log_p <= 0).all() and torch.isfinite(output.grad).all()


def test_samples_of_levels_have_their_probabilities():
    likelihood = DiscretizedLogistic(5, components=3, top=4.0)
    output = some_outputs(likelihood, 1, rows=(1, 1), seed=3)
    torch.manual_seed(0)
    drawn = likelihood.sample(output[0].expand(20_000, -1))[:, 0].numpy()
    p = likelihood.log_prob(torch.arange(5.0)[:, None], output.expand(1, 5, -1)).exp()[0].double().numpy()
    seen = np.array([(drawn == k).sum() for k in range(5)])
    assert seen.sum() == 20_000 and (p > 0.01).sum() > 2
    assert stats.chisquare(seen, 20_000 * p / p.sum()).pvalue > 1e-3


def test_each_pixel_of_each_example_is_drawn_from_its_own_component():
    likelihood, generator = DiscretizedLogistic(5, components=2, channels=3), torch.Generator().manual_seed(0)
    chosen = torch.randint(0, 2, (40, 4), generator=generator)  # (examples, pixels): certain
    level = torch.randint(0, 5, (40, 2, 4, 3), generator=generator)
    spread = torch.tensor([-0.5, 0.5])[:, None, None]
    logits = 50.0 * torch.stack([1 - chosen, chosen], 1)
    mean, log_scale = level / 2 - 1 - spread, torch.full(level.shape, -9.0)
    drawn = likelihood.sample(torch.cat([part.flatten(1) for part in (logits, mean, log_scale)], 1))
    expected = level[torch.arange(40)[:, None], chosen, torch.arange(4)] / 4
    # At its narrowest a logistic leaves .002 of its mass to other levels.
    assert (drawn.view(40, 4, 3) == expected).float().mean() > 0.98


def test_colours_are_sampled_together():
    likelihood = DiscretizedLogistic(3, components=2, channels=3)
    x = torch.cartesian_prod(*[torch.arange(3.0)] * 3) / 2
    output = some_outputs(likelihood, 3, rows=(1, 1), seed=5)
    torch.manual_seed(0)
    drawn = likelihood.sample(output[0].expand(20_000, -1))
    code = (drawn * 2).long() @ torch.tensor([9, 3, 1])
    p = likelihood.log_prob(x, output.expand(1, 27, -1)).exp()[0].double().numpy()
    often = p * 20_000 > 5
    seen = np.bincount(code, minlength=27)
    seen, p = np.append(seen[often], seen[~often].sum()), np.append(p[often], p[~often].sum() + 1e-9)
    assert stats.chisquare(seen, 20_000 * p / p.sum()).pvalue > 1e-3


def test_levels_are_found_in_the_data():
    assert find_levels((np.arange(17) / 16).astype(np.float32)[:, None], None, None) == (17, 1.0)
    assert find_levels((np.arange(256) / 255).astype(np.float32)[:, None], None, None) == (256, 1.0)
    assert find_levels(np.array([[0], [1]], np.uint8), None, None) == (2, 1.0)
    assert find_levels(np.array([[0], [16]], np.uint8), 17, None) == (17, 16.0)
    assert find_levels(np.array([[0.0], [0.5]], np.float32), 17, None) == (17, 1.0)
    resolved = small_vae("discretized_logistic").resolve(np.array([[0, 200], [3, 5]], np.uint8))
    assert (resolved.levels, resolved.top) == (256, 255.0)


@pytest.mark.parametrize(
    ("X", "settings"),
    [
        ([[0.0, 0.3371, 0.7113, 0.9127]], {}),  # on no grid of up to 256 levels
        ([[0.0, 200.0]], {}),  # whole numbers that are not uint8
        ([[-1.0, 1.0]], {}),
        ([[0.0, 0.25]], {"levels": 4}),
        ([[0.0, 1.25]], {"levels": 5}),
        ([[0.0, 5.0]], {"levels": 5, "top": 4.0}),
    ],
)
def test_what_are_no_whole_levels_is_refused(X, settings):
    with pytest.raises(DataError, match="whole levels"):
        small_vae("discretized_logistic", **settings).resolve(np.array(X, np.float32))
    with pytest.raises(DataError, match="whole levels"):
        small_vae("discretized_logistic", levels=17).resolve(np.array([[0, 17]], np.uint8))


@pytest.mark.slow
def test_uint8_and_floats_of_the_same_levels_are_the_same_to_a_vae():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3), dtype=np.uint8)
    one, other = (small_vae("discretized_logistic").fit(X) for X in (pixels, (pixels / 255).astype(np.float32)))
    np.testing.assert_allclose(
        one.score_samples(pixels), other.score_samples((pixels / 255).astype(np.float32)), atol=0.01
    )
    drawn = draw(one, 50, seed=0)
    np.testing.assert_array_equal(drawn, np.rint(drawn))
    assert drawn.max() > 100
    grid = np.float32(np.arange(256) / 255)
    assert np.isin(draw(other, 50, seed=0), grid).all()


# --- 8 bits


@pytest.mark.parametrize("variance", ["scalar", "pixel"])
def test_8_bit_log_p_is_that_of_a_pixel(variance):
    """The density of logit space on each pixel's bin, by quadrature: about 1 in all, and never more."""
    likelihood = make_likelihood("logit_normal", variance=variance, levels=256, components=1, top=None, channels=1)
    output = torch.tensor([[[0.4, -1.5]]]) if variance == "pixel" else torch.tensor([[[0.4]]])
    shared = None if variance == "pixel" else torch.tensor(-1.5)
    u = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    x = ((torch.arange(256)[:, None] + u) / 256).reshape(-1, 1)
    log_p = likelihood.log_prob(x, output.double(), shared).view(256, 16)
    of_pixel = log_p.logsumexp(1) - math.log(16)  # the exact probability of each level
    assert of_pixel.exp().sum().item() == pytest.approx(1, abs=1e-4) and of_pixel.exp().sum() <= 1
    middle = likelihood.log_prob((torch.arange(256)[:, None] + 0.5) / 256, output, shared)[0]
    np.testing.assert_allclose(middle.exp(), of_pixel.exp(), atol=1e-5)  # smooth: any u tells it
    assert (log_p.mean(1) <= of_pixel).all()  # and on average it is a lower bound


@pytest.mark.slow
def test_8_bit_correction_is_the_published_one():
    likelihood = make_likelihood("logit_normal", variance="pixel", levels=256, components=1, top=None, channels=1)
    d, generator = 12, torch.Generator().manual_seed(0)
    x = torch.rand(5, d, generator=generator)
    output = torch.randn(3, 5, 2 * d, generator=generator)
    y = torch.logit(0.05 + 0.9 * x)
    density = torch.distributions.Normal(output[..., :d], (0.5 * output[..., d:]).exp()).log_prob(y).sum(-1)
    correction = d * math.log(0.9) - d * math.log(256) - (y - 2 * torch.nn.functional.softplus(y)).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(x, output), density + correction)


@pytest.mark.slow
def test_levels_of_a_gaussian_shift_log_p_only():
    X = data_for("logit_normal")
    density, levels = (small_vae("gaussian", levels=setting).fit(X) for setting in (None, 256))
    shift = density.score_samples(X) - levels.score_samples(X)
    np.testing.assert_allclose(shift, 3 * math.log(256), atol=1e-4)


@pytest.mark.parametrize("likelihood", ["gaussian", "logit_normal"])
def test_levels_want_dequantised_data(likelihood):
    X = (np.random.default_rng(0).integers(0, 256, (30, 4)) / 255).astype(np.float32)
    with pytest.raises(DataError, match="dequantized"):
        VAE(likelihood=likelihood, levels=256).resolve(X)
    with pytest.raises(DataError, match="dequantized"):
        VAE(likelihood=likelihood, levels=256).resolve((X * 255 / 256).astype(np.float32))
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        VAE(likelihood=likelihood, levels=256).resolve(X * 255)
    noisy = ((X * 255 + np.random.default_rng(1).random(X.shape)) / 256).astype(np.float32)
    assert VAE(likelihood=likelihood, levels=256).resolve(noisy).levels == 256


def test_a_log_variance_stays_above_its_floor():
    likelihood = make_likelihood("gaussian", variance="pixel", levels=None, components=1, top=None, channels=1)
    far, floor = (likelihood.log_prob(torch.zeros(1, 1), torch.tensor([[[0.0, v]]])) for v in (-50.0, -7.0))
    assert torch.equal(far, floor)


# --- the VAE with each of them


@pytest.mark.parametrize("kind", list(KINDS)[2:])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 3)])
def test_contract(kind, shape):
    check_density(small_vae(kind), data_for(kind, shape=shape))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_log_p_of_a_vae_equals_quadrature_over_z(kind):
    X = data_for(kind, shape=(2,))
    model = small_vae(kind, latent_dim=1, epochs=40, learning_rate=0.01).fit(X)
    estimate = model.score_samples(X[:6], importance_samples=10_000)
    np.testing.assert_allclose(estimate, log_prob_by_grid(model.module_, X[:6]), atol=0.05)


def test_probabilities_of_a_vae_of_levels_sum_to_one():
    X = data_for("discretized_logistic", shape=(2,))
    model = small_vae("discretized_logistic", epochs=30).fit(X)
    every = np.stack(np.meshgrid(*[np.arange(5) / 4] * 2), -1).reshape(-1, 2).astype(np.float32)
    assert np.exp(model.score_samples(every, 4000)).sum() == pytest.approx(1, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian, pixel", "logit_normal, pixel, 256 levels", "discretized_logistic"])
def test_samples_of_a_vae_follow_its_log_p(kind):
    X = data_for(kind, n=300, shape=(1,))
    model = small_vae(kind, latent_dim=1, epochs=60, learning_rate=5e-3).fit(X)
    low, high = (-6, 6) if kind == "gaussian, pixel" else (0, 1)
    grid = np.linspace(low, high, 5 if kind == "discretized_logistic" else 801, dtype=np.float32)[:, None]
    p = np.exp(model.score_samples(grid, 500))
    p, samples = p / p.sum(), draw(model, 5000, seed=1)[:, 0]
    mean = (p * grid[:, 0]).sum()
    sd = np.sqrt((p * (grid[:, 0] - mean) ** 2).sum())
    assert samples.mean() == pytest.approx(mean, abs=5 * sd / np.sqrt(5000))
    assert samples.std() == pytest.approx(sd, rel=0.06)
    if kind == "discretized_logistic":
        seen = [(samples == value).sum() for value in grid[:, 0]]
        assert sum(seen) == 5000 and stats.chisquare(seen, 5000 * p).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_beta_changes_the_loss_and_not_log_p(kind):
    X = data_for(kind)
    one, other = (small_vae(kind, beta=beta).resolve(X).make_module((3,)) for beta in (1.0, 4.0))
    other.load_state_dict(one.state_dict())
    x, noise = torch.from_numpy(X).float(), torch.randn(5, 60, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one.log_weights(x, 5, noise=noise), other.log_weights(x, 5, noise=noise))
    mean, log_variance = one.posterior(x)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    loss, heavier = one(x, 5, noise=noise), other(x, 5, noise=noise)
    torch.testing.assert_close(heavier - loss, 3 * kl, atol=1e-4, rtol=1e-4)
    assert kl.min() > 0


def test_a_heavier_kl_leaves_less_in_z():
    X = data_for("gaussian", n=200)
    X[:, 1] = X[:, 0]
    kl = [small_vae("gaussian", beta=b, epochs=40, learning_rate=0.01).fit(X) for b in (0.2, 20.0)]
    spread = [np.std(model.latent_mean(X)) for model in kl]
    assert spread[1] < 0.2 * spread[0]


def test_constant_pixels_have_no_part_in_a_mixture_either():
    X = data_for("discretized_logistic", shape=(2, 2, 3))
    X[:, 0, 1] = [0.25, 0.5, 1.0]  # a whole pixel
    X[:, 1, 1, 2] = 0.75  # one channel of another: it stays
    model = small_vae("discretized_logistic", epochs=3).fit(X)
    assert model.settled_.constants == [[3, 0.25], [4, 0.5], [5, 1.0]]
    assert model.module_.decoder[-1].out_features == 3 * (3 + 2 * 9)
    assert (draw(model, 4, seed=0)[:, 0, 1] == [0.25, 0.5, 1.0]).all()
    other = X.copy()
    other[:, 0, 1] = 0
    narrow = VAE(likelihood="bernoulli", hidden=[4], latent_dim=2, epochs=1)
    assert narrow.fit((X > 0.4).astype(np.uint8)).module_.narrow
    x, changed, noise = torch.from_numpy(X), torch.from_numpy(other), torch.zeros(1, 60, 2)
    posterior = model.module_.posterior(x)
    one, two = (model.module_.log_weights(v, noise=noise, posterior=posterior) for v in (x, changed))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    "setting",
    [
        {"variance": "image"},
        {"variance": None},
        {"levels": 1},
        {"levels": 2.5},
        {"levels": True},
        {"levels": 100_000},
        {"components": 0},
        {"components": "5"},
        {"top": 0},
        {"top": "255"},
        {"likelihood": "bernoulli", "levels": 2},
        {"likelihood": "bernoulli", "variance": "pixel"},
        {"likelihood": "discretized_logistic", "variance": "pixel"},
    ],
)
def test_settings_out_of_range(setting):
    name = list(setting)[-1]
    with pytest.raises(ModelError, match=name):
        VAE(**{"epochs": 1, **setting}).fit(np.zeros((5, 2), np.float32))


def test_draws_are_decoded_in_parts_where_memory_asks_for_it(monkeypatch):
    import genmem.models.vae_module as home

    X = data_for("discretized_logistic")
    module = small_vae("discretized_logistic").resolve(X).make_module((3,))
    x, noise = torch.from_numpy(X), torch.randn(7, 60, 2, generator=torch.Generator().manual_seed(0))
    whole = module.log_weights(x, 7, noise=noise)
    rows = []
    module.decoder.register_forward_hook(lambda _, inputs, output: rows.append(inputs[0].shape[0]))
    monkeypatch.setattr(home, "VALUES_AT_ONCE", {"cpu": 2 * 60 * module.width})
    torch.testing.assert_close(module.log_weights(x, 7, noise=noise), whole)
    assert rows == [2, 2, 2, 1]
    monkeypatch.setattr(home, "SAMPLED_AT_ONCE", 4 * module.width)
    assert module.sample(9).shape == (9, 3) and rows[4:] == [4, 4, 1]
