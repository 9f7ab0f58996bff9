"""Gaussian mixtures on torch: against scikit-learn, against a loop, in blocks; what they refuse."""

import math

import numpy as np
import pytest
from oracles_densities import em_by_loop
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from genmem.errors import DataError, ModelError
from genmem.models import TorchGaussianMixture

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("device", DEVICES)
def test_mixture_equals_scikit_learn(rng, covariance_type, device):
    X = np.concatenate([rng.normal(size=(80, 3)) + shift for shift in (0, 3, [0, 5, 1])])
    settings = {"covariance_type": covariance_type, "n_init": 2, "tol": 1e-7, "max_iter": 400, "random_state": 3}
    theirs = GaussianMixture(3, **settings).fit(X)
    ours = TorchGaussianMixture(3, device=device, **settings).fit(X)
    assert ours.converged_ and ours.n_iter_ == theirs.n_iter_
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-6, err_msg=name)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), atol=1e-8)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-10)


def test_mixture_steps_equal_the_loop(rng):
    X = rng.normal(size=(60, 2))
    weights, means = np.array([0.3, 0.7]), X[:2].copy()
    start = np.stack([np.eye(2), [[2.0, 0.5], [0.5, 1.0]]])
    expected = em_by_loop(X, weights, means, start, 1e-3, steps=3)
    model = TorchGaussianMixture(
        2,
        weights_init=weights,
        means_init=means,
        precisions_init=np.linalg.inv(start),
        reg_covar=1e-3,
        max_iter=3,
        tol=0,
    )
    with pytest.warns(ConvergenceWarning, match="3 steps"):
        model.fit(X)
    for found, value in zip((model.weights_, model.means_, model.covariances_), expected, strict=True):
        np.testing.assert_allclose(found, value, atol=1e-12)


def test_blocks_of_rows_do_not_change_a_mixture(rng, monkeypatch):
    from genmem.models import torch_gmm

    X = rng.normal(size=(90, 4))
    whole = TorchGaussianMixture(2).fit(X)
    monkeypatch.setattr(torch_gmm, "_CHUNK", 40)
    cut = TorchGaussianMixture(2).fit(X)
    np.testing.assert_allclose(cut.covariances_, whole.covariances_, atol=1e-12)
    np.testing.assert_allclose(cut.score_samples(X), whole.score_samples(X), atol=1e-12)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_singular_covariances_are_regular_or_refused(rng, covariance_type):
    X = rng.normal(size=(40, 3))
    X[:, 1] = 7.0  # never varies
    model = TorchGaussianMixture(2, covariance_type=covariance_type)
    assert np.isfinite(model.fit(X).score_samples(X)).all()
    with pytest.raises(DataError, match="Raise reg_covar"):
        TorchGaussianMixture(2, covariance_type=covariance_type, reg_covar=0.0).fit(X)


def test_mixture_settings_out_of_range_are_refused(rng):
    X = rng.normal(size=(5, 2))
    with pytest.raises(DataError, match="at least 6 examples for 6 components; got 5"):
        TorchGaussianMixture(6).fit(X)
    bad = [{"n_components": 0}, {"reg_covar": -1}, {"tol": math.nan}, {"covariance_type": "tied"}, {"max_iter": 1.5}]
    bad += [{"n_components": 2, "means_init": np.zeros((3, 2))}, {"device": "abacus"}]
    for settings in bad:
        with pytest.raises(ModelError):
            TorchGaussianMixture(**settings).fit(X)
