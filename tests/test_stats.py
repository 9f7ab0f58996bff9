"""False discovery rates, moderated variances, intervals, rank correlation."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.special import polygamma, stdtr, stdtrit

from genmem import stats
from genmem.errors import DataError


@pytest.mark.parametrize("method", ["bh", "by"])
def test_q_values_equal_those_of_scipy(method):
    p = np.random.default_rng(0).beta(0.4, 1.0, 200)
    p[10] = p[20]
    q = stats.benjamini_hochberg(p) if method == "bh" else stats.benjamini_yekutieli(p)
    np.testing.assert_allclose(q, scipy_stats.false_discovery_control(p, method=method), rtol=1e-12)


def test_share_interval_is_wilsons():
    for count, n in ((0, 9), (3, 9), (9, 9), (130, 4000)):
        wilson = scipy_stats.binomtest(count, n).proportion_ci(method="wilson")
        np.testing.assert_allclose(stats.share_interval(count, n), wilson, rtol=1e-12, atol=1e-15)


def test_nan_is_not_a_test():
    p = np.array([0.01, np.nan, 0.04, np.nan, 0.03])
    q = stats.benjamini_hochberg(p)
    assert np.isnan(q[[1, 3]]).all()
    np.testing.assert_allclose(q[[0, 2, 4]], scipy_stats.false_discovery_control([0.01, 0.04, 0.03]))
    assert np.isnan(stats.benjamini_hochberg([np.nan, np.nan])).all()
    assert stats.benjamini_yekutieli([]).shape == (0,)


@pytest.mark.parametrize(("p", "named"), [([0.5, 1.5], "1.5"), ([-0.1, 0.2], "-0.1"), ([[0.5]], r"\(1, 1\)")])
def test_what_is_no_p_value_is_refused(p, named):
    with pytest.raises(DataError, match=named):
        stats.benjamini_hochberg(p)


@pytest.mark.parametrize("x", [1e-8, 1e-3, 0.5, 3.0, 1e4, 1e9])
def test_inverse_trigamma_inverts(x):
    assert polygamma(1, stats.inverse_trigamma(x)) == pytest.approx(x, rel=1e-6)


@pytest.mark.parametrize("d", [2, 4, 9])
def test_the_prior_of_the_variances_is_found_again(d):
    rng = np.random.default_rng(1)
    prior_df, prior_variance = 6.0, 3.0
    sigma2 = prior_variance * prior_df / rng.chisquare(prior_df, 40_000)
    found = stats.moderate_variances(sigma2 * rng.chisquare(d, len(sigma2)) / d, d)
    assert found.prior_df == pytest.approx(prior_df, rel=0.1)
    assert found.prior_variance == pytest.approx(prior_variance, rel=0.03)
    np.testing.assert_allclose(found.df, d + found.prior_df)


def test_moderated_variances_are_the_weighted_mean_of_sample_and_prior():
    s2 = np.random.default_rng(2).chisquare(1, 50)
    d = np.random.default_rng(3).integers(1, 6, 50)
    found = stats.moderate_variances(s2, d)
    by_hand = [
        (found.prior_df * found.prior_variance + di * si) / (found.prior_df + di) for si, di in zip(s2, d, strict=True)
    ]
    np.testing.assert_allclose(found.variances, by_hand, rtol=1e-12)
    np.testing.assert_allclose(found.shrink(s2, d), by_hand, rtol=1e-12)


def test_equal_variances_are_pooled_and_their_df_bounded_by_the_data():
    found = stats.moderate_variances([2.0, 2.2, 1.8, 2.0], 3)
    assert found.prior_df == np.inf
    np.testing.assert_allclose(found.variances, 2.0)
    np.testing.assert_allclose(found.df, 12.0)


def test_zero_variances_and_too_few_variances_are_survived():
    some = stats.moderate_variances([0.0, 0.0, 1.0, 2.0, 3.0], 2)
    assert np.isfinite(some.variances).all() and (some.variances > 0).all()
    none = stats.moderate_variances([0.0, 0.0, 0.0], 2)
    assert none.prior_df == 0 and (none.variances == 0).all()
    one = stats.moderate_variances([4.0], 2)
    assert one.prior_df == 0 and one.variances[0] == 4.0 and one.df[0] == 2.0


def test_without_a_variance_of_its_own_there_is_the_prior():
    s2, d = np.r_[np.random.default_rng(3).chisquare(4, 200) / 4 * np.r_[[1.0, 9.0] * 100], np.nan], np.r_[[4] * 200, 0]
    found, without = stats.moderate_variances(s2, d), stats.moderate_variances(s2[:-1], 4)
    assert found.prior_df == without.prior_df < np.inf
    np.testing.assert_array_equal(found.variances[:-1], without.variances)
    assert found.variances[-1] == pytest.approx(found.prior_variance) and found.df[-1] == found.prior_df


def test_student_laws_of_scipy_take_infinite_and_missing_df():
    """Which is relied on: moderated variances may have infinite degrees of freedom, one repeat has none."""
    found = stdtrit([1.0, 2.7, np.inf, 0.0, np.nan], 0.975)
    np.testing.assert_allclose(found[:3], [*scipy_stats.t.ppf(0.975, [1.0, 2.7]), scipy_stats.norm.ppf(0.975)])
    assert np.isnan(found[3:]).all()
    tails = stdtr([3.0, np.inf, 2.0], [-1.0, -1.0, np.inf])
    np.testing.assert_allclose(tails, [scipy_stats.t.sf(1, 3), scipy_stats.norm.sf(1), 1.0])


def test_mean_interval_is_the_t_interval():
    x = np.array([1.0, 4.0, 2.0, 8.0])
    mean, error, interval = stats.mean_interval(x)
    assert mean == x.mean() and error == pytest.approx(scipy_stats.sem(x))
    assert interval == pytest.approx(scipy_stats.t.interval(0.95, 3, loc=mean, scale=error))
    assert stats.mean_interval([5.0])[0] == 5.0 and np.isnan(stats.mean_interval([5.0])[1])
    assert stats.student_interval(0.0, 1.0, np.inf)[1] == pytest.approx(1.959964, abs=1e-6)


def test_spearman_equals_scipy_and_keeps_to_its_interval():
    rng = np.random.default_rng(4)
    a = rng.integers(0, 20, 60).astype(float)
    b = a + rng.normal(0, 8, 60)
    found = stats.spearman(a, b)
    assert found.rho == pytest.approx(scipy_stats.spearmanr(a, b).statistic, abs=1e-12)
    z = np.arctanh(found.rho) + np.array([-1, 1]) * 1.959964 * np.sqrt((1 + found.rho**2 / 2) / 57)
    assert found.interval == pytest.approx(tuple(np.tanh(z)), abs=1e-6)


def test_spearman_interval_covers_the_truth():
    rng = np.random.default_rng(5)
    rho = 6 / np.pi * np.arcsin(0.7 / 2)  # of the normal law with correlation .7
    covered = 0
    for _ in range(400):
        x = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 80)
        low, high = stats.spearman(x[:, 0], x[:, 1]).interval
        covered += low <= rho <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_spearman_of_constant_or_broken_input_is_nan_without_a_warning():
    assert np.isnan(stats.spearman([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]).rho)
    assert np.isnan(stats.spearman([1.0, np.nan, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]).rho)
    assert stats.spearman([1, 2, 3, 4], [4, 3, 2, 1]).interval == (-1.0, -1.0)
    assert np.isnan(stats.spearman([1, 2, 3], [1, 3, 2]).standard_error)
    with pytest.raises(DataError, match=r"\(2,\) and \(3,\)"):
        stats.spearman([1, 2], [1, 2, 3])


def test_reliability_is_the_correlation_of_two_such_studies():
    rng = np.random.default_rng(6)
    truth, error = rng.normal(0, 2, 20_000), rng.uniform(0.5, 2, 20_000)
    first, second = truth + error * rng.normal(size=(2, 20_000))
    assert stats.reliability(first, error) == pytest.approx(np.corrcoef(first, second)[0, 1], abs=0.02)
    assert np.isnan(stats.reliability(first, np.full(20_000, np.nan)))
    assert np.isnan(stats.reliability([1.0, 1.0], [0.1, 0.1]))
    gaps = np.where(np.arange(20_000) % 7 == 0, np.nan, error)
    there = np.isfinite(gaps)
    assert stats.reliability(first, gaps) == stats.reliability(first[there], error[there])
    assert stats.reliability(np.where(there, first, np.nan), error) == stats.reliability(first[there], error[there])


def test_rank_p_counts_ties_as_at_least_as_large():
    np.testing.assert_allclose(stats.rank_p([1.0, 2.0, 9.0], [1.0, 2.0, 2.0]), [1.0, 0.75, 0.25])


def test_arrangements_are_all_or_random_but_always_the_right_number():
    ways, whole = stats.arrangements([4, 3], [2, 1], 999, np.random.default_rng(0))
    assert whole and len(ways) == 18 and len(np.unique(ways, axis=0)) == 18
    drawn, whole = stats.arrangements([10, 10], [3, 1], 50, np.random.default_rng(0))
    assert not whole and drawn.shape == (50, 20)
    assert (drawn[:, :10].sum(axis=1) == 3).all() and (drawn[:, 10:].sum(axis=1) == 1).all()
