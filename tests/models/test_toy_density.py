"""A density of ten lines is one entry in one list: then it has a name, the contract, a command line and a report."""

import numpy as np
import pytest
from contract import check_density
from pages import visible
from sklearn.base import BaseEstimator

import genmem
from genmem.errors import ModelError
from genmem.models import load_model, save_model
from genmem.models.factory import BUILT_IN, make_model
from genmem.run import Run
from genmem_cli.main import run as cli

X = np.random.default_rng(0).normal(size=(24, 3))


class Toy(BaseEstimator):
    """One Gaussian of unit variance around the mean."""

    def __init__(self, *, shift=0.0):
        self.shift = shift

    def fit(self, X, y=None):
        self.mean_ = np.mean(X, axis=0) + self.shift
        return self

    def score_samples(self, X):
        return -0.5 * np.square(X - self.mean_).sum(1) - 0.5 * len(self.mean_) * np.log(2 * np.pi)

    def sample(self, n_samples=1, random_state=None):
        return self.mean_ + np.random.default_rng(random_state).normal(size=(n_samples, len(self.mean_)))


@pytest.fixture(autouse=True)
def named(monkeypatch):
    monkeypatch.setitem(BUILT_IN, "toy", f"{__name__}:Toy")


def test_it_is_made_by_its_name():
    model = make_model("toy", {"shift": 1.0})
    assert isinstance(model, Toy) and model.shift == 1.0
    with pytest.raises(ModelError, match="Did you mean toy"):
        make_model("toi")
    with pytest.raises(ModelError, match="a setting of toy"):
        make_model("toy", {"width": 1})


def test_its_class_can_be_imported_from_the_top():
    assert genmem.Toy is Toy and genmem.models.Toy is Toy
    with pytest.raises(AttributeError, match="no attribute 'Toi'"):
        genmem.Toi  # noqa: B018


def test_it_meets_the_contract():
    check_density(make_model("toy"), X)


def test_its_files_are_trusted(tmp_path, monkeypatch):
    file = save_model(Toy().fit(X), tmp_path / "toy.safetensors")
    np.testing.assert_array_equal(load_model(file).mean_, X.mean(0))
    monkeypatch.delitem(BUILT_IN, "toy")
    with pytest.raises(ModelError, match="trust=True"):
        load_model(file)


def test_the_command_line_plans_it(tmp_path, capsys):
    np.save(tmp_path / "X.npy", X)
    asked = ["plan", str(tmp_path / "X.npy"), "--folds", "2", "--repeats", "2", "--out", str(tmp_path / "run")]
    assert cli([*asked, "--model", "toy", "--set", "shift=0.5"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "run")
    assert Run.open(tmp_path / "run").plan["model"] == {"name": f"{__name__}:Toy", "params": {"shift": 0.5}}
    assert cli([*asked, "--model", "toi"]) == 2
    assert "Did you mean toy?" in capsys.readouterr().err


@pytest.mark.slow
def test_it_is_audited_up_to_the_report(tmp_path):
    done = genmem.audit(X, "toy", out=tmp_path / "run", folds=2, repeats=2)
    assert np.isfinite(done.scores.score).all() and done.summary["asked"]["log_prob"] == "exact"
    assert "Toy" in visible(done.report)


def test_what_it_does_not_say_it_can_do_is_not_asked_of_it():
    with pytest.raises(ModelError, match="Toy.*Refit it"):
        genmem.leave_one_out(Toy(), X)
    with pytest.raises(ModelError, match="a DeepDensity, or .*got Toy"):
        genmem.influence_scores(Toy(), X, X)
