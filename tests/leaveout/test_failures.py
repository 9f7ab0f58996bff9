"""A refit that fails is named and left out, the others are as they would be; out of memory, fewer run at once."""

import numpy as np
import pytest
import torch
from refits import PlainDensity, PlainModule, planned
from sklearn.base import BaseEstimator

from genmem.errors import ModelError, RunError
from genmem.leaveout import refit, worker
from genmem.leaveout.worker import refuse_blame
from genmem.models import VAE, DeepDensity
from genmem.run import Run, Splits

MARK = 50.0  # the first column of an example that does harm
POISONED = 7


class PoisonedModule(PlainModule):
    """Its loss is NaN for the marked example, which poisons the networks that train on it."""

    def forward(self, x, draws=1):
        loss = -PlainModule.log_weights(self, x + 0.01 * torch.randn_like(x))[0]
        return loss * torch.where(x[:, 0] == MARK, torch.nan, 1.0)


class StrictModule(PoisonedModule):
    """Refuses to score once it is poisoned."""

    def log_weights(self, x, draws=1):
        if not torch.isfinite(self.mean).all():
            raise FloatingPointError("the mean\nis lost")
        return super().log_weights(x)


class Poisoned(DeepDensity):
    def make_module(self, event_shape):
        return PoisonedModule(event_shape[0])


class Strict(DeepDensity):
    def make_module(self, event_shape):
        return StrictModule(event_shape[0])


@pytest.fixture
def X(blobs):
    marked = blobs[0].copy()
    marked[POISONED, 0] = MARK
    return marked


def rows_with(run, example, inside):
    return np.flatnonzero(run.splits().held_out[:, example] != inside)


@pytest.mark.parametrize("method", ["lanes", "loop"])
@pytest.mark.parametrize(
    ("model", "why"), [(Poisoned, "training diverged"), (Strict, "FloatingPointError: the mean is")]
)
def test_a_lane_that_diverges_leaves_the_others_as_they_were(tmp_path, X, model, why, method):
    run = planned(tmp_path / "r", X, model(epochs=6, batch_size=64), method=method)
    sound = planned(tmp_path / "s", X, PlainDensity(epochs=6, batch_size=64), method=method)
    with pytest.warns(UserWarning, match=rf"8 refits failed.*split \d+: {why}"):
        refit(run)
    refit(sound)
    bad, good = rows_with(run, POISONED, True), rows_with(run, POISONED, False)
    assert run.failed().keys() == set(bad) and all(reason.startswith(why) for reason in run.failed().values())
    assert np.isnan(run.log_probs()[bad]).all() and np.isnan(run.log_probs(0)[bad]).all()
    assert np.isnan(run.shard_arrays("variance_in")[bad]).all()
    np.testing.assert_array_equal(run.log_probs()[good], sound.log_probs()[good])
    assert run.pending() == []


def test_weights_of_a_failed_split_are_nan(tmp_path, blobs, monkeypatch):
    train = worker.train

    def diverging(recipe, X, lanes, **rest):
        modules = train(recipe, X, lanes, **rest)
        for lane, module in zip(lanes, modules, strict=True):
            if lane.split == 4:
                next(module.parameters()).data.fill_(torch.inf)
        return modules

    monkeypatch.setattr(worker, "train", diverging)
    run = planned(tmp_path / "r", blobs[0], method="lanes")
    with pytest.warns(UserWarning, match="1 refit failed and is left out .split 4: training diverged"):
        refit(run)
    assert all(np.isnan(w).all() for w in run.weights(4).values())
    assert all(np.isfinite(w).all() for w in run.weights(5).values())


def raising_for(split, error, train=worker.train):
    def attempt(recipe, X, lanes, **rest):
        if any(lane.split == split for lane in lanes):
            raise error
        return train(recipe, X, lanes, **rest)

    return attempt


@pytest.mark.slow
def test_where_a_batch_raises_only_the_guilty_split_fails(tmp_path, blobs, monkeypatch):
    run, sound = (planned(tmp_path / name, blobs[0], method="lanes") for name in "rs")
    refit(sound)
    monkeypatch.setattr(worker, "train", raising_for(4, ZeroDivisionError("a bad day")))
    with pytest.warns(UserWarning, match="split 4"):
        refit(run)
    assert run.failed() == {4: "ZeroDivisionError: a bad day"}
    others = np.arange(12) != 4
    np.testing.assert_array_equal(run.log_probs()[others], sound.log_probs()[others])
    monkeypatch.undo()
    assert run.drop_failed() == [run.shard_path(4), run.weights_path(4)] and run.failed() == {}
    refit(run)
    np.testing.assert_array_equal(run.log_probs(), sound.log_probs())


class Picky(BaseEstimator):
    """A Gaussian that wants the marked example in its training data, or else raises or scores one example as 0."""

    def __init__(self, style="raise"):
        self.style = style

    def fit(self, X, y=None):
        self.mean_, self.lost_ = X.mean(0), not (X[:, 0] == MARK).any()
        if self.lost_ and self.style == "raise":
            raise SystemExit("no mark")
        return self

    def score_samples(self, X):
        found = -0.5 * ((X - self.mean_) ** 2).sum(1)
        if self.lost_:
            found[5] = -np.inf
        return found

    def sample(self, n_samples=1):
        return np.zeros((n_samples, len(self.mean_)))


@pytest.mark.parametrize(
    ("style", "why"), [("raise", "SystemExit: no mark"), ("score", "log p is -inf for example 5 (1 in all)")]
)
def test_other_densities_fail_alone_too(tmp_path, X, style, why):
    run = planned(tmp_path / "r", X, Picky(style), score_epochs=(-1,))
    with pytest.warns(UserWarning, match="4 refits failed"):
        refit(run)
    bad = rows_with(run, POISONED, False)
    assert run.failed() == dict.fromkeys(bad.tolist(), why)
    assert np.isnan(run.log_probs()[bad]).all() and np.isfinite(np.delete(run.log_probs(), bad, 0)).all()
    assert run.failed(repeats=1).keys() == {s for s in bad if s < 3}


def test_a_model_that_never_works_is_an_error_at_once(tmp_path, blobs, monkeypatch):
    tried = []
    monkeypatch.setattr(Picky, "fit", lambda self, X: tried.append(1) or 1 / 0)
    run = planned(tmp_path / "r", blobs[0], Picky(), method="fit", lanes=1, score_epochs=(-1,))
    with pytest.raises(ModelError, match="all of the first 4 refits failing; split 0: ZeroDivisionError"):
        refit(run)
    assert len(tried) == 4 and run.pending() == list(range(12)) and run.failed() == {}
    few = planned(tmp_path / "few", blobs[0], Picky(), Splits.k_fold(120, 2, 1, 0), score_epochs=(-1,))
    with pytest.raises(ModelError, match="all of the first 2 refits"):
        refit(few)
    assert few.pending() == [0, 1]


def test_once_a_refit_has_succeeded_any_number_may_fail(tmp_path, X):
    run = planned(tmp_path / "r", X, Picky(), score_epochs=(-1,))
    with pytest.warns(UserWarning):
        refit(run)
    before = run.failed()
    assert len(run.drop_failed()) == 4
    with pytest.warns(UserWarning):
        refit(Run.open(run.path))
    assert run.failed() == before


def test_failures_come_back_from_workers(tmp_path, X):
    from concurrent.futures import ThreadPoolExecutor

    here, there = (planned(tmp_path / name, X, Picky(), score_epochs=(-1,)) for name in "ht")
    with pytest.warns(UserWarning):
        refit(here)
    with ThreadPoolExecutor(3) as pool, pytest.warns(UserWarning):
        refit(there, executor=pool)
    assert here.failed() == there.failed()
    np.testing.assert_array_equal(here.log_probs(), there.log_probs())


# --- memory


def out_of_memory_above(most, error, seen, train=worker.train):
    def attempt(recipe, X, lanes, **rest):
        seen.append(len(lanes))
        if len(lanes) > most:
            raise error
        return train(recipe, X, lanes, **rest)

    return attempt


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_lanes_and_goes_on(tmp_path, blobs, monkeypatch, error):
    run, whole = (planned(tmp_path / name, blobs[0], method="lanes") for name in "rw")
    refit(whole)
    seen = []
    monkeypatch.setattr(worker, "train", out_of_memory_above(2, error, seen))
    refit(run, lanes=6)
    assert seen == [6, 3, 2, 2, 2, 2, 2, 2]  # what does not fit is not tried again
    np.testing.assert_array_equal(run.log_probs(), whole.log_probs())
    assert run.failed() == {}


@pytest.mark.slow
def test_out_of_memory_with_one_lane_says_what_to_do(tmp_path, blobs, monkeypatch):
    monkeypatch.setattr(worker, "train", out_of_memory_above(0, MemoryError("no more"), []))
    run = planned(tmp_path / "r", blobs[0], method="lanes")
    with pytest.raises(RunError, match=r"memory for one refit.*no more.*smaller batch_size"):
        refit(run)
    assert run.pending() == list(range(12))
    monkeypatch.setattr(Picky, "fit", lambda self, X: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(RunError, match="memory for one refit"):
        refit(planned(tmp_path / "s", blobs[0], Picky(), score_epochs=(-1,)))


def test_a_device_that_fails_is_not_blamed_on_the_split(tmp_path, blobs, monkeypatch):
    broken = RuntimeError("CUDA error: unspecified launch failure")
    monkeypatch.setattr(worker, "train", raising_for(4, broken))
    run = planned(tmp_path / "r", blobs[0], VAE(hidden=[16], latent_dim=2, epochs=6, device="cpu"), method="loop")
    with pytest.raises(RunError, match="launch failure.*new process"):
        refit(run)
    assert run.pending() == list(range(4, 12)) and run.failed() == {}
    refuse_blame(ValueError("not of the machine"))
