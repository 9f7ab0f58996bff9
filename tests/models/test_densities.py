"""Every built-in density by its name: the contract, an audit from end to end, and data it cannot take."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from contract import check_density, check_normalised
from sklearn.base import clone

import genmem
from genmem.errors import DataError, GenmemError
from genmem.models import DeepDensity
from genmem.models.factory import BUILT_IN, make_model, model_of_plan
from genmem.stages._plan import settle_model, shape_for

SMALL = {
    "vae": {"hidden": [8], "latent_dim": 2, "epochs": 2},
    "conv-vae": {"width": 4, "latent_dim": 2, "epochs": 1},
    "flow": {"hidden": [8], "transforms": 1, "epochs": 2},
    "diffusion": {"width": 16, "depth": 1, "timesteps": 10, "epochs": 2},
    "gmm": {"n_components": 2, "random_state": 0},
    "gmm-torch": {"n_components": 2},
    "kde": {},
    "kde-torch": {},
    "knn": {"k": 3},
    "mfa": {"components": 2, "factors": 2, "epochs": 2},
}


def test_the_page_lists_every_name_with_its_class():
    page = (Path(__file__).parents[2] / "docs" / "densities.md").read_text()
    table = page[page.index("| `--model` |") :].partition("\n\n")[0]
    cells = [row.split("|")[1:3] for row in table.splitlines()[2:]]
    listed = [[re.findall(r"`([\w-]+)`", cell) for cell in row] for row in cells]
    pairs = {name: kind for names, kinds in listed if names for name, kind in zip(names, kinds, strict=True)}
    assert pairs == {name: path.split(":")[1] for name, path in BUILT_IN.items()}


@dataclass(kw_only=True, eq=False, repr=False)
class Declared(genmem.VAE):
    extra: list | int = 1
    epochs: int = 7


class Written(genmem.VAE):
    def __init__(self, extra=1, epochs=7):
        super().__init__(epochs=epochs)
        self.extra = extra


class Inherited(genmem.VAE):
    """No settings of its own."""


@pytest.mark.parametrize("kind", [Declared, Written])
def test_subclasses_declare_settings_or_write_a_constructor(kind):
    given = [1, 2]
    model = kind(extra=given)
    assert model.extra is given and (model.epochs, model.latent_dim) == (7, 16)
    assert clone(model).get_params() == model.get_params() and model.get_params()["extra"] == given
    assert repr(model) == f"{kind.__name__}(extra=[1, 2])"


def test_subclasses_without_settings_take_those_of_their_parent():
    assert Inherited(epochs=3, hidden=[4]).get_params() == genmem.VAE(epochs=3, hidden=[4]).get_params()
    with pytest.raises(TypeError):
        Inherited(3)


NETWORKS = {"vae", "conv-vae", "flow", "diffusion", "mfa"}  # their training takes time
IMPROPER = {"knn"}  # its integral is infinite


def each(names):
    return [pytest.param(name, marks=pytest.mark.slow if name in NETWORKS else ()) for name in sorted(names)]


def test_every_class_can_be_imported_from_the_top_and_every_name_is_in_the_readme():
    ours = {path.split(":")[1] for path in BUILT_IN.values() if path.startswith("genmem.")}
    assert {getattr(genmem, kind).__name__ for kind in ours} == ours
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [name for name in BUILT_IN if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("name", each(BUILT_IN.keys() - NETWORKS - IMPROPER))
def test_p_integrates_to_one(name):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(-2, 0.7, (40, 1)), rng.normal(1.5, 0.5, (40, 1))])
    check_normalised(make_model(name), X, low=-30, high=30, points=20_001)


@pytest.mark.parametrize("name", each(BUILT_IN))
def test_contract(name):
    data = genmem.load("digits", subset=90)
    model = settle_model(name, {"reg_covar": 1e-2} if name.startswith("gmm") else {}, data, None)
    model = model.set_params(**SMALL.get(name, {}))
    X = shape_for(model, data).X
    check_density(model, X.astype(np.float64) if name == "gmm" else X)  # scikit-learn's works in float32 on float32


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_audit_from_end_to_end(name, tmp_path):
    how = {"subset": 60, "folds": 2, "repeats": 2, "settings": SMALL.get(name, {})}
    done = genmem.audit("digits", model=name, out=tmp_path / name, **how)
    table = pq.read_table(tmp_path / name / "scores.parquet")
    score = table["score"].to_numpy()
    assert score.shape == (60,) and np.isfinite(score).all() and score.std() > 0
    summary = json.loads((tmp_path / name / "audit.json").read_text())
    other = {"flow": "exact", "diffusion": "bound"}.get(name, "importance")
    expected = other if isinstance(make_model(name), DeepDensity) else "exact"
    assert summary["asked"]["log_prob"] == expected
    assert (summary["asked"]["importance_samples"] is None) == (expected == "exact")
    assert "report.html" in {path.name for path in done.path.iterdir()}
    assert ("by a lower bound" in done.findings[0]["sentence"]) == (name == "diffusion")


def test_images_are_flattened_for_models_of_vectors_and_digits_reshaped_for_models_of_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    data = genmem.load(images)
    assert shape_for(make_model("kde"), data).X.shape == (30, 64)
    assert shape_for(make_model("knn"), data).X.shape == (30, 64)
    assert shape_for(make_model("vae"), data).X.shape == (30, 8, 8)
    assert shape_for(make_model("conv-vae"), genmem.load("digits", subset=9)).X.shape == (9, 8, 8)
    colour = genmem.load(np.zeros((4, 3, 8, 8), np.uint8))
    assert shape_for(make_model("conv-vae"), colour).X.shape == (4, 8, 8, 3)
    assert shape_for(make_model("conv-vae"), genmem.load(np.zeros((4, 9, 7, 3)))).X.shape == (4, 9, 7, 3)
    assert shape_for(make_model("diffusion"), genmem.load("digits", subset=9)).X.shape == (9, 64)
    channels_first = genmem.load(np.arange(4 * 3 * 8 * 9, dtype=np.float32).reshape(4, 3, 8, 9))
    reordered = shape_for(make_model("diffusion"), channels_first).X
    np.testing.assert_array_equal(reordered, np.moveaxis(channels_first.X, 1, -1))
    assert shape_for(make_model("diffusion"), genmem.load(np.zeros((4, 1, 8, 8), np.uint8))).X.shape == (4, 8, 8)
    assert shape_for(make_model("diffusion"), genmem.load(np.zeros((4, 3, 5, 5)))).X.shape == (4, 3, 5, 5)
    with pytest.raises(DataError, match="images for ConvVAE"):
        genmem.audit(np.random.default_rng(0).normal(size=(30, 5)), model="conv-vae", out=tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"gmm", "kde"}))
@pytest.mark.parametrize("X", [np.full((20, 4), np.nan), np.empty((0, 4)), np.array([["a"] * 4] * 20)])
def test_bad_data_are_refused_by_name(name, X):
    with pytest.raises(GenmemError, match=r"expected|Expected"):
        make_model(name).fit(X)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kde", "kde-torch", "knn"])
def test_exact_scores_stand_beside_those_of_refits(name, tmp_path):
    done = genmem.audit("digits", model=name, out=tmp_path / name, subset=80, folds=4, repeats=1)
    run = genmem.Run.open(done.path)
    expected = genmem.leave_one_out(model_of_plan(run.plan["model"]), np.asarray(run.data().X))
    table = pq.read_table(done.path / "scores.parquet")
    np.testing.assert_array_equal(table["leave_one_out"].to_numpy(), expected.score)
    finding = next(f for f in done.findings if f["id"] == "exact_leave_one_out")
    assert (
        finding["value"] == pytest.approx(expected.score.mean()) and "exact leave-one-out score" in finding["sentence"]
    )
    assert finding["examples"][0] == expected.score.argmax()


@pytest.mark.slow
def test_without_a_closed_form_there_are_no_exact_scores(tmp_path):
    done = genmem.audit("digits", model="gmm", out=tmp_path / "gmm", subset=80, folds=4, repeats=1)
    assert "leave_one_out" not in pq.read_table(done.path / "scores.parquet").column_names
    assert "exact_leave_one_out" not in {f["id"] for f in done.findings}


def test_the_bandwidth_is_chosen_once_unless_it_is_given(tmp_path):
    chosen = genmem.stages.plan("digits", "kde", tmp_path / "a", subset=200, folds=2, repeats=1)
    assert 0.05 < chosen.plan["model"]["params"]["bandwidth"] < 0.5
    given = genmem.stages.plan("digits", "kde", tmp_path / "b", subset=200, settings={"bandwidth": 2.0})
    assert given.plan["model"]["params"]["bandwidth"] == 2.0


def test_colour_images_get_a_likelihood_of_their_levels_unless_another_is_asked_for():
    colour = genmem.load(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8))
    chosen = settle_model("vae", {}, colour, None)
    assert (chosen.likelihood, chosen.levels) == ("logit_normal", 256)
    other = settle_model("conv-vae", {"likelihood": "bernoulli"}, colour, None)
    assert (other.likelihood, other.levels) == ("bernoulli", None)
    assert settle_model("vae", {}, genmem.load(colour.X // 128), None).levels == 2


def test_settings_that_suit_the_data_are_for_built_in_names():
    data = genmem.load("digits", subset=50)
    assert (
        settle_model("vae", {}, data, 3).get_params()
        == genmem.VAE(hidden=[128, 64], latent_dim=8, likelihood="gaussian", epochs=3).get_params()
    )
    assert settle_model("genmem:VAE", {}, data, 3).get_params() == genmem.VAE(epochs=3).get_params()
    ours, theirs = (settle_model(name, {}, data, None) for name in ("gmm-torch", "gmm"))
    assert ours.n_components == theirs.n_components == 10


@pytest.mark.slow
def test_audits_of_scikit_learns_kernels_do_not_have_the_errors_of_its_trees(tmp_path):
    runs = [
        genmem.audit("digits", model=name, out=tmp_path / name, subset=300, folds=3, repeats=1)
        for name in ("kde", "kde-torch")
    ]
    np.testing.assert_allclose(runs[0].scores.score, runs[1].scores.score, atol=1e-4)  # log p is kept as float32
    X = np.asarray(genmem.Run.open(runs[0].path).data().X)
    bandwidth = genmem.Run.open(runs[0].path).plan["model"]["params"]["bandwidth"]
    trees = genmem.KernelDensity(bandwidth=bandwidth).fit(X[:150]).score_samples(X[150:])
    exact = genmem.TorchKernelDensity(bandwidth=bandwidth).fit(X[:150]).score_samples(X[150:])
    assert abs(trees - exact).max() > 1, "scikit-learn's trees got better: leaf_size need not be set any more"
