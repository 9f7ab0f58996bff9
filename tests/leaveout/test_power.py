"""The probability that the test names an example memorized by a given amount."""

import numpy as np
import pytest
from score_matrices import refits

from genmem import DataError, Splits, memorization_score
from genmem.leaveout import naming_power


def studied(seed, repeats, planted, n=600):
    """Scores of a study in which the first 60 examples have the planted true score, all others an exponential one."""
    rng = np.random.default_rng(seed)
    truth, splits = rng.exponential(2, n), Splits.k_fold(n, 5, repeats, seed=seed)
    truth[:60] = planted
    return memorization_score(refits(splits, seed, effect=truth), splits.held_out)


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [3, 8])
@pytest.mark.parametrize("planted", [0.5, 1.0, 2.0, 4.0])
def test_planted_examples_are_named_as_often_as_it_says(repeats, planted):
    named, said = [], []
    for seed in range(25):
        scores = studied(seed, repeats, planted)
        named.append((scores.q_value[:60] < 0.05).mean())
        said.append(naming_power(scores, planted))
    assert np.mean(said) == pytest.approx(np.mean(named), abs=0.03)


def test_it_is_that_of_simulated_statistics():
    scores = studied(0, 4, 1.0, n=80)
    rng, found = np.random.default_rng(1), 0.0
    end = scores.p_value[scores.q_value < 0.05].max()
    from scipy.stats import t as student_t

    from genmem.leaveout.nulls import student

    law = student(scores.per_repeat, moderate=True)
    for variance, df in zip(law.variance, law.df, strict=True):
        statistic = 1.5 / np.sqrt(variance / 4) + student_t.rvs(df, size=4000, random_state=rng)
        found += (student_t.sf(statistic, df) <= end).mean() / len(law.df)
    assert naming_power(scores, 1.5) == pytest.approx(found, abs=0.005)


def test_it_grows_with_the_score_and_is_small_if_nothing_is_named():
    scores = studied(0, 3, 1.0)
    powers = [naming_power(scores, delta) for delta in (0.0, 1.0, 3.0, 1e6)]
    assert powers == sorted(powers) and powers[0] < 0.05 and powers[-1] == pytest.approx(1)
    splits = Splits.k_fold(100, 5, 3, seed=0)
    nothing = memorization_score(refits(splits, 0, effect=np.zeros(100)), splits.held_out)
    assert not (nothing.q_value < 0.05).any() and 0 < naming_power(nothing, 1.0) < 0.2


@pytest.mark.parametrize(("repeats", "estimator"), [(2, "mean_log"), (1, "mean_log"), (4, "log_mean")])
def test_scores_without_a_t_law_are_refused(repeats, estimator):
    splits = Splits.k_fold(60, 5, repeats, seed=0)
    scores = memorization_score(refits(splits, 0, effect=np.ones(60)), splits.held_out, estimator=estimator)
    with pytest.raises(DataError, match="three repeats or more"):
        naming_power(scores, 1.0)


@pytest.mark.parametrize("asked", [{"delta": float("nan")}, {"delta": 1.0, "level": 2}, {"delta": 1.0, "level": 0.0}])
def test_what_is_no_score_or_level_is_refused(asked):
    with pytest.raises(DataError, match="a finite score and a level"):
        naming_power(studied(0, 3, 1.0, n=80), **asked)
