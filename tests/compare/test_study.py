"""The arithmetic of bench/compare.py: partial rank correlations without noise, where the truth is known."""

from types import SimpleNamespace

import numpy as np
import pytest


def audits(rng, n, shared, noise, repeats=6):
    """Return four controls, and two made-up runs whose scores depend on them and on what the controls do not know."""
    known, common = rng.normal(size=(4, n)), rng.normal(size=n)
    runs = {}
    for seed, name in enumerate("AB"):
        truth = 1.5 * known[0] + 0.5 * known[1] + shared * common + np.sqrt(1 - shared**2) * rng.normal(size=n)
        scores = {"per_repeat": truth + noise * rng.normal(size=(repeats, n))}
        runs[name] = SimpleNamespace(seed=seed, result=lambda _, found=scores: found)
    return runs, {"all": known, "label": np.zeros((0, n))}


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_what_controls_leave_is_found_through_noise(shared):
    import compare as bench

    runs, known = audits(np.random.default_rng(0), 3000, shared, noise=2.0)
    given = SimpleNamespace(draws=30, divisions=4)
    found = bench.study(runs, known, given)
    left = bench.correlation(found["all four"], 0, 1)
    assert abs(left[0] - shared**2) < 0.08 and np.nanstd(left[1:]) < 0.08
    assert bench.correlation(found["none"], 0, 1)[0] > 0.65
    explained = bench.explained(found["all four"], found["none"], 0)[0]
    assert abs(explained - 2.5 / 3.5) < 0.05
