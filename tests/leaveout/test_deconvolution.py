"""True scores from noisy ones: three worlds with known answers, and the number of repeats."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from score_matrices import refits

from genmem import DataError, Splits, memorization_score
from genmem.leaveout import prevalence
from genmem.leaveout.deconvolution import _Free, _grid, _likelihood, _noisy

N = 400


def true_scores(world, rng):
    if world == "equal":
        return np.full(N, 1.5)
    if world == "exponential":
        return rng.exponential(3, N)
    return np.where(rng.random(N) < 0.2, 0.0, rng.gamma(2, 1.5, N))


def scored(world, repeats, seed):
    truth = true_scores(world, np.random.default_rng(seed))
    splits = Splits.k_fold(N, 5, repeats, seed=seed)
    return truth, memorization_score(refits(splits, seed, effect=truth), splits.held_out)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["equal", "exponential", "some zeros"])
@pytest.mark.parametrize("repeats", [3, 8])
def test_intervals_cover_whatever_the_repeats(world, repeats):
    hits, values = [], []
    for seed in range(6):
        truth, scores = scored(world, repeats, seed)
        found = prevalence(scores)
        shares = [(found.above[at], (truth > at).mean()) for at in (1.0, 3.0)]
        hits += [rate.interval[0] - 2e-3 <= share <= rate.interval[1] + 2e-3 for rate, share in shares]
        low, high = found.tail.interval
        hits.append(low <= np.quantile(truth, 0.95) <= high)
        values.append([rate.value - share for rate, share in shares])
    assert np.mean(hits) >= 0.9
    if world != "equal":
        assert abs(np.mean(values, axis=0)).max() < 0.07


@pytest.mark.slow
def test_the_share_does_not_grow_with_repeats():
    shares = []
    for repeats in (3, 8):
        found = [prevalence(scored("exponential", repeats, seed)[1]) for seed in range(5)]
        shares.append(np.mean([one.above[3.0].value for one in found]))
    assert abs(shares[0] - shares[1]) < 0.04


@pytest.mark.slow
def test_expected_scores_are_nearer_to_the_truth_than_scores():
    truth, splits = true_scores("exponential", np.random.default_rng(0)), Splits.k_fold(N, 5, 3, seed=0)
    scores = memorization_score(4 * refits(splits, 0, effect=truth / 4), splits.held_out)
    expected = prevalence(scores).posterior_mean
    assert np.mean((expected - truth) ** 2) < 0.8 * np.mean((scores.score - truth) ** 2)
    top = np.argsort(-scores.score)[:20]
    assert abs((expected - truth)[top].mean()) < abs((scores.score - truth)[top].mean())


def test_the_likelihood_is_that_of_a_t_law():
    _, scores = scored("exponential", 3, 1)
    noisy = _noisy(scores)
    points = _grid(noisy)
    found = _likelihood(noisy, points)
    for i in (0, 17, 399):
        law = scipy_stats.t(noisy.df[i], loc=points, scale=noisy.error[i])
        density = law.pdf(noisy.score[i])
        np.testing.assert_allclose(found[i], density / density.max(), rtol=1e-10)


def test_the_free_distribution_is_the_most_likely():
    """No mixture of it with another distribution is more likely, by more than EM leaves open."""
    _, scores = scored("some zeros", 3, 2)
    noisy = _noisy(scores)
    points = _grid(noisy)
    likelihood = _likelihood(noisy, points)
    free, rng = _Free.of(likelihood, points), np.random.default_rng(0)
    for _ in range(20):
        other = 0.9 * free.prior + 0.1 * rng.dirichlet(np.full(len(points), 0.1))
        assert np.log(likelihood @ other).sum() < free.best + 0.1


def test_scores_without_known_noise_are_refused():
    splits = Splits.k_fold(30, 3, 2, seed=0)
    ell = refits(splits, 0)
    with pytest.raises(DataError, match="three repeats or more"):
        prevalence(memorization_score(ell, splits.held_out))
    splits = Splits.k_fold(30, 3, 4, seed=0)
    with pytest.raises(DataError, match="vary over repeats"):
        prevalence(memorization_score(np.zeros(splits.held_out.shape), splits.held_out))
    with pytest.raises(DataError, match="log_mean"):
        prevalence(memorization_score(refits(splits, 0), splits.held_out, estimator="log_mean"))


def test_failed_repeats_leave_examples_without_an_expected_score():
    splits = Splits.k_fold(60, 3, 4, seed=0)
    ell = refits(splits, 0, effect=2.0)
    ell[[0, 3, 6]] = np.nan
    scores = memorization_score(ell, splits.held_out)
    found = prevalence(scores).posterior_mean
    lone = scores.repeats_used < 2
    assert lone.any() and np.isnan(found[lone]).all() and np.isfinite(found[~lone]).all()
