"""Sums of TracIn: the same whatever the blocks, the strongest of them, kept and resumed."""

import copy
import tracemalloc
from functools import partial

import numpy as np
import oracles_custom as own
import pytest
import torch
from gradient_checks import Largest
from tracin_models import (
    QUICK,
    VECTORS,
    X9,
    fitted,
)

from genmem import RunMismatchError, influence_scores, self_influence
from genmem.errors import RunError
from genmem.gradients import probe
from genmem.influence import Ledger, Trained, checkpoints, selection, top_influences, tracin
from genmem.models import from_module
from genmem.training.trajectory import Checkpoint, Trajectory

# --- the same numbers


@pytest.mark.slow
def test_numbers_do_not_depend_on_blocks(monkeypatch):
    model = fitted("mlp")
    X = np.random.default_rng(1).normal(size=(40, 5)).astype(np.float32)
    calls = {
        "scores": lambda: influence_scores(model, X, X[:7], draws=3, seed=1),
        "cosine": lambda: influence_scores(model, X, X[:7], draws=3, seed=1, scale="cosine"),
        "groups": lambda: influence_scores(model, X, X[:7], draws=3, seed=1, groups=[0, 1, 2, 3, 0, 1, 2]),
        "own": lambda: self_influence(model, X, draws=3, seed=1),
        "top": lambda: top_influences(model, X, X[:7], k=4, draws=3, seed=1).proponents,
    }
    before = {name: call() for name, call in calls.items()}
    for name, call in calls.items():
        assert np.array_equal(before[name], call())
    np.testing.assert_allclose(
        influence_scores(model, X[:9], X[:3], draws=3, seed=1), before["scores"][:9, :3], rtol=1e-4
    )
    other = influence_scores(model, X, X[:7], draws=3, seed=2)
    assert not np.allclose(other, before["scores"])
    monkeypatch.setattr(checkpoints, "BATCH", {"cpu": 4})
    monkeypatch.setattr(checkpoints, "IN_LEDGER", 8)
    monkeypatch.setattr(checkpoints, "SUMS", 120)
    monkeypatch.setattr(tracin, "QUERY_BYTES", {"cpu": 5000})
    for name, call in calls.items():
        after = call()
        np.testing.assert_allclose(after, before[name], rtol=1e-4, atol=1e-6 * abs(before[name]).max())


def test_a_small_room_for_gradients_makes_small_batches(monkeypatch):
    model = fitted("mlp")
    monkeypatch.setattr(checkpoints, "GRADIENT_BYTES", {"cpu": 20_000})
    trained = Trained(model.module_, model.trajectory_)
    found = checkpoints.Visits(trained, torch.from_numpy(VECTORS), checkpoints.Settings(draws=16))
    batch = found.batch_for(by_draw=False)
    assert 1 <= batch < 64 and batch & (batch - 1) == 0
    assert found.batch_for(by_draw=True) < batch


def test_how_gradients_are_had_is_proven_once(monkeypatch):
    proofs, renewals = [], []
    prove, renew = probe.probe, checkpoints.PerExampleGradients.renew
    monkeypatch.setattr(probe, "probe", lambda *a, **k: proofs.append(k["moved"]) or prove(*a, **k))
    monkeypatch.setattr(checkpoints.PerExampleGradients, "renew", lambda self: renewals.append(1) or renew(self))
    monkeypatch.setattr(checkpoints, "BATCH", {"cpu": 2})
    monkeypatch.setattr(checkpoints, "IN_LEDGER", 2)
    top_influences(fitted("mlp"), VECTORS, VECTORS, k=1, draws=2)
    assert proofs == [False, True]
    assert 1 <= len(renewals) <= 2  # two checkpoints count; the last is tried first


# --- the strongest


@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_strongest_are_those_of_the_whole_matrix(k):
    rng = np.random.default_rng(k)
    scores = rng.integers(-3, 3, size=(23, 5)).astype(float)  # with ties
    best = selection.nothing(5)
    for start in range(0, 23, 4):
        best = selection.with_block(best, scores[start : start + 4], start, k)
    order = [sorted(range(23), key=lambda i, column=column: (-column[i], i))[:k] for column in scores.T]
    assert best.rows.tolist() == order
    np.testing.assert_array_equal(best.score, np.take_along_axis(scores.T, np.array(order), 1))


@pytest.mark.parametrize("scale", selection.SCALES)
def test_top_influences_are_those_of_the_scores(scale, monkeypatch):
    monkeypatch.setattr(checkpoints, "BATCH", {"cpu": 2})
    monkeypatch.setattr(checkpoints, "IN_LEDGER", 2)
    model, told = fitted("mlp"), []
    found = top_influences(model, VECTORS, VECTORS, k=6, draws=2, scale=scale, progress=told.append)
    scores = influence_scores(model, VECTORS, VECTORS, draws=2, scale=scale)
    for strongest, values, wanted in (
        (found.proponents, found.proponent_scores, -scores),
        (found.opponents, found.opponent_scores, scores),
    ):
        assert np.array_equal(strongest, np.argsort(wanted, axis=0, kind="stable").T)
        np.testing.assert_allclose(values, np.take_along_axis(scores.T, strongest, 1))
    assert (found.weights, found.scale) == ("complete", scale)
    assert found.coverage.startswith("100% of") and "trained with" not in found.note and "Adam" in found.note
    assert [report.done for report in told] == list(range(1, 7)) and told[-1].total == 6
    assert told[-1].detail == found.coverage


@pytest.mark.slow
def test_no_matrix_of_all_pairs_is_held(monkeypatch):
    n, m = 8000, 150
    X = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    model = from_module(own.Gaussian, loss=own.gaussian_nll, bound=False, **(QUICK | {"batch_size": 4000})).fit(X)
    monkeypatch.setattr(checkpoints, "SUMS", 2**17)

    def peak(call):
        tracemalloc.start()
        with Largest() as mode:
            call()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return mode.most, most

    values, numbers = peak(lambda: top_influences(model, X, X[:m], k=5, checkpoints=[0]))
    assert values < n * m / 4 and numbers < 8 * n * m / 2
    values, numbers = peak(lambda: influence_scores(model, X, X[:m], checkpoints=[0]))
    assert numbers >= 8 * n * m  # the test can see what it looks for


# --- the ledger


class Killed(BaseException):
    pass


def kill_after(blocks):
    def listener(report):
        if report.done >= blocks:
            raise Killed

    return listener


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(checkpoints, "BATCH", {"cpu": 2})
    monkeypatch.setattr(checkpoints, "IN_LEDGER", 2)


CALLS = {
    "scores": lambda **how: influence_scores(fitted("mlp"), VECTORS, VECTORS[:3], draws=2, **how),
    "cosine": lambda **how: influence_scores(fitted("mlp"), VECTORS, VECTORS[:3], draws=2, scale="cosine", **how),
    "own": lambda **how: self_influence(fitted("mlp"), VECTORS, draws=3, return_std=True, **how),
    "pyro": lambda **how: influence_scores(fitted("pyro"), X9, X9[:3], draws=2, weights="adam", **how),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_killed_computation_resumes_to_the_same_bits(name, tmp_path, small_blocks):
    call, total = CALLS[name], []
    whole = call(ledger=Ledger(tmp_path / "whole"), progress=lambda report: total.append(report.total))
    np.testing.assert_allclose(np.array(whole), np.array(call()), rtol=1e-5)
    folder = tmp_path / "killed"
    for blocks in range(1, int(total[0]) + 1):  # each time one block further
        with pytest.raises(Killed):
            call(ledger=Ledger(folder), progress=kill_after(blocks))
    assert np.array_equal(np.array(call(ledger=Ledger(folder))), np.array(whole))


def test_what_is_done_is_not_done_again(tmp_path, small_blocks, monkeypatch):
    how = {"draws": 2, "ledger": Ledger(tmp_path)}
    first = top_influences(fitted("mlp"), VECTORS, VECTORS, k=2, **how)
    monkeypatch.setattr(checkpoints, "_block_values", None)
    again = top_influences(fitted("mlp"), VECTORS, VECTORS, k=3, **how)
    assert np.array_equal(again.proponents[:, :2], first.proponents) and again.coverage == first.coverage
    cosine = top_influences(fitted("mlp"), VECTORS, VECTORS, k=2, scale="cosine", **how)
    monkeypatch.undo()
    afresh = top_influences(fitted("mlp"), VECTORS, VECTORS, k=2, scale="cosine", draws=2)
    assert np.array_equal(cosine.proponents, afresh.proponents)
    np.testing.assert_allclose(cosine.proponent_scores, afresh.proponent_scores, rtol=1e-5)


@pytest.mark.slow
def test_another_computation_is_refused(tmp_path):
    model, ledger = fitted("mlp"), Ledger(tmp_path)
    influence_scores(model, VECTORS, VECTORS[:3], draws=2, ledger=ledger)
    for change, message in (
        ({"draws": 3}, "draws 3 after 2"),
        ({"seed": 1}, "seed 1 after 0"),
        ({"weights": "adam"}, "weights 'adam' after 'complete'"),
        ({"checkpoints": [0]}, "steps"),
        ({"groups": [0, 0, 1]}, "groups"),
    ):
        with pytest.raises(RunMismatchError, match=message):
            influence_scores(model, VECTORS, VECTORS[:3], **({"draws": 2} | change), ledger=ledger)
    for X, Z, name in ((VECTORS + 1, VECTORS[:3], "X_train"), (VECTORS, VECTORS[1:4], "X_query")):
        with pytest.raises(RunMismatchError, match=name):
            influence_scores(model, X, Z, draws=2, ledger=ledger)
    with pytest.raises(RunMismatchError, match="self-influence"):
        self_influence(model, VECTORS, draws=2, ledger=ledger)
    other = copy.deepcopy(model)
    state = {name: value + 0.1 for name, value in model.trajectory_[1].state_dict().items()}
    moved = Checkpoint(1, model.trajectory_[1].step, model.trajectory_[1].learning_rate, lambda: state)
    other.trajectory_ = Trajectory((model.trajectory_[0], moved, model.trajectory_[2]), 6, 4)
    with pytest.raises(RunMismatchError, match="last checkpoint"):
        influence_scores(other, VECTORS, VECTORS[:3], draws=2, ledger=ledger)


def test_a_damaged_ledger_says_what_to_do(tmp_path):
    call = partial(influence_scores, fitted("mlp"), VECTORS, VECTORS[:3], draws=2, ledger=Ledger(tmp_path))
    call()
    file = next(tmp_path.glob("queries00000-0*.npz"))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(RunError, match="undamaged file.*delete the file"):
        call()
    file.unlink()
    call()
    (tmp_path / "ledger.json").write_text("{")
    with pytest.raises(RunError, match="damaged file.*Delete it"):
        call()
