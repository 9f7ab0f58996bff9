"""Influence against n refits, and the cases that formulas forget: ties, copies, isolated points, infinite densities."""

import math
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from oracles_influence import kde_log_prob, knn_log_prob, refit_influence
from sklearn.base import clone
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem import (
    DataError,
    KNNDensity,
    ModelError,
    TorchGaussianMixture,
    TorchKernelDensity,
    influence_scores,
    self_influence,
)
from genmem.models import leave_one_out


def score_of(model):
    return lambda X, Z: clone(model).fit(X).score_samples(Z)


def awkward(seed, d, n=14):
    """Examples with copies, an isolated one and (in few dimensions) ties; queries on, beside and far from them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).round(1 if d <= 2 else 6)
    X[3] = X[4] = X[5]
    X[0] = 200.0
    Z = np.vstack([X[[0, 3, 7]], rng.normal(size=(2, d)), X[:1] + 30, X[6:7] + 1e-9])
    return X, Z


def agree(found, wanted, tolerance=1e-10):
    """Equal where infinite, else to a tolerance, relative where values are large."""
    wanted = np.asarray(wanted, float)
    assert found.shape == wanted.shape and not np.isnan(found).any()
    np.testing.assert_array_equal(found[np.isinf(wanted)], wanted[np.isinf(wanted)])
    finite = np.isfinite(wanted)
    np.testing.assert_allclose(found[finite], wanted[finite], rtol=tolerance, atol=tolerance)


# --- k-NN


@pytest.mark.parametrize("d", [1, 2, 5, 20])
@pytest.mark.parametrize("seed", range(4))
def test_knn_equals_refits(seed, d):
    X, Z = awkward(seed, d)
    for k in (1, 2, 3, 7, 13):
        agree(influence_scores(KNNDensity(k=k), X, Z), refit_influence(knn_log_prob(k), X, Z))
        own = refit_influence(knn_log_prob(k), X, X)
        agree(influence_scores(KNNDensity(k=k), X, X), own)
        agree(self_influence(KNNDensity(k=k), X), own.diagonal())


def test_knn_equals_refits_of_the_density_itself():
    X, Z = awkward(1, 3)
    distinct = np.delete(X, [3, 4], axis=0)  # densities stay finite
    for k in (2, 5):
        agree(influence_scores(KNNDensity(k=k), distinct, Z), refit_influence(score_of(KNNDensity(k=k)), distinct, Z))


def test_knn_ties_at_the_kth_distance_give_what_refits_give():
    circle = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1], [3, 0], [0, 3], [9, 9]])
    z = np.zeros((1, 2))
    for k in range(1, 6):
        agree(influence_scores(KNNDensity(k=k), circle, z), refit_influence(knn_log_prob(k), circle, z))
    none = math.log(6 / 7)
    agree(influence_scores(KNNDensity(k=2), circle, z)[:, 0], [none] * 7)  # R_3 = R_2, whoever is left out
    near = none + 2 * math.log(3)  # R_5 = 3, and the four at 1 all count
    agree(influence_scores(KNNDensity(k=4), circle, z)[:, 0], [near] * 4 + [none] * 3)


def test_knn_infinite_densities_have_defined_influence():
    X = np.array([[0.0], [0.0], [0.0], [1.0], [5.0]])
    none = math.log(4 / 5)
    # k of them on the query: without any one of these its density is finite.
    agree(influence_scores(KNNDensity(k=3), X, [[0.0]])[:, 0], [np.inf] * 3 + [none] * 2)
    # One more than k: infinite before and after.
    agree(influence_scores(KNNDensity(k=2), X, [[0.0]])[:, 0], [none] * 5)
    # With k = 1 each example is its own only neighbour.
    agree(self_influence(KNNDensity(k=1), X), [none] * 3 + [np.inf] * 2)


def test_knn_radii_of_extreme_size_do_not_overflow():
    X = np.array([[0.0], [1e-140], [1e140], [3e140]])
    found = influence_scores(KNNDensity(k=1), X, [[-1e-140]])
    agree(found[:, 0], [math.log(3 / 4) + math.log(2)] + [math.log(3 / 4)] * 3, 1e-12)
    assert influence_scores(KNNDensity(k=2), X, [[-1e-140]])[0, 0] > 600


# --- kernel densities


@pytest.mark.parametrize("d", [1, 2, 5, 20])
@pytest.mark.parametrize("seed", range(2))
def test_kernels_equal_refits(seed, d):
    X, Z = awkward(seed, d, n=11)
    for s in (0.3, 3.0):
        agree(influence_scores(KernelDensity(bandwidth=s), X, Z), refit_influence(kde_log_prob(s), X, Z))
        own = refit_influence(kde_log_prob(s), X, X[:4])
        agree(influence_scores(KernelDensity(bandwidth=s), X, X)[:, :4], own)
        agree(self_influence(KernelDensity(bandwidth=s), X)[:4], own.diagonal())


@pytest.mark.parametrize("kernel", ["gaussian", "tophat", "epanechnikov", "exponential", "linear", "cosine"])
@pytest.mark.parametrize("bandwidth", [1.3, "scott", "silverman"])
def test_every_kernel_and_bandwidth_rule_equals_scikit_learn_refits(kernel, bandwidth):
    rng = np.random.default_rng(5)
    for d in (1, 3):
        X, Z = rng.normal(size=(20, d)), rng.normal(size=(6, d))
        model = KernelDensity(kernel=kernel, bandwidth=bandwidth)
        with np.errstate(divide="ignore"):
            wanted = refit_influence(score_of(model), X, Z)
            own = refit_influence(score_of(model), X, X).diagonal()
        reached = ~np.isnan(wanted)  # -inf before and after
        found = influence_scores(model, X, Z)
        agree(found[reached], wanted[reached])
        assert not np.isnan(found).any()
        agree(self_influence(model, X), own)


def test_a_query_no_bounded_kernel_reaches_has_no_proponents():
    X = np.array([[0.0], [0.1], [9.0]])
    found = influence_scores(KernelDensity(kernel="tophat", bandwidth=1.0), X, [[0.0], [50.0], [9.5]])
    none = math.log(2 / 3)
    agree(found, [[none + math.log(2), none, none], [none + math.log(2), none, none], [none, none, np.inf]])


def test_isolated_points_are_finite_in_log_space():
    X = np.array([[0.0, 0.0], [0.5, 0.0], [100.0, 0.0], [0.0, 1e6], [1e6, 1e6], [1e6, 1e6]])
    model = KernelDensity(bandwidth=1.0)
    own = self_influence(model, X)
    assert np.isfinite(own).all() and np.isfinite(influence_scores(model, X, X * 1.5)).all()
    # Another example at distance r makes up exp(-r^2 / 2) of the kernel at itself.
    assert own[2] == pytest.approx(99.5**2 / 2 + math.log(5 / 6), abs=1e-9)
    assert own[4] == pytest.approx(math.log(5 / 6) + math.log(2))  # its copy is left: half the density
    assert influence_scores(model, X[:3], [[100.0, 0.0]])[2, 0] == own[2] - math.log(5 / 6) + math.log(2 / 3)


def test_the_share_of_one_example_is_accurate_on_both_sides_of_a_half():
    """At 7 bandwidths from the rest, log1p(-share) is wrong by 5e-6 nats; from 8.6 it is infinite."""
    for gap in np.arange(0, 12, 0.5):
        X = np.array([[0.0], [gap], [gap + 0.3]])
        agree(influence_scores(KernelDensity(bandwidth=1.0), X, X), refit_influence(kde_log_prob(1), X, X), 1e-13)


def test_blocks_of_queries_do_not_matter(monkeypatch):
    X, Z = awkward(3, 2)
    model = KernelDensity(bandwidth=0.5)
    whole = influence_scores(model, X, Z)
    monkeypatch.setattr(leave_one_out, "_BLOCK", 1)
    np.testing.assert_array_equal(influence_scores(model, X, Z), whole)


def test_torch_kernel_density_has_the_influence_of_scikit_learns():
    X, Z = awkward(2, 3)
    torch_model, model = TorchKernelDensity(bandwidth=0.7), KernelDensity(bandwidth=0.7)
    np.testing.assert_array_equal(influence_scores(torch_model, X, Z), influence_scores(model, X, Z))
    agree(self_influence(torch_model, X), self_influence(model, X))


# --- mixtures


def clusters(seed, d, far, sizes=(6, 9, 13)):
    rng = np.random.default_rng(seed)
    own = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    X = rng.normal(size=(len(own), d)) * (1 + own[:, None] / 2) + far * own[:, None]
    asked = np.arange(len(sizes)).repeat(2)
    Z = rng.normal(size=(len(asked), d)) + far * asked[:, None]
    return X, own, Z, asked


@pytest.mark.slow
def test_a_strong_opponent_may_share_the_component():
    X, own, _, _ = clusters(2, 2, far=80.0, sizes=(40, 40, 40))
    scores = influence_scores(GaussianMixture(3, covariance_type="spherical", random_state=0), X, X[:20])
    worst = scores.argmin(axis=0)
    assert (own[worst] == own[:20]).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_mixture_equals_refits_that_run_to_the_end(kind):
    rng = np.random.default_rng(3)
    X = np.vstack([rng.normal(size=(25, 2)), rng.normal(size=(15, 2)) * 0.6 + 2.5])
    model = GaussianMixture(2, covariance_type=kind, random_state=0).fit(X)

    def log_prob(some, Z):
        start = {"weights_init": model.weights_, "means_init": model.means_, "precisions_init": model.precisions_}
        settled = GaussianMixture(2, covariance_type=kind, tol=1e-15, max_iter=10**4, **start)
        return settled.fit(some).score_samples(Z)

    wanted = refit_influence(log_prob, X, X)
    found = influence_scores(model, X, X)
    np.testing.assert_allclose(found, wanted, atol=5e-5)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(self_influence(model, X), found.diagonal(), atol=1e-12)


@pytest.mark.slow
def test_mixture_refits_run_on_an_executor(monkeypatch):
    X, _, Z, _ = clusters(0, 2, far=9.0)
    model = GaussianMixture(3, random_state=1)
    alone, own = influence_scores(model, X, Z), self_influence(model, X)
    monkeypatch.setattr(leave_one_out, "_PART", 3)
    with ThreadPoolExecutor(2) as pool:
        np.testing.assert_array_equal(influence_scores(model, X, Z, executor=pool), alone)
        np.testing.assert_array_equal(self_influence(model, X, executor=pool), own)


@pytest.mark.slow
def test_mixture_of_nearly_singular_components_settles_but_for_rounding():
    X = np.random.default_rng(2).integers(0, 3, size=(25, 6)).astype(float)
    own = self_influence(GaussianMixture(2, random_state=0), X)
    assert np.isfinite(own).all() and own.max() > 30  # a component of 8 in 6 dimensions


@pytest.mark.slow
def test_mixture_starts_from_its_fit_and_leaves_the_model_as_it_was():
    X, _, Z, _ = clusters(0, 2, far=6.0)
    fitted = GaussianMixture(3, random_state=1).fit(X)
    means = fitted.means_.copy()
    first = influence_scores(fitted, X, Z)
    np.testing.assert_array_equal(fitted.means_, means)
    agree(influence_scores(clone(fitted), X, Z), first)


@pytest.mark.slow
def test_mixture_without_a_random_state_takes_the_seed(monkeypatch):
    X, _, Z, _ = clusters(0, 2, far=40.0)
    seen, fitted = [], leave_one_out._fitted
    monkeypatch.setattr(leave_one_out, "_fitted", lambda m, X: seen.append(m.random_state) or fitted(m, X))
    unseeded, used = GaussianMixture(2), []
    for seed in (5, 5, 6):
        seen.clear()
        influence_scores(unseeded, X, Z, seed=seed)
        used.append(seen[0])
        assert set(seen) == {seen[0]}
    assert used[0] == used[1] != used[2] and None not in used
    assert not hasattr(unseeded, "means_") and unseeded.random_state is None


@pytest.mark.slow
def test_mixture_is_the_solution_it_was_fitted_to():
    X, own, Z, _ = clusters(0, 2, far=40.0)
    means = np.stack([X[own == c].mean(axis=0) for c in range(3)])
    model = GaussianMixture(2, means_init=means[:2], random_state=0).fit(X)
    found = influence_scores(model, X, Z)
    other = influence_scores(GaussianMixture(2, means_init=means[1:], random_state=0), X, Z)
    assert np.abs(found - other).max() > 0.1
    np.testing.assert_array_equal(influence_scores(model.set_params(means_init=means[1:]), X, Z), found)


def test_mixture_counts_refits_that_do_not_settle(monkeypatch):
    X, _, Z, _ = clusters(0, 2, far=1.5)
    start = leave_one_out.settled_mixture(GaussianMixture(3, random_state=0), X)
    monkeypatch.setattr(leave_one_out, "settled_mixture", lambda *_: start)
    monkeypatch.setattr(leave_one_out, "STEPS", 3)
    monkeypatch.setattr(leave_one_out, "STAGES", 1)
    with pytest.warns(UserWarning, match=r"did not converge in \d+ of 28 refits"):
        influence_scores(start, X, Z)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "diag"])
def test_torch_mixture_has_the_influence_of_scikit_learns(kind):
    X, _, Z, _ = clusters(0, 2, far=6.0)
    model = GaussianMixture(3, covariance_type=kind, random_state=0)
    torch_model = TorchGaussianMixture(3, covariance_type=kind, random_state=0)
    np.testing.assert_allclose(influence_scores(torch_model, X, Z), influence_scores(model, X, Z), atol=1e-6)


# --- every model


MODELS = [
    KNNDensity(k=3),
    KernelDensity(bandwidth=0.8),
    KernelDensity(bandwidth="scott"),
    KernelDensity(kernel="linear", bandwidth=2.0),
    TorchKernelDensity(bandwidth=0.8),
    GaussianMixture(2, random_state=0),
]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_self_influence_is_the_diagonal(model):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(30, 3))
    agree(self_influence(model, X), influence_scores(model, X, X).diagonal())
    scores, error = self_influence(model, X, return_std=True)
    assert scores.dtype == np.float64 and (error == 0).all() and error.shape == (30,)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_images_and_their_pixels_have_one_influence(model):
    rng = np.random.default_rng(2)
    images = rng.integers(0, 100, size=(25, 2, 3)).astype(np.uint8)
    flat = images.reshape(25, 6).astype(np.float64)
    agree(influence_scores(model, images, images[:5]), influence_scores(model, flat, flat[:5]))
    agree(self_influence(model, images), self_influence(model, flat))


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_other_data_are_refused(model):
    X = np.random.default_rng(0).normal(size=(12, 2))
    nan, huge = X.copy(), X.copy()
    nan[3, 1], huge[4, 0] = np.nan, 1e200
    rows = ((nan, "the first in row 3"), (huge, "the first in row 4"))
    for bad, why in (*rows, (X[:, 0], "shape"), (X.astype(str), "dtype")):
        with pytest.raises(DataError, match=why):
            influence_scores(model, bad, X)
        with pytest.raises(DataError, match=why):
            influence_scores(model, X, bad)
        with pytest.raises(DataError, match=why):
            self_influence(model, bad)
    with pytest.raises(DataError, match=r"queries of shape \(2,\).*got \(1,\)"):
        influence_scores(model, X, X[:, :1])
    with pytest.raises(DataError, match=r"\(2,\).*got \(2, 1\)"):
        influence_scores(model, X, X[:, :, None])
    with pytest.raises(DataError, match="2 or more" if isinstance(model, KernelDensity) else "or more"):
        self_influence(model, X[:1])
    with pytest.raises(DataError):
        influence_scores(model, X, X[:0])


def test_too_few_examples_to_leave_one_out():
    X = np.arange(8.0).reshape(4, 2)
    assert influence_scores(KNNDensity(k=3), X, X).shape == (4, 4)
    with pytest.raises(DataError, match="5 or more examples"):
        influence_scores(KNNDensity(k=4), X, X)
    with pytest.raises(DataError, match="5 or more examples"):
        influence_scores(GaussianMixture(4), X, X)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (KernelDensity(bandwidth=0.0), "bandwidth"),
        (KernelDensity(bandwidth="wide"), "bandwidth"),
        (KernelDensity(bandwidth=math.inf), "bandwidth"),
        (KernelDensity(kernel="boxcar"), "kernel"),
        (KernelDensity(metric="manhattan"), "metric='manhattan'"),
        (KNNDensity(k=0), "k to be"),
        (GaussianMixture(0), "n_components"),
        (GaussianMixture(2, covariance_type="round"), "covariance_type"),
        (BayesianGaussianMixture(n_components=2), "got BayesianGaussianMixture"),
        (KernelDensity, "a class, KernelDensity"),
        (type("Wider", (KernelDensity,), {"fit": lambda self, X: self})(), "got Wider"),
        (type("Nearer", (KNNDensity,), {"score_samples": lambda self, X: X[:, 0]})(), "got Nearer"),
        (None, "NoneType"),
    ],
    ids=str,
)
def test_models_without_a_way_are_refused(model, why):
    X = np.random.default_rng(0).normal(size=(12, 2))
    for ask in (lambda: influence_scores(model, X, X), lambda: self_influence(model, X)):
        with pytest.raises(ModelError, match=why):
            ask()


def test_nothing_warns_on_awkward_data():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for d in (1, 20):
            X, Z = awkward(0, d)
            for model in MODELS[:-1]:
                assert not np.isnan(influence_scores(model, X, np.vstack([Z, Z * 1e8]))).any()
                assert not np.isnan(self_influence(model, X * 1e-8)).any()
