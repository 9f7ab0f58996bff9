"""Rank agreement without noise, tops against chance, and the bootstrap by weights: against slow versions."""

from math import comb

import numpy as np
import oracles_compare as oracle
import pytest
from audits import simulated

from genmem.compare.ranks import (
    agreement,
    bootstrap_weights,
    of_draws,
    overlap,
    rank_correlation,
    weighted_ranks,
)


def keys_of(scores, name):
    return [f"{name} {r}" for r in range(scores.n_repeats)]


def agree(a, b, draws=200, shared=False):
    keys = (keys_of(a, "a"), keys_of(b, "a" if shared else "b"))
    return agreement(a, b, keys, bootstrap_weights(len(a.score), draws=draws))


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_rank_correlations_are_those_of_repeated_examples(ties):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30))
    if ties:
        x, y = np.round(x), np.round(y)
    weights = bootstrap_weights(30, draws=20)
    found = of_draws(lambda w: rank_correlation(x, y, w), weights)
    times = [np.ones(30, int), *weights]
    np.testing.assert_allclose(found, [oracle.rank_correlation(x, y, t) for t in times], atol=1e-12)


def test_weights_draw_whole_groups():
    groups = np.repeat(["a", "b", "c"], [1, 4, 2])
    weights = bootstrap_weights(7, groups, draws=50)
    assert {tuple(set(row[groups == "b"])) for row in weights} >= {(0,), (1,)}
    assert all(len(set(row[groups == g])) == 1 for row in weights for g in "abc")
    assert weighted_ranks(np.arange(7.0), weights[:1].astype(float)).shape == (1, 7)


def test_the_overlap_of_tops_is_that_of_repeated_examples():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 40))
    weights = bootstrap_weights(40, draws=30)
    found = overlap([x, y], 6, weights)
    tops = [[oracle.top(one, 6, times) for one in (x, y)] for times in weights]
    shares = [2 * np.minimum(a, b).sum() / (a.sum() + b.sum()) for a, b in tops]
    np.testing.assert_allclose(found.share.interval, np.quantile(shares, [0.025, 0.975]))
    assert found.count == len(set(np.argsort(-x)[:6]) & set(np.argsort(-y)[:6]))
    assert found.chance == 6 / 40


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_p_of_an_overlap_counts_all_choices(count):
    x, y = np.arange(8.0), np.arange(8.0)
    y[[7 - i for i in range(3 - count)]] = -1  # takes so many out of the top of y
    found = overlap([x, y], 3, bootstrap_weights(8, draws=2))
    assert found.count == count
    assert found.p_value == pytest.approx(oracle.shared_by_chance(8, 3, count))


def test_equal_scores_do_not_overlap_by_their_position():
    """Of two models with many equal scores, tops agree as often as by chance; of one with itself, entirely."""
    rng, one = np.random.default_rng(0), np.ones((1, 400), np.int32)
    x, y = ((rng.random(400) < 0.02).astype(float) for _ in range(2))
    found = overlap([x, y], 100, one)
    assert abs(found.count - 25) < 15 and found.p_value > 0.01
    assert overlap([x, x], 100, one).count == 100
    flat = overlap([np.zeros(400), y], 100, one)
    assert np.isnan(flat.share.value) and np.isnan(flat.p_value)


def test_the_overlap_of_three_tops_has_its_own_chance():
    rng = np.random.default_rng(2)
    drawn = np.array([overlap(list(rng.normal(size=(3, 20))), 8, np.ones((1, 20), np.int32)).count for _ in range(60)])
    same = overlap([np.arange(20.0)] * 3, 8, np.ones((1, 20), np.int32))
    assert same.share.value == 1 and same.p_value == pytest.approx(comb(20, 8) ** -2.0)
    ranks = np.arange(400.0)
    six = overlap([ranks] * 6, 40, np.ones((1, 400), np.int32))
    assert 0 < six.p_value == pytest.approx(float(comb(400, 40)) ** -5.0)  # far below the rounding of larger ones
    assert abs(drawn.mean() - 8 * same.chance) < 4 * drawn.std() / 60**0.5


@pytest.mark.parametrize("shared", [False, True])
def test_noise_is_taken_out_of_the_correlation(shared):
    """Whether the audits share their folds or not: then part of their noise is the same, and halves must not mix it."""
    rng = np.random.default_rng(3)
    base = rng.normal(size=800)
    truth = [1.5 * base, 1.5 * (0.6 * base + 0.8 * rng.normal(size=800))]
    seed = 7 if shared else None
    a, b = (simulated(t, rng, noise=2.0, seed=seed) for t in truth)
    found = agree(a, b, shared=shared)
    true = 6 / np.pi * np.arcsin(0.6 / 2)
    assert found.rho.value < true - 0.1
    assert abs(found.corrected.value - true) < 0.06
    assert found.corrected.interval[0] < true < found.corrected.interval[1]
    assert 0.4 < found.reliability[0] < 0.9


def test_mostly_noise_is_not_corrected_and_one_repeat_cannot_be():
    rng = np.random.default_rng(4)
    noise = [simulated(np.zeros(200), rng) for _ in range(2)]
    assert np.isnan(agree(*noise).corrected.value) and np.isfinite(agree(*noise).rho.value)
    one = [simulated(rng.normal(size=200), rng, repeats=1) for _ in range(2)]
    assert np.isnan(agree(*one).reliability).all()
