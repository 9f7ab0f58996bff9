"""Unequal folds: training sizes are balanced, what cannot be is told, and equal folds are left as they are."""

import numpy as np
import oracles_nulls
import pytest
from score_matrices import refits

from genmem.leaveout.estimators import repeats_of
from genmem.leaveout.scoring import memorization_score
from genmem.leaveout.sizes import balance, uneven_sizes, variance_factor
from genmem.run import Splits

BIG = np.r_[np.zeros(60, int), np.repeat(np.arange(1, 9), 5)]  # one group of 60 of 100


def dealt(seed, n=60, folds=5, repeats=3):
    """Folds of very unequal sizes, dealt anew in each repeat."""
    rng = np.random.default_rng(seed)
    fold = np.stack([rng.permutation(np.repeat(np.arange(folds), [5, 8, 11, 14, 22])) for _ in range(repeats)])
    held = (fold[:, None] == np.arange(folds)[:, None]).reshape(-1, n)
    return Splits(held, np.repeat(np.arange(repeats), folds), np.arange(folds * repeats))


def fitted(X, Y, held):
    """Log p of Y under the normal law fitted to the examples of X that each split keeps, one at a time."""
    ell = []
    for out in held:
        mean, covariance = X[~out].mean(0), np.cov(X[~out].T, bias=True)
        apart = Y - mean
        squares = np.einsum("ni,ij,nj->n", apart, np.linalg.inv(covariance), apart)
        ell.append(-0.5 * (squares + np.linalg.slogdet(covariance)[1] + X.shape[1] * np.log(2 * np.pi)))
    return np.array(ell)


@pytest.mark.parametrize("seed", range(3))
def test_weights_equal_those_of_an_optimizer(seed):
    splits = dealt(seed)
    sizes = (~splits.held_out).sum(axis=1).astype(float)
    found = balance(splits.held_out, ~splits.held_out, repeats_of(splits.held_out, splits.repeat), sizes)
    for i in range(0, splits.n, 7):
        for r in range(3):
            rows = np.flatnonzero(splits.repeat == r)
            ins, (out,) = rows[~splits.held_out[rows, i]], rows[splits.held_out[rows, i]]
            slow = oracles_nulls.balancing_weights_by_optimizer(sizes[ins], sizes[out], 0.02)
            np.testing.assert_allclose(found.weights[ins, i], slow, atol=2e-4)
            assert found.weights[out, i] == 0


def test_scores_are_weighted_means_and_their_parts_agree():
    splits = dealt(4)
    ell = refits(splits, 0, effect=1.0)
    found = memorization_score(ell, splits.held_out, repeat=splits.repeat)
    sizes = (~splits.held_out).sum(axis=1).astype(float)
    weights = balance(splits.held_out, ~splits.held_out, repeats_of(splits.held_out, splits.repeat), sizes).weights
    slow = (ell * weights).sum(axis=0) / 3 - ell.mean(axis=0, where=splits.held_out)
    np.testing.assert_allclose(found.score, slow, rtol=1e-9)
    np.testing.assert_allclose(found.per_repeat.mean(axis=0), found.score, rtol=1e-9)
    np.testing.assert_allclose(found.log_prob_in - found.log_prob_out, found.score, rtol=1e-9)
    untested = found.uneven.size_bias != 0
    assert 0 < untested.sum() < splits.n
    np.testing.assert_array_equal(np.isnan(found.p_value), untested)
    np.testing.assert_array_equal(np.isnan(found.p_above(1.0)), untested)


EQUAL = [
    Splits.k_fold(23, 4, 3, seed=1),
    Splits.k_fold(11, 5, 2),
    Splits.k_fold(400, 5, 4, groups=np.arange(400) // 2),
    Splits.subsets(23, 0.7, 20),
    Splits.leave_out(23, np.arange(23)),
]


@pytest.mark.parametrize("splits", EQUAL, ids=lambda s: f"{s.kind}-{s.n_splits}")
def test_equal_folds_are_left_as_they_are(splits):
    rows = repeats_of(splits.held_out, splits.repeat)
    assert uneven_sizes(splits.held_out, rows) is None and variance_factor(splits.held_out, rows) is None
    assert memorization_score(refits(splits, 0), splits.held_out, repeat=splits.repeat).uneven is None


def test_a_group_that_no_refit_matches_in_size_is_not_tested_and_its_bias_is_told():
    scores = {"small": [], "big": [], "told": []}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        X, fresh = rng.standard_normal((2, 100, 4))
        splits = Splits.k_fold(100, 4, 4, seed=seed, groups=BIG)
        found = memorization_score(fitted(X, fresh, splits.held_out), splits.held_out, repeat=splits.repeat)
        trained = memorization_score(fitted(X, X, splits.held_out), splits.held_out, repeat=splits.repeat)
        assert np.isnan(found.p_value[BIG == 0]).all() and not (found.q_value < 0.05)[BIG == 0].any()
        scores["big"].append(found.score[BIG == 0].mean())
        scores["small"].append(found.score[BIG > 0].mean())
        scores["told"].append(trained.uneven.size_bias[BIG == 0].mean())
    error = np.std(scores["small"]) / np.sqrt(12)
    assert abs(np.mean(scores["small"])) < 3 * error < 0.06  # never trained on, and balanced
    assert np.mean(scores["big"]) > 0.08  # never trained on either
    # To first order in 1 / size; with training sets as small as 40 the bias itself is larger.
    assert 0.4 < np.mean(scores["told"]) / np.mean(scores["big"]) < 1.1


def test_repeats_that_leave_out_the_same_examples_count_for_less():
    groups = np.repeat(np.arange(10), 20)
    splits = Splits.k_fold(200, 5, 4, groups=groups)
    factor = variance_factor(splits.held_out, repeats_of(splits.held_out, splits.repeat))
    for i in (0, 77, 199):
        c = oracles_nulls.companions_in_common_by_loop(splits.held_out, splits.repeat.tolist(), i)
        assert factor[i] == pytest.approx((1 + 3 * c) / (1 - c))
    ell = refits(splits, 0)
    found = memorization_score(ell, splits.held_out, repeat=splits.repeat)
    spread = found.per_repeat.std(axis=0, ddof=1) / 2
    np.testing.assert_allclose(found.standard_error, spread * np.sqrt(factor), rtol=1e-9)
    same = Splits(np.tile(splits.held_out[:5], (4, 1)), splits.repeat, splits.shard)
    found = memorization_score(ell, same.held_out, repeat=same.repeat)
    assert np.isfinite(found.score).all() and np.isnan([found.p_value, found.standard_error]).all()
    assert np.isnan(found.interval()).all()


def test_one_large_group_among_single_examples_recurs_alone():
    groups = np.r_[np.zeros(36, int), np.arange(1, 565)]
    splits = Splits.k_fold(600, 5, 4, seed=0, groups=groups)
    factor = variance_factor(splits.held_out, repeats_of(splits.held_out, splits.repeat))
    np.testing.assert_array_equal(factor != 1, groups == 0)
    for i in (0, 20):
        c = oracles_nulls.companions_in_common_by_loop(splits.held_out, splits.repeat.tolist(), i)
        assert factor[i] == pytest.approx((1 + 3 * c) / (1 - c)) and factor[i] > 1.5
    ell = refits(splits, 0)
    published = memorization_score(ell, splits.held_out, repeat=splits.repeat, estimator="log_mean")
    np.testing.assert_array_equal(np.isnan(published.p_value), groups == 0)


@pytest.mark.slow
def test_examples_never_trained_on_have_their_size_in_one_large_group():
    sizes = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X, fresh = rng.standard_normal((2, 600, 4))
        splits = Splits.k_fold(600, 5, 4, seed=seed, groups=np.r_[np.zeros(36, int), np.arange(1, 565)])
        found = memorization_score(fitted(X, fresh, splits.held_out), splits.held_out, repeat=splits.repeat)
        sizes.append((found.p_value[:36] <= 0.05).mean())
    assert np.mean(sizes) < 0.09


@pytest.mark.parametrize(("n", "folds", "repeats"), [(12, 4, 4), (40, 5, 3), (150, 10, 8), (400, 3, 2)])
def test_random_folds_never_recur(n, folds, repeats):
    for seed in range(10):
        splits = Splits.k_fold(n, folds, repeats, seed=seed)
        assert variance_factor(splits.held_out, repeats_of(splits.held_out, splits.repeat)) is None


@pytest.mark.slow
def test_examples_never_trained_on_are_not_flagged_with_large_groups():
    sizes, flagged = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X, fresh = rng.standard_normal((2, 200, 4))
        splits = Splits.k_fold(200, 5, 4, seed=seed, groups=np.repeat(np.arange(10), 20))
        found = memorization_score(fitted(X, fresh, splits.held_out), splits.held_out, repeat=splits.repeat)
        sizes.append((found.p_value <= 0.05).mean())
        flagged.append((found.q_value < 0.05).mean())
    assert np.mean(sizes) < 0.09 and np.mean(flagged) < 0.01


def test_uneven_folds_leave_too_little_for_two_repeats_or_log_mean():
    splits = dealt(5, repeats=2)
    found = memorization_score(refits(splits, 0), splits.held_out, repeat=splits.repeat)
    assert np.isfinite(found.score).all() and np.isnan(found.p_value).all()
    splits = dealt(5, repeats=4)
    found = memorization_score(refits(splits, 0), splits.held_out, repeat=splits.repeat, estimator="log_mean")
    assert np.isfinite(found.score).all() and np.isnan(found.p_value).all()
