"""Tests of no memorization hold where log p of held-out examples is noisier than that of training examples."""

import numpy as np
import oracles
import oracles_nulls
import pytest
from score_matrices import noise, refits

from genmem import stats
from genmem.leaveout import nulls
from genmem.leaveout.estimators import placebo_shifts, repeats_of
from genmem.leaveout.scoring import memorization_score
from genmem.run import Splits

LAWS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "t4": lambda rng, shape: rng.standard_t(4, shape) / 2**0.5,
}
LAWS["skewed"] = lambda rng, shape: noise(rng, shape, 0.5)


def study(seed, law, ratio, memorized, *, repeats=2, n=600, shared=0.0):
    """Refits, their splits and true scores: held-out log p with `ratio` times the variance."""
    rng, splits = np.random.default_rng([seed, repeats]), Splits.k_fold(n, 5, repeats, seed=seed)
    truth = np.where(rng.random(n) < memorized, 2 + 2 * rng.standard_exponential(n), 0.0)
    own = LAWS[law](rng, splits.held_out.shape) * np.sqrt(4 / rng.chisquare(4, n))
    together = LAWS[law](rng, (splits.n_splits, 1))
    spread = np.where(splits.held_out, np.sqrt(ratio), 1.0)
    ell = -50 + (np.sqrt(1 - shared) * own + np.sqrt(shared) * together) * spread - truth * splits.held_out
    return ell, splits, truth


def rates(law, ratio, memorized, studies, **options):
    """The size at .05, the false-discovery rate at q <= .05 and the power, over studies."""
    found = []
    for seed in range(studies):
        ell, splits, truth = study(seed, law, ratio, memorized, **options)
        scores = memorization_score(ell, splits.held_out, seed=seed)
        flagged = scores.q_value <= 0.05
        false = (flagged & (truth == 0)).sum() / max(1, flagged.sum())
        power = flagged[truth > 0].mean() if memorized else 0.0
        found.append([(scores.p_value[truth == 0] <= 0.05).mean(), false, power])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("law", LAWS)
def test_two_repeats_keep_their_size_where_held_out_log_p_is_noisier(law):
    size, false, _ = rates(law, 3.0, 0.3, 10)
    assert size <= 0.06 and false <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.5])
@pytest.mark.parametrize("memorized", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("law", LAWS)
def test_sizes_and_false_discovery_rates_at_all_ratios(law, memorized, shared):
    for ratio in (1.0, 2.0, 3.0):
        size, false, power = rates(law, ratio, memorized, 30, shared=shared)
        assert size <= 0.055, ratio
        assert false <= 0.05 * (1 - memorized) + 0.01, ratio
        if memorized and ratio == 1 and law != "skewed":
            assert power > 0.55


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, 1.0), (3.0, 3.0)])
def test_the_variance_ratio_is_found_whatever_is_memorized(ratio, expected):
    found = []
    for seed in range(10):
        ell, splits, _ = study(seed, "normal", ratio, 0.7)
        rows = repeats_of(splits.held_out)
        contrasts = nulls.contrasts(ell, splits.held_out, ~splits.held_out, [np.roll(splits.held_out, 1, 0)], rows)
        scores = memorization_score(ell, splits.held_out).per_repeat
        found.append(nulls.variance_ratio(contrasts, scores, splits.held_out.argmax(axis=0)))
        slow = oracles_nulls.variance_ratio_by_loop(ell[:, :60], splits.held_out[:, :60], splits.repeat.tolist())
        part = nulls.Contrasts(*(values[:, :60] for values in contrasts))
        fast = nulls.variance_ratio(part, scores[:, :60], splits.held_out[:, :60].argmax(axis=0))
        assert fast == pytest.approx(slow, rel=1e-10)
    assert expected <= np.mean(found) <= expected + 0.6  # with one standard error


def test_without_two_repeats_of_an_example_there_is_no_ratio():
    ell, splits, _ = study(0, "normal", 1.0, 0.0, n=40)
    rows = repeats_of(splits.held_out)
    contrasts = nulls.contrasts(ell, splits.held_out, ~splits.held_out, [np.roll(splits.held_out, 1, 0)], rows)
    per_repeat = memorization_score(ell, splits.held_out).per_repeat
    per_repeat[0] = np.nan
    assert np.isnan(nulls.variance_ratio(contrasts, per_repeat, splits.held_out.argmax(axis=0)))


# --- equal to loops


@pytest.mark.parametrize("spread_out", [1.0, 2.0])
@pytest.mark.parametrize("folds", [4, 5, 9])
def test_p_values_by_placebo_equal_the_loop(folds, spread_out):
    splits = Splits.k_fold(30, folds, 2, seed=7)
    ell, rows = noisier_out(splits, 3, spread_out) - 0.7 * splits.held_out, repeats_of(splits.held_out)
    squares = sum(ell[r].var(axis=0, where=~splits.held_out[r]) * (folds - 1) for r in rows)
    df = 2 * (folds - 2)
    prior = stats.moderate_variances(squares / df, df)
    shifts = placebo_shifts(splits.held_out, rows, 11, 16)
    repeat = splits.repeat.tolist()
    ratio = oracles_nulls.variance_ratio_by_loop(ell, splits.held_out, repeat)
    slow = oracles.placebo_p_by_loop(
        ell, splits.held_out, repeat, shifts.tolist(), prior.prior_variance, prior.prior_df, ratio
    )
    found = memorization_score(ell, splits.held_out, seed=11)
    np.testing.assert_allclose(found.p_value, slow, rtol=1e-12)
    assert ratio > 1 or spread_out == 1
    assert np.isfinite(found.standard_error).all() and np.isnan(found.p_above(1.0)).all()


def noisier_out(splits, seed, factor):
    """Refits without memorization under which log p of held-out examples has `factor` times the spread."""
    return -50 + (refits(splits, seed) + 50) * np.where(splits.held_out, factor, 1.0)


def test_with_three_folds_true_and_placebo_are_compared_with_the_same_fold():
    splits = Splits.k_fold(20, 3, 2)
    ell, rows = noisier_out(splits, 4, 1.5), repeats_of(splits.held_out)
    shifts = placebo_shifts(splits.held_out, rows, 0, 16)
    out = [splits.held_out[r].argmax(axis=0) for r in rows]
    column = np.arange(20)

    def fold(r, by):
        return ell[rows[r][(out[r] + by) % 3], column]

    ratio = oracles_nulls.variance_ratio_by_loop(ell, splits.held_out, splits.repeat.tolist())
    t = sum(fold(r, -shifts[0, r]) - fold(r, 0) for r in (0, 1)) / np.sqrt(2 * ratio + 2)
    placebos = [sum(fold(r, -by[r]) - fold(r, by[r]) for r in (0, 1)) / 2 for by in shifts]
    slow = [(1 + (np.array(placebos) >= x).sum()) / (1 + np.size(placebos)) for x in t]
    assert ratio > 1
    np.testing.assert_allclose(memorization_score(ell, splits.held_out).p_value, slow)


def test_one_repeat_gives_scores_but_no_test():
    """One held-out value per example: no law of its noise can be told from memorization."""
    for folds in (2, 3, 5, 12):
        splits = Splits.k_fold(24, folds, 1)
        found = memorization_score(refits(splits, 5), splits.held_out)
        assert np.isfinite(found.score).all() and np.isnan([found.p_value, found.q_value, found.standard_error]).all()
        assert len(found.placebo) == (0 if folds == 2 else min(8, folds - 1))
