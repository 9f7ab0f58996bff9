"""On fresh data p-values are uniform or valid, lists keep their rate and the verdict keeps quiet.

A small form of bench/copycheck_calibration.py; the seeds are fixed, so what passes once passes always.
"""

import numpy as np
import pytest
from scipy import stats

from genmem.neighbors.copycheck import copycheck

DRAWS = 40


def fresh(seed):
    rng = np.random.default_rng([14, seed])
    return [rng.normal(size=(n, 3)) for n in (120, 80, 80)]


@pytest.fixture(scope="module")
def found():
    return [copycheck(*fresh(seed), power_trials=0, context_rows=60, seed=seed) for seed in range(DRAWS)]


def p_values(found, detail=None):
    names = [test.name for test in found[0].tests if np.isfinite(test.p_value)]
    return {name: np.array([one[name].details.get(detail, one[name].p_value) for one in found]) for name in names}


@pytest.mark.slow
def test_p_values_are_uniform_in_mid_p(found):
    for name, p in p_values(found, "mid_p").items():
        if len(np.unique(p)) > 15:
            assert stats.kstest(p, "uniform").pvalue > 0.002, (name, np.sort(p))
        assert abs(p.mean() - 0.5) < 3.5 / np.sqrt(12 * DRAWS), (name, p.mean())  # few values: their mean is 1/2


@pytest.mark.slow
def test_p_values_are_valid(found):
    names = p_values(found)
    assert {"scan_share", "train_share", "tail_share", "c_t", "tail_excess"} <= set(names)
    for name, p in names.items():
        for level in (0.01, 0.05, 0.1, 0.25, 0.5):
            beyond = stats.binom.sf((p <= level).sum() - 1, DRAWS, level)
            assert beyond > 0.005, (name, level, (p <= level).mean())


@pytest.mark.slow
def test_neither_verdict_nor_lists_speak(found):
    assert sum(one.verdict != "no evidence" for one in found) <= 2
    for flags in ("samples", "rows", "calibrated"):
        assert sum(getattr(one, flags).flagged.any() for one in found) <= 0.25 * DRAWS


@pytest.mark.slow
def test_lists_keep_their_false_discovery_rate():
    rates = {"samples": [], "rows": [], "calibrated": []}
    for seed in range(12):
        T, H, S = fresh(1000 + seed)
        S[:24] = T[:24]
        one = copycheck(T, H, S, power_trials=0, context_rows=20)
        for name, kept in rates.items():
            flagged = np.flatnonzero(getattr(one, name).flagged)
            kept.append((flagged >= 24).sum() / max(1, len(flagged)))
            assert (flagged < 24).sum() >= 20, name
    for name, kept in rates.items():
        assert np.mean(kept) <= 0.1 + 2 * np.std(kept) / np.sqrt(len(kept)), name
