"""Refits: the same numbers whole, resumed, distributed and in any number of lanes; and against plain refits."""

import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from oracles import kde_leave_one_out, train_by_loop
from refits import PlainDensity, PlainModule, assert_same, planned
from sklearn.base import BaseEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem.errors import ModelError, RunError, RunMismatchError
from genmem.leaveout import memorization_score, refit
from genmem.leaveout.refitting import make_task
from genmem.leaveout.tasks import Group
from genmem.leaveout.worker import compute_shards
from genmem.models import VAE, DeepDensity, log_prob
from genmem.run import Run, Splits
from genmem.seeding import seed_for

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.slow
@pytest.mark.parametrize("match", ["steps", "epochs"])
@pytest.mark.parametrize("method", ["lanes", "loop"])
def test_each_split_is_a_plain_refit(tmp_path, blobs, method, match):
    X = blobs[0][:60]
    run = planned(tmp_path / "r", X, method=method, match=match)
    refit(run)
    splits, model = run.splits(), run.model
    recipe = model.recipe(X.shape[1:], 40, seed=run.seed)
    # 60 examples make 3 batches of 16, the 40 of a refit make 2.
    recipe = replace(recipe, steps_per_epoch=3, steps_per_pass=2) if match == "steps" else recipe
    from genmem.training import Lane

    for split in (0, 5, 11):
        repeat = int(splits.repeat[split])
        lane = Lane(np.flatnonzero(~splits.held_out[split]), split, repeat)
        module, state = model.make_module((6,)), train_by_loop(recipe, torch.from_numpy(X), lane)
        torch.nn.utils.vector_to_parameters(state, _in_state_order(module))
        expected = log_prob(module, torch.from_numpy(X), draws=16, seed=run.seed, keys=(repeat,)).log_prob
        np.testing.assert_allclose(run.log_probs()[split], expected, atol=2e-3)


def _in_state_order(module):
    parameters = dict(module.named_parameters())
    return [parameters[name] for name in module.state_dict()]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_any_number_of_lanes_gives_the_same_numbers(tmp_path, blobs, device):
    runs = []
    for lanes in (1, 2, 3, 4, 12):
        runs.append(planned(tmp_path / f"r{lanes}", blobs[0], method="lanes", device=device))
        refit(runs[-1], lanes=lanes)
    for run in runs[1:]:
        assert_same(runs[0], run, **({} if device == "cpu" else {"rtol": 1e-4, "atol": 1e-3}))


@pytest.mark.slow
def test_lanes_agree_with_the_loop(tmp_path, blobs):
    lanes, loop = (planned(tmp_path / way, blobs[0], method=way) for way in ("lanes", "loop"))
    refit(lanes)
    refit(loop)
    assert_same(lanes, loop, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [(0,), (1, 2, 7), (11,), tuple(range(12))])
def test_a_resumed_run_equals_a_whole_one(tmp_path, blobs, missing):
    whole = planned(
        tmp_path / "whole", blobs[0], VAE(hidden=[11], latent_dim=3, epochs=6, batch_size=16), method="lanes"
    )
    refit(whole)
    shutil.copytree(whole.path, tmp_path / "cut")
    cut = Run.open(tmp_path / "cut")
    for shard in missing:
        cut.shard_path(shard).unlink()
    refit(cut)
    assert_same(whole, cut)


@pytest.mark.slow
def test_executors_give_the_same_numbers(tmp_path, blobs):
    here = planned(tmp_path / "here", blobs[0], method="lanes", lanes=3)
    refit(here)
    for name, pool in {
        "threads": ThreadPoolExecutor(4),
        "processes": ProcessPoolExecutor(1, mp_context=get_context("spawn")),
    }.items():
        there = planned(tmp_path / name, blobs[0], method="lanes", lanes=3)
        with pool:
            refit(there, executor=pool)
        assert_same(here, there)


@pytest.mark.slow
@pytest.mark.parametrize("noisy", [False, True])
def test_threads_do_not_disturb_each_other(tmp_path, blobs, noisy):
    model = PlainDensity(epochs=6, batch_size=16) if noisy else None
    splits = Splits.k_fold(120, 3, 8, 0)
    here = planned(tmp_path / "here", blobs[0], model, splits, method="lanes", lanes=1)
    refit(here)
    there = planned(tmp_path / "there", blobs[0], model, splits, method="lanes", lanes=1)
    with ThreadPoolExecutor(6) as pool:
        refit(there, executor=pool)
    assert_same(here, there)


def test_forking_pools_are_refused(tmp_path, blobs):
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool, pytest.raises(RunError, match="spawn"):
        refit(planned(tmp_path / "r", blobs[0], method="lanes"), executor=pool)


def test_models_with_a_seed_get_one_for_each_split(tmp_path, blobs):
    one, other = (planned(tmp_path / n, blobs[0], GaussianMixture(5, n_init=1), score_epochs=(-1,)) for n in "ab")
    refit(one)
    refit(other)
    np.testing.assert_array_equal(one.log_probs(), other.log_probs())
    model = GaussianMixture(5, random_state=0).fit(blobs[0][~one.splits().held_out[3]])
    assert not np.allclose(one.log_probs()[3], model.score_samples(blobs[0]))


@pytest.mark.slow
def test_finished_refits_are_not_done_again(tmp_path, blobs, monkeypatch):
    run = planned(tmp_path / "r", blobs[0], method="lanes")
    refit(run)
    before = {i: run.shard_path(i).stat().st_mtime_ns for i in run.shards()}
    monkeypatch.setattr("genmem.leaveout.refitting.compute_shards", None)
    refit(run)
    assert {i: run.shard_path(i).stat().st_mtime_ns for i in run.shards()} == before


@pytest.mark.slow
def test_progress_counts_refits(tmp_path, blobs):
    seen = []
    refit(planned(tmp_path / "r", blobs[0], method="lanes"), progress=seen.append)
    assert [s.done for s in seen] == sorted(s.done for s in seen)
    assert seen[-1].done == seen[-1].total == 12
    assert any(s.detail == "epoch 3 of 6" for s in seen)


def test_noise_belongs_to_the_repeat(tmp_path, blobs):
    run = planned(tmp_path / "r", blobs[0], method="loop")
    task = make_task(run)
    assert seed_for(task.seed, "training noise", 0) != seed_for(task.seed, "training noise", 1)
    a, b = (compute_shards(task, Group.of(run.splits(), [i]), 1, blobs[0]).shards[i]["log_probs"] for i in (0, 3))
    assert not np.allclose(a, b)


# --- densities that are not networks


def test_kde_leave_one_out_equals_plain_refits(tmp_path):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(40, 3)).astype(np.float32)
    X[7] = X[3]  # a duplicate
    X[11] += 30  # an isolated point
    splits = Splits.leave_out(len(X), np.arange(len(X)))
    run = planned(tmp_path / "kde", X, KernelDensity(bandwidth=0.7), splits, score_epochs=(-1,))
    refit(run)
    inside, outside = kde_leave_one_out(X, 0.7)
    held_out = run.splits().held_out
    split_of = held_out.argmax(0)
    np.testing.assert_allclose(run.log_probs()[split_of, np.arange(40)], outside, rtol=1e-5)
    # the other refits saw the example, each without one other: on average close to the full fit
    scores = memorization_score(run.log_probs(), held_out)
    assert scores.score.argmax() == 11
    np.testing.assert_allclose(scores.log_prob_in, inside, atol=0.1)
    log_p = run.log_probs().astype(float)
    loop = [log_p[~held_out[:, i], i].mean() - log_p[split_of[i], i] for i in range(40)]
    np.testing.assert_allclose(scores.score, loop, atol=1e-6)


class Failing(BaseEstimator):
    """Raises once it sees fewer examples than all."""

    def fit(self, X, y=None):
        raise ZeroDivisionError("a bad day")

    def score_samples(self, X):
        return np.zeros(len(X))

    def sample(self, n_samples=1):
        return np.zeros((n_samples, 1))


class Scalar(Failing):
    """Returns the sum instead of one number a row."""

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return 0.0


class Broken(DeepDensity):
    """A network whose loss has no example axis."""

    def make_module(self, event_shape):
        module = PlainModule(event_shape[0])
        module.log_weights = lambda x, draws=1: torch.zeros(())
        return module


class Undefined(Failing):
    """Scores are NaN."""

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return np.full(len(X), np.nan)


def test_a_model_that_raises_is_named(tmp_path, blobs):
    with pytest.raises(ModelError, match=r"Failing.*split 0.*a bad day"):
        refit(planned(tmp_path / "r", blobs[0], Failing(), score_epochs=(-1,)))
    with pytest.raises(ModelError, match=r"split 0: log p is nan for example 0 \(120 in all\)"):
        refit(planned(tmp_path / "s", blobs[0], Undefined(), score_epochs=(-1,)))
    with pytest.raises(ModelError, match=r"one real number per row"):
        refit(planned(tmp_path / "t", blobs[0], Scalar(), score_epochs=(-1,)))
    with pytest.raises(ModelError, match=r"Broken"):
        refit(planned(tmp_path / "u", blobs[0], Broken(epochs=6)))
    with pytest.raises(ModelError, match=r"Broken.*split"):
        refit(planned(tmp_path / "v", blobs[0], Broken(epochs=6), method="loop"))
    assert Run.open(tmp_path / "s").pending() == list(range(12))


def test_diverged_training_is_named(tmp_path, blobs):
    model = VAE(hidden=[16], latent_dim=2, epochs=6, learning_rate=1e6)
    with pytest.raises(ModelError, match=r"split \d+.*learning rate"):
        refit(planned(tmp_path / "r", blobs[0] * 1e6, model, method="lanes"))


# --- networks of others


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_networks_that_draw_their_own_noise(tmp_path, blobs, lanes):
    one, other = (planned(tmp_path / n, blobs[0], PlainDensity(epochs=6, batch_size=16), method="lanes") for n in "ab")
    refit(one, lanes=lanes)
    refit(other, lanes=12)
    assert_same(one, other)
    assert (one.shard_arrays("variance_out") == 0).all()


def test_the_wrong_model_is_refused(tmp_path, blobs):
    run = Run.open(planned(tmp_path / "r", blobs[0], method="lanes").path)
    with pytest.raises(RunMismatchError, match="latent_dim"):
        refit(run, VAE(hidden=[16], latent_dim=3, epochs=6, batch_size=16, device="cpu"))
    refit(run, VAE(hidden=[16], latent_dim=2, epochs=6, batch_size=16, device="cpu"))
    assert run.pending() == []


def test_score_epochs_beyond_training(tmp_path, blobs):
    with pytest.raises(ModelError, match="between 0 and 6"):
        refit(planned(tmp_path / "r", blobs[0], method="lanes", score_epochs=(7,)))


@pytest.mark.parametrize("method", ["lanes", "loop"])
def test_kept_weights_give_the_stored_log_probs(tmp_path, blobs, method):
    run = planned(tmp_path / "r", blobs[0], method=method, splits=Splits.k_fold(120, 2, 2, 0))
    refit(run, lanes=3)
    for split in range(4):
        module = run.model.make_module((6,))
        module.load_state_dict({name: torch.from_numpy(w)[0] for name, w in run.weights(split).items()})
        keys = (int(run.splits().repeat[split]),)
        found = log_prob(module, torch.from_numpy(blobs[0]), draws=16, seed=run.seed, keys=keys).log_prob
        np.testing.assert_array_equal(found.astype(np.float32), run.log_probs()[split])


def test_networks_without_a_posterior_keep_no_weights(tmp_path, blobs):
    run = planned(tmp_path / "r", blobs[0], PlainDensity(epochs=6, batch_size=16), method="lanes")
    refit(run)
    assert not (run.path / "weights").exists()
