"""Densities far from 0, inside subclasses and inside wrappers: right, or refused with the size of the error."""

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.base import BaseEstimator
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from genmem.errors import ModelError
from genmem.models.inside import as_plain, inside, plain_class
from genmem.models.moved import Moved, is_mixture, moved, rounding_of
from genmem.models.refitted import log_probs_of_refit, refitted
from genmem.models.torch_gmm import TorchGaussianMixture

ROWS = np.round(np.random.default_rng(0).normal(size=(60, 2)) * 2**20) / 2**20
FAR = 2.0**28


class Named(GaussianMixture):
    """A subclass with nothing but a name."""


class Halved(GaussianMixture):
    def score_samples(self, X):
        return super().score_samples(X) / 2


class NamedKDE(KernelDensity):
    def __init__(self, h=1.0):
        super().__init__(bandwidth=h)
        self.h = h


class Holder(BaseEstimator):
    """Makes its density in `fit`, and keeps only a bound method in a list."""

    def __init__(self, made=None):
        self.made = made

    def fit(self, X, y=None):
        self.calls_ = {"score": [self.made().fit(X).score_samples]}
        return self

    def score_samples(self, X):
        return self.calls_["score"][0](X)


KINDS = ["full", "diag", "spherical", "tied"]


MADE = [(make, kind) for make in (GaussianMixture, Named) for kind in KINDS]
MADE += [(TorchGaussianMixture, kind) for kind in ("full", "diag")]
MADE += [pytest.param(BayesianGaussianMixture, kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize(("make", "kind"), MADE)
def test_mixtures_move_with_their_data(make, kind):
    model = make(n_components=2, covariance_type=kind, max_iter=2000, random_state=0)
    near = refitted(model, ROWS).score_samples(ROWS)
    far = refitted(make(n_components=2, covariance_type=kind, max_iter=2000, random_state=0), ROWS + FAR)
    np.testing.assert_allclose(far.score_samples(ROWS + FAR), near, atol=1e-6)
    if isinstance(far, Moved):
        far.random_state = 0
        assert abs(far.sample(5) - FAR).max() < 10
    else:
        assert kind == "full" or make is TorchGaussianMixture


def test_what_is_near_is_fitted_where_it_is():
    for kind in KINDS:
        found = refitted(GaussianMixture(2, covariance_type=kind, random_state=0), ROWS)
        same = GaussianMixture(2, covariance_type=kind, random_state=0).fit(ROWS)
        assert np.array_equal(found.score_samples(ROWS), same.score_samples(ROWS))


def test_locations_given_as_settings_move_too():
    starts = ROWS[:2] + FAR
    far = refitted(GaussianMixture(2, covariance_type="diag", random_state=0, means_init=starts), ROWS + FAR)
    near = GaussianMixture(2, covariance_type="diag", random_state=0, means_init=ROWS[:2]).fit(ROWS)
    np.testing.assert_allclose(far.score_samples(ROWS + FAR), near.score_samples(ROWS), atol=1e-6)
    prior = {"mean_prior": [FAR, FAR], "covariance_type": "diag", "random_state": 0, "max_iter": 2000}
    far = refitted(BayesianGaussianMixture(n_components=2, **prior), ROWS + FAR)
    near = BayesianGaussianMixture(n_components=2, **(prior | {"mean_prior": [0, 0]})).fit(ROWS)
    np.testing.assert_allclose(far.score_samples(ROWS + FAR), near.score_samples(ROWS), atol=1e-6)


def test_constant_columns_and_outliers():
    constant = np.column_stack([ROWS, np.full(len(ROWS), 4.0e6)])
    far = refitted(GaussianMixture(covariance_type="diag"), constant).score_samples(constant)
    near = GaussianMixture(covariance_type="diag").fit(constant - [0, 0, 4.0e6]).score_samples(constant - [0, 0, 4.0e6])
    np.testing.assert_allclose(far, near, atol=1e-6)
    outlier = np.concatenate([ROWS, [[2.0**10, 0]]])
    found = refitted(GaussianMixture(2, covariance_type="diag", random_state=0), outlier)
    mean, variance = ROWS.mean(0), ROWS.var(0) + 1e-6
    by_hand = (-0.5 * (ROWS - mean) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)).sum(1) + np.log(60 / 61)
    np.testing.assert_allclose(found.score_samples(outlier)[:-1], by_hand, atol=1e-5)


@pytest.mark.parametrize("at", [2.0**17, 2.0**30])
def test_a_component_of_one_distant_example_is_told_not_refused(at):
    outlier = np.concatenate([ROWS, [[at, 0]]])
    with pytest.warns(UserWarning, match=r"far from all others by about 0\.\d+ nats"):
        found = refitted(GaussianMixture(2, covariance_type="diag", random_state=0), outlier)
    mean, variance = ROWS.mean(0), ROWS.var(0) + 1e-6
    by_hand = (-0.5 * (ROWS - mean) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)).sum(1) + np.log(60 / 61)
    np.testing.assert_allclose(found.score_samples(outlier)[:-1], by_hand, atol=1e-5)


@pytest.mark.parametrize("kind", ["diag", "spherical", "tied"])
def test_a_wrapper_of_a_mixture_is_refused_with_the_size_of_the_error(kind):
    def make():
        return GaussianMixture(covariance_type=kind)

    refitted(Holder(make), ROWS)
    refitted(Holder(make), ROWS + 1e4)
    with pytest.raises(ModelError, match=r"changes by .* nats in a GaussianMixture that Holder holds"):
        refitted(Holder(make), ROWS + FAR)
    with pytest.raises(ModelError, match="changes by .* nats: its means"):
        refitted(Halved(covariance_type=kind), ROWS + FAR)
    for scale in (StandardScaler(), MinMaxScaler()):
        refitted(make_pipeline(scale, make()), ROWS + FAR)


@pytest.mark.parametrize(
    "make",
    [
        KernelDensity,
        NamedKDE,
        lambda: Holder(KernelDensity),
        lambda: make_pipeline(StandardScaler(with_mean=False, with_std=False), KernelDensity()),
        lambda: GridSearchCV(KernelDensity(), {"bandwidth": [1.0]}, cv=2),
    ],
)
def test_every_kernel_is_summed_wherever_the_kernel_density_is(make):
    X = np.random.default_rng(1).normal(size=(150, 64)) * 4
    X[1::2] = X[::2] + 0.01
    fitted = refitted(make(), X)
    squared = ((X[:, None] - X) ** 2).sum(-1)
    right = logsumexp(-squared / 2, axis=1) - np.log(150) - 32 * np.log(2 * np.pi)
    np.testing.assert_allclose(fitted.score_samples(X), right, atol=1e-9)
    assert all(len(kde.tree_.get_arrays()[2]) == 1 for kde in inside(fitted, KernelDensity) if hasattr(kde, "tree_"))


def test_weights_stay_when_a_tree_is_built_again():
    X, weights = np.random.default_rng(1).normal(size=(90, 2)), np.arange(1.0, 91)

    class Weighted(KernelDensity):
        def fit(self, X, y=None):
            return super().fit(X, sample_weight=weights[: len(X)])

    found = refitted(Weighted(), X).score_samples(X)
    np.testing.assert_allclose(found, KernelDensity(leaf_size=99).fit(X, sample_weight=weights).score_samples(X))


def test_plain_classes():
    assert plain_class(Named(), [GaussianMixture]) is GaussianMixture and is_mixture(Named())
    assert plain_class(Halved(), [GaussianMixture]) is None and not is_mixture(Halved())
    assert plain_class(NamedKDE(), [KernelDensity]) is KernelDensity
    assert plain_class(3, [KernelDensity]) is None
    assert as_plain(NamedKDE(2.0), KernelDensity).bandwidth == 2.0
    fitted = GaussianMixture(2, covariance_type="diag", random_state=0).fit(ROWS)
    assert rounding_of(fitted) < 1e-12 < 1e-3 < rounding_of(moved(fitted, np.full(2, 1e8)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8, np.int64])
def test_a_density_that_takes_only_float32_gets_it(dtype):
    class Single(Holder):
        def fit(self, X, y=None):
            if X.dtype != np.float32:
                raise RuntimeError("expected scalar type Float but found Double")
            return super().fit(X)

    X, keep = np.abs(ROWS * 20).astype(dtype), np.arange(len(ROWS)) > 4
    found = log_probs_of_refit(lambda: Single(KernelDensity), X, keep)
    right = KernelDensity().fit(X[keep].astype(float)).score_samples(X.astype(float))
    np.testing.assert_allclose(found, right, atol=1e-6)
    np.testing.assert_allclose(log_probs_of_refit(KernelDensity, X, keep), right, atol=1e-9)
