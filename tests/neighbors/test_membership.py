"""Membership inference: AUC and true-positive rates by definition, and intervals that cover."""

import numpy as np
import pytest
from oracles_neighbors_rows import auc_by_pairs, ranks_before
from scipy import stats

from genmem.errors import DataError
from genmem.neighbors.membership import auc_interval, membership_inference


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("digits", [1, 12])
def test_auc_counts_pairs(rng, digits):
    for _ in range(5):
        inside, outside = np.round(rng.normal(0.5, 1, 40), digits), np.round(rng.normal(0, 1, 30), digits)
        assert membership_inference(inside, outside).value == pytest.approx(auc_by_pairs(inside, outside))


@pytest.mark.parametrize("n", [50, 150, 1500])
@pytest.mark.parametrize("digits", [0, 12])
def test_true_positives_by_trying_every_threshold(rng, n, digits):
    inside, outside = np.round(rng.normal(1, 1, 400), digits), np.round(rng.normal(0, 1, n), digits)
    result = membership_inference(inside, outside)
    for rate in (0.01, 0.001):
        allowed = [(inside > c).mean() for c in outside if (outside > c).mean() <= rate + 1e-12]
        assert result.details[f"tpr_{rate}"] == max(allowed)
        low, high = result.details[f"tpr_{rate}_interval"]
        assert 0 <= low <= max(allowed) <= high <= 1


def test_p_of_true_positives_is_the_law_of_ranks():
    inside, outside = np.array([5.0, 4.0, 1.0]), np.array([3.0, 2.5, 2.0, 0.0])
    result = membership_inference(inside, outside)  # no false positives allowed: before the first held-out one
    chance = ranks_before(1, 4, 3)
    assert result.details["tpr_0.01"] == 2 / 3
    assert result.details["tpr_0.01_p"] == pytest.approx(chance[2])
    assert result.details["tpr_0.01_mid_p"] == pytest.approx((chance[2] + chance[3]) / 2)
    assert membership_inference(outside, inside).details["tpr_0.01_p"] == 1
    above_all = membership_inference(inside + 9, outside).details
    assert above_all["tpr_0.01_p"] == pytest.approx(chance[3])
    assert above_all["tpr_0.01_mid_p"] == pytest.approx(chance[3] / 2)


def test_p_of_each_example(rng):
    inside, outside = rng.normal(size=20), rng.normal(size=30)
    expected = [(1 + sum(o >= x for o in outside)) / 31 for x in inside]
    np.testing.assert_allclose(membership_inference(inside, outside).details["p_value"], expected)


def test_mid_p_and_p_are_uniform_where_nothing_is_told(rng):
    results = [membership_inference(rng.normal(size=300), rng.normal(size=400)) for _ in range(120)]
    assert stats.kstest([result.p_value for result in results], "uniform").pvalue > 0.01
    p = np.array([result.details["tpr_0.01_p"] for result in results])
    for level in (0.05, 0.2):
        assert stats.binomtest(int((p <= level).sum()), 120, level, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.5, 3.0])
@pytest.mark.parametrize(("m", "n"), [(60, 60), (300, 40)])
def test_intervals_cover(rng, shift, m, n):
    auc = stats.norm.cdf(shift / 2**0.5)
    power = stats.norm.sf(stats.norm.isf(0.01) - shift)
    covered = []
    for _ in range(80):
        result = membership_inference(rng.normal(shift, 1, m), rng.normal(0, 1, n))
        low, high = result.details["tpr_0.01_interval"]
        covered.append([result.interval[0] <= auc <= result.interval[1], low <= power <= high])
    of_auc, of_rate = np.mean(covered, axis=0)
    assert of_auc > 0.88 and of_rate > 0.92


def test_intervals_are_not_empty_where_the_two_are_apart():
    result = membership_inference(np.arange(10.0) + 100, np.arange(10.0))
    assert result.value == 1 and 0.6 < result.interval[0] < 1 == result.interval[1]
    assert result.details["tpr_0.001"] == 1 and result.details["tpr_0.001_interval"][0] == 0
    turned = membership_inference(np.arange(10.0), np.arange(10.0) + 100)
    assert turned.value == 0 and 0 == turned.interval[0] < turned.interval[1] < 0.4


@pytest.mark.parametrize("auc", [0.5, 0.8, 0.99])
def test_ends_of_the_interval_lie_z_errors_away(auc):
    m, n = 80, 120
    for end in auc_interval(auc, m, n):
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        mean = (m + n) / 2
        variance = (end * (1 - end) + (mean - 1) * (q1 - end**2 + q2 - end**2)) / (m * n)
        assert abs(auc - end) / variance**0.5 == pytest.approx(1.959964, abs=1e-4)


def test_infinite_log_p_and_constant_log_p():
    result = membership_inference([-np.inf, 0.0, 1.0], [-np.inf, -np.inf])
    assert result.value == pytest.approx(5 / 6)
    constant = membership_inference(np.zeros(50), np.zeros(40))
    assert constant.value == 0.5 and constant.p_value >= 0.5 and constant.details["tpr_0.01"] == 0


def test_order_does_not_matter_and_single_precision_is_taken(rng):
    inside, outside = rng.normal(size=50).astype(np.float32), rng.normal(size=60).astype(np.float32)
    one, other = membership_inference(inside, outside), membership_inference(inside[::-1], rng.permutation(outside))
    assert (one.value, one.p_value, one.interval) == (other.value, other.p_value, other.interval)
    assert one.details["tpr_0.01_interval"] == other.details["tpr_0.01_interval"]
    np.testing.assert_array_equal(one.details["p_value"][::-1], other.details["p_value"])


def test_the_sentence_says_both_rates():
    sentence = membership_inference(np.arange(10.0) + 100, np.arange(10.0)).sentence
    assert "probability 1.000" in sentence
    assert "100.00% of training examples at 1.0% and 100.00%" in sentence and "at 0.1%" in sentence


@pytest.mark.parametrize("wrong", [[], [np.nan, 1.0], [[1.0]], ["a"], 3.0])
def test_refusals(wrong):
    with pytest.raises(DataError, match="log_prob_train of one or more numbers"):
        membership_inference(wrong, [1.0])
    with pytest.raises(DataError, match="log_prob_test of one or more numbers"):
        membership_inference([1.0], wrong)
