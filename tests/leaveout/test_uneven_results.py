"""What unequal and recurring folds change in power, prevalence and tests of "log_mean"."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student_t
from score_matrices import refits

from genmem import DataError, memorization_score
from genmem.leaveout import memorization_curve, naming_power, prevalence
from genmem.leaveout.deconvolution import _noisy
from genmem.leaveout.nulls import student
from genmem.run import Splits

TENS = np.repeat(np.arange(10), 20)  # 10 groups of 20: folds of two groups recur
FIVES = np.repeat(np.arange(5), 20)  # 5 groups in 5 folds: every repeat leaves out the same examples together
BIG = np.r_[np.zeros(60, int), np.repeat(np.arange(1, 9), 5)]


def scored(groups, effect=2.0, repeats=4, **asked):
    splits = Splits.k_fold(len(groups), 5, repeats, seed=0, groups=groups)
    return memorization_score(refits(splits, 0, effect=effect), splits.held_out, repeat=splits.repeat, **asked)


def test_power_is_that_of_tests_with_raised_errors():
    scores = scored(TENS)
    law = student(scores.per_repeat, moderate=True, factor=scores.uneven.variance_factor)
    named = scores.p_value[scores.q_value < 0.05]
    end = max(named.max(initial=0.0), 0.05 / len(TENS))
    rng, found = np.random.default_rng(1), []
    for variance, df in zip(law.variance, law.df, strict=True):
        statistic = 3.0 / np.sqrt(variance / 4) + student_t.rvs(df, size=4000, random_state=rng)
        found.append((student_t.sf(statistic, df) <= end).mean())
    assert naming_power(scores, 3.0) == pytest.approx(np.mean(found), abs=0.005)
    assert naming_power(replace(scores, uneven=None), 3.0) > naming_power(scores, 3.0) + 0.1


def test_true_scores_are_from_raised_errors():
    scores = scored(TENS)
    half = np.diff(scores.interval(), axis=0)[0] / 2
    noisy = _noisy(scores)
    np.testing.assert_allclose(noisy.error * student_t.isf(0.025, noisy.df), half, rtol=1e-9)
    assert not np.allclose(noisy.error, _noisy(replace(scores, uneven=None)).error, rtol=0.3)


def test_examples_that_score_without_being_memorized_have_no_expected_score():
    scores = scored(BIG)
    found = prevalence(scores)
    biased = (scores.uneven.size_bias != 0) | np.isnan(scores.uneven.variance_factor)
    assert biased.any() and not biased.all()
    np.testing.assert_array_equal(np.isnan(found.posterior_mean), biased)


def test_folds_that_allow_no_test_say_so():
    scores = scored(FIVES)
    assert np.isnan(scores.p_value).all()
    for ask in (prevalence, lambda some: naming_power(some, 1.0)):
        with pytest.raises(DataError, match="leave out the same examples together.*smaller groups"):
            ask(scores)


def test_log_mean_is_not_tested_with_repeats_that_are_not_independent():
    scores = scored(TENS, effect=0.0, estimator="log_mean")
    assert np.isfinite(scores.score).all() and np.isnan([scores.p_value, scores.q_value]).all()
    equal = scored(np.arange(200), effect=0.0, estimator="log_mean")
    assert np.isfinite(equal.p_value).all()


def test_curves_have_no_first_epoch_if_folds_cannot_be_exchanged():
    for groups in (TENS, BIG, np.arange(100)):
        splits = Splits.k_fold(len(groups), 5, 4, seed=0, groups=groups)
        matrices = [refits(splits, seed, effect=3.0) for seed in (0, 1)]
        curve = memorization_curve(matrices, splits.held_out, splits.repeat)
        tested = groups[-1] == 99
        for excess in (curve.quantiles, curve.gap):
            assert np.isfinite(excess.value).all()
            for p in (excess.p_value, excess.p_corrected, excess.p_without):
                assert np.isfinite(p).all() if tested else np.isnan(p).all()
        assert (curve.gap.first() == 1) == tested == bool(np.isfinite(curve.gap_student_p).all())
        assert tested or ((curve.quantiles.first() == -1).all() and curve.gap.first_range() == (-1, -1))
