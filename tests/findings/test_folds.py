"""The check of unequal folds: it says how large the bias is, and is absent where folds are equal."""

import numpy as np
import pytest
from pages import visible
from sklearn.mixture import GaussianMixture
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


def of(found):
    return {finding["id"]: finding for finding in found.findings}


def by_groups(path, X, groups, **asked):
    return genmem.audit(X, GaussianMixture(2, random_state=0), path, groups=groups, **{"repeats": 4, **asked})


@pytest.mark.slow
def test_repeats_that_leave_out_the_same_groups_have_no_errors_and_say_why(tmp_path, X):
    groups = np.repeat(list("abcde"), 12)
    found = by_groups(tmp_path / "r", X, groups, labels=groups)
    check = check_of(found)
    assert not check["ok"] and "always left out together" in check["sentence"] and "differ in size" not in str(check)
    reliability = next(c for c in found.summary["checks"] if c["id"] == "reliability")
    assert "no example has scores of two independent repeats" in reliability["sentence"]
    assert not {"flagged_share", "prevalence_1", "true_tail", "effective_parameters"} & of(found).keys()
    assert np.isnan(Run.open(found.path).result("list")["interval"]).all()
    page = visible(found.report)
    assert "repeats leave out the same examples together (see the checks)" in page and "p-values are" not in page
    assert "The highest group could not be tested: it takes examples" in page  # a label is a single group
    assert of(found)["mean_score"]["p_value"] is not None  # by group
    assert all(of(found)[name]["interval"] is None for name in ("tail_score", "top_list"))
    assert "it is about groups" in of(found)["membership_auc"]["meaning"]


@pytest.mark.slow
def test_examples_of_a_group_too_large_are_neither_counted_nor_tested(tmp_path, X):
    found = by_groups(tmp_path / "r", X, np.r_[np.zeros(30, int), np.repeat(np.arange(1, 16), 2)])
    biased = found.scores.uneven.size_bias != 0
    assert biased.sum() == 30 and of(found)["mean_score"]["p_value"] is None
    assert "30 of them could not be tested" in of(found)["flagged_share"]["sentence"]
    share = of(found)["prevalence_1"]
    assert share["n"] == 30 and "of the 30 examples that could be tested" in share["sentence"]
    listed = Run.open(found.path).result("list")
    np.testing.assert_array_equal(np.isnan(listed["interval"]).all(axis=0), biased[listed["examples"]])
    assert biased[listed["examples"]].any() and "30 of 60 could not be tested" in visible(found.report)


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "repeats"), [("log_mean", 4), ("mean_log", 2)])
def test_designs_without_a_test_say_so(tmp_path, X, estimator, repeats):
    groups = np.r_[np.zeros(30, int), np.repeat(np.arange(1, 16), 2)]
    found = by_groups(tmp_path / "r", X, groups, estimator=estimator, repeats=repeats)
    assert np.isnan(found.scores.p_value).all()
    sentence = check_of(found)["sentence"]
    assert ("log_mean do not allow for it" in sentence) == (estimator == "log_mean")
    assert ("With two repeats such folds allow no test" in sentence) == (repeats == 2)


@pytest.mark.slow
def test_groups_of_one_are_as_none(tmp_path, X):
    alone, none = (by_groups(tmp_path / str(i), X, groups) for i, groups in enumerate([np.arange(60), None]))
    assert "effective_parameters" in of(alone) and "effective_parameters" in of(none)
    assert check_of(alone) is None and alone.scores.uneven is None
