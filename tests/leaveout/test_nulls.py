"""Tests of no memorization hold where log p of held-out examples is noisier than that of training examples."""

import numpy as np
import oracles_nulls
import pytest
from score_matrices import noise

from genmem.leaveout import nulls
from genmem.leaveout.estimators import repeats_of
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
