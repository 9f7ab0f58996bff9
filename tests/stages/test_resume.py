"""A run resumes with another `sample`, labels or questions; a change that affects refits is refused by name."""

import functools

import numpy as np
import oracles_custom as own
import pytest
from user_networks import normal, user_gaussian

import genmem
from genmem.errors import ModelError, RunMismatchError

SMALL = {"folds": 2, "repeats": 2, "epochs": 1}
X = normal(24)


def plan(path, model=None, **asked):
    return genmem.stages.plan(X, model or user_gaussian(), path, **{**SMALL, **asked})


def shards(path):
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in (path / "shards").glob("*.npz")}


@pytest.fixture
def begun(tmp_path):
    """A run whose refits are finished, of a model without `sample`."""
    run = plan(tmp_path / "run", user_gaussian(sample=None))
    genmem.refit(run)
    return run.path


@pytest.mark.slow
def test_a_forgotten_sample_costs_no_refit(tmp_path, monkeypatch):
    path = tmp_path / "run"
    genmem.audit(X, user_gaussian(sample=None), path, **SMALL)
    before, trajectory = shards(path), (path / "trajectory" / "manifest.json").stat().st_mtime_ns
    with pytest.raises(ModelError, match="without `sample`"):
        genmem.audit(X, user_gaussian(sample=None), path, copies=True, **SMALL)
    monkeypatch.setattr("genmem.leaveout.refitting._refit", None)  # calling it raises
    done = genmem.audit(X, user_gaussian(), path, copies=True, **SMALL)
    assert shards(path) == before and (path / "trajectory" / "manifest.json").stat().st_mtime_ns == trajectory
    assert done.summary["copies"] is not None
    assert "gaussian_sample" in genmem.Run.open(path).plan["model"]["params"]["sampler"]["callable"]
    first = genmem.Run.open(path).result("copycheck")["samples"]
    genmem.audit(X, user_gaussian(sample=lambda net, n: own.gaussian_sample(net, n) + 5), path, copies=True, **SMALL)
    assert abs(genmem.Run.open(path).result("copycheck")["samples"] - first - 5).max() < 1e-4  # drawn again


@pytest.mark.parametrize("sample", [None, lambda net, n: own.gaussian_sample(net, n) * 1, functools.partial(abs)])
def test_sample_may_change(begun, sample):
    before = shards(begun)
    for model in (user_gaussian(sample=sample), user_gaussian(sample=sample, checkpoint_every=1)):
        genmem.refit(plan(begun, model))
        assert shards(begun) == before and not genmem.Run.open(begun).pending()


def test_device_may_be_the_same_by_another_name(begun):
    before = shards(begun)
    run = plan(begun, user_gaussian(sample=None, device="auto"))
    genmem.refit(run)
    assert shards(begun) == before and not run.pending()


def scaled(by):
    """A loss that closes over a number."""
    return lambda net, x: by * own.gaussian_nll(net, x)


class Loss:
    """A loss as an object, and as a method of one; the number of its calls is no part of it."""

    def __init__(self, by):
        self.by, self.calls = by, 0

    def __call__(self, net, x):
        self.calls += 1
        return self.by * own.gaussian_nll(net, x)

    def method(self, net, x):
        return self.by * own.gaussian_nll(net, x)


def by_keyword(net, x, by):
    return by * own.gaussian_nll(net, x)


def by_default(by):
    def loss(net, x, by=by):
        return by * own.gaussian_nll(net, x)

    return loss


def of_array(by):
    weights = np.full(1, by)
    return lambda net, x: float(weights[0]) * own.gaussian_nll(net, x)


def of_dictionary(by):
    settings = {"by": by, "others": [1, 2]}
    return lambda net, x: settings["by"] * own.gaussian_nll(net, x)


def of_global(by):
    names = {"own": own, "BY": by}
    exec("def loss(net, x):\n    return BY * own.gaussian_nll(net, x)", names)  # as in a notebook
    return names["loss"]


def counting(by):
    counts = []

    def loss(net, x):
        counts.append(1)
        return by * own.gaussian_nll(net, x)

    return loss


COUNTED = counting(1.0)


KINDS = {
    "dictionary": of_dictionary,
    "global": of_global,
    "counting": lambda by: COUNTED if by == 1 else counting(by),
    "closure": scaled,
    "object": Loss,
    "method": lambda by: Loss(by).method,
    "partial": lambda by: functools.partial(by_keyword, by=by),
    "default": by_default,
    "nested": lambda by: functools.partial(scaled(by)),
    "array": of_array,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_loss_is_refused_and_the_same_is_not(tmp_path, kind):
    path = tmp_path / "run"
    genmem.refit(plan(path, user_gaussian(loss=KINDS[kind](1.0))))
    before = shards(path)
    genmem.refit(plan(path, user_gaussian(loss=KINDS[kind](1.0))))
    with pytest.raises(RunMismatchError, match="loss"):
        plan(path, user_gaussian(loss=KINDS[kind](2.0)))
    assert shards(path) == before


def test_a_changed_lambda_is_refused_and_a_repeated_one_is_not(tmp_path):
    plan(tmp_path / "run", user_gaussian(loss=lambda net, x: own.gaussian_nll(net, x)))
    genmem.refit(plan(tmp_path / "run", user_gaussian(loss=lambda net, x: own.gaussian_nll(net, x))))
    plan(tmp_path / "run", user_gaussian(loss=lambda net, x: own.gaussian_nll(net, x)))
    with pytest.raises(RunMismatchError, match="loss"):
        plan(tmp_path / "run", user_gaussian(loss=lambda net, x: 2 * own.gaussian_nll(net, x)))


@pytest.mark.parametrize("change", ["log_prob", "make_module", "learning_rate", "batch_size", "random_state"])
def test_what_affects_refits_is_named(begun, change):
    changes = {"log_prob": {"log_prob": lambda net, x: own.gaussian_log_prob(net, x)}}
    changes |= {"learning_rate": {"learning_rate": 0.5}, "batch_size": {"batch_size": 3}}
    changes |= {"random_state": {"random_state": 4}}
    if change == "make_module":
        model = genmem.from_module(
            lambda shape: own.Gaussian(shape), loss=own.gaussian_nll, log_prob=own.gaussian_log_prob, device="cpu"
        ).set_params(**{k: v for k, v in user_gaussian().get_params().items() if k not in ("network", "sampler")})
    else:
        model = user_gaussian(sample=None, **changes[change])
    with pytest.raises(RunMismatchError, match="network" if change == "make_module" else change):
        plan(begun, model)


def test_runs_planned_before_functions_had_digests(tmp_path):
    run = plan(tmp_path / "run")
    del run.plan["model"]["code"]
    run.write_json("run.json", run.plan)
    genmem.refit(run)
    for model in (user_gaussian(), user_gaussian(sample=None), user_gaussian()):
        assert not plan(tmp_path / "run", model).pending()
    with pytest.raises(RunMismatchError, match="loss"):
        plan(tmp_path / "run", user_gaussian(loss=lambda net, x: own.gaussian_nll(net, x)))


def test_labels_may_come_later(begun):
    before, labels = shards(begun), np.arange(24) % 3
    run = plan(begun, labels=labels)
    np.testing.assert_array_equal(run.data().labels, labels)
    np.testing.assert_array_equal(genmem.Run.open(begun).data().labels, labels)
    assert shards(begun) == before
    with pytest.raises(RunMismatchError, match="labels"):
        plan(begun, labels=labels + 1)


def test_other_score_epochs_are_refused_by_name(begun):
    with pytest.raises(RunMismatchError, match="score_epochs"):
        plan(begun, score_epochs=[0, 1])


def test_an_edited_function_is_noticed_without_passing_the_model(tmp_path, monkeypatch):
    path, model = tmp_path / "run", user_gaussian(sample=None)
    genmem.refit(plan(path, model))
    assert genmem.leaveout.planned_model(genmem.Run.open(path), None).loss is own.gaussian_nll
    monkeypatch.setattr(own.gaussian_nll, "__code__", (lambda network, x: 3 * (x - network.mean).sum(-1)).__code__)
    with pytest.raises(RunMismatchError, match="loss"):
        genmem.leaveout.planned_model(genmem.Run.open(path), None)
