"""Findings about scores say what they can and what they cannot: power, prevalence, the list, effective parameters."""

import json
import shutil

import numpy as np
import pytest
from pages import visible
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import genmem
from genmem.findings.effective import find_effective
from genmem.findings.named import find_list, find_named
from genmem.run import Run


def clusters(n=90, d=3):
    rng = np.random.default_rng(0)
    return np.concatenate([rng.standard_normal((n // 3, d)) + 6 * centre for centre in range(3)])


def audited(path, model, X=None, **asked):
    return genmem.audit(clusters() if X is None else X, model, path, **{"folds": 5, "repeats": 4, **asked})


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("mixture") / "run", GaussianMixture(6, random_state=0))


def of(done):
    return {finding["id"]: finding for finding in done.findings}


@pytest.mark.slow
def test_examples_are_named_and_the_power_is_said(mixture):
    stored, found = Run.open(mixture.path).result("list"), of(mixture)["flagged_share"]
    named = int((mixture.scores.q_value < 0.05).sum())
    assert found["sentence"].startswith(
        f"{named} of 90 examples are named as memorized at a false-discovery rate of 5%"
    )
    for delta, unit in ((1.0, "1 nat"), (3.0, "3 nats")):
        power = genmem.leaveout.naming_power(mixture.scores, delta)
        assert f"{unit} with a probability of {power:.0%}" in found["sentence"]
        assert stored["power"][list(stored["power_at"]).index(delta)] == power


@pytest.mark.slow
def test_the_listed_examples_have_intervals_that_hold_after_selection(mixture):
    stored, scores = Run.open(mixture.path).result("list"), mixture.scores
    np.testing.assert_array_equal(stored["examples"], np.argsort(-scores.score, kind="stable")[:25])
    np.testing.assert_array_equal(stored["interval"], scores.interval(1 - 0.05 * 25 / 90)[:, stored["examples"]])
    expected = genmem.leaveout.prevalence(scores).posterior_mean
    np.testing.assert_allclose(stored["expected"], expected[stored["examples"]])
    page = visible(mixture.report)
    rows = page[page.index("The 25 most memorized examples") :]
    assert "Shown" in rows and "Expected" in rows
    low, high = stored["interval"][:, 0]
    assert f"{stored['expected'][0]:.2f}" in rows and f"{low:.1f} to {high:.1f}".replace("-", "−") in rows
    first = page[: page.index("Findings, by weight")]
    assert "examples are memorized by more than 3 nats" in first and "named as memorized" in first


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 2])
def test_without_known_noise_nothing_is_promised(tmp_path, repeats):
    done = audited(tmp_path / "run", GaussianMixture(3, random_state=0), repeats=repeats)
    stored = Run.open(done.path).result("list")
    assert np.isnan(stored["interval"]).all() and np.isnan(stored["expected"]).all() and not stored["power"].size
    page = visible(done.report)
    assert "Shown" not in page[page.index("most memorized examples") :] and "with a probability of" not in page


@pytest.mark.slow
def test_effective_parameters_of_a_mixture_and_not_of_a_kernel_density(mixture, tmp_path):
    found, scores = of(mixture)["effective_parameters"], mixture.scores
    assert found["value"] == pytest.approx(72 * scores.score.mean()) and found["unit"] == "parameters"
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert f"its score is {0.8 * scores.score.mean():.2f} nats on average" in found["sentence"]
    X = np.random.default_rng(0).standard_normal((120, 32))
    kernel = audited(tmp_path / "kernel", KernelDensity(bandwidth=1.0), X, folds=2)
    exact = Run.open(kernel.path).result("exact")["score"]
    assert 0.5 * kernel.scores.score.mean() < 0.9 * exact.mean()  # the scale would be wrong by more than a tenth
    assert "effective_parameters" not in of(kernel) and "exact_leave_one_out" in of(kernel)


@pytest.mark.slow
def test_infinite_exact_scores_contradict_effective_parameters(mixture, tmp_path):
    run = Run.open(shutil.copytree(mixture.path, tmp_path / "run"))
    per_example = 0.8 * mixture.scores.score
    for score, given in ((per_example, 1), (np.append(per_example[1:], np.inf), 0), (2 * per_example, 0)):
        run.write_result("exact", score=score)
        assert len(find_effective(run)) == given


@pytest.mark.slow
def test_refits_of_fewer_steps_have_no_effective_parameters(tmp_path, blobs):
    found = {}
    for match in ("steps", "epochs"):
        asked = {"epochs": 2, "match": match, "settings": {"hidden": [8], "latent_dim": 2, "batch_size": 16}}
        done = audited(tmp_path / match, "vae", blobs[0], **asked)
        found[match] = "effective_parameters" in of(done)
        assert done.summary["asked"]["match"] == match
        assert any("fewer steps" in limit for limit in done.summary["limitations"]) == (match == "epochs")
    assert found == {"steps": True, "epochs": False}


@pytest.mark.slow
def test_an_older_run_without_a_list_is_still_reported(mixture, tmp_path):
    path = shutil.copytree(mixture.path, tmp_path / "old")
    (path / "results" / "list.npz").unlink()
    (path / "results" / "written.json").unlink()  # earlier versions did not note what they wrote
    genmem.stages.report(Run.open(path))
    sentence = next(
        f["sentence"] for f in json.loads((path / "audit.json").read_text())["findings"] if f["id"] == "flagged_share"
    )
    assert "named as memorized" in sentence and "probability" not in sentence
    assert "Expected" not in visible(path / "report.html")


@pytest.mark.slow
def test_published_scores_have_neither(tmp_path):
    run = Run.open(audited(tmp_path / "run", GaussianMixture(3, random_state=0), estimator="log_mean").path)
    assert find_list(run.result("scores")) == [] and find_effective(run) == [] and len(find_named(run)) == 1
