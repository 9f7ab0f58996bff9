"""The adjusted score: closer to the truth than raw scores or predictions alone, and never by way of their noise."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from genmem.errors import DataError
from genmem.leaveout import adjusted
from genmem.leaveout.adjusted import adjust
from genmem.leaveout.covariates import Covariates, covariates
from genmem.leaveout.scoring import memorization_score
from genmem.run import Splits


class Study:
    """Scores with a known truth: a part that two covariates tell, a part they do not, and noise of L repeats."""

    def __init__(self, seed=0, n=1500, repeats=4, signal=1.0, residual=1.0, noise=2.0):
        rng = np.random.default_rng(seed)
        self.facts, self.repeats = rng.random((n, 2)), repeats
        told = 6 * self.facts[:, 0] ** 2 + 2 * np.sin(5 * self.facts[:, 1])
        self.truth = signal * told + residual * rng.standard_normal(n)
        self.spread = noise * (0.3 + self.facts[:, 0])  # noise grows with the score
        self.noise = rng.standard_normal((repeats, n)) * self.spread
        self.per_repeat = self.truth + self.noise
        self.score = self.per_repeat.mean(axis=0)
        self.error = self.per_repeat.std(axis=0, ddof=1) / np.sqrt(repeats) if repeats > 1 else np.full(n, np.nan)

    def halves(self):
        return np.stack([self.per_repeat[::2].mean(axis=0), self.per_repeat[1::2].mean(axis=0)])

    def leaks(self):
        """Return a rough log_prob_out, a forbidden covariate, from all repeats and from each half."""
        facts = self.facts[:, 0]
        return [3 * facts - e.mean(axis=0) for e in (self.noise, self.noise[::2], self.noise[1::2])]

    def adjusted(self, **more):
        more = {
            "repeats": self.repeats,
            "half_scores": self.halves(),
            "half_covariates": (self.facts, self.facts),
        } | more
        return adjust(self.score, self.error, more.pop("covariates", self.facts), **more)


def error_of(estimate, truth):
    return float(((estimate - truth) ** 2).mean())


# --- closer to the truth


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [2, 8])
@pytest.mark.parametrize("residual", [0.5, 1.5])
def test_beats_the_raw_score_and_the_prediction(repeats, residual):
    study = Study(repeats=repeats, residual=residual)
    found = study.adjusted(half_covariates=(study.facts, study.facts))
    assert error_of(found.score, study.truth) < 0.97 * error_of(study.score, study.truth)
    assert error_of(found.score, study.truth) < 0.97 * error_of(found.prediction, study.truth)
    assert found.ok and not found.reason


@pytest.mark.slow
def test_comes_near_the_best_possible_weight():
    study = Study(n=4000, repeats=4)
    found = study.adjusted()
    noise = study.spread**2 / 4
    residual = found.prediction - study.truth
    best = np.mean(residual**2) / (np.mean(residual**2) + noise)
    ideal = found.prediction + best * (study.score - found.prediction)
    assert error_of(found.score, study.truth) < 1.05 * error_of(ideal, study.truth)
    assert np.corrcoef(found.weight, best)[0, 1] > 0.8


@pytest.mark.slow
def test_says_how_good_it_is():
    study = Study(n=4000, repeats=3)
    found = study.adjusted()
    real = np.corrcoef(found.score, study.truth)[0, 1] ** 2
    assert found.reliability == pytest.approx(real, abs=0.03)
    assert np.mean(found.standard_error**2) == pytest.approx(error_of(found.score, study.truth), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [2, 4])
def test_covariates_that_say_nothing_do_no_harm(repeats):
    study = Study(repeats=repeats, signal=0.0, residual=3.0)
    found = study.adjusted(covariates=np.random.default_rng(9).random((1500, 4)))
    assert error_of(found.score, study.truth) <= 1.02 * error_of(study.score, study.truth)
    rank_loss = spearmanr(study.score, study.truth).statistic - spearmanr(found.score, study.truth).statistic
    assert rank_loss < 0.01


@pytest.mark.slow
def test_scores_that_are_all_noise_are_shrunk_to_nothing():
    study = Study(signal=0.0, residual=0.0)
    found = study.adjusted()
    assert error_of(found.score, 0) < 0.05 * error_of(study.score, 0)
    assert found.weight.mean() < 0.15


@pytest.mark.slow
def test_without_noise_it_is_the_raw_score():
    study = Study(noise=0.0)
    found = study.adjusted()
    np.testing.assert_allclose(found.score, study.truth, atol=1e-12)
    assert (found.weight == 1).all() and (found.standard_error == 0).all()


@pytest.mark.slow
def test_examples_without_an_error_take_that_of_their_like():
    study = Study()
    whole = study.adjusted()
    study.error[::10] = np.nan
    found = study.adjusted()
    assert np.isfinite(found.score).all()
    assert error_of(found.score, study.truth) < 1.05 * error_of(whole.score, study.truth)


@pytest.mark.slow
def test_errors_of_many_repeats_count_for_themselves():
    rng = np.random.default_rng(3)
    loud = rng.random(2000) < 0.2  # unseen by the covariates
    per_repeat = rng.standard_normal((16, 2000)) * np.where(loud, 12.0, 2.0)
    truth, facts = rng.standard_normal(2000), rng.random((2000, 2))
    score, error = truth + per_repeat.mean(axis=0), per_repeat.std(axis=0, ddof=1) / 4
    local, own = (adjust(score, error, facts, repeats=r) for r in (None, 16))
    assert own.weight[loud].mean() < 0.5 * own.weight[~loud].mean()
    assert error_of(own.score, truth) < 0.9 * error_of(local.score, truth)


# --- one repeat


@pytest.mark.slow
def test_one_repeat_goes_by_placebos():
    study = Study(repeats=1, noise=4.0)
    placebos = np.random.default_rng(5).standard_normal((3, 1500)) * study.spread / np.sqrt(2)
    found = adjust(study.score, study.error, study.facts, placebo=placebos)
    assert error_of(found.score, study.truth) < 0.97 * error_of(study.score, study.truth)
    assert found.ok is None and "two repeats" in found.reason
    assert np.isnan([found.reliability, found.slope, found.slope_error]).all()
    with pytest.raises(DataError, match="no placebo"):
        adjust(study.score, study.error, study.facts)


@pytest.mark.slow
def test_takes_what_the_scores_give():
    splits = Splits.k_fold(100, 5, 2)
    ell = np.random.default_rng(0).standard_normal(splits.held_out.shape) - 3 * splits.held_out
    for rows in (splits.repeat < 1, splits.repeat < 2):
        found = memorization_score(ell[rows], splits.held_out[rows])
        facts = covariates(np.random.default_rng(1).random((100, 5)), found.log_prob_in[:, None], np.arange(100) % 3)
        result = adjust(found.score, found.standard_error, facts, placebo=found.placebo, repeats=found.n_repeats)
        assert np.isfinite(result.score).all()


# --- guards


@pytest.mark.slow
def test_guard_sees_a_covariate_with_the_noise_of_the_same_refits():
    study = Study(repeats=4)
    whole, first, second = (np.column_stack([study.facts, leak]) for leak in study.leaks())
    found = study.adjusted(covariates=whole, half_covariates=(first, second))
    assert found.ok is False and "noise" in found.reason
    assert found.slope > 6 * found.slope_error > 0
    low, high = found.slope_interval()
    share = _noise_share(study, whole)
    assert low > 0.02 and abs(found.slope - share) < 0.1  # halves carry twice the noise of the whole
    assert error_of(found.score, study.truth) > error_of(study.adjusted().score, study.truth)


def _noise_share(study, table):
    noise = study.noise[::2].mean(axis=0)
    half = study.truth + noise
    leaky = np.column_stack([study.facts, 3 * study.facts[:, 0] - noise])
    prediction = adjust(half, study.error, leaky).prediction
    return np.cov(noise, prediction)[0, 1] / prediction.var(ddof=1)


@pytest.mark.parametrize(
    ("slope", "error", "ok"),
    [(0.3, 0.02, False), (0.3, 0.1, True), (0.009, 1e-4, True), (-0.02, 1e-3, True), (-0.3, 0.02, False), (0, 0, True)],
)
def test_a_slope_is_wrong_when_large_and_significant(slope, error, ok):
    assert adjusted._verdict(adjusted._Slope(slope, error), None)[0] is ok


@pytest.mark.slow
def test_covariates_of_all_refits_would_hide_the_leak():
    study = Study(repeats=4)
    whole = np.column_stack([study.facts, study.leaks()[0]])
    blind = study.adjusted(covariates=whole, half_covariates=(whole, whole))
    assert abs(blind.slope) < 0.1  # why the halves need covariates of their own


@pytest.mark.slow
def test_a_prediction_too_good_for_its_noise_is_noticed_without_halves():
    study = Study(repeats=4, residual=0.1)
    leaky = np.column_stack([study.facts, 0.1 * study.facts[:, 0] + study.noise.mean(axis=0)])
    found = study.adjusted(covariates=leaky)
    assert found.ok is False and "closer" in found.reason


@pytest.mark.slow
def test_slope_is_zero_within_error_for_allowed_covariates():
    z = []
    for seed in range(6):
        study = Study(seed, n=400, repeats=2)
        rng = np.random.default_rng(100 + seed)
        of_models = [rng.standard_normal(400) + study.facts[:, 0] for _ in range(3)]  # noise of their own
        whole, first, second = (np.column_stack([study.facts, c]) for c in of_models)
        found = study.adjusted(covariates=whole, half_covariates=(first, second))
        assert found.ok
        z.append(found.slope / found.slope_error)
    assert abs(np.mean(z)) < 1.2 and 0.2 < np.std(z) < 2


@pytest.mark.parametrize("halves", [2, 4])
def test_slope_is_the_mean_of_both_directions(halves):
    rng = np.random.default_rng(halves)
    a, b, f, g = rng.standard_normal((4, 50))
    found = adjusted._slope(a - b, f, g, np.arange(50))
    f, g, d = f - f.mean(), g - g.mean(), a - b - (a - b).mean()
    one, other = (d @ f) / (f @ f), (-d @ g) / (g @ g)
    assert found.slope == pytest.approx(np.average([one, other], weights=[f @ f, g @ g]), abs=1e-12)


@pytest.mark.parametrize("name", ["log_prob_out_200", "Score", "gap"])
def test_forbidden_names_are_refused(name):
    with pytest.raises(DataError, match="(?i)" + name):
        covariates(np.ones((30, 2)), extra={name: np.ones(30)})
    with pytest.raises(DataError, match="noise"):
        adjust(np.arange(30.0), np.ones(30), Covariates(np.ones((30, 1)), (name,)))


@pytest.mark.slow
def test_copies_are_refused():
    study, rng = Study(n=300), np.random.default_rng(0)
    within = -50 + 10 * rng.standard_normal(300)
    without = within - study.score
    for bad, match in (
        ([np.exp(study.score / 5)], "ranks the examples as score"),
        ([-without.astype(np.float32)], "ranks the examples as log_prob_out"),
        ([within, within - 2 * study.score], "weighted sum"),
    ):
        with pytest.raises(DataError, match=match):
            study.adjusted(covariates=np.column_stack([study.facts, *bad]), forbidden={"log_prob_out": without})
    study.adjusted(covariates=np.column_stack([study.facts, within]), forbidden={"log_prob_out": without})


@pytest.mark.slow
def test_duplicates_stay_on_one_side():
    rng = np.random.default_rng(1)
    pair = np.repeat(np.arange(300), 2)
    facts, score = rng.random((300, 1))[pair], rng.standard_normal(300)[pair]  # duplicates share facts and noise
    kept = adjust(score, np.full(600, 0.1), facts, groups=pair)
    leaked = adjust(score, np.full(600, 0.1), facts)
    assert np.corrcoef(leaked.prediction, score)[0, 1] > 0.1 > np.corrcoef(kept.prediction, score)[0, 1]
    fold = adjusted._folds(pair, 5, 0)
    assert (fold[::2] == fold[1::2]).all()


# --- the prediction


@pytest.mark.slow
def test_an_examples_own_score_never_enters_its_prediction():
    study = Study(n=200)
    before = study.adjusted().prediction
    study.score[17] += 1000
    after = study.adjusted().prediction
    assert after[17] == before[17] and (after != before).any()


@pytest.mark.slow
def test_same_seed_same_numbers_other_seed_other_folds():
    study = Study(n=300)
    halves = (study.facts, study.facts)
    one, two, other = (study.adjusted(seed=seed, half_covariates=halves) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.score, two.score)
    assert (one.slope, one.reliability) == (two.slope, two.reliability)
    assert (one.score != other.score).any()


@pytest.mark.slow
def test_missing_values_are_tolerated():
    study = Study()
    study.facts[::3, 0] = np.nan
    found = study.adjusted(half_covariates=(study.facts, study.facts))
    assert error_of(found.score, study.truth) < error_of(study.score, study.truth)


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 21, 60])
def test_works_with_few_examples(n):
    study = Study(n=n)
    found = study.adjusted(half_covariates=(study.facts, study.facts))
    assert np.isfinite(found.score).all() and ((found.weight >= 0) & (found.weight <= 1)).all()


@pytest.mark.slow
def test_constant_scores_and_covariates_are_answered():
    found = adjust(
        np.ones(40), np.ones(40), np.ones((40, 2)), half_scores=np.ones((2, 40)), half_covariates=[[[1]] * 40] * 2
    )
    assert (found.score == 1).all() and found.slope == 0 and np.isnan(found.reliability)


def test_covariates_are_named_and_limited():
    rng = np.random.default_rng(0)
    found = covariates(
        rng.random((90, 15)), rng.random((90, 2)), np.arange(90) % 60, epochs=[5, 10], extra={"self": rng.random(90)}
    )
    assert found.names[:2] == ("distance_1", "distance_2") and "distance_11" not in found.names
    assert found.names[10:12] == ("log_prob_in_5", "log_prob_in_10") and found.names[-1] == "self"
    assert sum(name.startswith("label_") for name in found.names) == 50
    assert found.values.shape == (90, len(found.names))


@pytest.mark.slow
def test_errors_teach():
    study = Study(n=30)
    bad = [
        (lambda: adjust(study.score[:19], study.error[:19], study.facts[:19]), "20 distinct"),
        (lambda: adjust(study.score, study.error, study.facts, groups=np.zeros(30)), "20 distinct"),
        (lambda: adjust(study.score, study.error, study.facts, folds=1), "folds"),
        (lambda: adjust(study.score, study.error, study.facts[:20]), "same examples"),
        (lambda: adjust(study.score, study.error[:20], study.facts), "standard errors"),
        (lambda: adjust(study.score, study.error, study.facts[:, 0]), r"covariates .* got .* shape \(30,\)"),
        (lambda: adjust(np.where(study.score > 0, np.nan, 0), study.error, study.facts), "finite"),
        (lambda: adjust(study.score, study.error, np.full((30, 1), np.inf)), "infinite"),
        (lambda: study.adjusted(half_scores=np.zeros((3, 30)), half_covariates=[study.facts] * 2), "half_scores"),
        (lambda: study.adjusted(half_covariates=(study.facts, study.facts[:9])), "halves"),
        (lambda: covariates(), "none"),
        (lambda: covariates(study.facts, labels=[1, 2]), "same examples"),
        (lambda: covariates(study.facts, study.facts, epochs=[1]), "epochs"),
        (lambda: covariates(study.facts, labels=study.facts), "labels"),
    ]
    for call, match in bad:
        with pytest.raises(DataError, match=match):
            call()
