"""What an audit will need after the refits is tried before them."""

import functools

import numpy as np
import oracles_custom as own
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.neighbors import KernelDensity
from user_networks import normal, user_gaussian

import genmem
from genmem.errors import GenmemError, ModelError, RunError
from genmem.models import VAE

SMALL = {"folds": 2, "repeats": 2, "epochs": 1}
X = normal(24)


def refits(path):
    return sorted(file.name for file in (path / "shards").glob("*.npz"))


def refused(path, model, kind=GenmemError, **asked):
    """Return the message of an audit that is refused before any refit."""
    small = SMALL if hasattr(model, "epochs") else {"folds": 2, "repeats": 2}
    with pytest.raises(kind) as caught:
        genmem.audit(X, model, path, **{**small, **asked})
    assert not refits(path)
    return str(caught.value)


GENERATOR = torch.Generator().manual_seed(0)
UNUSABLE = {
    "raises": lambda net, n: net.nothing(n),
    "shape": lambda net, n: torch.zeros(n, 4),
    "fixed": lambda net, n: torch.zeros(64, 3),
    "flat": lambda net, n: torch.zeros(n * 3),
    "nan": lambda net, n: torch.full((n, 3), torch.nan),
    "text": lambda net, n: ["a"] * n,
    "numpy": lambda net, n: torch.as_tensor(np.random.normal(size=(n, 3))),  # noqa: NPY002
    "generator": lambda net, n: torch.randn(n, 3, generator=GENERATOR),
    "none": lambda net, n: None,
}


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("question", ["copies", "influence"])
def test_samples_that_cannot_be_used(tmp_path, name, question):
    assert "sample" in refused(tmp_path / "run", user_gaussian(sample=UNUSABLE[name]), ModelError, **{question: True})


def test_a_network_without_sample(tmp_path):
    told = refused(tmp_path / "run", user_gaussian(sample=None), ModelError, copies=True)
    assert "from_module without `sample`" in told and "Refits do not depend on it" in told


@pytest.mark.parametrize("kernel", ["epanechnikov", "exponential", "linear", "cosine"])
def test_kernels_that_cannot_be_sampled(tmp_path, kernel):
    assert "to sample" in refused(tmp_path / "run", KernelDensity(kernel=kernel), ModelError, copies=True)


class Normal(BaseEstimator):
    """A standard normal density, drawn as `how` says."""

    def __init__(self, how="seeded"):
        self.how = how

    def fit(self, X, y=None):
        self.width_ = X.shape[1]
        return self

    def score_samples(self, X):
        return -0.5 * (np.asarray(X) ** 2).sum(1) - 0.9189385 * self.width_

    def sample(self, n_samples=1, random_state=None):
        rng = np.random if self.how == "global" else np.random.default_rng(random_state)
        drawn = rng.normal(size=(n_samples, self.width_))
        if self.how == "raises":
            raise NotImplementedError
        return {"nan": drawn * np.nan, "narrow": drawn[:, :1], "few": drawn[:3], "text": drawn.astype(str)}.get(
            self.how, drawn
        )


@pytest.mark.parametrize("how", ["raises", "nan", "narrow", "few", "text", "global"])
def test_samples_of_other_densities(tmp_path, how):
    assert "sample" in refused(tmp_path / "run", Normal(how), ModelError, copies=True)


def test_influence_without_a_formula(tmp_path):
    assert "influence" in refused(tmp_path / "run", Normal(), ModelError, influence=True)


def test_a_posterior_that_does_not_exist(tmp_path):
    for name, model in (("a", user_gaussian()), ("b", KernelDensity())):
        assert "posterior" in refused(tmp_path / name, model, ModelError, posterior="refit")


def test_a_report_that_cannot_be_written(tmp_path):
    (tmp_path / "run").mkdir()
    model = user_gaussian()
    genmem.stages.plan(X, model, tmp_path / "run", **SMALL)
    (tmp_path / "run" / "report.html").mkdir()
    assert "report.html" in refused(tmp_path / "run", model, RunError)


def test_a_disk_that_is_too_full(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    assert "space" in refused(tmp_path / "run", KernelDensity(), RunError)


@pytest.mark.parametrize(
    "model",
    [
        user_gaussian(),
        user_gaussian(sample=functools.partial(own.gaussian_sample)),
        pytest.param(VAE(hidden=[4], latent_dim=1, batch_size=8), marks=pytest.mark.slow),
        Normal(),
        KernelDensity(kernel="tophat"),
    ],
    ids=["module", "partial", "vae", "other", "kernel"],
)
def test_what_can_be_sampled_passes(tmp_path, model):
    run = genmem.stages.plan(X, model, tmp_path / "run", **(SMALL if hasattr(model, "epochs") else {"folds": 2}))
    genmem.stages.check_before(run, copies=True, influence=not isinstance(model, Normal))


class Named(KernelDensity):
    """A subclass that changes nothing that fits or scores."""

    def __init__(self, bandwidth=0.7):
        super().__init__(bandwidth=bandwidth)


@pytest.mark.slow
def test_influence_of_a_subclass_that_only_has_a_name(tmp_path):
    found = genmem.audit(X, Named(), tmp_path / "run", influence=True, folds=2, repeats=1)
    assert "influence" in found.summary


def test_influence_does_not_need_samples_of_kernels(tmp_path):
    run = genmem.stages.plan(X, KernelDensity(kernel="linear", bandwidth=9), tmp_path / "run", folds=2)
    genmem.stages.check_before(run, influence=True)


@pytest.mark.parametrize("asked", [{"space": "pca:99"}, {"space": "latent"}, {"space": "spectrum"}, {"level": 2.0}])
def test_spaces_are_tried_before_the_refit_for_samples(tmp_path, asked, monkeypatch):
    run = genmem.stages.plan(X, KernelDensity(), tmp_path / "run", folds=2)
    monkeypatch.setattr("genmem.stages._copies.refit_one", None)  # calling it raises
    with pytest.raises(GenmemError, match="pca:3|latent|image|level"):
        genmem.stages.copies(run, **asked)


# --- what fails late all the same


def breaks_when_trained(network, n):
    """Sample a network that was trained on many examples only if that is few."""
    drawn = own.gaussian_sample(network, n)
    return drawn * torch.nan if n > 20 else drawn


@pytest.mark.slow
def test_the_other_stages_finish(tmp_path):
    model = user_gaussian(sample=breaks_when_trained)
    with pytest.raises(GenmemError, match="Finished work is kept"):
        genmem.audit(X, model, tmp_path / "run", influence=True, copies=True, **SMALL)
    run = genmem.Run.open(tmp_path / "run")
    assert run.has_result("scores") and run.has_result("influence") and not run.pending()
    checks = {check["id"]: check for check in run.read_json("audit.json")["checks"]}
    assert "copies" in checks["failed_stages"]["sentence"] and not checks["failed_stages"]["ok"]
    assert "Stages that failed" in (run.path / "report.html").read_text()
    mended = genmem.audit(X, user_gaussian(), tmp_path / "run", influence=True, copies=True, **SMALL)
    assert "failed_stages" not in {check["id"] for check in mended.summary["checks"]}
