"""Scores where splits failed: what is left is scored as if the failed ones had never been planned."""

import warnings

import numpy as np
import oracles
import oracles_nulls
import pytest
from scipy import stats as scipy_stats
from score_matrices import refits

from genmem import stats
from genmem.errors import DataError
from genmem.leaveout.estimators import placebo_shifts
from genmem.leaveout.scoring import memorization_score
from genmem.run import Splits

NAMES = ("score", "log_prob_in", "log_prob_out", "standard_error", "p_value", "q_value")


def failing(splits, lost, seed=0, **options):
    ell = refits(splits, seed, **options)
    ell[list(lost)] = np.nan
    return ell


def random_failures(splits, count, seed):
    return np.random.default_rng(seed).choice(splits.n_splits, count, replace=False)


DESIGNS = [
    (Splits.k_fold(23, 4, 3, seed=1), 3),
    (Splits.k_fold(31, 5, 4), 6),
    (Splits.k_fold(12, 2, 5), 2),
    (Splits.subsets(23, 0.7, 20), 5),
    (Splits.subsets(24, 0.5, 8), 2),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("estimator", ["mean_log", "log_mean"])
@pytest.mark.parametrize(("splits", "count"), DESIGNS, ids=lambda d: getattr(d, "kind", d))
def test_scores_of_what_is_left_equal_the_loop(splits, count, estimator, seed):
    ell = failing(splits, random_failures(splits, count, seed), seed, effect=1.0).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = memorization_score(ell, splits.held_out, repeat=splits.repeat, estimator=estimator, missing="nan")
    slow = oracles.score_what_is_left_by_loop(ell, splits.held_out, splits.repeat.tolist(), estimator)
    slow["per_repeat"] = slow["per_repeat"][~np.isnan(slow["per_repeat"]).all(axis=1)]
    for name, values in slow.items():
        np.testing.assert_allclose(getattr(fast, name), values, rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(fast.repeats_used, np.isfinite(slow["per_repeat"]).sum(axis=0))
    np.testing.assert_allclose(fast.quantiles((0.5, 0.9)), np.nanquantile(slow["score"], (0.5, 0.9)), rtol=1e-9)


@pytest.mark.parametrize("moderate", [True, False])
def test_t_tests_and_intervals_have_the_df_of_each_example(moderate):
    splits = Splits.k_fold(40, 5, 4, seed=3)
    found = memorization_score(failing(splits, [0, 6, 7, 13], effect=1.0), splits.held_out, moderate=moderate)
    used = found.repeats_used
    assert set(used) >= {1, 2, 3, 4}
    variance = np.array(
        [np.var(x[np.isfinite(x)], ddof=1) if n > 1 else np.nan for x, n in zip(found.per_repeat.T, used, strict=True)]
    )
    prior = stats.moderate_variances(variance, used - 1)
    mean, error, df = oracles.student_by_loop(found.per_repeat, prior.prior_variance, prior.prior_df if moderate else 0)
    for delta, p in ((0.0, found.p_value), (0.5, found.p_above(0.5))):
        np.testing.assert_allclose(p, scipy_stats.t.sf((mean - delta) / error, df), rtol=1e-9)
    low, high = scipy_stats.t.interval(0.9, df, loc=mean, scale=error)
    np.testing.assert_allclose(found.interval(0.9), [low, high], rtol=1e-9)
    np.testing.assert_array_equal(np.isnan(found.p_value), used == 1)
    np.testing.assert_array_equal(np.isnan(found.q_value), used == 1)
    tested = used > 1
    np.testing.assert_allclose(found.q_value[tested], stats.benjamini_hochberg(found.p_value[tested]))
    assert found.reliability == pytest.approx(
        1 - np.mean(found.standard_error[tested] ** 2) / found.score[tested].var(ddof=1)
    )


@pytest.mark.parametrize(("folds", "repeats", "lost"), [(5, 2, [1]), (6, 2, [1, 2, 8]), (4, 2, [6])])
def test_placebo_p_compares_examples_of_the_same_repeats(folds, repeats, lost):
    splits = Splits.k_fold(60, folds, repeats, seed=7)
    ell = failing(splits, lost, effect=0.7)
    found = memorization_score(ell, splits.held_out, seed=11, missing="nan")
    left = ~np.isnan(ell).all(axis=1)
    held, repeat, kept = splits.held_out[left], splits.repeat[left], ell[left]
    rows = [np.flatnonzero(repeat == r) for r in range(repeats)]
    there = np.array([held[r].any(axis=0) for r in rows])
    in_ = [~held[r] & there[i] for i, r in enumerate(rows)]
    squares = sum(np.where(m, (kept[r] - np.average(kept[r], axis=0, weights=m + 1e-300)) ** 2, 0).sum(axis=0)
                  for r, m in zip(rows, in_, strict=True))  # fmt: skip
    df = sum(np.maximum(m.sum(axis=0) - 1, 0) for m in in_)
    scored = df > 0
    prior = stats.moderate_variances(squares[scored] / df[scored], df[scored])
    shifts = placebo_shifts(held, rows, 11, 16)
    ratio = oracles_nulls.variance_ratio_by_loop(kept, held, repeat.tolist())
    slow = np.full(60, np.nan)
    for pattern in np.unique(there[:, scored], axis=1).T:
        some = (there == pattern[:, None]).all(axis=0)
        mine = np.isin(repeat, np.flatnonzero(pattern))
        slow[some] = oracles.placebo_p_by_loop(
            kept[mine][:, some],
            held[mine][:, some],
            repeat[mine].tolist(),
            shifts[:, pattern].tolist(),
            prior.prior_variance,
            prior.prior_df,
            ratio,
        )
    np.testing.assert_allclose(found.p_value, slow, rtol=1e-12)
    assert len(np.unique(there[:, scored], axis=1).T) > 1


def test_log_mean_permutes_the_splits_that_are_left():
    splits = Splits.k_fold(12, 4, 3)
    ell = failing(splits, [1, 6], effect=1.0)
    found = memorization_score(ell, splits.held_out, estimator="log_mean", missing="nan")
    for i in range(splits.n):
        rows = oracles.splits_that_count(ell, splits.held_out, splits.repeat.tolist(), i)
        of = splits.repeat[rows].tolist()
        assert found.p_value[i] == pytest.approx(oracles.permutation_p_by_loop(ell[rows], splits.held_out[rows], of, i))
    assert len(set(found.repeats_used)) > 1


@pytest.mark.parametrize("estimator", ["mean_log", "log_mean"])
@pytest.mark.parametrize("repeats", [2, 3])
def test_a_repeat_that_failed_whole_was_never_planned(estimator, repeats):
    splits = Splits.k_fold(30, 5, repeats + 1, seed=2)
    ell = failing(splits, range(5), effect=1.0)
    found = memorization_score(ell, splits.held_out, estimator=estimator)
    plain = memorization_score(ell[5:], splits.held_out[5:], estimator=estimator)
    for name in (*NAMES, "per_repeat", "placebo"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name), err_msg=name)
    assert found.n_repeats == repeats


def test_placebos_have_a_score_where_the_truth_has_one():
    splits = Splits.k_fold(40, 5, 3)
    found = memorization_score(failing(splits, [1, 7]), splits.held_out)
    assert found.placebo.shape[0] > 1 and np.isfinite(found.placebo).all()
    assert found.null_quantiles((0.5,)).shape == (len(found.placebo), 1)


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeats_with_two_folds_left_make_no_placebo_but_do_not_stop_the_others(repeats):
    splits = Splits.k_fold(300, 3, repeats)
    ell = failing(splits, [1])
    found = memorization_score(ell, splits.held_out)
    assert np.isfinite(found.placebo).all() and len(found.placebo) > 0
    assert np.isfinite(found.p_value).all() == (repeats == 3)  # of two, only one repeat has placebos: no test


@pytest.mark.parametrize("estimator", ["mean_log", "log_mean"])
def test_an_example_without_a_score_is_an_error_that_names_the_splits(estimator):
    splits = Splits.k_fold(20, 5, 1)
    ell = failing(splits, [3])
    first = np.flatnonzero(splits.held_out[3])[0]
    with pytest.raises(DataError, match=rf"4 examples without a score \(first: {first}\): split 3 failed"):
        memorization_score(ell, splits.held_out, estimator=estimator)
    found = memorization_score(ell, splits.held_out, estimator=estimator, missing="nan")
    tested = ("p_value", "q_value") if estimator == "log_mean" else ()  # "mean_log" has no test at one repeat
    for name in ("score", "log_prob_in", "log_prob_out", *tested):
        np.testing.assert_array_equal(np.isnan(getattr(found, name)), splits.held_out[3], err_msg=name)
    with pytest.raises(DataError, match=r"splits 0, 1, 2, 3, 4 failed \(NaN throughout\)"):
        memorization_score(failing(splits, range(5)), splits.held_out, estimator=estimator, missing="nan")


def test_a_row_that_is_only_partly_nan_is_still_refused():
    splits = Splits.k_fold(20, 5, 2)
    ell = failing(splits, [3])
    ell[4, :19] = np.nan
    with pytest.raises(DataError, match="nan at split 4, example 0"):
        memorization_score(ell, splits.held_out)
    ell[4] = np.inf
    with pytest.raises(DataError, match="inf at split 4, example 0"):
        memorization_score(ell, splits.held_out)


@pytest.mark.parametrize("estimator", ["mean_log", "log_mean"])
def test_neither_the_order_of_examples_nor_blocks_matter_with_failures(estimator, monkeypatch):
    splits = Splits.k_fold(40, 5, 2, seed=4)
    ell = failing(splits, [2], effect=1.0)
    order = np.random.default_rng(0).permutation(40)
    before = memorization_score(ell, splits.held_out, estimator=estimator)
    monkeypatch.setattr("genmem.leaveout.scoring.BLOCK", 7 * splits.n_splits)
    after = memorization_score(ell[:, order], splits.held_out[:, order], estimator=estimator)
    for name in NAMES:
        np.testing.assert_allclose(getattr(after, name), getattr(before, name)[order], rtol=1e-9)


@pytest.mark.parametrize(("folds", "repeats", "lost"), [(5, 2, [1, 2]), (5, 3, [1, 7])])
@pytest.mark.parametrize("skew", [None, 0.5])
def test_p_stays_valid_for_examples_with_fewer_repeats(folds, repeats, lost, skew):
    p = {}
    for study in range(30):
        splits = Splits.k_fold(500, folds, repeats, seed=study)
        ell = failing(splits, lost, 100 + study, skew=skew, shared=0.3)
        found = memorization_score(ell, splits.held_out, seed=study, missing="nan")
        for used in np.unique(found.repeats_used):
            p.setdefault(int(used), []).append(found.p_value[found.repeats_used == used])
    assert len(p) > 1
    for values in map(np.concatenate, p.values()):
        tested = values[np.isfinite(values)]
        if len(tested):
            assert (tested <= 0.05).mean() <= 0.062 and (tested <= 0.01).mean() <= 0.015


def test_the_mean_of_a_repeat_does_not_depend_on_who_is_left():
    rng = np.random.default_rng(0)
    own, repeat = rng.normal(0, 100, 50), np.array([0.0, 1.0, 5.0])
    whole = own + repeat[:, None]
    np.testing.assert_array_equal(stats.repeat_means(whole), whole.mean(axis=1))
    gaps = whole.copy()
    gaps[0, :20], gaps[1, 20:25] = np.nan, np.nan
    assert np.ptp(np.nanmean(gaps, axis=1) - repeat) > 5  # what it is not
    assert np.ptp(stats.repeat_means(gaps) - repeat) < 3
    gaps[:, 7] = np.nan
    assert np.isfinite(stats.repeat_means(gaps)).all()
    gaps[2] = np.nan
    np.testing.assert_array_equal(np.isnan(stats.repeat_means(gaps)), [False, False, True])
