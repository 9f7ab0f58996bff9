"""Kernel densities fitted with sample weights: exact scores use the weights, and refits refuse them."""

import mpmath
import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import genmem
from genmem.errors import DataError, ModelError
from genmem.models.weights import log_shrunk, refuse_weights, weights_of

X = np.random.default_rng(0).normal(size=(24, 2))
W = np.where(np.arange(24) < 4, 20.0, 1.0)


class Own(BaseEstimator):
    """Computes its weights from the data."""

    def fit(self, X, y=None):
        self.kde_ = KernelDensity().fit(X, sample_weight=1 + np.abs(X[:, 0]))
        return self

    def score_samples(self, X):
        return self.kde_.score_samples(X)

    def sample(self, n_samples=1, random_state=None):
        return self.kde_.sample(n_samples, random_state)


class Given(Own):
    def fit(self, X, y=None, sample_weight=None):
        self.sample_weight_ = sample_weight
        return super().fit(X)


def log_p_by_mpmath(X, weights, points, bandwidth):
    with mpmath.workdps(50):
        h, total = mpmath.mpf(bandwidth), mpmath.fsum(map(mpmath.mpf, weights))
        found = []
        for z in points:
            squared = [mpmath.fsum((mpmath.mpf(a) - mpmath.mpf(b)) ** 2 for a, b in zip(z, x, strict=True)) for x in X]
            terms = [mpmath.mpf(w) * mpmath.exp(-s / (2 * h**2)) for w, s in zip(weights, squared, strict=True)]
            found.append(float(mpmath.log(mpmath.fsum(terms) / total) - len(z) * mpmath.log(2 * mpmath.pi * h**2) / 2))
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (2.0**25, 1.0), (0.0, 1e-6), (0.0, 1e9)])
@pytest.mark.parametrize("weights", [W, np.r_[1e6, np.ones(23)], np.r_[0.0, np.ones(23)], np.full(24, 3.0)])
def test_exact_scores_use_the_weights(weights, offset, scale):
    rows = np.round(X * 2**20) / 2**20 * scale + offset
    rows[-1] = rows[0]  # a duplicate with another weight
    bandwidth = 0.5 * scale
    kde = KernelDensity(bandwidth=bandwidth).fit(rows, sample_weight=weights)
    log_in = log_p_by_mpmath(rows, weights, rows, bandwidth)
    without = [(np.delete(rows, i, 0), np.delete(weights, i)) for i in range(24)]
    log_out = np.array([log_p_by_mpmath(*rest, rows[i : i + 1], bandwidth)[0] for i, rest in enumerate(without)])
    found = genmem.leave_one_out(kde, rows)
    np.testing.assert_allclose(found.log_prob_in, log_in, atol=1e-9)
    np.testing.assert_allclose(found.log_prob_out, log_out, atol=1e-9)
    np.testing.assert_allclose(found.score, log_in - log_out, atol=1e-9)
    np.testing.assert_allclose(genmem.self_influence(kde, rows), log_in - log_out, atol=1e-9)
    some = genmem.influence_scores(kde, rows, rows[:2])
    rest = np.stack([log_in[:2] - log_p_by_mpmath(*one, rows[:2], bandwidth) for one in without])
    np.testing.assert_allclose(some, rest, atol=1e-9)


@pytest.mark.parametrize("rule", ["scott", 0.7])
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "exponential"])
def test_weighted_scores_equal_refits(kernel, rule):
    def fitted(rows, weights):
        return KernelDensity(kernel=kernel, bandwidth=rule, leaf_size=99).fit(rows, sample_weight=weights)

    found = genmem.leave_one_out(fitted(X, W), X)
    with np.errstate(divide="ignore"):
        out = [fitted(np.delete(X, i, 0), np.delete(W, i)).score_samples(X[i : i + 1])[0] for i in range(24)]
    np.testing.assert_allclose(found.log_prob_in, fitted(X, W).score_samples(X), atol=1e-9)
    np.testing.assert_allclose(found.log_prob_out, out, atol=1e-9)
    with np.errstate(divide="ignore"):
        rest = [fitted(np.delete(X, i, 0), np.delete(W, i)).score_samples(X[:3]) for i in range(24)]
    now = fitted(X, W).score_samples(X[:3])
    np.testing.assert_allclose(genmem.influence_scores(fitted(X, W), X, X[:3]), now - np.array(rest), atol=1e-9)


def test_equal_weights_are_none_and_others_belong_to_their_examples():
    plain = genmem.leave_one_out(KernelDensity(), X).score
    equal = KernelDensity().fit(X, sample_weight=np.full(24, 2.5))
    assert weights_of(equal) is None and np.array_equal(genmem.leave_one_out(equal, X).score, plain)
    weighted = KernelDensity().fit(X, sample_weight=W)
    for rows, said in ((X[:-1], "23 examples"), (X[::-1], "other values")):
        with pytest.raises(DataError, match=said):
            genmem.leave_one_out(weighted, rows)
        with pytest.raises(DataError, match=said):
            genmem.influence_scores(weighted, rows, X)
    one = KernelDensity().fit(X, sample_weight=np.r_[1.0, np.zeros(23)])
    with pytest.raises(DataError, match="weight above 0"):
        genmem.leave_one_out(one, X)
    np.testing.assert_allclose(log_shrunk(np.array([1e20, 1.0, 1.0]))[0], np.log(2e-20))


def test_refits_refuse_weights_they_would_lose(tmp_path):
    fitted = [
        KernelDensity().fit(X, sample_weight=W),
        make_pipeline(StandardScaler(), KernelDensity()).fit(X, kerneldensity__sample_weight=W),
        Given().fit(X, sample_weight=W),
    ]
    for model in fitted:
        with pytest.raises(ModelError, match="fitted with sample weights"):
            refuse_weights(model)
    with pytest.raises(ModelError, match="fitted with sample weights"):
        genmem.audit(X, fitted[0], out=tmp_path / "r")
    for model in (KernelDensity().fit(X), Own().fit(X), Given().fit(X, sample_weight=np.ones(24)), Given()):
        refuse_weights(model)
