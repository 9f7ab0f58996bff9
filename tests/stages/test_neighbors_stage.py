"""Copies in the samples of a run's model: which model, which examples, what is stored, and how the report shows it."""

import json
import os
import shutil
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from pages import own_part, visible
from sklearn.base import BaseEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import genmem
from genmem import stages
from genmem.errors import DataError, IncompleteRunError, ModelError
from genmem.findings.copies import copies_of, find_copies
from genmem.leaveout.refitting import refit_one
from genmem.models.evaluation import log_prob
from genmem.report import write_report
from genmem.run import Run
from genmem.search import nearest
from genmem.stages._attribution import AlongTrajectory
from genmem_cli.main import run as cli

SCHEMA = json.loads(files("genmem.report").joinpath("audit.schema.json").read_text())
QUICK = {
    "folds": 3,
    "repeats": 2,
    "workers": 1,
    "posterior": "amortised",
    "settings": {"hidden": [12], "latent_dim": 2, "epochs": 6},
}


class Parrot(BaseEstimator):
    """A density whose samples are its training examples."""

    def __init__(self, random_state=0):
        self.random_state = random_state

    def fit(self, X, y=None):
        self.X_ = np.asarray(X)
        return self

    def score_samples(self, X):
        return -nearest(np.asarray(X), self.X_)[0][:, 0]

    def sample(self, n_samples=1):
        return self.X_[np.random.default_rng(self.random_state).integers(0, len(self.X_), n_samples)]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit of 240 digits."""
    return genmem.audit("digits", out=tmp_path_factory.mktemp("runs") / "plain", subset=240, **QUICK).path


@pytest.fixture(scope="module")
def done(audited, tmp_path_factory):
    """The same with its samples checked for copies."""
    path = shutil.copytree(audited, tmp_path_factory.mktemp("runs") / "done")
    return path, stages.copies(Run.open(path))


@pytest.fixture(scope="module")
def parrot(tmp_path_factory):
    """An audit of a model that copies, and what the check says."""
    X = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    path = genmem.audit(X, Parrot(), out=tmp_path_factory.mktemp("runs") / "parrot", folds=2, repeats=1).path
    return path, stages.copies(Run.open(path), samples=200)


@pytest.fixture
def copied(audited, tmp_path):
    """The audit again, without its report, which would be written anew each time."""
    return Run.open(shutil.copytree(audited, tmp_path / "copy", ignore=shutil.ignore_patterns("report.html")))


# --- the model and the three sets


@pytest.mark.slow
def test_the_refit_is_that_of_the_first_split(audited):
    run = Run.open(audited)
    held_out, X = run.splits().held_out[0], np.asarray(run.data().X)
    fitted = refit_one(run, held_out)
    import torch

    found = log_prob(fitted.module_, torch.from_numpy(X), draws=run.importance_samples, seed=run.seed, keys=(0,))
    stored = run.log_probs()
    # the run may have trained it in company, which rounds otherwise
    assert np.abs(found.log_prob - stored[0]).max() < 0.02 < 0.1 < np.abs(found.log_prob - stored[1]).max()


@pytest.mark.slow
def test_training_and_held_out_examples_are_those_of_the_plan(done):
    run, found = Run.open(done[0]), Run.open(done[0]).result("copycheck")
    held_out, X = run.splits().held_out[0], np.asarray(run.data().X)
    np.testing.assert_array_equal(found["train"], np.flatnonzero(~held_out))
    assert held_out[found["pair_test"]].all() and not held_out[found["pair_train"]].any()
    assert done[1]["data"] | {"n_train": 160, "n_test": 80, "n_samples": 1000} == done[1]["data"]
    at, samples = found["pair_sample"], found["samples"]
    for kind, rows in (("train", np.flatnonzero(~held_out)), ("test", np.flatnonzero(held_out))):
        distance, index = nearest(samples[at], X[rows])
        np.testing.assert_allclose(found[f"pair_distance_{kind}"], distance[:, 0])
        np.testing.assert_array_equal(found[f"pair_{kind}"], rows[index[:, 0]])
        np.testing.assert_array_equal(found[f"shown_{kind}"], X[found[f"pair_{kind}"][found["shown"]]])


@pytest.mark.slow
def test_samples_derive_from_the_seed(done, copied):
    first = Run.open(done[0]).result("copycheck")
    stages.copies(copied)
    same = copied.result("copycheck")
    assert all(np.array_equal(same[name], first[name], equal_nan=True) for name in first)
    stages.copies(copied, seed=5, samples=20)
    assert not np.isin(copied.result("copycheck")["samples"][:, 2], first["samples"][:, 2]).any()


@pytest.mark.slow
def test_a_model_that_copies_is_caught(parrot):
    run, about = Run.open(parrot[0]), parrot[1]
    found, X = run.result("copycheck"), np.asarray(run.data().X)
    assert about["verdict"] == "copies found" and about["samples"]["flagged"] == 200
    assert about["numbers"]["copied_share_low"] > 0.5
    np.testing.assert_array_equal(found["samples"][found["pair_sample"]], X[found["pair_train"]])
    copies = {f.id: f for f in find_copies(run)}["copied_share"].examples
    assert set(copies) <= set(found["train"].tolist()) and len(copies) == 12


@pytest.mark.slow
def test_a_group_that_is_left_out_is_no_held_out_set(tmp_path):
    X, labels = np.random.default_rng(0).normal(size=(200, 4)), np.repeat(["a", "b"], 100)
    X[100:] += 50
    run = stages.plan(X, GaussianMixture(2), out=tmp_path / "r", labels=labels, leave_out="labels")
    about = stages.copies(run)
    kept = run.result("copycheck")["train"]
    assert len(kept) == 160 and 60 < (kept < 100).sum() < 100
    assert "random fifth" in about["note"] and about["verdict"] == "no evidence"


@pytest.mark.slow
def test_groups_of_the_run_are_those_of_its_check(tmp_path):
    films = np.repeat(np.arange(40), 5)
    X = (
        np.repeat(np.random.default_rng(0).normal(size=(40, 4)), 5, 0)
        + np.random.default_rng(1).normal(size=(200, 4)) / 9
    )
    run = stages.plan(X, GaussianMixture(2), out=tmp_path / "r", groups=films)
    about = stages.copies(run)
    found = run.result("copycheck")
    held_out = len(np.unique(np.delete(films, found["train"])))
    assert f"groups of held-out examples; there are {held_out}" in about["sentence"]
    assert "look as if" not in about["sentence"] and about["verdict"] != "copies found"
    assert len(found["samples_p_value"]) == 1000 and found["samples_p_value"].min() >= 1 / (held_out + 1)


@pytest.mark.slow
def test_held_out_examples_of_ones_own(copied, tmp_path):
    from sklearn.datasets import load_digits

    digits = (load_digits().data / 16).astype(np.float32)
    others = np.setdiff1d(np.arange(1797), np.asarray(copied.data().index))
    np.save(tmp_path / "h.npy", digits[others[:150]])
    about = stages.copies(copied, test=tmp_path / "h.npy", samples=150)
    found = copied.result("copycheck")
    assert about["data"]["n_train"] == 240 and about["data"]["n_test"] == 150 and not about["data"]["test_in_run"]
    np.testing.assert_array_equal(found["shown_test"], digits[others[found["pair_test"][found["shown"]]]])
    full = AlongTrajectory(copied, genmem.VAE(**copied.plan["model"]["params"]), digits[:9], ASKED)
    assert np.isfinite(full.model.score_samples(found["samples"])).all()
    again = stages.copies(copied, test=digits[others[:150]], samples=150)  # the same as an array
    assert again["seconds"] == about["seconds"]
    with pytest.raises(DataError, match=r"shape \(64,\)"):
        stages.copies(copied, test=digits[:50, :9])
    shutil.rmtree(copied.path / "trajectory")
    with pytest.raises(IncompleteRunError, match="genmem fit"):
        stages.copies(copied, test=digits[others[:100]])


ASKED = {"examples": 2, "weights": "complete", "draws": 2, "seed": 0, "scale": "dot"}


@pytest.mark.slow
def test_bytes_from_outside_are_prepared_with_noise_of_their_own(tmp_path):
    X = np.random.default_rng(0).integers(0, 256, (240, 16), np.uint8)
    run = stages.plan(
        X[:120], out=tmp_path / "r", settings={"hidden": [8], "latent_dim": 2, "epochs": 2}, folds=3, repeats=1
    )
    stages.fit(run)
    stages.copies(run, test=X[:120], samples=50)  # the very rows of the run: only the noise tells them apart
    found, prepared = run.result("copycheck"), np.asarray(run.data().X)
    assert set(np.unique(found["shown_test"])) == {0, 1} and set(np.unique(prepared)) == {0, 1}
    shown = found["pair_test"][found["shown"]]
    assert 0.1 < (found["shown_test"] != prepared[shown]).mean() < 0.6


# --- asked once, refused in a sentence


@pytest.mark.slow
def test_done_once_is_not_done_again(copied):
    about = stages.copies(copied, samples=50)
    file = copied.path / "results" / "copycheck.npz"
    before = file.stat().st_mtime_ns
    assert stages.copies(copied, samples=50) == about and file.stat().st_mtime_ns == before
    assert stages.copies(copied, samples=60)["data"]["n_samples"] == 60
    os.remove(file)
    assert copies_of(copied) is None and find_copies(copied) == []
    assert stages.copies(copied, samples=60)["data"]["n_samples"] == 60 and file.exists()


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{"samples": 0}, {"samples": True}, {"seed": -1}, {"level": 1.5}, {"space": "rwa"}])
def test_what_makes_no_sense_is_refused(copied, asked):
    with pytest.raises(DataError):
        stages.copies(copied, **asked)


def test_models_that_cannot_answer_say_so(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 3))
    run = stages.plan(X, KernelDensity(kernel="epanechnikov", bandwidth=2.0), out=tmp_path / "k", folds=3, repeats=1)
    with pytest.raises(ModelError, match="to sample"):
        stages.copies(run)
    run = stages.plan(X, GaussianMixture(2), out=tmp_path / "g", folds=3, repeats=1)
    with pytest.raises(ModelError, match="latent"):
        stages.copies(run, space="latent")


@pytest.mark.slow
def test_masks_that_leave_nothing_are_refused(audited):
    for mask in (np.ones(240, bool), np.zeros(240), np.zeros(9, bool)):
        with pytest.raises(DataError, match="mask of 240"):
            refit_one(Run.open(audited), mask)


# --- the audit and its report


@pytest.mark.slow
def test_the_audit_says_it(done, parrot):
    for path in (done[0], parrot[0]):
        audit = json.loads((path / "audit.json").read_text())
        jsonschema.validate(audit, SCHEMA)
        about = json.loads((path / "results" / "copycheck.json").read_text())
        assert audit["copies"]["verdict"] == about["verdict"]
        assert [f["sentence"] for f in audit["findings"] if f["id"] == "copied_share"] == [about["sentence"]]
        assert not any("not compared with the training set" in text for text in audit["limitations"])


@pytest.mark.slow
def test_without_a_check_the_audit_says_that(audited):
    audit = json.loads((audited / "audit.json").read_text())
    jsonschema.validate(audit, SCHEMA)
    assert "copies" not in audit and any("not compared with the training set" in text for text in audit["limitations"])
    assert "Does the model repeat its training set?" not in visible(audited / "report.html")


@pytest.mark.slow
def test_the_report_shows_pairs_by_their_rows_in_the_source(done):
    run, page = Run.open(done[0]), done[0] / "report.html"
    words, found = visible(page), Run.open(done[0]).result("copycheck")
    assert words.count("Does the model repeat its training set?") >= 2  # verdict and section
    first = found["shown"][0]
    train, test = (int(run.data().index[found[f"pair_{kind}"][first]]) for kind in ("train", "test"))
    assert f'alt="training {train}"' in own_part(page) and f'alt="held out {test}"' in own_part(page)
    assert done[1]["note"] in words and words.count(done[1]["power"]["sentence"]) == 1


@pytest.mark.slow
def test_rows_of_a_table_are_shown_as_columns(parrot):
    words = visible(write_report(parrot[0]))
    assert "Column Sample Training Held out" in words and "Copies found." in words


@pytest.mark.slow
def test_a_new_check_reaches_the_report(copied):
    (copied.path / "report.html").touch()
    assert cli(["neighbors", str(copied.path), "--samples", "80", "--space", "latent"]) == 0
    copies = json.loads((copied.path / "audit.json").read_text())["copies"]
    assert copies["data"]["n_samples"] == 80 and copies["space"]["name"] == "latent"
    assert "80 samples were drawn from it." in visible(copied.path / "report.html")


@pytest.mark.slow
def test_copies_as_the_last_stage_of_an_audit(tmp_path, capsys):
    arguments = "audit digits --subset 90 --model kde --folds 3 --repeats 1 --copies --out".split()
    assert cli([*arguments, str(tmp_path / "kde")]) == 0
    audit = json.loads((tmp_path / "kde" / "audit.json").read_text())
    jsonschema.validate(audit, SCHEMA)
    assert audit["copies"]["data"]["n_train"] == 60 and audit["copies"]["sentence"] in capsys.readouterr().out
    assert "copies=True" in audit["asked"]["python"] and "--copies" in audit["asked"]["command"]
    assert "Does the model repeat its training set?" in visible(tmp_path / "kde" / "report.html")
