"""A run from a stranger runs no code: what it names is imported by consent; files beside it are no libraries."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator

import genmem
from genmem import stages
from genmem.errors import ModelError
from genmem.models.trust import foreign_names
from genmem.run import Run
from genmem.run.remembered import is_remembered, state_folder
from genmem_cli.main import run as cli

STAGES = ("report", "regions", "score", "neighbors", "influence", "fit", "refit", "posterior", "neurons")
MODEL = """
import pathlib
from sklearn.neighbors import KernelDensity

pathlib.Path("imported").touch()

def make(bandwidth=1.0):
    return KernelDensity(bandwidth=bandwidth)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    X = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    return genmem.audit(X, "kde", tmp_path_factory.mktemp("runs") / "run", folds=2, repeats=2, workers=1).path


def say(path, model):
    plan = json.loads((path / "run.json").read_text())
    plan["model"] |= model
    (path / "run.json").write_text(json.dumps(plan))


@pytest.fixture
def stranger(finished, tmp_path, monkeypatch):
    import shutil

    monkeypatch.chdir(tmp_path)
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"name": "subprocess:check_output", "params": {"args": ["touch", "ran"]}},
        {"name": "beside:make", "params": {}},
        {"name": "sklearn.neighbors:KernelDensity", "params": {"metric": {"callable": "beside:make"}}},
        {"name": "genmem.models.diffusion:DiffusionModel", "params": {"network": "beside:make"}},
        {"name": "genmem.models.custom:ModuleDensity", "params": {"network": {"callable": "beside:make"}}},
        {"name": "genmem.models.diffusion:DiffusionModel", "params": {"network": "bes-ide:make"}},
        {"name": "genmem.run.storage:unwritable", "params": {}},
        {"name": "sklearn.utils:Bunch", "params": {}},
    ],
)
@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_runs_what_a_plan_names(stranger, tmp_path, capsys, model, stage):
    for name in ("beside", "bes-ide"):
        (tmp_path / f"{name}.py").write_text("import pathlib\npathlib.Path('ran').touch()\ndef make(**_): ...\n")
    say(stranger, model)
    code = cli([stage, str(stranger)])
    said = capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert "beside" not in sys.modules
    assert code in (0, 2)
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_refusal_names_what_would_be_imported_and_what_to_do(stranger, capsys):
    say(stranger, {"name": "subprocess:check_output", "params": {"args": ["true"]}})
    assert cli(["refit", "--recompute", str(stranger)]) == 2
    said = capsys.readouterr().err
    assert "subprocess:check_output in" in said
    assert "--trust" in said


@pytest.mark.slow
def test_reading_a_run_needs_no_code(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    (tmp_path / "gone_model.py").write_text(MODEL)
    run = genmem.audit(X, "gone_model:make", tmp_path / "run", folds=2, repeats=2, workers=1).path
    (tmp_path / "gone_model.py").unlink()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert cli(["score", str(run)]) == 0
    capsys.readouterr()
    assert cli(["neighbors", str(run)]) == 2  # neighbours are found; samples need the model
    assert "gone_model:make in" in capsys.readouterr().err
    assert [cli([stage, str(run)]) for stage in ("regions", "report")] == [0, 0]


@pytest.mark.slow
def test_trust_says_what_is_imported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trusted_model.py").write_text(MODEL)
    np.save("X.npy", np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32))
    assert cli(["plan", "X.npy", "--model", "trusted_model:make", "--folds", "2", "--repeats", "2", "--out", "r"]) == 0
    assert (tmp_path / "imported").exists()
    described = Run.open("r").plan["model"]
    assert foreign_names(described) == ["trusted_model:make"]
    assert is_remembered(described)
    assert cli(["refit", "r"]) == 0  # planned from this folder by this user
    for file in (state_folder() / "trusted").iterdir():
        file.unlink()
    capsys.readouterr()
    assert cli(["fit", "r"]) == 2
    assert cli(["fit", "--trust", "r"]) == 0
    assert "Importing trusted_model:make" in capsys.readouterr().err


class Own(BaseEstimator):
    """A density of the user, passed in Python."""

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return -np.square(X).sum(1)

    def sample(self, n_samples=1):
        return np.zeros((n_samples, 2))


def test_a_model_passed_in_python_is_trusted(tmp_path, monkeypatch):
    X = np.random.default_rng(0).normal(size=(30, 2))
    run = stages.plan(X, Own(), tmp_path / "run", folds=2, repeats=2)
    genmem.refit(run)
    genmem.refit(Run.open(run.path))  # the same model from the same folder
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    with pytest.raises(ModelError, match="your trust"):
        stages.copies(Run.open(run.path))
    genmem.refit(Run.open(run.path, trust=True))
    genmem.refit(Run.open(run.path), Own())


@pytest.mark.slow
def test_files_beside_a_run_are_no_libraries(finished, tmp_path):
    """Libraries that are not installed are looked for by others: plotly tries orjson, pandas and sage."""
    for name in ("orjson", "pandas", "sage", "polars", "IPython"):
        (tmp_path / f"{name}.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    code = f"import sys; sys.argv = ['genmem', 'report', {str(finished)!r}]; from genmem_cli.main import main; main()"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_files_beside_a_run_are_no_libraries_of_its_workers(tmp_path):
    for name in ("joblib", "pickle", "json"):
        (tmp_path / f"{name}.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(40, 2)))
    words = ["audit", "X.npy", "--model", "kde", "--folds", "2", "--repeats", "2", "--workers", "2", "--out", "r"]
    code = f"import sys; sys.argv = ['genmem', *{words!r}]; from genmem_cli.main import main; main()"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
