"""The mixture of factor analysers: its density against full covariances, the contract, lanes, awkward columns."""

import warnings

import numpy as np
import pyro
import pytest
import torch
from contract import check_density, check_normalised
from oracles_pyro import factor_analysers, trace_elbo
from scipy.stats import ks_2samp
from sklearn.mixture import GaussianMixture
from torch.func import vmap

import genmem
from genmem.data import load
from genmem.errors import DataError, ModelError
from genmem.models import make_model
from genmem.models.mfa import NOISE_FLOOR, SHARED, FactorAnalysers, MixtureOfFactorAnalysers, find_columns
from genmem.models.pyro_module import PairModule
from genmem.protocols import draw
from genmem.training.ensemble import Lane, train
from genmem.training.probe import can_batch


def clusters(n=150, d=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = 4 * rng.normal(size=(3, d))
    return (centres[rng.integers(3, size=n)] + rng.normal(size=(n, d)) @ rng.normal(size=(d, d))).astype(np.float32)


def small(**changes):
    return MixtureOfFactorAnalysers(**({"components": 3, "factors": 2, "epochs": 5, "batch_size": 32} | changes))


@pytest.mark.parametrize(
    "shape", [pytest.param((4,), marks=pytest.mark.slow), pytest.param((2, 2), marks=pytest.mark.slow)]
)
def test_contract(shape):
    check_density(small(), clusters(60).reshape(-1, *shape))


def test_names():
    assert genmem.MixtureOfFactorAnalysers is MixtureOfFactorAnalysers
    assert make_model("mfa", {"components": 4}).get_params()["components"] == 4


# --- the density


def parameters(k, d, q, seed=0):
    rng = np.random.default_rng(seed)
    draws = (rng.normal(size=(k, d)), rng.normal(size=(k, d, q)), rng.gamma(1.0, size=(k, d)) + 0.05)
    return [torch.from_numpy(value) for value in draws]


@pytest.mark.parametrize(("d", "q"), [(1, 1), (5, 2), (6, 6), (40, 3)])
def test_woodbury_equals_full_covariances(d, q):
    means, loadings, variance = parameters(3, d, q)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(7, d)))
    gaussians = FactorAnalysers(means, loadings, variance)
    for k in range(3):
        expected = factor_analysers(x.numpy(), [1.0], means[k : k + 1], loadings[k : k + 1], variance[k : k + 1])
        np.testing.assert_allclose(gaussians.log_prob(x[:, None])[:, k], expected, rtol=1e-9)
    original = pyro.distributions.LowRankMultivariateNormal(means, loadings, variance)
    torch.testing.assert_close(gaussians.log_prob(x[:, None]), original.log_prob(x[:, None]))


def test_woodbury_in_lanes_and_in_float32():
    lanes = [parameters(3, 5, 2, seed) for seed in range(4)]
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(7, 1, 5)))

    def density(*theta):
        return FactorAnalysers(*theta, validate_args=False).log_prob(x.to(theta[0].dtype))

    stacked = [torch.stack(values) for values in zip(*lanes, strict=True)]
    together = vmap(density)(*stacked)
    torch.testing.assert_close(together, torch.stack([density(*theta) for theta in lanes]))
    single = vmap(density)(*[value.float() for value in stacked])
    torch.testing.assert_close(single, together.float(), atol=1e-3, rtol=1e-4)


def test_log_p_is_in_the_units_of_the_data():
    X = clusters(60)
    X[:, 1] = 7.0
    module = small().fit(X).module_
    torch.manual_seed(0)
    with torch.no_grad():
        log_p = module.log_weights(torch.from_numpy(X[:9]), 4)
        torch.manual_seed(0)
        thetas = module._shared(torch.zeros(1, 4), 4)
    scale, kept = X.std(0)[[0, 2, 3]], X[:9][:, [0, 2, 3]]
    for row, (weights, means, loadings, noise) in zip(
        log_p, zip(*[t.numpy() for t in thetas], strict=True), strict=True
    ):
        centre = X.mean(0)[[0, 2, 3]] + means * scale
        variance = (noise + NOISE_FLOOR) * scale**2
        expected = factor_analysers(kept, weights, centre, loadings * scale[:, None], variance)
        np.testing.assert_allclose(row, expected, atol=1e-3)


@pytest.mark.slow
def test_draws_of_what_is_shared_follow_the_guide():
    X = torch.from_numpy(clusters(20))
    module = small().fit(X.numpy()).module_
    with module.running() as (_, guide), torch.no_grad():
        torch.manual_seed(0)
        slow = [pyro.poutine.trace(guide).get_trace(X) for _ in range(400)]
    torch.manual_seed(1)
    with torch.no_grad():
        found = module._shared(X, 4000)
    for name, values in zip(SHARED, found, strict=True):
        one_by_one = torch.stack([trace.nodes[name]["value"] for trace in slow])
        assert values.shape == (4000, *one_by_one.shape[1:])
        spread = one_by_one.std(0)
        torch.testing.assert_close(values.std(0), spread, rtol=0.25, atol=0)
        assert ((values.mean(0) - one_by_one.mean(0)).abs() < 5 * spread / 20).all()


def test_losses_add_up_to_trace_elbo():
    X = clusters(40)
    module = small().resolve(X).recipe((4,), 40, seed=0).make_module()
    x = torch.from_numpy(X)
    expected = trace_elbo(module, x, 3)
    torch.manual_seed(3)
    assert float(module(x).sum().detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_density_integrates_to_one():
    check_normalised(small(epochs=10), clusters(60, d=1), points=1001, low=-25, high=25)
    check_normalised(small(epochs=10), clusters(60, d=2) / 3, points=601)


@pytest.mark.slow
def test_samples_follow_the_density():
    X = clusters(100, d=1)
    model = small(epochs=20).fit(X)
    grid = np.linspace(-30, 30, 3001, dtype=np.float32)[:, None]
    p = np.exp(model.score_samples(grid, 200))
    cumulative = np.cumsum(p) / p.sum()
    from_density = np.interp((np.arange(4000) + 0.5) / 4000, cumulative, grid[:, 0])
    assert ks_2samp(draw(model, 1000, seed=0)[:, 0], from_density).pvalue > 1e-3
    torch.manual_seed(0)
    with torch.no_grad():  # the slow way of the base class: model and guide for each sample
        slow = PairModule.sample(model.module_, 150)[:, 0].numpy()
    assert ks_2samp(slow, from_density).pvalue > 1e-3


@pytest.mark.slow
def test_samples_take_components_by_their_weights():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(200, 2)) + 8 * (np.arange(200) < 20)[:, None]).astype(np.float32)
    model = small(epochs=60, learning_rate=0.03).fit(X)
    share = (draw(model, 1000, seed=0)[:, 0] > 4).mean()
    assert share == pytest.approx(0.1, abs=0.05)


# --- fitting


@pytest.mark.slow
def test_lanes_equal_the_loop():
    X = torch.from_numpy(clusters(80))
    recipe = small().resolve(X.numpy()).recipe((4,), 70, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert can_batch(recipe, X)
    lanes = [Lane(np.arange(5 * i, 70 + 5 * i), split=i, repeat=0) for i in range(3)]
    together, alone = (train(recipe, X, lanes, batched=batched) for batched in (True, False))
    for one, other in zip(together, alone, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_it_finds_clusters_that_one_gaussian_cannot():
    X, new = clusters(300), clusters(900)[300:]
    found = small(epochs=40, batch_size=64, learning_rate=0.03).fit(X).score_samples(new, 16).mean()
    one, right = (GaussianMixture(k, random_state=0).fit(X).score_samples(new).mean() for k in (1, 3))
    assert found > one + 0.6 * (right - one)


@pytest.mark.slow
def test_an_audit_of_digits(tmp_path):
    found = genmem.audit(
        "digits",
        "mfa",
        tmp_path / "run",
        settings={"components": 3, "factors": 2},
        subset=60,
        folds=2,
        repeats=2,
        epochs=3,
        importance_samples=16,
    )
    assert np.isfinite(found.scores.score).all() and found.report.exists()


# --- awkward data


def test_columns_that_never_vary_are_left_out():
    X = np.insert(clusters(50), 2, -3.0, axis=1)
    model = small().fit(X)
    assert (draw(model, 5, seed=0)[:, 2] == -3).all()
    other = X.copy()
    other[:, 2] = 100  # whatever stands there says nothing
    np.testing.assert_array_equal(model.score_samples(X), model.score_samples(other))
    assert model.settled_.columns[2] == [-3.0, 0.0] and model.columns is None


@pytest.mark.parametrize(
    "X",
    [
        clusters(2),
        clusters(5, d=1),
        np.repeat(clusters(1), 40, axis=0) + np.eye(40, 4, dtype=np.float32),
        clusters(40) * np.array([1e-6, 1, 1e6, 1e3], np.float32) + np.array([1e-3, 0, 1e6, 0], np.float32),
        (clusters(40) > 0).astype(np.uint8),
        clusters(40).astype(int),
    ],
    ids=["fewer than components", "one column", "spikes", "units far apart", "binary", "whole numbers"],
)
def test_awkward_data_have_defined_values(X):
    model = small(components=4, factors=9).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(draw(model, 20, seed=0)).all()


def test_find_columns():
    X = np.random.default_rng(0).normal(size=(2000, 2, 3)) * [1, 10, 0] + [5, 0, 3]
    found = np.array(find_columns(X))
    flat = X.reshape(2000, -1)
    np.testing.assert_allclose(found, np.stack([flat.mean(0), flat.std(0)], 1), atol=1e-9)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((5, 3), np.float32), "at least one column that varies"),
        (np.arange(5.0), "Reshape"),
        (np.array([[1.0, np.nan], [2.0, 3.0]]), "finite"),
    ],
)
def test_data_that_cannot_be_fitted(X, message):
    with pytest.raises(DataError, match=message):
        small().fit(X)


@pytest.mark.parametrize(
    "setting",
    [
        {"components": 0},
        {"components": 2.5},
        {"factors": 0},
        {"factors": True},
        {"columns": "abc"},
        {"columns": [1, 2]},
        {"columns": [[0.0, 0.0]]},
        {"columns": [[0.0, -1.0]]},
        {"columns": [[0.0, float("nan")]]},
    ],
)
def test_settings_out_of_range(setting):
    (name,) = setting
    with pytest.raises(ModelError, match=name):
        small(**setting).fit(clusters(20))


def test_columns_of_other_data():
    with pytest.raises(DataError, match="columns for the 4 values"):
        small(columns=[[0.0, 1.0]] * 3).fit(clusters(20))


def test_digits_have_finite_scores_with_raw_levels():
    X = load("digits").X[:100]
    assert np.isfinite(small(epochs=2).fit(X).score_samples(X)).all()
