"""Authenticity: the definition, its null that is not one half, and the difference."""

import numpy as np
import pytest
from neighbor_sets import lattice_sets, normal_sets, shuffled
from oracles_neighbors_rows import authentic_by_loop, fisher_by_counting
from scipy import stats

from genmem.errors import DataError
from genmem.neighbors.ratios import authenticity, difference_interval
from genmem.neighbors.sets import Sets
from genmem.stats import share_interval


@pytest.mark.slow
def test_equals_the_definition():
    for seed in range(6):
        train, test, samples = normal_sets(seed, 40, 30, 20, 3, copies=5, noise=0.05 * seed)
        result = authenticity(train, test, samples)
        authentic, of_test = authentic_by_loop(samples, train), authentic_by_loop(test, train)
        np.testing.assert_array_equal(result.details["authentic"], authentic)
        assert result.value == authentic.mean() and result.null == of_test.mean()
        assert result.interval == share_interval(authentic.sum(), 20)
        assert result.details["null_interval"] == share_interval(of_test.sum(), 30)


def test_p_is_fishers():
    train, test, samples = normal_sets(0, 30, 9, 8, 2, copies=3)
    result = authenticity(train, test, samples)
    few, other = int(result.details["authentic"].sum()), round(result.null * 9)
    p, p_below = fisher_by_counting(few, 8, other, 9), fisher_by_counting(few - 1, 8, other + 1, 9)
    assert 0 < p < 1
    assert result.p_value == pytest.approx(p)
    assert result.details["mid_p"] == pytest.approx((p + p_below) / 2)


def test_the_null_depends_on_the_dimension_and_is_the_held_out_value():
    low, high = (authenticity(*normal_sets(0, 1000, 1000, 1000, width)) for width in (2, 64))
    assert 0.33 < low.null < 0.45 and 0.75 < high.null < 0.9
    for result in (low, high):
        lower, upper = result.details["difference_interval"]
        assert lower < 0 < upper and result.p_value > 0.01


def test_the_training_set_itself():
    train, test, _ = normal_sets(0)
    for samples in (train, train[::-1], train[:50], np.concatenate([train, train])):
        result = authenticity(train, test, samples)
        assert result.value == 0 and result.p_value < 1e-6
        assert result.details["difference_interval"][1] < 0
        assert "0.0% of samples" in result.sentence


def test_exact_copies_of_rows_that_occur_twice_are_not_authentic_but_noisy_ones_are():
    train, test, samples = normal_sets(0)
    train[100:] = train[:100]
    assert authenticity(train, test, train[:60]).value == 0
    assert authenticity(train, test, train[:60] + 1e-6).value == 1


@pytest.mark.slow
def test_mid_p_is_uniform_and_p_valid_on_fresh_samples():
    results = [authenticity(*normal_sets(seed, 100, 60, 70, 3)) for seed in range(120)]
    mid_p, p = (np.array(x) for x in zip(*((r.details["mid_p"], r.p_value) for r in results), strict=True))
    assert stats.kstest(mid_p, "uniform").pvalue > 0.01
    for level in (0.05, 0.2):
        assert stats.binomtest(int((p <= level).sum()), 120, level, alternative="greater").pvalue > 0.01
    covered = [r.details["difference_interval"][0] <= 0 <= r.details["difference_interval"][1] for r in results]
    assert np.mean(covered) > 0.9


def test_newcombes_example():
    # 56 of 70 against 48 of 80, in Newcombe (1998): 0.2000, 0.0524 to 0.3339.
    interval = difference_interval((56 / 70, share_interval(56, 70)), (48 / 80, share_interval(48, 80)))
    np.testing.assert_allclose(interval, [0.0524, 0.3339], atol=5e-5)


@pytest.mark.parametrize("make", [lambda s: normal_sets(s, 50, 60, 70, copies=20), lattice_sets])
def test_order_and_searches_made_before_do_not_matter(make):
    sets = make(0)
    again, (_, _, order) = shuffled(sets)
    one, other = authenticity(*sets), authenticity(*again)
    np.testing.assert_array_equal(one.details["authentic"][order], other.details["authentic"])
    assert (one.value, one.null, one.p_value) == (other.value, other.null, other.p_value)
    searches = Sets(*sets)
    searches.near("samples", "train", 9)
    assert authenticity(searches).p_value == one.p_value


def test_of_equally_near_training_rows_the_order_does_not_choose():
    # -1 lies 2 from the others, 1 only 0.1: which of them is asked decides.
    found = {
        bool(authenticity(train, [[5.0]], [[0.0]]).details["authentic"][0])
        for train in ([[-1.0], [1.0], [1.1]], [[1.1], [1.0], [-1.0]], [[1.0], [-1.0], [1.1]])
    }
    assert len(found) == 1


def test_images_of_bytes():
    rng = np.random.default_rng(0)
    train, test, samples = (rng.integers(256, size=(40, 4, 4), dtype=np.uint8) for _ in range(3))
    samples[:10] = train[:10]
    np.testing.assert_array_equal(
        authenticity(train, test, samples).details["authentic"], authentic_by_loop(samples, train)
    )


def test_one_training_row_is_refused():
    with pytest.raises(DataError, match="2 or more training examples"):
        authenticity(np.zeros((1, 2)), np.ones((3, 2)), np.ones((3, 2)))
    assert authenticity(np.zeros((2, 2)), np.ones((3, 2)), np.ones((3, 2))).value == 1
