"""The mean of the highest scores without the noise that put them on top."""

import numpy as np
import pytest
from score_matrices import refits

from genmem import DataError, Splits, memorization_score
from genmem.leaveout import list_mean, selected_interval


def studied(seed, repeats, n=600):
    rng = np.random.default_rng(seed)
    truth, splits = rng.exponential(1, n), Splits.k_fold(n, 5, repeats, seed=seed)
    return truth, memorization_score(refits(splits, seed, effect=truth), splits.held_out)


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [3, 8])
def test_the_mean_of_the_list_is_that_of_the_truth(repeats):
    ratios, shown, covered = [], [], []
    for seed in range(30):
        truth, scores = studied(seed, repeats)
        top = np.argsort(-scores.score)[:30]
        found, true = list_mean(scores.per_repeat, 30), truth[top].mean()
        ratios.append(found.value / true)
        shown.append(scores.score[top].mean() / true)
        covered.append(found.interval[0] <= true <= found.interval[1])
    assert 0.9 < np.mean(ratios) < 1.1
    assert np.mean(shown) > (1.15 if repeats == 3 else 1.04)
    assert np.mean(covered) > 0.9


def by_loop(per_repeat, k):
    repeats, n = per_repeat.shape
    means = []
    for r in range(repeats):
        others = [sum(per_repeat[q][i] for q in range(repeats) if q != r) / (repeats - 1) for i in range(n)]
        best = sorted(range(n), key=lambda i: -others[i])[:k]
        means.append(sum(per_repeat[r][i] for i in best) / k)
    return sum(means) / repeats


def test_it_is_the_obvious_loop():
    per_repeat = np.random.default_rng(0).normal(size=(4, 50))
    found = list_mean(per_repeat, 7)
    assert found.value == pytest.approx(by_loop(per_repeat, 7))
    left = [by_loop(np.delete(per_repeat, r, axis=0), 7) for r in range(4)]
    error = np.sqrt(3 / 4 * sum((x - np.mean(left)) ** 2 for x in left))
    assert found.interval[1] - found.value == pytest.approx(3.1824463 * error)
    assert np.isnan(list_mean(per_repeat[:2], 7).interval).all()


def test_missing_repeats_and_wrong_lists():
    per_repeat = np.random.default_rng(0).normal(size=(3, 20))
    per_repeat[1, :15] = np.nan
    assert np.isfinite(list_mean(per_repeat, 5).value)
    for scores, k in ((per_repeat[:1], 5), (per_repeat, 0), (per_repeat, 21), (per_repeat[0], 3)):
        with pytest.raises(DataError, match="two repeats or more"):
            list_mean(scores, k)


# --- intervals of listed examples


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [3, 8])
def test_intervals_of_the_highest_scores_cover(repeats):
    ordinary, wider = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        truth, splits = np.full(600, 1.5), Splits.k_fold(600, 5, repeats, seed=seed)  # the worst case: noise ranks
        truth[:60] += rng.exponential(1, 60)
        scores = memorization_score(refits(splits, seed, effect=truth), splits.held_out)
        top = np.argsort(-scores.score)[:30]
        for covered, (low, high) in ((ordinary, scores.interval()[:, top]), (wider, selected_interval(scores, top))):
            covered.append(((low <= truth[top]) & (truth[top] <= high)).mean())
    assert np.mean(wider) >= 0.95 > 0.9 > np.mean(ordinary)


def test_the_level_is_that_of_the_false_coverage_rate():
    _, scores = studied(0, 4, n=100)
    np.testing.assert_array_equal(selected_interval(scores, [7, 3]), scores.interval(1 - 0.05 * 2 / 100)[:, [7, 3]])
    np.testing.assert_array_equal(selected_interval(scores, np.arange(100), 0.9), scores.interval(0.9))


@pytest.mark.parametrize("chosen", [[], [1, 1], [-1], [100], [0.5], [[1, 2]], np.ones(100, bool)])
def test_what_is_not_a_list_of_examples_is_refused(chosen):
    _, scores = studied(0, 3, n=100)
    with pytest.raises(DataError, match="different positions"):
        selected_interval(scores, chosen)
    with pytest.raises(DataError, match="level"):
        selected_interval(scores, [1], level=1.0)
