"""`genmem neurons`: networks on halves within the run, resumed after a kill; what cannot be asked is refused."""

import json

import numpy as np
import pytest
from sklearn.neighbors import KernelDensity

import genmem
from genmem import stages
from genmem.errors import DataError, IncompleteRunError, ModelError
from genmem.models import VAE
from genmem.neurons import injection
from genmem.run import Run
from genmem.stages import _neurons

QUICK = {"share": 0.2, "posterior": "fixed", "splits": 4, "permutations": 9, "workers": 1}


def planned(path, n=120, model=None, **changes):
    X = np.random.default_rng(0).random((n, 5)).astype(np.float32)
    model = model or VAE(hidden=[8, 6], latent_dim=2, likelihood="gaussian", epochs=2, batch_size=16, device="cpu")
    return stages.plan(X, model, path, **{"folds": 2, "repeats": 1, **changes})


@pytest.fixture(autouse=True, scope="module")
def short_lessons():
    """Let injections give up early: these networks hardly learn anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(injection, "STEPS", 5)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    run = planned(tmp_path_factory.mktemp("run") / "r")
    return run, stages.neurons(run, **QUICK)


@pytest.mark.slow
def test_the_result_is_stored_and_not_computed_again(done, monkeypatch):
    run, about = done
    assert about == json.loads((run.path / "results" / "neurons.json").read_text())
    assert about["verdict"] in ("local", "not local", "no claim") and about["units"] == 14
    assert about["networks_used"] == 16 and about["networks"] == "neurons"
    assert Run.open(run.path / "neurons").splits().n_repeats >= 8
    stored = run.result("neurons")
    assert stored["before"].shape == stored["after"].shape == (2, stored["drop"].shape[1], 5)
    monkeypatch.setattr(_neurons, "measure", None)
    assert stages.neurons(Run.open(run.path), **QUICK) == about
    again = stages.neurons(Run.open(run.path), **{**QUICK, "permutations": 19})  # the drops are kept
    assert again["comparisons"] == about["comparisons"]
    stages.neurons(Run.open(run.path), **QUICK)


@pytest.mark.slow
def test_a_run_killed_half_way_resumes_to_the_same_numbers(done, tmp_path, monkeypatch):
    run, measured, real = planned(tmp_path / "r"), [], _neurons.measure

    def killed(*args, **how):
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(args[2])
        return real(*args, **how)

    monkeypatch.setattr(_neurons, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        stages.neurons(run, **QUICK)
    assert measured == [0, 1, 2, 3, 4] and not run.has_result("neurons")
    resumed = []
    monkeypatch.setattr(_neurons, "measure", lambda *args, **how: resumed.append(args[2]) or real(*args, **how))
    about = stages.neurons(Run.open(run.path), **QUICK)
    assert resumed == list(range(5, 16))
    assert {**about, "seconds": 0} == {**done[1], "seconds": 0}


@pytest.mark.slow
def test_a_run_on_halves_that_kept_its_weights_is_used(tmp_path):
    run = planned(tmp_path / "r", fraction=0.5, folds=None, repeats=8)
    genmem.refit(run)
    about = stages.neurons(run, **QUICK)
    assert about["networks"] == "the run itself" and not (run.path / "neurons").exists()


@pytest.mark.slow
def test_a_flow_keeps_its_weights_for_it(tmp_path):
    run = planned(tmp_path / "r", model=genmem.Flow(transforms=1, hidden=[6], epochs=1, device="cpu"))
    about = stages.neurons(run, **{**QUICK, "posterior": "refit"})
    assert about["verdict"] in ("local", "not local", "no claim")
    assert run.result("neurons")["before"].size == 0


@pytest.mark.slow
def test_a_run_on_halves_without_weights_is_not_used_and_tells_how_to_keep_them(tmp_path):
    model = genmem.Flow(transforms=1, hidden=[6], epochs=1, device="cpu")
    run = planned(tmp_path / "r", model=model, fraction=0.5, folds=None, repeats=8)
    genmem.refit(run)
    assert not _neurons._serves(run, 8)
    assert _neurons._halves(run, run.model, 8).path == run.path / "neurons"
    with pytest.raises(IncompleteRunError, match="--keep-weights"):
        _neurons.network_of(run, run.model, 0)


@pytest.mark.slow
def test_a_result_of_an_older_method_is_computed_again(done, monkeypatch):
    run, about = done
    monkeypatch.setattr(_neurons, "METHOD", _neurons.METHOD + 1)
    measured = []

    def stop(*args, **how):
        measured.append(args[2])
        raise KeyboardInterrupt

    monkeypatch.setattr(_neurons, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        stages.neurons(Run.open(run.path), **QUICK)
    assert measured == [0]  # neither the result nor the evidence is taken as it is
    kept = Run.open(run.path).read_json("results/neurons.json")
    assert {**kept, "seconds": 0} == {**about, "seconds": 0}


def test_a_density_without_units_is_told_so(tmp_path):
    run = planned(tmp_path / "r", model=KernelDensity())
    with pytest.raises(ModelError, match=r"The question does not arise for a density without units"):
        stages.neurons(run)


def test_too_few_examples_are_refused_before_any_network_is_trained(tmp_path):
    run = planned(tmp_path / "r")
    with pytest.raises(DataError, match="16 or more memorized examples"):
        stages.neurons(run)
    assert not (run.path / "neurons").exists()


def test_too_few_networks_are_told_how_many_and_what_they_cost(tmp_path):
    run = planned(tmp_path / "r")
    run.plan["probe"]["expected_seconds"] = 600.0  # for two networks
    with pytest.raises(DataError, match=r"16 networks; got 7. .* These take about 80 minutes here"):
        stages.neurons(run, repeats=7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"repeats": 0}, "repeats to be a whole number"),
        ({"repeats": 33}, "at most 32 repeats"),
        ({"share": 0.3}, "share to be a number above 0"),
        ({"baseline": "noise"}, "baseline to be one of mean, zero, resample"),
        ({"posterior": "new"}, "posterior to be one of refit, fixed, encoder"),
        ({"seed": -1}, "seed to be a whole number"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, asked, said):
    with pytest.raises(DataError, match=said):
        stages.neurons(planned(tmp_path / "r"), **asked)


@pytest.mark.slow
@pytest.mark.parametrize("match", ["steps", "epochs"])
def test_halves_keep_groups_together_and_take_the_steps_of_the_run(tmp_path, match):
    groups = np.arange(120) // 4
    run = planned(tmp_path / "r", groups=groups, match=match)
    halves = _neurons._halves(run, run.model, 8)
    assert halves.plan["match"] == match and halves.splits().n_repeats >= 8
    for group in range(30):
        assert len(np.unique(halves.splits().held_out[:, groups == group], axis=1).T) == 1
