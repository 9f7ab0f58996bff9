"""VAE: log p against quadrature, the contract of a density, names and settings."""

import sys
import textwrap

import numpy as np
import pytest
import torch
from contract import check_density
from oracles import vae_log_prob_by_grid
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem.errors import DataError, ModelError
from genmem.models import VAE, log_prob, make_model
from genmem.models.factory import parse_settings
from genmem.protocols import draw


def data_for(likelihood, n=60, shape=(3,), seed=0):
    rng = np.random.default_rng(seed)
    if likelihood == "bernoulli":
        return (rng.random((n, *shape)) < 0.4).astype(np.uint8)
    if likelihood == "logit_normal":
        return rng.beta(2, 3, (n, *shape)).astype(np.float32)
    return rng.normal(size=(n, *shape)).astype(np.float32)


def small_vae(likelihood, **changes):
    settings = {"hidden": [16], "latent_dim": 2, "epochs": 5, "likelihood": likelihood} | changes
    return VAE(**settings)


LIKELIHOODS = ("bernoulli", "gaussian", "logit_normal")


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_contract(likelihood, shape):
    check_density(small_vae(likelihood), data_for(likelihood, shape=shape))


@pytest.mark.parametrize("model", [KernelDensity(bandwidth=0.5), GaussianMixture(2, random_state=0)])
def test_contract_of_scikit_learn(model):
    check_density(model, data_for("gaussian"))


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_log_prob_equals_quadrature(likelihood):
    X = data_for(likelihood)
    model = small_vae(likelihood, latent_dim=1, epochs=40, learning_rate=0.01).fit(X)
    estimate = model.score_samples(X[:12], importance_samples=20_000)
    np.testing.assert_allclose(estimate, vae_log_prob_by_grid(model.module_, X[:12]), atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("likelihood", "low", "high"), [("gaussian", -8, 8), ("logit_normal", 0, 1)])
def test_density_integrates_to_one(likelihood, low, high):
    model = small_vae(likelihood, latent_dim=1, epochs=20).fit(data_for(likelihood, shape=(1,)))
    grid = np.linspace(low, high, 2001)[:, None].astype(np.float32)
    p = np.exp(model.score_samples(grid, importance_samples=2000))
    assert np.trapezoid(p, grid[:, 0]) == pytest.approx(1, abs=0.02)


def test_bernoulli_sums_to_one():
    model = small_vae("bernoulli").fit(data_for("bernoulli"))
    every = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)], np.uint8)
    assert np.exp(model.score_samples(every, importance_samples=4000)).sum() == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_samples_follow_the_density():
    X = data_for("gaussian", n=400, shape=(1,))
    model = small_vae("gaussian", latent_dim=1, epochs=60).fit(X)
    samples, grid = draw(model, 4000, seed=1)[:, 0], np.linspace(-6, 6, 1201)[:, None].astype(np.float32)
    p = np.exp(model.score_samples(grid, importance_samples=500))
    p /= p.sum()
    mean = (p * grid[:, 0]).sum()
    sd = np.sqrt((p * (grid[:, 0] - mean) ** 2).sum())
    assert samples.mean() == pytest.approx(mean, abs=5 * sd / np.sqrt(4000))
    assert samples.std() == pytest.approx(sd, rel=0.06)


def test_training_loss_is_the_negative_elbo():
    X = torch.from_numpy(data_for("gaussian", n=5))
    module = small_vae("gaussian").resolve(X.numpy()).make_module((3,))
    noise = torch.randn(7, 5, 2, generator=torch.Generator().manual_seed(0))
    mean, log_variance = module.posterior(X)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z = q.mean + q.stddev * noise
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    x_given_z = torch.distributions.Normal(module.decoder(z), (0.5 * module.log_variance).exp())
    expected = kl - x_given_z.log_prob(X).sum(-1).mean(0)
    torch.testing.assert_close(module(X, 7, noise=noise), expected)
    log_w = x_given_z.log_prob(X).sum(-1) + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(module.log_weights(X, 7, noise=noise), log_w - q.log_prob(z).sum(-1))


def test_posterior_can_be_given():
    X = torch.from_numpy(data_for("gaussian", n=4))
    module, noise = small_vae("gaussian").make_module((3,)), torch.randn(5, 4, 2)
    own = module.log_weights(X, 5, noise=noise)
    given = module.log_weights(X, 5, noise=noise, posterior=module.posterior(X))
    wider = module.log_weights(X, 5, noise=noise, posterior=(torch.zeros(4, 2), torch.ones(4, 2)))
    torch.testing.assert_close(own, given)
    assert not torch.allclose(own, wider)


def test_evaluation_noise_belongs_to_the_row_and_draw():
    X = torch.from_numpy(data_for("gaussian", n=300))
    module = small_vae("gaussian").make_module((3,))
    whole = log_prob(module, X, draws=96, seed=1, keys=(2,))
    part = log_prob(module, X[:150], draws=96, seed=1, keys=(2,))
    np.testing.assert_allclose(whole.log_prob[:150], part.log_prob, atol=1e-6)
    other = log_prob(module, X, draws=96, seed=1, keys=(3,))
    assert (np.abs(whole.log_prob - other.log_prob) > 0).mean() > 0.99
    assert ((whole.effective_draws >= 1) & (whole.effective_draws <= 96)).all()


@pytest.mark.slow
def test_noise_of_held_out_digits_is_what_it_is_said_to_be():
    from genmem.data import load

    X = load("digits").X
    module = VAE(hidden=(64,), latent_dim=6, epochs=60).fit(X[:600]).module_
    out = torch.from_numpy(X[600:800])  # the tails are heavy there
    runs = [log_prob(module, out, draws=64, seed=s) for s in range(30)]
    true = np.stack([r.log_prob for r in runs]).var(0, ddof=1).mean()
    said = np.mean([r.variance.mean() for r in runs])
    assert true > 0.05
    assert 0.6 < said / true < 1.3


def test_constant_columns_are_left_out():
    X = np.insert(data_for("gaussian"), 1, 7.0, axis=1)
    model = small_vae("gaussian", epochs=40).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert (draw(model, 5, seed=0)[:, 1] == 7).all()
    assert model.module_.decoder[-1].out_features == 3
    assert model.resolve(X).constants == [[1, 7.0]]
    assert model.constants is None
    estimate = model.score_samples(X[:5], importance_samples=4000)
    assert estimate.shape == (5,)


def test_every_column_constant_is_an_error():
    with pytest.raises(DataError, match="at least one column that varies"):
        small_vae("gaussian").fit(np.ones((5, 3), np.float32))


@pytest.mark.parametrize(
    ("likelihood", "X", "message"),
    [
        ("bernoulli", [[0.5, 1.0]], "0 and 1"),
        ("bernoulli", [[0, 2]], r"\[0, 2\]"),
        ("logit_normal", [[0.0, 1.5]], r"\[0, 1\]"),
    ],
)
def test_data_that_do_not_suit_the_likelihood(likelihood, X, message):
    with pytest.raises(DataError, match=message):
        small_vae(likelihood).fit(np.array(X, np.float32))


@pytest.mark.parametrize(
    "setting",
    [
        {"latent_dim": 0},
        {"latent_dim": 2.5},
        {"latent_dim": True},
        {"hidden": "128"},
        {"hidden": [0]},
        {"hidden": 64},
        {"likelihood": "poisson"},
        {"likelihood": ["gaussian"]},
        {"beta": -1},
        {"epochs": 0},
        {"batch_size": "64"},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"checkpoint_every": 0},
        {"device": "abacus"},
        {"device": 3.5},
    ],
)
def test_settings_out_of_range(setting):
    (name,) = setting
    with pytest.raises(ModelError, match="device" if name == "device" else name):
        VAE(**{"epochs": 1, **setting}).fit(data_for("gaussian"))


def test_unfitted_and_bad_arrays():
    with pytest.raises(ModelError, match="Call `fit"):
        VAE().score_samples(np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"Reshape"):
        small_vae("gaussian").fit(np.arange(5.0)).score_samples(np.arange(5.0))


def test_an_array_of_another_width_is_refused():
    model = small_vae("gaussian").fit(data_for("gaussian"))
    with pytest.raises(DataError, match=r"\(3,\)"):
        model.score_samples(np.zeros((2, 4), np.float32))


def test_draw_from_models_without_seeds():
    class Unseeded:
        def fit(self, X, y=None):
            return self

        def score_samples(self, X):
            return np.zeros(len(X))

        def sample(self, n_samples=1):
            return np.random.default_rng().normal(size=(n_samples, 1))

    with pytest.raises(ModelError, match="random_state"):
        draw(Unseeded(), 3, seed=0)


def test_scikit_learn_conventions():
    model = VAE(hidden=(4,), latent_dim=3, epochs=2)
    assert clone(model).get_params() == model.get_params()
    assert "VAE" in repr(model)


# --- names and settings


def test_settings_are_typed():
    texts = {"a": "1", "b": "1e-3", "c": "[1, 2]", "d": "1,2", "e": "none", "f": "true", "g": "word", "h": "a:b"}
    expected = {"a": 1, "b": 0.001, "c": [1, 2], "d": [1, 2], "e": None, "f": True, "g": "word", "h": "a:b"}
    assert parse_settings(texts) == expected


def test_unknown_setting_offers_the_closest():
    with pytest.raises(ModelError, match="Did you mean latent_dim"):
        make_model("vae", {"latent_dims": 4})


def test_unknown_model():
    with pytest.raises(ModelError, match="Did you mean vae"):
        make_model("vea")
    with pytest.raises(ModelError, match="importable"):
        make_model("no.such.module:make")
    with pytest.raises(ModelError, match="importable"):
        make_model("numpy:no_such_name")
    with pytest.raises(ModelError, match="callable"):
        make_model("numpy:pi")


FACTORIES = """
    from sklearn.neighbors import KernelDensity
    def good(bandwidth=1.0): return KernelDensity(bandwidth=bandwidth)
    def raises(): raise RuntimeError("out of cheese")
    def returns_none(): return None
    def returns_class(): return KernelDensity
    def lacks_sample():
        class Half:
            def fit(self, X, y=None): return self
            def score_samples(self, X): return X
        return Half()
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "my_factories.py").write_text(textwrap.dedent(FACTORIES))
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_factories"
    sys.modules.pop("my_factories", None)


def test_a_factory_makes_the_model(factories):
    model = make_model(f"{factories}:good", {"bandwidth": 0.3})
    assert model.bandwidth == 0.3
    assert model.made_by == {"factory": f"{factories}:good", "settings": {"bandwidth": 0.3}}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "out of cheese"),
        ("returns_none", "to be a density"),
        ("returns_class", "a class"),
        ("lacks_sample", "no sample"),
    ],
)
def test_factories_that_fail(factories, name, message):
    with pytest.raises(ModelError, match=message):
        make_model(f"{factories}:{name}")


def test_bernoulli_leaves_out_pixels_that_never_vary():
    rng = np.random.default_rng(2)
    X = np.zeros((60, 10, 10), np.uint8)
    X[:, 2:8, 2:8] = rng.random((60, 6, 6)) < 0.5
    X[:, 0, 0] = 1
    model = VAE(hidden=[8], latent_dim=2, likelihood="bernoulli", epochs=2).resolve(X)
    kept = 100 - len(model.constants)
    assert kept == 48  # the 36 that vary, and as many others as fill cache lines
    module = model.make_module((10, 10))
    assert module.encoder[0].in_features == module.decoder[-1].out_features == kept
    x = torch.from_numpy(X)
    margin = x.clone()
    margin[:, 9, 9] = 1  # whatever stands there says nothing
    noise = torch.zeros(1, 60, 2)
    assert torch.equal(module.log_weights(x.float(), noise=noise), module.log_weights(margin.float(), noise=noise))
    drawn = module.sample(30)
    assert drawn.shape == (30, 10, 10) and (drawn[:, 9, 9] == 0).all()
    assert not VAE(likelihood="bernoulli", constants=()).resolve(X).constants
