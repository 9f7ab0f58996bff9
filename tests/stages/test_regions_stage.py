"""Regions of a run: what is stored and kept, held-out examples, metadata, features, spaces; the report."""

import json
import shutil
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from pages import visible

import genmem
from genmem import stages
from genmem.errors import DataError, ModelError, RunError
from genmem.regions import describe_regions
from genmem.run import Run
from genmem_cli.main import run as cli

SCHEMA = json.loads(files("genmem.report").joinpath("audit.schema.json").read_text())
QUICK = {"folds": 3, "repeats": 2, "workers": 1, "posterior": "amortised"}
pytestmark = pytest.mark.slow
SMALL = {"settings": {"hidden": [12], "latent_dim": 2, "epochs": 6}}


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    """An audit of 240 digits, 3 of which are fours, and 120 others, held out."""
    digits = genmem.load("digits")
    labels = np.asarray(digits.labels).astype(int)
    order = np.random.default_rng(0).permutation(len(labels))
    held_out, train = order[:120], order[120:]
    fours = train[labels[train] == 4]
    train = np.setdiff1d(train, fours[3:])[::6][:240]
    train = np.union1d(train, fours[:3])
    path = tmp_path_factory.mktemp("runs") / "thin"
    genmem.audit(digits.X[train], "vae", path, labels=labels[train], **QUICK, **SMALL)
    return path, digits.X[held_out], labels[held_out]


@pytest.fixture
def run(thin, tmp_path):
    return Run.open(shutil.copytree(thin[0], tmp_path / "run"))


def said(path):
    return json.loads((path / "audit.json").read_text())


def test_an_audit_looks_for_regions_by_scores(thin):
    about = said(thin[0])["regions"]
    assert about["held_out"] is None
    assert about["kinds"].keys() == {"label", "cell"}
    assert about["searched"] > 20
    jsonschema.validate(said(thin[0]), SCHEMA)


def test_held_out_examples_name_the_thin_region_on_page_one(thin, run):
    about = stages.regions(run, held_out=thin[1], held_out_labels=thin[2], samples=40)
    audit = said(run.path)
    jsonschema.validate(audit, SCHEMA)
    assert (about["held_out"], about["samples"]) == (120, 40)
    label = about["kinds"]["label"][0]
    assert label["name"] == "4"
    assert label["held_out"] == (thin[2] == 4).sum()
    assert sum(cell["held_out"] for cell in about["kinds"]["cell"]) == 120
    assert sum(cell["samples"] for cell in about["kinds"]["cell"]) == 40
    names = run.result("regions")
    assert {"train", "held_out", "samples", "map"} == set(names)
    first = about["found"][0]
    assert first["held_out"] == (names["held_out"] == "1").sum()
    assert np.isin(np.flatnonzero(names["held_out"] == "1"), np.flatnonzero(thin[2] == 4)).mean() > 0.5
    assert first["share_p"] < 0.05
    page = visible(run.path / "report.html")
    assert about["sentence"] in page
    assert "Of held-out" in page
    assert audit["findings"][0]["id"] == "region"


def test_a_stored_result_is_kept_until_something_else_is_asked(thin, run):
    richer = stages.regions(run, held_out=thin[1])
    assert stages.regions(run) == json.loads(json.dumps(richer))
    assert stages.regions(run, n_regions=3)["held_out"] is None


def test_a_kill_between_two_files_leaves_no_mixture(thin, run):
    stages.regions(run, held_out=thin[1])
    arrays = run.result("regions")
    stages.regions(run, held_out=thin[1][:60])
    run.write_result("regions", **arrays)  # as after a kill: of the other search
    assert stages.regions(run)["held_out"] is None  # computed again, as nothing else was asked


def test_a_stored_answer_is_none_for_changed_data(run):
    X = np.load(run.path / "data" / "X.npy")
    X[3] += 1
    np.save(run.path / "data" / "X.npy", X)
    with pytest.raises(RunError, match="other values"):
        stages.regions(run)


def test_columns_called_like_groups_of_the_run_do_not_replace_them(run):
    n = run.plan["data"]["n"]
    about = stages.regions(run, metadata={"label": np.arange(n) % 2, "cell": np.arange(n) % 3})
    assert about["kinds"].keys() == {"label", "cell", "label (metadata)", "cell (metadata)"}


def test_metadata_groups_are_described(run):
    n = run.plan["data"]["n"]
    site = np.array(["north", "south", "south"])[np.arange(n) % 3]
    about = stages.regions(run, metadata={"site": site, "age": np.arange(n), "id": [f"p{i}" for i in range(n)]})
    assert about["kinds"].keys() == {"label", "cell", "site", "age"}
    found = {region["name"]: region["n"] for region in about["kinds"]["site"]}
    assert found == {"north": (site == "north").sum(), "south": (site == "south").sum()}
    assert len(about["kinds"]["age"]) == 4
    expected = describe_regions("site", stages._regions._known(run), site)
    assert [region["mean"] for region in about["kinds"]["site"]] == pytest.approx([region.mean for region in expected])


@pytest.mark.parametrize("space", ["latent", "data"])
def test_other_spaces(thin, run, space):
    about = stages.regions(run, held_out=thin[1], space=space)
    assert about["space"] == {"latent": "latent space", "data": "data"}[space]
    assert about["found"]


def test_features_of_the_user_and_dense_cells(thin, run):
    rng = np.random.default_rng(0)
    n = run.plan["data"]["n"]
    about = stages.regions(
        run, held_out=thin[1], features=(rng.normal(size=(n, 3)), rng.normal(size=(120, 3))), cells="hdbscan"
    )
    assert about["space"] == "features that were given"
    assert {region["kind"] for region in about["kinds"]["cell"]} <= {"cell"}


def test_bad_input(thin, run):
    n = run.plan["data"]["n"]
    for message, given in {
        "space to be one of": {"space": "pixels"},
        "cells to be one of": {"cells": "dbscan"},
        "samples to be a whole number": {"samples": -1},
        "n_regions to be a whole number": {"n_regions": 0},
        "metadata with the columns": {"by": ["site"]},
        "one of the columns 'site'": {"metadata": {"site": np.arange(n) % 2}, "by": ["sight"]},
        "one row of metadata": {"metadata": {"site": np.arange(n - 1) % 2}},
        "to divide the examples into groups; got one value": {"metadata": {"site": ["a"] * n}, "by": ["site"]},
        "a column of metadata that divides": {"metadata": {"id": [f"p{i}" for i in range(n)]}},
        "held-out labels like those": {"held_out": thin[1], "held_out_labels": np.full(120, "four")},
        "held-out examples with the labels": {"held_out_labels": thin[2]},
        "on the scale of the training examples": {"held_out": 255 * thin[1]},
        "not among the training examples": {"held_out": np.asarray(run.data().X[:50])},
        "held-out examples of shape": {"held_out": np.ones((9, 5), np.float32)},
        f"features of {n} training and 0 held-out": {"features": np.ones((n - 1, 2))},
        f"features of {n} training and 120 held-out": {"features": np.ones((n, 2)), "held_out": thin[1]},
    }.items():
        with pytest.raises(DataError, match=message):
            stages.regions(run, **given)


def test_a_model_without_latent_space_is_refused_by_name(tmp_path):
    from sklearn.mixture import GaussianMixture

    X = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    path = genmem.audit(X, GaussianMixture(2, random_state=0), tmp_path / "run", folds=3, repeats=2, workers=1).path
    with pytest.raises(ModelError, match="posterior means"):
        stages.regions(Run.open(path), space="latent")
    with pytest.raises(ModelError, match="samples of a network"):
        stages.regions(Run.open(path), samples=5)


def test_the_command(thin, run, tmp_path, capsys):
    np.save(tmp_path / "held.npy", thin[1])
    np.save(tmp_path / "labels.npy", thin[2])
    (tmp_path / "meta.csv").write_text("site\n" + "".join(f"{'ab'[i % 2]}\n" for i in range(run.plan["data"]["n"])))
    line = ["regions", str(run.path), "--held-out", str(tmp_path / "held.npy")]
    line += ["--held-out-labels", str(tmp_path / "labels.npy"), "--metadata", str(tmp_path / "meta.csv")]
    assert cli([*line, "--by", "site", "--regions", "4"]) == 0
    out = capsys.readouterr().out
    assert said(run.path)["regions"]["sentence"] in out
    assert len(said(run.path)["regions"]["found"]) <= 4
    assert cli(["regions", str(run.path), "--by", "site"]) == 2


def test_few_examples_have_no_regions(tmp_path):
    X = np.random.default_rng(0).normal(size=(8, 2))
    done = genmem.audit(X, "kde", tmp_path / "run", folds=2, repeats=2, workers=1)
    about = done.summary["regions"]
    assert about["found"] == []
    assert "No cluster is large enough." in visible(done.path / "report.html")
