"""The mean of the highest scores without the noise that put them on top."""

import numpy as np
import pytest
from score_matrices import refits

from genmem import DataError, Splits, memorization_score
from genmem.leaveout import list_mean


def studied(seed, repeats, n=600):
    rng = np.random.default_rng(seed)
    truth, splits = rng.exponential(1, n), Splits.k_fold(n, 5, repeats, seed=seed)
    return truth, memorization_score(refits(splits, seed, effect=truth), splits.held_out)


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
