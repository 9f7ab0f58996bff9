"""Curves over training: what the loop computes, the null it stands beside, and how often it is wrong."""

import itertools

import numpy as np
import oracles
import pytest
from scipy import stats as scipy_stats

from genmem.errors import DataError
from genmem.leaveout import curves, fold_shifts
from genmem.leaveout.curves import memorization_curve
from genmem.run import Splits

LEVELS = (0.5, 0.9)


def refits(rng, splits, strength=(0.0,), noise=1.0, shared=0.0):
    """log p (E, n_splits, n) of refits whose epochs share most of their noise; `strength` (E,) of memorization."""
    shape = (splits.n_splits, splits.n)
    common = rng.normal(size=shape)
    models = shared * rng.normal(size=(splits.n_splits, 1))
    level = -50 + 9 * rng.normal(size=splits.n)
    return np.array(
        [level + noise * (common + 0.3 * rng.normal(size=shape)) + models - s * splits.held_out for s in strength]
    )


def curve_of(log_probs, splits, **options):
    return memorization_curve(log_probs, splits.held_out, splits.repeat, **options)


@pytest.mark.parametrize("failed", [[], [1], [0, 5]])
@pytest.mark.parametrize("repeats", [1, 2])
def test_curve_equals_the_loop(failed, repeats):
    rng, splits = np.random.default_rng(1), Splits.k_fold(23, 4, repeats, seed=3)
    log_probs = refits(rng, splits, (0.0, 0.4, 2.0))
    log_probs[:, [s for s in failed if s < splits.n_splits]] = np.nan
    curve = curve_of(log_probs, splits, levels=LEVELS)
    rotations = list(itertools.product(range(4), repeat=repeats))[1:]
    placebos = list(itertools.product([1, 2, 3], repeat=repeats))
    slow = [
        oracles.curve_by_loop(ell, splits.held_out, splits.repeat, LEVELS, rotations, placebos) for ell in log_probs
    ]
    value, rotated, null = (np.array(part) for part in zip(*slow, strict=True))  # (E, C), (E, g, C), (E, m, C)

    def columns(name):
        return np.column_stack([getattr(curve.quantiles, name), getattr(curve.gap, name)])

    np.testing.assert_allclose(columns("value"), value, atol=1e-9)
    np.testing.assert_allclose(columns("null_mean"), null.mean(axis=1), atol=1e-9)
    np.testing.assert_allclose(columns("null_high"), np.quantile(null, 0.975, axis=1), atol=1e-9)
    rank = (1 + (rotated >= value[:, None] - 1e-12).sum(axis=1)) / (1 + len(rotations))
    np.testing.assert_allclose(columns("p_value"), rank)
    corrected = [oracles.step_down_by_loop(value[:, c], rotated[:, :, c]) for c in range(value.shape[1])]
    np.testing.assert_allclose(columns("p_corrected"), np.transpose(corrected))


def test_errors_leave_out_one_repeat_at_a_time():
    rng, splits = np.random.default_rng(2), Splits.k_fold(40, 5, 4)
    log_probs = refits(rng, splits, (1.0,))
    curve = curve_of(log_probs, splits, levels=LEVELS)
    left = []
    for r in range(4):
        keep = splits.repeat != r
        part = memorization_curve(log_probs[:, keep], splits.held_out[keep], splits.repeat[keep], levels=LEVELS)
        left.append(part.quantiles.value[0])
    spread = np.sqrt(3 / 4 * ((left - np.mean(left, axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(curve.quantiles.error[0], spread)
    np.testing.assert_allclose(curve.quantiles.denoised[0], 4 * curve.quantiles.value[0] - 3 * np.mean(left, axis=0))
    per_repeat = curve.gap_per_repeat[0]
    assert curve.gap.error[0] == pytest.approx(per_repeat.std(ddof=1) / 2)
    assert curve.gap_student_p[0] == pytest.approx(scipy_stats.ttest_1samp(per_repeat, 0, alternative="greater").pvalue)
    low, high = curve.gap.interval()
    assert (low[0], high[0]) == pytest.approx(scipy_stats.ttest_1samp(per_repeat, 0).confidence_interval())


def test_losses_and_gap_agree_with_each_other():
    rng, splits = np.random.default_rng(3), Splits.k_fold(30, 5, 3)
    log_probs = refits(rng, splits, (0.5, 3.0))
    curve = curve_of(log_probs, splits)
    np.testing.assert_allclose(curve.mean_in - curve.mean_out, curve.gap.value)
    np.testing.assert_allclose(curve.gap_per_repeat.mean(axis=1), curve.gap.value)
    assert curve.out_by_split[1, 4] == pytest.approx(log_probs[1, 4][splits.held_out[4]].mean())
    assert curve.in_by_split[1, 4] == pytest.approx(log_probs[1, 4][~splits.held_out[4]].mean())
    assert curve.best == int(curve.mean_out.argmax())


def test_memorization_is_found_where_it_starts():
    splits = Splits.k_fold(300, 5, 4)
    log_probs = refits(np.random.default_rng(4), splits, (0, 0, 0, 1.5, 3, 3))
    curve = curve_of(log_probs, splits, epochs=[1, 2, 4, 8, 16, 32])
    assert curve.gap.first() == 8
    np.testing.assert_array_equal(curve.quantiles.first()[:2], [8, 8])
    low, high = curve.gap.first_range()
    assert (low, high) == (8, 8)
    assert (curve.gap.excess[3:] > 1).all()


def test_all_examples_and_epochs_of_a_repeat_move_together():
    """Model effects shared by all examples widen the null of a quantile; drawn example by example they would not."""
    splits = Splits.k_fold(400, 5, 3)
    log_probs = refits(np.random.default_rng(5), splits, (0.0,), noise=0.1, shared=2.0)
    q = curve_of(log_probs, splits, levels=(0.9,)).quantiles
    assert (q.null_high - q.null_low)[0, 0] > 0.5
    assert q.null_low[0, 0] < q.value[0, 0] < q.null_high[0, 0]
    twice = curve_of(np.repeat(log_probs, 2, axis=0), splits)
    np.testing.assert_array_equal(twice.quantiles.p_corrected, twice.quantiles.p_value)  # one question, asked twice


def test_null_has_the_noise_of_the_score_not_of_one_in_split_fewer():
    splits = Splits.k_fold(8000, 3, 2)  # 2 in-splits against the 1 of a placebo: 15% more noise
    q = curve_of(refits(np.random.default_rng(6), splits), splits, levels=(0.95,)).quantiles
    assert q.value[0, 0] == pytest.approx(q.null_mean[0, 0], rel=0.05)


def test_denoised_quantiles_take_off_what_noise_adds():
    rng, splits = np.random.default_rng(7), Splits.k_fold(40_000, 5, 4)
    truth = rng.exponential(2.0, splits.n)
    log_probs = 2.0 * rng.normal(size=(1, splits.n_splits, splits.n)) - truth * splits.held_out
    q = curve_of(log_probs, splits, levels=(0.95,), draws=9).quantiles
    target = np.quantile(truth, 0.95)
    assert abs(q.denoised[0, 0] - target) < 0.5 * abs(q.value[0, 0] - target)


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [2, 3])
def test_false_alarms_over_all_epochs_keep_their_rate(repeats, monkeypatch):
    """200 null studies of 4 epochs: 5% of alarms are 10, and 20 come in less than one of 400 such tests."""
    monkeypatch.setattr(fold_shifts, "JACKKNIFE_DRAWS", 1)
    rng, alarms = np.random.default_rng(8), np.zeros(3)
    for study in range(200):
        splits = Splits.k_fold(60, 5, repeats, seed=study)
        curve = curve_of(refits(rng, splits, np.zeros(4), shared=0.7), splits, levels=LEVELS, draws=39, seed=study)
        alarms += np.append(curve.quantiles.first(), curve.gap.first()) != curves.NEVER
    assert 1 <= alarms.min() and alarms.max() < 20


def test_a_repeat_that_failed_counts_as_one_that_was_not_made():
    splits = Splits.k_fold(50, 5, 4)
    log_probs = refits(np.random.default_rng(9), splits, (1.0, 2.0))
    keep = splits.repeat < 3
    log_probs[:, ~keep] = np.nan
    whole = curve_of(log_probs, splits)
    part = memorization_curve(log_probs[:, keep], splits.held_out[keep], splits.repeat[keep])
    for name in ("value", "error", "denoised"):
        np.testing.assert_allclose(getattr(whole.quantiles, name), getattr(part.quantiles, name))
    np.testing.assert_allclose(whole.gap_student_p, part.gap_student_p)
    assert np.isnan(whole.out_by_split[:, ~keep]).all() and np.isnan(whole.gap_per_repeat[:, 3]).all()


def test_an_epoch_at_which_everything_failed_is_never_significant():
    splits = Splits.k_fold(50, 5, 3)
    log_probs = refits(np.random.default_rng(10), splits, (3.0, 3.0, 3.0))
    log_probs[0] = np.nan
    curve = curve_of(log_probs, splits, epochs=[1, 2, 3])
    assert np.isnan(curve.gap.value[0]) and curve.gap.p_corrected[0] == 1
    assert curve.gap.first() == 2


def test_one_repeat_has_a_curve_but_no_errors_and_two_folds_no_placebo():
    rng = np.random.default_rng(11)
    splits = Splits.k_fold(30, 2, 1)
    curve = curve_of(refits(rng, splits, (0.0, 5.0)), splits)
    assert np.isnan(curve.quantiles.null_mean).all() and np.isnan(curve.quantiles.error).all()
    assert np.isnan(curve.gap_student_p).all() and np.isnan(curve.gap.interval()[0]).all()
    assert curve.gap.first() == curve.gap.first_range()[0] == curve.gap.first_range()[1] == curves.NEVER
    assert curve.gap.value[1] > 4 and curve.gap.p_value.min() >= 0.5
    splits = Splits.k_fold(30, 2, 6)
    assert curve_of(refits(rng, splits, (0.0, 5.0)), splits).gap.p_value[1] <= 2 / 64


def test_refits_that_agree_exactly_show_nothing():
    splits = Splits.k_fold(30, 5, 3)
    same = np.tile(np.random.default_rng(12).normal(size=splits.n), (1, splits.n_splits, 1))
    curve = curve_of(same, splits)
    np.testing.assert_array_equal(curve.quantiles.value, 0)
    np.testing.assert_array_equal(curve.quantiles.p_corrected, 1)
    np.testing.assert_array_equal(curve.gap_student_p, 0.5)


def test_balanced_subsets_and_float32_are_scored_too():
    splits = Splits.subsets(60, 0.7, 30)
    log_probs = refits(np.random.default_rng(13), splits, (0.0, 3.0)).astype(np.float32)
    curve = curve_of(log_probs, splits, epochs=[1, 9])
    assert curve.gap.first() == 9
    assert curve.gap.value[1] == pytest.approx(3.0, abs=0.5)


def test_arrays_survive_the_disk(tmp_path):
    splits = Splits.k_fold(40, 5, 3)
    curve = curve_of(refits(np.random.default_rng(14), splits, (0.0, 4.0)), splits, epochs=[3, 7])
    np.savez(tmp_path / "curve.npz", **curve.to_arrays())
    with np.load(tmp_path / "curve.npz") as kept:
        np.testing.assert_array_equal(kept["quantiles_first_epoch"], curve.quantiles.first())
        assert kept["gap_first_epoch"] == 7 and kept["gap_first_epoch_low"] <= 7
        assert kept["score_quantiles"].shape == kept["null_quantiles"].shape == (2, 3)
        np.testing.assert_allclose(kept["mean_in"] - kept["mean_out"], kept["mean_score"])
        assert kept["best_epoch"] in (3, 7)


@pytest.mark.parametrize(("sizes", "draws"), [([4, 3, 4], 999), ([4] * 3, 20), ([9] * 10, 50), ([19] * 30, 5)])
def test_rotations_are_distinct_never_the_truth_and_complete_where_they_fit(sizes, draws):
    found = fold_shifts._rotations(sizes, draws, 0)
    assert len(found) == len(np.unique(found, axis=0)) == min(draws, np.prod(sizes, dtype=float) - 1)
    assert found.any(axis=1).all() and found.min() >= 0 and (found < sizes).all()


def test_what_cannot_be_scored_is_refused():
    splits = Splits.k_fold(12, 3, 2)
    good = refits(np.random.default_rng(15), splits)[0]
    bad = good.copy()
    bad[2, 5] = np.nan
    with pytest.raises(DataError, match="epoch position 1, split 2, example 5"):
        curve_of([good, bad], splits)
    with pytest.raises(DataError, match="at position 0"):
        curve_of([good[:, :-1]], splits)
    for epochs in ([2, 1], [1], []):
        with pytest.raises(DataError, match="rising epoch"):
            curve_of([good, good], splits, epochs=epochs)
    with pytest.raises(DataError, match="at least one"):
        curve_of([], splits)
    with pytest.raises(DataError, match="too many refits failed"):
        curve_of([np.full_like(good, np.nan)], splits)
