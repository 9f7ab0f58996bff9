"""The check of unequal folds: it says how large the bias is, and is absent where folds are equal."""

import numpy as np
import pytest
from sklearn.neighbors import KernelDensity

import genmem
from genmem.run import Run


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(60, 2))


def check_of(found):
    return next((c for c in found.summary["checks"] if c["id"] == "folds"), None)


@pytest.mark.slow
def test_one_large_group_is_told_with_its_bias(tmp_path, X):
    labels = np.repeat([0, 1, 2, 3], [36, 8, 8, 8])
    found = genmem.audit(X, KernelDensity(bandwidth=0.5), tmp_path / "r", labels=labels, leave_out="labels")
    check = check_of(found)
    assert not check["ok"] and "36 of 60 examples" in check["sentence"] and check["value"] > 0
    assert f"{check['value']:+.2f} nats" in check["sentence"]
    held = Run.open(found.path).splits().held_out
    left = genmem.memorization_score(Run.open(found.path).log_probs(), held).uneven
    assert check["value"] == pytest.approx(left.size_bias.max())
    assert "Folds of equal size" in found.report.read_text()


@pytest.mark.slow
def test_equal_folds_have_no_such_check(tmp_path, X):
    found = genmem.audit(X, KernelDensity(bandwidth=0.5), tmp_path / "r", folds=4, repeats=3)
    assert check_of(found) is None and found.scores.uneven is None
