"""Membership inference on refits: against a loop, against chance, and with repeats or refits missing."""

import numpy as np
import pytest
from oracles_attack import attack_by_loop, auc_by_pairs
from score_matrices import refits

from genmem import DataError, Splits, membership_attack
from genmem.leaveout.attack import RATES, SCORES
from genmem.leaveout.epsilon import epsilon_bound


def studied(n=60, folds=4, repeats=3, seed=0, **law):
    splits = Splits.k_fold(n, folds, repeats, seed=seed)
    return refits(splits, seed, **law), splits


@pytest.mark.parametrize("seed", range(3))
def test_rates_are_those_of_a_loop(seed):
    ell, splits = studied(seed=seed, effect=np.random.default_rng(seed).exponential(2, 60))
    slow = attack_by_loop(ell, splits.held_out, splits.repeat)
    found = membership_attack(ell, splits.held_out, splits.repeat)
    for name in SCORES:
        rates, areas = getattr(found, name), []
        for r in range(splits.n_repeats):
            z, held = slow[name][splits.repeat == r], splits.held_out[splits.repeat == r]
            areas.append(auc_by_pairs(z[~held], z[held]))
        assert rates.auc.value == pytest.approx(np.mean(areas), abs=1e-12)
        assert np.isnan(rates.tpr[0.01].value) and np.isnan(found.identified).all()  # 180 pairs are too few
        assert rates.auc.interval[0] < rates.auc.value < rates.auc.interval[1]


def test_true_positive_rates_are_counts_above_the_threshold_of_all_refits():
    ell, splits = studied(400, 4, 3, effect=3.0)
    slow = attack_by_loop(ell, splits.held_out, splits.repeat)["likelihood_ratio"]
    found, held = membership_attack(ell, splits.held_out, splits.repeat), splits.held_out
    threshold = np.sort(slow[held])[-13]  # 12 of 1,200 lie above
    assert found.n_held_out == 1200 and np.isnan(found.tpr[0.001].value)
    assert found.tpr[0.01].value == pytest.approx((slow[~held] > threshold).mean())
    shares = ((slow > threshold) & ~held).sum(0) / (~held).sum(0)
    np.testing.assert_allclose(found.identified, shares)


def test_without_memorization_the_attacker_guesses():
    found = [membership_attack(*_null(study)) for study in range(20)]
    areas = np.array([one.auc.value for one in found])
    rates = np.array([one.tpr[0.01].value for one in found])
    assert abs(areas.mean() - 0.5) < 3 * areas.std() / np.sqrt(20)
    assert abs(rates.mean() - 0.01) < 3 * rates.std() / np.sqrt(20)
    assert sum(one.epsilon > 0 for one in found) <= 2


def _null(study):
    ell, splits = studied(400, 5, 3, seed=study, shared=0.5 * (study % 2))
    return ell, splits.held_out, splits.repeat


def test_a_known_effect_gives_the_known_area():
    """With one law for all examples and many shadow models, the AUC of a shift by 2 sd is Phi(2 / sqrt(2))."""
    splits = Splits.k_fold(500, 5, 6, seed=1)
    ell = np.random.default_rng(1).normal(size=splits.held_out.shape) - 2 * splits.held_out
    found = membership_attack(ell, splits.held_out, splits.repeat)
    assert found.auc.value == pytest.approx(0.9214, abs=0.015)
    assert found.epsilon > 1
    assert found.log_prob.auc.value == pytest.approx(0.9214, abs=0.015)


def test_log_p_alone_misses_what_references_show():
    splits = Splits.k_fold(300, 5, 4, seed=0)
    rng = np.random.default_rng(0)
    ell = 20 * rng.normal(size=300) + rng.normal(size=splits.held_out.shape) - 2 * splits.held_out
    found = membership_attack(ell, splits.held_out, splits.repeat)
    assert found.auc.value > 0.88 and found.difference.auc.value > 0.85 and found.log_prob.auc.value < 0.6
    again = membership_attack(ell + 1e6, splits.held_out, splits.repeat)
    assert again.auc.value == pytest.approx(found.auc.value, abs=1e-6)


def test_failed_refits_are_left_out():
    ell, splits = studied(400, 4, 4, effect=3.0)
    ell[[0, 7]] = np.nan
    found = membership_attack(ell, splits.held_out, splits.repeat)
    assert found.n_held_out < 1600 and found.auc.value > 0.8 and np.isfinite(found.identified).all()


def test_two_repeats_have_rates_without_intervals_and_one_repeat_has_none():
    ell, splits = studied(300, 5, 2, effect=3.0)
    found = membership_attack(ell, splits.held_out)
    assert found.auc.value > 0.7 and np.isnan(found.auc.interval).all()
    with pytest.raises(DataError, match="two repeats or more"):
        membership_attack(ell[:5], splits.held_out[:5])
    with pytest.raises(DataError, match="three shadow models or more"):
        membership_attack(*_two_folds())
    with pytest.raises(DataError, match="one shape"):
        membership_attack(ell[:4], splits.held_out)


def _two_folds():
    ell, splits = studied(60, 2, 2)
    return ell, splits.held_out, splits.repeat


def test_refits_that_never_differ_give_no_nan():
    splits = Splits.k_fold(300, 5, 4, seed=0)
    found = membership_attack(np.zeros(splits.held_out.shape), splits.held_out, splits.repeat)
    assert found.auc.value == 0.5 and found.epsilon == 0 and found.tpr[0.01].value == 0


def test_the_bound_needs_more_than_the_odds_of_inclusion():
    """Guesses that are right as often as the inclusion odds alone make them say nothing."""
    member = [np.random.default_rng(r).random((5, 400)) < 0.8 for r in range(4)]
    blind = [np.random.default_rng(10 + r).normal(size=m.shape) for r, m in enumerate(member)]
    assert epsilon_bound(blind, member) == 0
    assert epsilon_bound([m + 0.0 for m in member], member) > 3
    assert RATES == (0.01, 0.001)


# --- examples that belong together


def grouped_study(seed, count=60, size=6, repeats=4):
    """log p of groups whose examples share their true score and half of the noise: (log_probs, splits, member)."""
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(count), size)
    splits = Splits.k_fold(count * size, 5, repeats, seed=seed, groups=member)
    truth = rng.exponential(2, count)[member]
    noise = rng.standard_normal((splits.n_splits, count))[:, member] + rng.standard_normal(splits.held_out.shape)
    return noise / np.sqrt(2) - truth * splits.held_out, splits, member


@pytest.mark.slow
def test_intervals_by_group_cover_what_other_groups_give():
    found = {"group": [], "row": []}
    for seed in range(40):
        ell, splits, member = grouped_study(seed, count=45)
        for name, groups in (("group", member), ("row", None)):
            rates = membership_attack(ell, splits.held_out, splits.repeat, groups=groups)
            found[name].append((rates.auc, rates.tpr[0.01]))
    for which in (0, 1):
        truth = np.mean([rates[which].value for rates in found["group"]])
        covered = {
            name: np.mean([rate[which].interval[0] <= truth <= rate[which].interval[1] for rate in rates])
            for name, rates in found.items()
        }
        assert covered["group"] > 0.93 > 0.9 > covered["row"]


def test_groups_change_intervals_and_not_rates():
    ell, splits, member = grouped_study(0, count=45)
    plain, by_group = (membership_attack(ell, splits.held_out, splits.repeat, groups=g) for g in (None, member))
    assert plain.tpr[0.01].value == by_group.tpr[0.01].value > 0.05
    assert plain.auc.value == by_group.auc.value and plain.n_held_out == by_group.n_held_out
    np.testing.assert_array_equal(plain.identified, by_group.identified)
    assert by_group.auc.interval[0] < plain.auc.interval[0]
    assert by_group.epsilon < plain.epsilon  # one example of each group
    with pytest.raises(DataError, match="one group per example"):
        membership_attack(ell, splits.held_out, splits.repeat, groups=member[1:])
    alone = membership_attack(ell, splits.held_out, splits.repeat, groups=np.zeros(len(member), int))
    assert np.isnan(alone.auc.interval).all()  # of a single group nothing is known about others
