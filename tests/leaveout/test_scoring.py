"""The memorization score: equal to loops, unbiased, calibrated under no effect, and able to find one."""

import numpy as np
import oracles
import pytest
from scipy import stats as scipy_stats
from score_matrices import refits
from sklearn.neighbors import KernelDensity

from genmem import stats
from genmem.errors import DataError
from genmem.leaveout import estimators, scoring
from genmem.leaveout.estimators import placebo_shifts, repeats_of, shifted
from genmem.leaveout.scoring import memorization_score
from genmem.run import Splits

DESIGNS = [
    Splits.k_fold(23, 4, 3, seed=1),
    Splits.k_fold(11, 5, 2),
    Splits.k_fold(12, 6, 1),
    Splits.subsets(23, 0.7, 20),
]


# --- equal to loops


@pytest.mark.parametrize("estimator", ["mean_log", "log_mean"])
@pytest.mark.parametrize("splits", DESIGNS, ids=lambda s: f"{s.kind}-{s.n_splits}")
def test_scores_equal_the_loop(splits, estimator):
    ell = refits(splits, 0, effect=1.0).astype(np.float32)
    fast = memorization_score(ell, splits.held_out, repeat=splits.repeat, estimator=estimator)
    slow = oracles.score_by_loop(ell, splits.held_out, splits.repeat.tolist(), estimator)
    for name, values in slow.items():
        np.testing.assert_allclose(getattr(fast, name), values, rtol=1e-10, atol=1e-10, err_msg=name)
    assert fast.score.dtype == np.float64 and fast.n_repeats == splits.n_repeats


@pytest.mark.parametrize("estimator", ["mean_log", "log_mean"])
@pytest.mark.parametrize("splits", DESIGNS, ids=lambda s: f"{s.kind}-{s.n_splits}")
def test_placebos_are_scores_of_shifted_folds_without_the_true_one(splits, estimator):
    ell, rows = refits(splits, 1), repeats_of(splits.held_out, splits.repeat)
    found = memorization_score(ell, splits.held_out, repeat=splits.repeat, estimator=estimator, seed=5)
    shifts = placebo_shifts(splits.held_out, rows, 5, 16 if estimator == "mean_log" and len(rows) == 2 else 8)[:8]
    assert len(found.placebo) == len(shifts) > 1
    for placebo, shift in zip(found.placebo, shifts, strict=True):
        out = oracles.roll_by_loop(splits.held_out, splits.repeat.tolist(), shift)
        for i in range(splits.n):
            seen = ~splits.held_out[:, i]  # the true fold is dropped
            slow = oracles.score_by_loop(ell[seen][:, [i]], out[seen][:, [i]], splits.repeat[seen].tolist(), estimator)
            assert placebo[i] == pytest.approx(slow["score"][0], abs=1e-10)


@pytest.mark.parametrize("repeats", [3, 6])
def test_p_values_are_one_sided_t_tests_over_repeats(repeats):
    splits = Splits.k_fold(40, 5, repeats)
    ell = refits(splits, 2, effect=0.5)
    plain = memorization_score(ell, splits.held_out, moderate=False)
    by_scipy = scipy_stats.ttest_1samp(plain.per_repeat, 0, alternative="greater").pvalue
    np.testing.assert_allclose(plain.p_value, by_scipy, rtol=1e-9)
    np.testing.assert_allclose(
        plain.p_above(1.0), scipy_stats.ttest_1samp(plain.per_repeat, 1, alternative="greater").pvalue, rtol=1e-9
    )
    found = memorization_score(ell, splits.held_out)
    prior = stats.moderate_variances(found.per_repeat.var(axis=0, ddof=1), repeats - 1)
    slow = oracles.student_p_by_loop(found.per_repeat, prior.prior_variance, prior.prior_df)
    np.testing.assert_allclose(found.p_value, slow, rtol=1e-9)
    np.testing.assert_allclose(found.standard_error, plain.standard_error)  # never moderated
    np.testing.assert_allclose(found.q_value, stats.benjamini_hochberg(slow), rtol=1e-9)


def test_two_folds_give_scores_but_no_p_below_three_repeats():
    splits = Splits.k_fold(20, 2, 2)
    found = memorization_score(refits(splits, 5), splits.held_out)
    assert np.isfinite(found.score).all() and np.isnan(found.p_value).all() and np.isnan(found.q_value).all()
    assert found.placebo.shape == (0, 20) and found.null_quantiles((0.5, 0.9)).shape == (0, 2)
    splits = Splits.k_fold(20, 2, 3)
    assert np.isfinite(memorization_score(refits(splits, 5), splits.held_out).p_value).all()


@pytest.mark.parametrize("splits", [Splits.k_fold(9, 5, 1), Splits.k_fold(9, 4, 3), Splits.subsets(12, 0.6, 5)])
def test_log_mean_p_is_the_exact_permutation_p_where_all_arrangements_fit(splits):
    ell = refits(splits, 6, effect=1.0)
    found = memorization_score(ell, splits.held_out, repeat=splits.repeat, estimator="log_mean")
    slow = [oracles.permutation_p_by_loop(ell, splits.held_out, splits.repeat.tolist(), i) for i in range(splits.n)]
    np.testing.assert_allclose(found.p_value, slow, rtol=1e-12)


@pytest.mark.slow
def test_log_mean_p_is_close_to_exact_where_arrangements_are_drawn():
    splits = Splits.k_fold(12, 11, 3)
    ell = refits(splits, 7, effect=0.5)
    found = memorization_score(ell, splits.held_out, estimator="log_mean").p_value
    slow = [oracles.permutation_p_by_loop(ell, splits.held_out, splits.repeat.tolist(), i) for i in range(3)]
    np.testing.assert_allclose(found[:3], slow, atol=0.05)
    assert (found >= 1 / 1000).all() and len(set(found)) > 6


# --- what must not matter


@pytest.mark.parametrize("estimator", ["mean_log", "log_mean"])
@pytest.mark.parametrize("repeats", [1, 2, 4])
def test_the_order_of_examples_and_blocks_does_not_matter(estimator, repeats, monkeypatch):
    splits = Splits.k_fold(29, 5, repeats)
    ell = refits(splits, 8, effect=1.0)
    order = np.random.default_rng(0).permutation(29)
    before = memorization_score(ell, splits.held_out, estimator=estimator)
    monkeypatch.setattr(scoring, "BLOCK", 7 * splits.n_splits)
    after = memorization_score(ell[:, order], splits.held_out[:, order], estimator=estimator)
    for name in ("score", "log_prob_in", "log_prob_out", "standard_error", "p_value", "q_value"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name)[order], rtol=1e-9)
    np.testing.assert_allclose(after.placebo, before.placebo[:, order], atol=1e-9)


@pytest.mark.parametrize("estimator", ["mean_log", "log_mean"])
@pytest.mark.parametrize("repeats", [1, 4])
def test_the_order_of_splits_does_not_matter(estimator, repeats):
    splits = Splits.k_fold(29, 5, repeats)
    ell = refits(splits, 9, effect=1.0)
    order = np.random.default_rng(1).permutation(splits.n_splits)
    before = memorization_score(ell, splits.held_out, repeat=splits.repeat, estimator=estimator)
    after = memorization_score(ell[order], splits.held_out[order], repeat=splits.repeat[order], estimator=estimator)
    exact = ("score", "log_prob_in", "log_prob_out", "standard_error")
    for name in exact if estimator == "log_mean" and repeats > 1 else (*exact, "p_value"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-9)


def test_the_seed_moves_placebos_only():
    splits = Splits.k_fold(30, 9, 3)
    ell = refits(splits, 10)
    a, b, c = (memorization_score(ell, splits.held_out, seed=s) for s in (0, 0, 1))
    assert (a.placebo == b.placebo).all() and (a.placebo != c.placebo).any()
    assert (a.p_value == c.p_value).all()


# --- unbiased where it should be, biased as predicted where not


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "bias"), [(1, 0.064), (3, 1.044), (5, 2.677)])
def test_log_mean_is_biased_by_heavy_tails_and_mean_log_is_not(spread, bias):
    splits = Splits.k_fold(60_000, 10, 10)
    ell = np.random.default_rng(spread).normal(0, spread, splits.held_out.shape)
    assert memorization_score(ell, splits.held_out).score.mean() == pytest.approx(0, abs=0.05)
    rows = repeats_of(splits.held_out)
    log_in, log_out = estimators.log_mean(ell, splits.held_out, ~splits.held_out, rows)
    assert (log_in - log_out).mean() == pytest.approx(bias, abs=0.05)


def test_leave_one_out_refits_of_a_kde_equal_the_closed_form():
    rng = np.random.default_rng(11)
    X, h, n = rng.normal(size=(25, 2)), 0.4, 25
    splits = Splits.leave_out(n, np.arange(n))
    refit = [KernelDensity(bandwidth=h).fit(X[~out]).score_samples(X) for out in splits.held_out]
    K = np.exp(-((X[:, None] - X) ** 2).sum(axis=2) / (2 * h**2))
    S = K.sum(axis=1) - 1
    found = memorization_score(refit, splits.held_out)
    left_out = np.log(1 + (1 - K) / S[:, None])  # in-model without s against the one without i: log ratio of sums
    closed = (left_out.sum(axis=1) - left_out.diagonal()) / (n - 1)
    np.testing.assert_allclose(found.score, closed, atol=1e-10)
    # With the fit to all examples as the in-model, it is the leave-one-out score itself.
    full = KernelDensity(bandwidth=h).fit(X).score_samples(X)
    loo = memorization_score(np.where(splits.held_out, refit, full), splits.held_out).score
    np.testing.assert_allclose(loo, np.log1p(1 / S) + np.log((n - 1) / n), atol=1e-10)
    np.testing.assert_allclose(full, oracles.kde_log_density(X, X, h), atol=1e-10)


# --- calibrated under no effect

NO_EFFECT = [(None, 0.0), (None, 0.5), (0.5, 0.0), (0.5, 0.5)]


def sizes(splits, skew, shared, studies, estimator="mean_log", **options):
    """How often p is at most .5, .1, .05 and .01 with no effect at all, over some studies."""
    p = [
        memorization_score(
            refits(splits, 100 + s, skew=skew, shared=shared),
            splits.held_out,
            repeat=splits.repeat,
            estimator=estimator,
            seed=s,
            **options,
        ).p_value
        for s in range(studies)
    ]
    return [(np.concatenate(p) <= level).mean() for level in (0.5, 0.1, 0.05, 0.01)]


@pytest.mark.slow
@pytest.mark.parametrize(("skew", "shared"), NO_EFFECT)
@pytest.mark.parametrize("folds", [3, 4, 5, 10])
def test_p_by_placebo_is_slightly_conservative_under_no_effect(folds, skew, shared):
    half, tenth, twentieth, hundredth = sizes(Splits.k_fold(500, folds, 2), skew, shared, 40)
    assert 0.44 <= half <= 0.53
    assert 0.065 <= tenth <= 0.11
    assert 0.03 <= twentieth <= 0.055
    assert 0.004 <= hundredth <= 0.013


@pytest.mark.slow
@pytest.mark.parametrize(("skew", "shared"), NO_EFFECT)
@pytest.mark.parametrize("repeats", [3, 5, 10])
def test_moderated_t_is_uniform_without_skew_and_conservative_with_it(repeats, skew, shared):
    half, tenth, twentieth, hundredth = sizes(Splits.k_fold(500, 5, repeats), skew, shared, 30)
    assert half <= 0.53 and tenth <= 0.115 and twentieth <= 0.06 and hundredth <= 0.014
    if skew is None:
        assert half >= 0.47 and tenth >= 0.085 and twentieth >= 0.04 and hundredth >= 0.006


@pytest.mark.parametrize(("skew", "shared"), NO_EFFECT)
@pytest.mark.parametrize("repeats", [2, 3])
def test_permutation_p_is_uniform_under_no_effect(repeats, skew, shared):
    half, tenth, twentieth, hundredth = sizes(Splits.k_fold(200, 10, repeats), skew, shared, 30, "log_mean")
    assert half == pytest.approx(0.5, abs=0.03)
    assert tenth == pytest.approx(0.1, abs=0.02)
    assert twentieth == pytest.approx(0.05, abs=0.015)
    assert hundredth == pytest.approx(0.01, abs=0.005)


@pytest.mark.slow
def test_other_designs_are_calibrated_too():
    for splits in (Splits.subsets(500, 0.7, 20), Splits.subsets(500, 0.75, 8)):  # two repeats
        _, tenth, twentieth, hundredth = sizes(splits, 1.5, 0.3, 40)
        assert 0.065 <= tenth <= 0.11 and 0.03 <= twentieth <= 0.055 and 0.004 <= hundredth <= 0.013


@pytest.mark.parametrize("repeats", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_examples_no_refit_trained_on_have_uniform_p(repeats):
    """Real refits of a kernel density estimate; no training set had the scored examples: their labels are arbitrary."""
    rng = np.random.default_rng(12)
    p = []
    for study in range(12):
        train, fresh = rng.normal(size=(120, 3)), rng.normal(size=(250, 3))
        splits, labels = Splits.k_fold(120, 6, repeats, seed=study), Splits.k_fold(250, 6, repeats, seed=99 + study)
        ell = [KernelDensity(bandwidth=0.5).fit(train[~out]).score_samples(fresh) for out in splits.held_out]
        p.append(memorization_score(ell, labels.held_out, seed=study).p_value)
    p = np.concatenate(p)
    assert (p <= 0.5).mean() == pytest.approx(0.5, abs=0.05)
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.02)


# --- and able to find an effect


@pytest.mark.parametrize(("repeats", "least"), [(2, 0.83), (3, 0.9), (8, 0.97)])
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_effects_are_found_at_the_promised_false_discovery_rate(repeats, least, shared):
    found, false = [], []
    for study in range(5):
        splits = Splits.k_fold(600, 10, repeats, seed=study)
        rng = np.random.default_rng(study)
        effect = np.where(rng.random(600) < 0.4, 3 + 2 * rng.standard_exponential(600), 0)
        flagged = (
            memorization_score(refits(splits, study, shared=shared, effect=effect), splits.held_out).q_value <= 0.05
        )
        found.append(flagged[effect > 0].mean())
        false.append((flagged & (effect == 0)).sum() / max(flagged.sum(), 1))
    assert np.mean(found) >= least
    assert np.mean(false) <= 0.06


def test_moderation_is_what_finds_effects_at_three_repeats():
    splits = Splits.k_fold(600, 5, 3)
    ell = refits(splits, 13, effect=4.0)
    plain, moderated = (memorization_score(ell, splits.held_out, moderate=m).p_value for m in (False, True))
    assert (moderated <= 0.001).mean() > 3 * (plain <= 0.001).mean()


def test_score_error_reliability_and_null_agree_with_the_truth():
    splits = Splits.k_fold(2000, 10, 8)
    effect = np.random.default_rng(14).exponential(1.0, 2000)
    first, second = (memorization_score(refits(splits, s, effect=effect), splits.held_out) for s in (15, 16))
    assert first.score.mean() == pytest.approx(effect.mean(), abs=0.05)
    assert np.mean((first.score - effect) ** 2) == pytest.approx(np.mean(first.standard_error**2), rel=0.2)
    assert 0 < first.reliability < 1
    assert first.null_quantiles((0.5,)).mean() == pytest.approx(0, abs=0.05)
    assert first.quantiles((0.5,))[0] == pytest.approx(np.median(effect), abs=0.1)
    assert (first.p_above(1.0) <= 0.01)[effect <= 1].mean() < 0.02 < (first.p_above(1.0) <= 0.01)[effect > 3].mean()


# --- what comes in and goes out


@pytest.mark.parametrize("estimator", ["mean_log", "log_mean"])
@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_a_model_that_ignores_its_data_has_no_effect_not_a_rounding_error(estimator, repeats):
    splits = Splits.k_fold(200, 7, repeats)
    ell = np.tile(np.random.default_rng(17).normal(-50, 20, 200), (splits.n_splits, 1))
    found = memorization_score(ell, splits.held_out, estimator=estimator)
    np.testing.assert_allclose(found.score, 0, atol=1e-12)
    assert not (found.p_value < 0.5).any()
    ell[:, 100:] += refits(Splits.k_fold(100, 7, repeats), 18)  # and beside examples that do vary
    assert not (memorization_score(ell, splits.held_out, estimator=estimator).p_value[:100] < 0.4).any()


def test_huge_gaps_stay_finite():
    splits = Splits.k_fold(12, 4, 3)
    ell = np.where(splits.held_out, -1e5, -10.0) + refits(splits, 17)
    for estimator in ("mean_log", "log_mean"):
        found = memorization_score(ell, splits.held_out, estimator=estimator)
        assert np.isfinite(found.score).all() and (found.score > 9e4).all() and (found.p_value < 0.05).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(bad):
    splits = Splits.k_fold(12, 4, 1)
    ell = refits(splits, 18)
    ell[2, 7] = bad
    with pytest.raises(DataError, match=f"{bad} at split 2, example 7") as caught:
        memorization_score(ell, splits.held_out)
    assert ("density" in caught.value.do) == (bad == -np.inf)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"log_probs": np.zeros((4, 11))}, r"\(4, 11\) and \(4, 12\)"),
        ({"log_probs": np.zeros(12)}, r"\(12,\)"),
        ({"log_probs": np.zeros((0, 0)), "held_out": np.zeros((0, 0), bool)}, r"\(0, 0\)"),
        ({"held_out": np.zeros((4, 12))}, "float64"),
        ({"log_probs": np.full((4, 12), "a")}, "<U1"),
        ({"estimator": "adjusted"}, "mean_log, log_mean; got 'adjusted'"),
        ({"repeat": [0, 0, 1, 1]}, "never left out in repeat 0"),
        ({"held_out": np.tile(np.eye(4, 12, dtype=bool), 1)}, "example 4 never out"),
    ],
)
def test_input_that_does_not_fit_is_refused(change, named):
    splits = Splits.k_fold(12, 4, 1)
    arguments = {"log_probs": np.zeros((4, 12)), "held_out": splits.held_out, **change}
    with pytest.raises(DataError, match=named):
        memorization_score(**arguments)


def test_the_table_has_the_given_columns_first_and_null_for_undefined():
    splits = Splits.k_fold(12, 4, 1)
    found = memorization_score(refits(splits, 19), splits.held_out)
    table = found.to_table(index=np.arange(12), label=None, name=np.array(["é"] * 12))
    assert table.column_names == [
        "index", "name", "score", "log_prob_in", "log_prob_out", "standard_error", "p_value", "q_value",
    ]  # fmt: skip
    assert table["standard_error"].null_count == 12 and table["score"].null_count == 0
    np.testing.assert_array_equal(table["score"].to_numpy(), found.score)


def test_shifts_of_one_repeat_do_not_reach_into_another():
    splits = Splits.k_fold(15, 5, 2)
    rows = repeats_of(splits.held_out)
    moved = shifted(splits.held_out, rows, np.array([0, 2]))
    assert (moved[rows[0]] == splits.held_out[rows[0]]).all() and (moved[rows[1]] != splits.held_out[rows[1]]).any()
