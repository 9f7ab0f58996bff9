"""Exact leave-one-out scores against n refits."""

import math
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from oracles_densities import NeighboursByLoop, gaussian_without_each, leave_one_out_by_refits
from sklearn.base import clone
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem.errors import DataError, ModelError, RunError
from genmem.leaveout import leave_one_out
from genmem.leaveout.executors import local_workers
from genmem.models import VAE, KNNDensity, TorchGaussianMixture, TorchKernelDensity
from genmem.models import leave_one_out as warm_refits

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def exactly(kernel="gaussian", **settings):
    """Return scikit-learn's density with one leaf, which sums kernels directly; more leaves cost a billionth."""
    return KernelDensity(kernel=kernel, leaf_size=10_000, **settings)


def awkward(rng, d, n=40):
    """Return rows with copies, ties, a near-duplicate and one on its own."""
    X = rng.normal(size=(n, d))
    X[0] = X[1] = X[2]
    X[3] = X[4] + 1e-9
    X[5] = 60.0
    X[6:10] = np.round(X[6:10])
    return X


def compare(model, X, by_refit=None, **settings):
    scores = leave_one_out(model, X, **settings)
    log_in, log_out = leave_one_out_by_refits(by_refit or model, X)
    np.testing.assert_allclose(scores.log_prob_in, log_in, **CLOSE)
    np.testing.assert_allclose(scores.log_prob_out, log_out, **CLOSE)
    finite = np.isfinite(log_in) & np.isfinite(log_out)
    np.testing.assert_allclose(scores.score[finite], log_in[finite] - log_out[finite], **CLOSE)
    assert not np.isnan(scores.score).any()
    return scores


# --- kernels


@pytest.mark.parametrize("d", [1, 2, 3, 5, 10, 20])
@pytest.mark.parametrize("bandwidth", [0.1, 1.0, 7.0])
def test_gaussian_kernels_equal_refits(rng, d, bandwidth):
    scores = compare(exactly(bandwidth=bandwidth), awkward(rng, d))
    assert np.isfinite(scores.score).all() and scores.estimator == "exact"
    assert scores.score.argmax() == 5


@pytest.mark.parametrize("kernel", ["tophat", "epanechnikov", "exponential", "linear", "cosine"])
@pytest.mark.parametrize("d", [1, 3, 7])  # scikit-learn's cosine does not integrate to 1 where d is even
def test_other_kernels_equal_refits(rng, kernel, d):
    X = awkward(rng, d)
    scores = compare(exactly(kernel, bandwidth=1.3), X)
    alone = kernel != "exponential"
    assert (scores.score[5] == np.inf) == alone and (scores.log_prob_out[5] == -np.inf) == alone


@pytest.mark.parametrize("rule", ["scott", "silverman"])
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_bandwidth_rules_are_those_of_the_refit(rng, rule, kernel):
    X = rng.normal(size=(25, 2))
    compare(exactly(kernel, bandwidth=rule), X)
    compare(TorchKernelDensity(bandwidth=rule, kernel=kernel), X, exactly(kernel, bandwidth=rule))


@pytest.mark.parametrize("device", DEVICES)
def test_torch_kernels_equal_refits(rng, device):
    X = awkward(rng, 4)
    compare(TorchKernelDensity(bandwidth=0.6, device=device, block=16), X, exactly(bandwidth=0.6))
    compare(TorchKernelDensity(bandwidth=0.6, device="cpu"), X)  # its own refits


def test_scikit_learn_with_trees_is_as_near_as_its_trees(rng):
    X = rng.normal(size=(120, 3))
    scores = leave_one_out(KernelDensity(bandwidth=0.5), X)
    log_in, log_out = leave_one_out_by_refits(KernelDensity(bandwidth=0.5), X)
    np.testing.assert_allclose(scores.score, log_in - log_out, atol=1e-7)


def test_fitted_or_not_float32_or_not(rng):
    X = rng.normal(size=(30, 2)).astype(np.float32)
    for model in (exactly(bandwidth=0.5), KNNDensity(k=3), TorchGaussianMixture(1)):
        fresh = leave_one_out(model, X).score
        np.testing.assert_allclose(leave_one_out(clone(model).fit(X), X).score, fresh, atol=1e-9)
        np.testing.assert_allclose(leave_one_out(model, X.astype(np.float64)).score, fresh, atol=1e-9)
        assert not hasattr(model, "X_") and not hasattr(model, "means_")


def test_an_isolated_example_is_finite_where_its_sum_underflows(rng):
    X = np.concatenate([rng.normal(size=(20, 2)), [[1000.0, 0.0]]])
    score = leave_one_out(KernelDensity(bandwidth=0.5), X).score[-1]
    nearest = np.linalg.norm(X[:-1] - X[-1], axis=1).min() / 0.5
    assert score == pytest.approx(nearest**2 / 2, rel=1e-3) and math.exp(-score) == 0


def test_two_examples_and_all_equal_ones():
    scores = compare(exactly(), np.array([[0.0], [2.0]]))
    np.testing.assert_allclose(scores.score, math.log(1 + math.exp(2)) + math.log(1 / 2))
    np.testing.assert_allclose(leave_one_out(exactly(), np.ones((6, 3))).score, 0, atol=1e-12)


def test_far_offsets_cost_no_accuracy(rng):
    X = np.round(rng.normal(size=(40, 3)) * 2**20) / 2**20
    near = leave_one_out(KernelDensity(bandwidth=0.3), X)
    far = leave_one_out(KernelDensity(bandwidth=0.3), X + 2.0**30)
    np.testing.assert_allclose(far.score, near.score, **CLOSE)
    np.testing.assert_allclose(far.log_prob_out, near.log_prob_out, **CLOSE)


# --- neighbours


@pytest.mark.parametrize("k", [1, 2, 3, 10])
@pytest.mark.parametrize("d", [1, 2, 5, 20])
def test_neighbours_equal_refits(rng, k, d):
    compare(KNNDensity(k=k), awkward(rng, d), _Cloneable(k))


class _Cloneable(NeighboursByLoop):
    def __sklearn_clone__(self):
        return NeighboursByLoop(self.k)


def test_copies_are_infinite_where_the_density_is():
    X = np.array([[0.0], [0.0], [0.0], [5.0], [7.0], [11.0]])
    by_k = {k: leave_one_out(KNNDensity(k=k), X) for k in (1, 2, 3, 4)}
    shrink = math.log(5 / 6)
    np.testing.assert_allclose(by_k[1].score[:3], shrink)  # both infinite: the radii count as equal
    assert (by_k[1].log_prob_out[:3] == np.inf).all() and (by_k[1].score[3:] == np.inf).all()
    np.testing.assert_allclose(by_k[2].score[:3], shrink)
    assert (by_k[3].score[:3] == np.inf).all() and np.isfinite(by_k[3].log_prob_out).all()
    assert np.isfinite(by_k[4].score).all()
    assert by_k[2].score[3] == pytest.approx(shrink + math.log(5 / 2))  # of 5: 2 to the nearest, 5 to the next


def test_ties_do_not_matter():
    X = np.array([[0.0], [1.0], [-1.0], [2.0], [-2.0]])
    compare(KNNDensity(k=2), X, _Cloneable(2))
    assert leave_one_out(KNNDensity(k=3), X).score[0] == pytest.approx(math.log(4 / 5) + math.log(2))
    assert leave_one_out(KNNDensity(k=2), X).score[0] == pytest.approx(math.log(4 / 5) + math.log(1 / 1))


def test_leaving_one_out_needs_k_others():
    with pytest.raises(DataError, match="at least k=10 examples beside the one left out; got 9"):
        leave_one_out(KNNDensity(), np.arange(10.0)[:, None])
    assert np.isfinite(leave_one_out(KNNDensity(), np.arange(11.0)[:, None]).score).all()


# --- mixtures


@pytest.mark.parametrize("model", [GaussianMixture(1), TorchGaussianMixture(1)], ids=lambda m: type(m).__name__)
def test_one_gaussian_equals_its_formula(rng, model):
    X = awkward(rng, 3)
    scores = leave_one_out(model, X)
    np.testing.assert_allclose(scores.log_prob_out, gaussian_without_each(X, 1e-6), atol=1e-8)
    assert scores.estimator == "warm_refit"


def separated(rng, n=36):
    return np.concatenate([rng.normal(size=(n // 2, 2)), rng.normal(size=(n // 2, 2)) * 0.5 + 9])


@pytest.mark.parametrize("covariance_type", ["full", "diag", "tied", "spherical"])
def test_mixture_equals_refits_from_scratch(rng, covariance_type):
    X = separated(rng)
    model = GaussianMixture(2, covariance_type=covariance_type, random_state=0)
    log_in, log_out = leave_one_out_by_refits(clone(model).set_params(tol=1e-14, max_iter=2000), X)
    found = [leave_one_out(model, X)]
    if covariance_type in ("full", "diag"):
        found.append(leave_one_out(TorchGaussianMixture(2, covariance_type=covariance_type), X))
    for scores in found:
        np.testing.assert_allclose(scores.log_prob_in, log_in, atol=1e-6)
        np.testing.assert_allclose(scores.log_prob_out, log_out, atol=1e-6)


def test_a_mixture_is_settled_before_it_is_compared(rng):
    X = np.concatenate([rng.normal(size=(12, 2)), rng.normal(size=(12, 2)) + 3])
    early = GaussianMixture(2, tol=1e-1, random_state=0).fit(X)
    late = GaussianMixture(2, tol=1e-13, max_iter=5000, random_state=0).fit(X)
    np.testing.assert_allclose(leave_one_out(early, X).score, leave_one_out(late, X).score, atol=1e-4)


@pytest.mark.parametrize("model", [GaussianMixture(2, random_state=0), TorchGaussianMixture(2)], ids=str)
def test_workers_find_the_same(rng, model):
    X = separated(rng)
    here = leave_one_out(model, X)
    with ThreadPoolExecutor(3) as threads:
        there = leave_one_out(model, X, executor=threads)
    np.testing.assert_array_equal(there.score, here.score)


@pytest.mark.slow
def test_processes_find_the_same(rng):
    X, model = separated(rng), GaussianMixture(2, random_state=0)
    with local_workers(2, threads=1) as workers:
        there = leave_one_out(model, X, executor=workers)
    np.testing.assert_allclose(there.score, leave_one_out(model, X).score, rtol=0, atol=1e-12)


def test_forking_executors_are_refused(rng):
    with (
        ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool,
        pytest.raises(RunError, match="start afresh"),
    ):
        leave_one_out(GaussianMixture(2, random_state=0), separated(rng), executor=pool)


def test_mixtures_that_do_not_settle_say_so(rng, monkeypatch):
    X = rng.normal(size=(60, 2))
    monkeypatch.setattr(warm_refits, "STEPS", 1)
    monkeypatch.setattr(warm_refits, "STAGES", 2)
    with pytest.raises(ModelError, match="to converge within 2 steps"):
        leave_one_out(GaussianMixture(3, random_state=0), X)
    settled = GaussianMixture(2, tol=1e-13, max_iter=5000, random_state=0).fit(X)
    with pytest.warns(UserWarning, match="did not converge in .* of 60 refits"):
        leave_one_out(settled, X)


def test_mixtures_that_cannot_be_fitted_say_so(rng):
    X = rng.normal(size=(20, 2))
    X[:, 1] = 3.0
    for model in (GaussianMixture(2, reg_covar=0.0), TorchGaussianMixture(2, reg_covar=0.0)):
        with pytest.raises((ModelError, DataError), match="reg_covar"):
            leave_one_out(model, X)
    X[:10, 0] += 20  # two clusters
    assert np.isfinite(leave_one_out(GaussianMixture(2, random_state=0), X).score).all()


# --- what comes out, and what does not


def test_scores_have_no_error_and_no_test(rng):
    scores = leave_one_out(exactly("tophat", bandwidth=0.5), awkward(rng, 2))
    assert (scores.standard_error == 0).all() and np.isnan(scores.p_value).all() and np.isnan(scores.q_value).all()
    np.testing.assert_array_equal(scores.interval(), [scores.score, scores.score])
    assert scores.reliability == 1 and scores.n_repeats == 1 and (scores.repeats_used == 1).all()
    assert np.isnan(scores.p_above(1.0)).all() and np.isnan(scores.q_values("by")).all()
    assert np.isinf(scores.score).any() and scores.quantiles((0.0, 0.5, 1.0))[2] == np.inf
    assert scores.quantiles((0.5,))[0] in scores.score
    assert scores.null_quantiles().shape == (0, 3)
    assert scores.to_table().num_rows == 40


def test_a_dense_row_is_less_memorized_than_a_sparse_one(rng):
    X = np.concatenate([rng.normal(size=(60, 2)) * 0.1, rng.normal(size=(10, 2)) * 4 + 20])
    scores = leave_one_out(TorchKernelDensity(bandwidth=0.5), X).score
    assert scores[:60].max() < scores[60:].min()


class Widened(KernelDensity):
    """Another model than its base class."""

    def fit(self, X, y=None, sample_weight=None):
        return super().fit(np.asarray(X) * 2)


@pytest.mark.parametrize(
    "model",
    [VAE(), Widened(), BayesianGaussianMixture(), KNNDensity, object()],
    ids=["vae", "widened", "bayesian", "class", "object"],  # the same in every worker, which an address is not
)
def test_other_models_are_refused(model):
    with pytest.raises(ModelError, match="instance" if isinstance(model, type) else "refit"):
        leave_one_out(model, np.zeros((5, 2)))


def test_other_distances_are_refused():
    X = np.arange(6.0)[:, None]
    for settings in ({"metric": "manhattan"}, {"metric": "minkowski", "metric_params": {"p": 1}}):
        with pytest.raises(ModelError, match="Euclidean"):
            leave_one_out(KernelDensity(**settings), X)
    np.testing.assert_array_equal(
        leave_one_out(KernelDensity(metric="l2"), X).score, leave_one_out(KernelDensity(), X).score
    )


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="2 or more"):
        leave_one_out(KernelDensity(), [[1.0]])
    with pytest.raises(DataError, match="Flatten"):
        leave_one_out(KernelDensity(), np.zeros((4, 8, 8)))
    with pytest.raises(ModelError, match="bandwidth"):
        leave_one_out(KernelDensity(bandwidth=-1.0), np.zeros((4, 2)))


def test_a_cosine_kernel_in_an_even_dimension_is_normalised(rng):
    scores = leave_one_out(KernelDensity(kernel="cosine", bandwidth=3.0), X := rng.normal(size=(30, 2)))
    np.testing.assert_allclose(
        scores.log_prob_in, TorchKernelDensity(kernel="cosine", bandwidth=3.0).fit(X).score_samples(X), atol=1e-12
    )


def test_nothing_warns(rng):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (exactly("linear"), KNNDensity(k=1), GaussianMixture(2, random_state=0, max_iter=1)):
            assert not np.isnan(leave_one_out(model, separated(rng, 20)).score).any()
