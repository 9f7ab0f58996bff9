"""Distances calibrated by their neighbourhood: the definition, duplicates, sharpness."""

import numpy as np
import pytest
from neighbor_sets import lattice_sets, normal_sets, shuffled
from oracles_neighbors_rows import distances, flagged_by_loop, local_ratio_by_loop, rank_p_by_loop

from genmem.errors import DataError
from genmem.neighbors.flagged import calibrated_distance, conformal_rows, conformal_samples
from genmem.neighbors.sets import Sets


@pytest.mark.parametrize("make", [lambda s: normal_sets(s, 40, 30, 20, copies=6), lattice_sets])
@pytest.mark.parametrize("k", [2, 5, 50])
def test_equals_the_definition(make, k):
    for seed in range(4):
        train, test, samples = make(seed)
        flags = calibrated_distance(train, test, samples, k=k, alpha=0.25, level=0.3)
        ratio, of_test = (local_ratio_by_loop(rows, train, k) / 0.25 for rows in (samples, test))
        np.testing.assert_allclose(flags.statistic, ratio, rtol=1e-9)
        # Rounding may part equal ratios: compare ranks where there are no ties.
        if make is not lattice_sets:
            np.testing.assert_allclose(flags.p_value, rank_p_by_loop(ratio, of_test))
        np.testing.assert_array_equal(flags.flagged, flagged_by_loop(flags.p_value, 0.3))
        apart = distances(samples, train)
        np.testing.assert_array_equal(flags.partner, apart.argmin(1))


def test_exact_copies_of_rows_that_occur_often_are_0_and_flagged():
    train, test, samples = normal_sets(0, 300, 300, 100, 8)
    train[:200] = train[0]  # more of them than neighbours are asked for
    samples[:40] = train[0]
    flags = calibrated_distance(train, test, samples)
    assert (flags.statistic[:40] == 0).all() and flags.flagged[:40].all() and (flags.partner[:40] == 0).all()
    assert np.isfinite(flags.statistic).all()


def test_noisy_copies_of_rows_that_occur_often_stand_out():
    train, test, samples = normal_sets(0, 300, 300, 100, 8)
    train[:200] = train[0]
    samples[:40] = train[0] + 1e-3 * np.random.default_rng(1).normal(size=(40, 8))
    flags = calibrated_distance(train, test, samples)
    assert flags.flagged[:40].all() and flags.statistic[:40].max() < 0.1


def test_constant_training_data():
    train = np.ones((30, 3))
    flags = calibrated_distance(train, train, [[1.0, 1, 1], [2, 2, 2]])
    np.testing.assert_array_equal(flags.statistic, [0, 2])
    assert (flags.p_value == 1).all()  # held-out rows coincide with training rows as well


def test_sharp_samples_are_not_taken_for_copies():
    calibrated, raw, rows = [], [], []
    for seed in range(3):
        sets = normal_sets(seed, 1000, 500, 500, 32, scale=0.7)
        calibrated.append(calibrated_distance(*sets))
        raw.append(conformal_samples(*sets))
        rows.append(conformal_rows(*sets))
    assert np.mean([(flags.p_value <= 0.01).mean() for flags in raw]) > 0.2
    assert np.mean([flags.flagged.mean() for flags in raw]) > 0.4
    for immune in (calibrated, rows):
        assert np.mean([(flags.p_value <= 0.01).mean() for flags in immune]) < 0.03
        assert not any(flags.flagged.any() for flags in immune)


def test_one_row_copied_500_times():
    train, test, samples = normal_sets(0, 1000, 500, 1000, 16)
    samples[:500] = train[7]
    flags = calibrated_distance(train, test, samples)
    assert flags.flagged[:500].all() and flags.flagged[500:].mean() < 0.1 and (flags.partner[:500] == 7).all()


def test_p_of_fresh_samples_is_valid():
    p = np.concatenate([calibrated_distance(*normal_sets(seed, 99, 99, 99)).p_value for seed in range(40)])
    for level in (0.05, 0.2, 0.5):
        assert abs((p <= level).mean() - level) < 0.035
    tied = np.concatenate([calibrated_distance(*lattice_sets(seed), k=5).p_value for seed in range(20)])
    assert all((tied <= level).mean() <= level for level in (0.05, 0.2, 0.5))


def test_alpha_scales_and_order_does_not_matter():
    sets = normal_sets(0, copies=30, noise=0.1)
    one, other = calibrated_distance(*sets), calibrated_distance(*sets, alpha=1.0)
    np.testing.assert_allclose(one.statistic, 2 * other.statistic)
    np.testing.assert_array_equal(one.p_value, other.p_value)
    again, (train_order, _, sample_order) = shuffled(sets)
    third = calibrated_distance(*again)
    np.testing.assert_array_equal(one.p_value[sample_order], third.p_value)
    np.testing.assert_array_equal(one.partner[sample_order], train_order[third.partner])


def test_searches_made_before_are_used():
    sets = normal_sets(0)
    searches = Sets(*sets)
    searches.near("samples", "train", 60)
    np.testing.assert_array_equal(calibrated_distance(searches).statistic, calibrated_distance(*sets).statistic)


@pytest.mark.parametrize("wrong", [{"k": 1}, {"k": 2.5}, {"alpha": 0}, {"alpha": np.nan}])
def test_refusals(wrong):
    with pytest.raises(DataError, match="2 or more neighbours and an alpha above 0"):
        calibrated_distance(*normal_sets(0, 9, 9, 9), **wrong)
