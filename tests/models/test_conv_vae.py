"""ConvVAE: the network of the paper, any image size, the contract, log p, and an audit from end to end."""

import numpy as np
import pytest
import torch
from contract import check_density
from oracles_vae import log_prob_by_grid, paper_network
from scipy import stats

import genmem
from genmem.data import load
from genmem.errors import DataError, ModelError
from genmem.models import make_model
from genmem.models.conv_vae import ConvVAE
from genmem.models.evaluation import log_prob
from genmem.models.posterior import has_posterior, refit_posterior
from genmem.protocols import draw

KINDS = {
    "bernoulli": {"likelihood": "bernoulli"},
    "gaussian": {"likelihood": "gaussian"},
    "logit_normal, pixel": {"likelihood": "logit_normal", "variance": "pixel"},
    "discretized_logistic": {"likelihood": "discretized_logistic", "components": 2},
}


def images(kind, n=40, shape=(4, 4), seed=0):
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 5, (n, *shape)).astype(np.float32) / 4
    if kind == "bernoulli":
        return (level > 0.4).astype(np.uint8)
    if kind == "discretized_logistic":
        return level
    return np.clip(level * 0.8 + 0.1 + 0.02 * rng.normal(size=level.shape), 0, 1).astype(np.float32)


def small(kind="gaussian", **changes):
    return ConvVAE(**{"width": 4, "latent_dim": 2, "epochs": 2, "batch_size": 16, **KINDS[kind], **changes})


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize(("kind", "shape"), [*((k, (4, 4)) for k in KINDS), ("discretized_logistic", (4, 6, 3))])
def test_contract(kind, shape, norm):
    check_density(small(kind, norm=norm), images(kind, shape=shape))


# --- the network


def test_32_x_32_with_batch_norm_is_the_network_of_the_paper():
    model = ConvVAE(latent_dim=64, norm="batch", likelihood="logit_normal", variance="pixel", levels=256)
    module = model.make_module((32, 32, 3))
    encoder, mean, log_variance, decoder = paper_network(3, 64, 6)
    count = [sum(p.numel() for p in part.parameters()) for part in (module.encoder, module.decoder)]
    ours = [p.shape for p in module.parameters()]
    theirs = [p.shape for part in (encoder, decoder) for p in part.parameters()]
    heads = (mean, log_variance)
    assert count[0] == sum(p.numel() for part in (encoder, *heads) for p in part.parameters())
    assert count[1] == sum(p.numel() for p in decoder.parameters())
    assert [s for s in ours if len(s) != 2 and s != (128,)] == [s for s in theirs if s != (128,)]
    assert not list(module.named_parameters(recurse=False))  # no variance of its own

    _copy(encoder, module.encoder.stages), _copy(decoder, module.decoder.stages)
    with torch.no_grad():
        for i, head in enumerate(heads):
            head.weight.copy_(module.encoder.head.weight[64 * i : 64 * i + 64])
            head.bias.copy_(module.encoder.head.bias[64 * i : 64 * i + 64])
    x = torch.rand(6, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    y = torch.logit(0.05 + 0.9 * x).permute(0, 3, 1, 2)
    for training in (True, False):  # with statistics of the batch, then with running ones
        for part in (module, encoder, decoder):
            part.train(training)
        hidden = encoder(y)
        found = module.posterior(x)
        torch.testing.assert_close(found[0], mean(hidden), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[1], log_variance(hidden), atol=1e-4, rtol=1e-4)
        z = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
        output = decoder(z).permute(0, 2, 3, 1)
        expected = torch.cat([output[..., :3].flatten(1), output[..., 3:].flatten(1)], 1)
        torch.testing.assert_close(module.decoder(z), expected, atol=1e-4, rtol=1e-4)


def _copy(to, of):
    with torch.no_grad():
        for mine, theirs in zip(_layers(to), _layers(of), strict=True):
            assert type(mine) is type(theirs)
            mine.load_state_dict(theirs.state_dict())


def _layers(part):
    return [layer for layer in part if list(layer.parameters())]


@pytest.mark.parametrize(
    ("shape", "stages"),
    [((8, 8), 2), ((28, 28), 4), ((32, 32), 4), ((16, 16, 3), 3), ((10, 13), 2), ((5, 40, 3), 1), ((1, 7), 1)],
)
@pytest.mark.parametrize("kind", ["gaussian", "discretized_logistic"])
def test_any_size_goes_through(kind, shape, stages):
    X = images(kind, n=5, shape=shape)
    module = small(kind).resolve(X).make_module(shape)
    assert len(module.encoder.shape.channels) == stages
    x, noise = torch.from_numpy(X), torch.zeros(3, 5, 2)
    assert module(x, 3, noise=noise).shape == (5,) and module.log_weights(x, 3, noise=noise).shape == (3, 5)
    assert module.sample(2).shape == (2, *shape)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
def test_padding_stays_outside_and_pixels_stay_in_place(shape):
    """One output moves one value of the image: the decoder's, put back to height, width and channels."""
    X = images("gaussian", shape=shape)
    module = small().resolve(X).make_module(shape)
    x = torch.from_numpy(X)
    height, width, colours = (*shape, 1)[:3]
    seen = []
    module.encoder.stages.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    module.posterior(x)
    padded = seen[0]
    top, left = (padded.shape[2] - height) // 2, (padded.shape[3] - width) // 2
    inside = padded[:, :, top : top + height, left : left + width]
    assert torch.equal(inside.permute(0, 2, 3, 1).reshape(len(x), *shape), x)
    assert padded.abs().sum() == pytest.approx(x.abs().sum().item(), rel=1e-5)  # nothing but zeros around

    grown = []
    module.decoder.stages.register_forward_hook(lambda _, inputs, output: grown.append(output))
    output = module.decoder(torch.randn(2, 3, 2))
    expected = grown[0][:, :, top : top + height, left : left + width].permute(0, 2, 3, 1)
    assert torch.equal(output.view(6, height, width, colours), expected)


def test_a_shifted_image_is_encoded_otherwise_and_channels_are_not_mixed_up():
    X = images("discretized_logistic", shape=(4, 4, 3))
    module = small("discretized_logistic").resolve(X).make_module((4, 4, 3))
    x = torch.from_numpy(X)
    assert not torch.allclose(module.posterior(x)[0], module.posterior(x.flip(-1))[0], atol=1e-4)
    # The outputs of a mixture: weights of pixels, then means of components, pixels and channels, then log scales.
    grown = []
    module.decoder.stages.register_forward_hook(lambda _, inputs, output: grown.append(output))
    found = module.decoder(torch.randn(1, 2))[0]
    assert torch.equal(found[:32].view(2, 4, 4), grown[0][0, :2])
    assert torch.equal(found[32 + 48 : 32 + 96].view(4, 4, 3), grown[0][0, 5:8].permute(1, 2, 0))
    assert torch.equal(found[32 + 96 + 48 :].view(4, 4, 3), grown[0][0, 11:14].permute(1, 2, 0))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_what_is_decoded_depends_on_the_length_of_z(norm):
    module = ConvVAE(width=8, latent_dim=3, norm=norm).make_module((8, 8)).eval()
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    near, far = module.decoder(z), module.decoder(2 * z)
    assert (near - far).abs().max(1).values.min() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_as_good_as_float64(kind):
    X = images(kind)
    module = small(kind).fit(X).module_
    x, noise = torch.from_numpy(X).float(), torch.randn(4, 40, 2, generator=torch.Generator().manual_seed(0))
    single = module.log_weights(x, 4, noise=noise)
    double = module.double().log_weights(x.double(), 4, noise=noise.double())
    torch.testing.assert_close(single.double(), double, atol=1e-3, rtol=1e-4)
    assert module.sample(3).dtype == torch.float64


# --- log p


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_log_p_equals_quadrature_over_z(kind):
    X = images(kind, shape=(2, 2))
    model = small(kind, latent_dim=1, epochs=20, learning_rate=0.01).fit(X)
    estimate = model.score_samples(X[:5], importance_samples=10_000)
    np.testing.assert_allclose(estimate, log_prob_by_grid(model.module_, X[:5]), atol=0.05)


@pytest.mark.slow
def test_probabilities_of_all_binary_images_sum_to_one():
    X = images("bernoulli", shape=(2, 3))
    model = small("bernoulli", epochs=10, learning_rate=5e-3).fit(X)
    every = ((np.arange(64)[:, None] >> np.arange(6)) & 1).astype(np.uint8).reshape(64, 2, 3)
    p = np.exp(model.score_samples(every, importance_samples=2000))
    assert p.sum() == pytest.approx(1, abs=0.02)
    code = draw(model, 8000, seed=0).reshape(-1, 6) @ (1 << np.arange(6))
    assert stats.chisquare(np.bincount(code.astype(int), minlength=64), 8000 * p / p.sum()).pvalue > 1e-3


def test_samples_of_levels_are_on_the_grid():
    X = images("discretized_logistic", shape=(4, 4, 3))
    drawn = draw(small("discretized_logistic").fit(X), 20, seed=0)
    assert np.isin(drawn, np.arange(5, dtype=np.float32) / 4).all() and len(np.unique(drawn)) == 5
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    drawn = draw(small("discretized_logistic").fit(pixels), 20, seed=0)
    np.testing.assert_array_equal(drawn, np.rint(drawn))
    assert drawn.min() >= 0 and 200 < drawn.max() <= 255


@pytest.mark.slow
def test_constant_margins_have_no_part_in_log_p():
    X = np.pad(images("gaussian", n=60), ((0, 0), (2, 2), (2, 2)), constant_values=0.25)
    model = small(epochs=60, learning_rate=5e-3).fit(X)
    assert len(model.settled_.constants) == 48
    log_p = model.score_samples(X)
    assert np.isfinite(log_p).all() and (log_p < 16 * 2.6).all()  # 16 values at a log variance of -7 or more
    assert (draw(model, 3, seed=0)[:, 0] == 0.25).all()
    x, noise = torch.from_numpy(X), torch.zeros(1, 60, 2)
    posterior, other = model.module_.posterior(x), x.clone()
    other[:, 0, 0] = 9
    one, two = (model.module_.log_weights(v, noise=noise, posterior=posterior) for v in (x, other))
    assert torch.equal(one, two)


def test_constant_pixels_of_a_colour_image_take_their_weights_along():
    X = images("discretized_logistic", shape=(4, 4, 3))
    X[:, 1, 2] = [0.25, 0.5, 1.0]
    model = small("discretized_logistic").resolve(X)
    whole = small("discretized_logistic", constants=()).resolve(X).make_module((4, 4, 3))
    module = model.make_module((4, 4, 3))
    module.load_state_dict(whole.state_dict())
    assert [column for column, _ in model.constants] == [18, 19, 20]
    z, kept = torch.randn(3, 2), [pixel for pixel in range(16) if pixel != 6]
    found, every = module.decoder(z), whole.decoder(z)
    assert torch.equal(found[:, :30].view(3, 2, 15), every[:, :32].view(3, 2, 16)[:, :, kept])
    assert torch.equal(found[:, 30:].view(3, 4, 15, 3), every[:, 32:].view(3, 4, 16, 3)[:, :, kept])


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_posteriors_can_be_refitted(norm):
    X = load("digits", subset=300).X.reshape(-1, 8, 8)
    model = ConvVAE(width=8, latent_dim=4, epochs=15, learning_rate=3e-3, norm=norm).fit(X[:150])
    out = torch.from_numpy(X[150:])
    assert has_posterior(model.module_)
    amortised = log_prob(model.module_, out, draws=64, seed=0)
    refitted = refit_posterior(model.module_, out, draws=64, seed=0)
    unchanged = refit_posterior(model.module_, out, draws=64, steps=0, seed=0)
    np.testing.assert_allclose(unchanged.log_prob, amortised.log_prob, atol=1e-2)
    assert (refitted.log_prob - amortised.log_prob).mean() > 0
    assert refitted.effective_draws.mean() > 1.2 * amortised.effective_draws.mean()
    noise = torch.randn(200, 150, 4, generator=torch.Generator().manual_seed(1))
    posterior = torch.from_numpy(refitted.mean), torch.from_numpy(refitted.log_variance)
    with torch.no_grad():  # the lower bound, example by example
        before = model.module_.log_weights(out, 200, noise=noise).mean(0)
        after = model.module_.log_weights(out, 200, noise=noise, posterior=posterior).mean(0)
    gain = after - before
    assert (gain > -0.3).float().mean() > 0.98 and gain.mean() > 0.4


@pytest.mark.slow
def test_it_learns():
    X = load("digits", subset=400).X.reshape(-1, 8, 8)
    few, many = (ConvVAE(width=8, latent_dim=4, epochs=e, learning_rate=3e-3).fit(X[:300]) for e in (1, 25))
    assert many.score_samples(X[300:]).mean() > few.score_samples(X[300:]).mean() + 15
    assert many.latent_mean(X).shape == (400, 4)


# --- what a user may get wrong


@pytest.mark.parametrize("shape", [(5, 16), (5, 3, 32, 32), (5, 4, 4, 4), (5, 2, 4, 4, 3)])
def test_what_are_no_images_is_refused(shape):
    with pytest.raises(DataError, match="images"):
        small().fit(np.random.default_rng(0).random(shape).astype(np.float32))


@pytest.mark.parametrize(
    "setting",
    [
        {"norm": "layer"},
        {"norm": None},
        {"width": 0},
        {"width": 2.5},
        {"variance": "both"},
        {"components": 0},
        {"levels": 0},
    ],
)
def test_settings_out_of_range(setting):
    (name,) = setting
    with pytest.raises(ModelError, match=name):
        ConvVAE(**{"epochs": 1, **setting}).fit(images("gaussian"))


def test_wrong_levels_are_refused():
    with pytest.raises(DataError, match="whole levels"):
        small("discretized_logistic", levels=4).fit(images("discretized_logistic"))
    with pytest.raises(DataError, match="at least one column that varies"):
        small().fit(np.ones((5, 4, 4), np.float32))


# --- from end to end


def test_it_has_a_name():
    model = make_model("conv-vae", {"width": 8, "norm": "batch"})
    assert isinstance(model, ConvVAE) and model.example_kind == "image"
    with pytest.raises(ModelError, match="Did you mean width"):
        make_model("conv-vae", {"widht": 4})


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"norm": "batch"}, {"likelihood": "discretized_logistic", "components": 2}], ids=["batch", "levels"]
)
def test_digits_are_audited(tmp_path, settings):
    audit = genmem.audit(
        "digits",
        "conv-vae",
        tmp_path / "run",
        settings={"width": 4, "latent_dim": 2, "batch_size": 16, **settings},
        subset=60,
        folds=2,
        repeats=2,
        epochs=3,
        importance_samples=8,
    )
    scores = audit.scores
    assert len(scores.score) == 60 and np.isfinite(scores.score).all()
