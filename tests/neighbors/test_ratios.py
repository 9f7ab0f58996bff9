"""The distance ratio as it should have been, beside how it was released; its test, its null and its ties."""

import numpy as np
import pytest
from neighbor_sets import lattice_sets, normal_sets, shuffled
from oracles_neighbors_rows import auc_by_pairs, ratio_by_loop, ratio_of_first_rows
from scipy import stats

from genmem.errors import DataError
from genmem.neighbors.ratios import distance_ratio, ratio_test
from genmem.neighbors.sets import Sets


@pytest.mark.parametrize("make", [lambda s: normal_sets(s, 40, 30, 20, copies=6), lattice_sets])
def test_equals_the_definition(make):
    for seed in range(5):
        sets = make(seed)
        rho = distance_ratio(*sets)
        assert rho.shape == (len(sets[0]),) and not np.isnan(rho).any()
        np.testing.assert_allclose(rho, ratio_by_loop(*sets), rtol=1e-12)


def test_zeros():
    train, held_out, samples = [[0.0], [1], [2], [3]], [[0.0], [2], [9]], [[0.0], [1], [8]]
    np.testing.assert_array_equal(distance_ratio(train, held_out, samples), [1, np.inf, 0, 0.5])


def test_the_released_ratio_reads_the_first_row_of_each_block():
    train, held_out, samples = normal_sets(0, 256, 256, 256, 8)
    copied = np.random.default_rng(1).choice(np.arange(1, 256), 40, replace=False)
    samples[:40] = train[copied] + 0.01 * np.random.default_rng(2).normal(size=(40, 8))
    right, wrong = distance_ratio(train, held_out, samples), ratio_of_first_rows(train, held_out, samples)
    assert np.isclose(right, wrong).tolist() == [True] + [False] * 255
    np.testing.assert_allclose(ratio_of_first_rows(train[:1], held_out, samples), right[:1])
    planted = np.isin(np.arange(256), copied)
    assert auc_by_pairs(right[planted], right[~planted]) > 0.99
    assert auc_by_pairs(wrong[planted], wrong[~planted]) < 0.6


def test_pooled_images():
    rng = np.random.default_rng(0)
    train, held_out, samples = (rng.integers(256, size=(30, 6, 5), dtype=np.uint8) for _ in range(3))

    def halved(images):
        pairs = [images[:, :, :2], images[:, :, 2:4], images[:, :, 4:]]
        columns = np.stack([pair.mean(2) for pair in pairs], axis=2)
        return columns.reshape(30, 3, 2, 3).mean(2)

    expected = ratio_by_loop(halved(train), halved(held_out), halved(samples))
    np.testing.assert_allclose(distance_ratio(train, held_out, samples, pool=True), expected, rtol=1e-5)
    assert not np.allclose(distance_ratio(train, held_out, samples), expected, rtol=0.01)
    np.testing.assert_allclose(ratio_test(train, held_out, samples, pool=True).details["rho"], expected, rtol=1e-5)
    sets = Sets(train, held_out, samples)  # which know the shape of their images
    np.testing.assert_allclose(distance_ratio(sets, pool=True), expected, rtol=1e-5)


def test_pooling_does_not_take_rows_that_are_no_images():
    with pytest.raises(DataError):
        distance_ratio(*normal_sets(0, 9, 9, 9, width=5), pool=True)


@pytest.mark.parametrize("make", [lambda s: normal_sets(s, 40, 30, 20, copies=6), lattice_sets])
def test_the_value_is_the_share_of_rows_above_1(make):
    sets = make(0)
    result = ratio_test(*sets)
    rho = ratio_by_loop(*sets)
    assert (rho > 1).mean() - 1e-9 <= result.value <= (rho >= 1).mean() + 1e-9
    assert result.interval[0] <= result.value <= result.interval[1]
    np.testing.assert_allclose(result.details["rho"], rho)
    assert result.details["median"] == pytest.approx(np.median(rho))


@pytest.mark.parametrize(("n_test", "n_samples"), [(60, 60), (30, 90)])
def test_the_null_and_its_p(n_test, n_samples):
    results = [ratio_test(*normal_sets(seed, 80, n_test, n_samples, 2)) for seed in range(30)]
    values = np.array([result.value for result in results])
    assert results[0].null == pytest.approx(n_samples / (n_samples + n_test))
    assert abs(values.mean() - results[0].null) < 3 * values.std() / 30**0.5
    assert 0.7 < values.std() / np.mean([result.details["null_sd"] for result in results]) < 1.4
    assert stats.kstest([result.details["mid_p"] for result in results], "uniform").pvalue > 0.01
    covered = [result.interval[0] <= result.null <= result.interval[1] for result in results]
    assert np.mean(covered) > 0.85


def test_p_by_permuting_labels():
    train, test, samples = normal_sets(1, 50, 12, 10, 2, copies=3)
    rng, both = np.random.default_rng(0), np.concatenate([samples, test])
    nearest = np.array([((row - both) ** 2).sum(1).argmin() for row in train])
    counts = np.bincount(nearest, minlength=22)
    label = np.repeat([1, 0], [10, 12])
    drawn = np.array([counts @ rng.permutation(label) for _ in range(20_000)])
    result = ratio_test(train, test, samples)
    assert result.value == pytest.approx(counts @ label / 50)
    assert result.p_value == pytest.approx((drawn >= counts @ label).mean(), abs=0.015)
    assert result.details["null_sd"] == pytest.approx(drawn.std() / 50, rel=0.03)


def test_the_training_set_itself_and_fresh_samples():
    train, test, fresh = normal_sets(0)
    copied = ratio_test(train, test, train)
    assert copied.value == 1 and copied.p_value < 1e-3 and np.isinf(copied.details["rho"]).all()
    assert "100.0% of training examples" in copied.sentence
    assert ratio_test(train, test, fresh).p_value > 0.01
    assert ratio_test(train, test, test).value == pytest.approx(0.5)


@pytest.mark.parametrize("make", [lambda s: normal_sets(s, 50, 60, 70, copies=20), lattice_sets])
def test_order_and_searches_made_before_do_not_matter(make):
    sets = make(0)
    again, (order, _, _) = shuffled(sets)
    one, other = ratio_test(*sets), ratio_test(*again)
    np.testing.assert_array_equal(one.details["rho"][order], other.details["rho"])
    assert (one.value, one.p_value, one.interval) == (other.value, other.p_value, other.interval)
    searches = Sets(*sets)
    searches.near("train", "samples", 7)
    searches.near("samples", "train", 3)
    third = ratio_test(searches)
    assert (one.value, one.p_value) == (third.value, third.p_value)
    np.testing.assert_array_equal(distance_ratio(searches), one.details["rho"])


def test_turned_searches_are_those_of_turned_sets():
    sets = normal_sets(0, 20, 30, 40)
    searches = Sets(*sets)
    searches.near("train", "samples", 2)
    turned, direct = searches.turned(), Sets(sets[2], sets[1], sets[0])
    for queries, base in (("train", "samples"), ("samples", "train"), ("samples", "test"), ("test", "train")):
        for a, b in zip(turned.near(queries, base, 2), direct.near(queries, base, 2), strict=True):
            np.testing.assert_array_equal(a, b)
