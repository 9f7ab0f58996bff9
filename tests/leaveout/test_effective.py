"""The effective number of parameters: against counted ones, and leave-one-out by brute force."""

import numpy as np
import pytest
from oracles_densities import brute_force_leave_one_out
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem import DataError, Splits, memorization_score
from genmem.leaveout import effective_parameters


class Normal:
    """A multivariate normal law by maximum likelihood: d + d (d + 1) / 2 parameters."""

    def fit(self, X):
        self.law = multivariate_normal(X.mean(0), np.cov(X.T, bias=True))
        return self

    def score_samples(self, X):
        return np.atleast_1d(self.law.logpdf(X))


def design(make, X, folds, repeats=4):
    """Refit a model in every split: (scores within each repeat, training examples of a refit)."""
    splits = Splits.k_fold(len(X), folds, repeats, seed=folds)
    ell = np.stack([make().fit(X[~held]).score_samples(X) for held in splits.held_out])
    scores = memorization_score(ell, splits.held_out)
    return scores.per_repeat, float((~splits.held_out).sum(1).mean())


def three_clusters(n=300, d=4):
    rng = np.random.default_rng(1)
    return np.concatenate([rng.standard_normal((n // 3, d)) + centre for centre in (-4, 0, 4)])


CASES = {
    "normal": (Normal, np.random.default_rng(0).standard_normal((400, 8))),
    "mixture": (lambda: GaussianMixture(3, random_state=0), three_clusters()),
}


@pytest.mark.slow
@pytest.mark.parametrize("folds", [5, 10])
@pytest.mark.parametrize("name", CASES)
def test_the_leave_one_out_scale_is_within_a_tenth_of_brute_force(name, folds):
    make, X = CASES[name]
    exact = brute_force_leave_one_out(make, X).mean()
    found = effective_parameters([design(make, X, folds)])
    assert found.leave_one_out.value == pytest.approx(exact, rel=0.1)
    assert found.parameters.value == pytest.approx(len(X) * exact, rel=0.1)


@pytest.mark.slow
def test_the_parameters_of_a_normal_law_are_counted():
    make, X = CASES["normal"]
    found = effective_parameters([design(make, X, folds) for folds in (5, 10)])
    assert found.parameters.value == pytest.approx(8 + 36, rel=0.1)  # 44 of them
    assert found.parameters.interval[0] < found.parameters.value < found.parameters.interval[1]
    assert found.each[1] == found.parameters.value


@pytest.mark.slow
def test_a_kernel_density_in_many_dimensions_is_withheld():
    X = np.random.default_rng(0).standard_normal((200, 32))
    two = [design(lambda: KernelDensity(bandwidth=1.0), X, folds) for folds in (2, 10)]
    found = effective_parameters(two)
    assert np.isnan(found.parameters.value) and np.isnan(found.leave_one_out.interval).all()
    assert found.each[0] < 0.9 * found.each[1]  # "corrected", the mean would be too small


def test_the_result_is_that_of_the_design_with_the_most_training_examples():
    few, many = ([[1.0, 1.0, 1.0]], 2.0), ([[0.7, 0.7, 0.7], [0.7, 0.6, 0.8]], 3)
    for designs in ([few, many], [many, few]):
        assert effective_parameters(designs).parameters.value == pytest.approx(2.1)
    assert np.isnan(effective_parameters([few]).parameters.interval).all()  # one repeat


@pytest.mark.parametrize(
    "designs",
    [[], [([[1.0, 2.0]], 2), ([[1.0, 2.0, 3.0]], 2)], [([1.0, 2.0], 1)], [([[1.0, 2.0]], 3)], [([[1.0]], 0)]],
)
def test_what_is_not_a_design_is_refused(designs):
    with pytest.raises(DataError, match="designs of the same examples|how many of the n examples"):
        effective_parameters(designs)
