"""Refits take the steps, or the epochs, of the model trained on all examples; older runs keep their epochs."""

import json

import numpy as np
import pytest
import torch
from refits import planned
from sklearn.mixture import GaussianMixture
from torch import nn

import genmem
from genmem.errors import DataError, RunError, RunMismatchError
from genmem.leaveout.refitting import make_task
from genmem.models import VAE, from_module
from genmem.run import Run, Splits

SMALL = {"folds": 3, "repeats": 2, "epochs": 4, "settings": {"batch_size": 16, "hidden": [8], "latent_dim": 2}}


class Counting(nn.Module):
    """A network whose log p tells how many training steps it has taken."""

    def __init__(self, event_shape):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.steps += 1
        return (x * self.scale).square().sum(-1)


def counting_log_prob(net, x):
    return net.steps + 0 * x.sum(-1)


def steps_of(path, splits, n=60, **asked):
    """Return the training steps that the log p of each refit and epoch tells of: (splits, epochs)."""
    X = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    model = from_module(Counting, loss=lambda net, x: net(x), log_prob=counting_log_prob, batch_size=16, epochs=6)
    run = Run.create(path, model=model, data=genmem.load(X), splits=splits, score_epochs=(0, 1, 3, 6), **asked)
    run.set_probe({"method": "loop", "lanes": 1, "device": "cpu"})
    genmem.refit(run)
    return run.shard_arrays("log_probs")[:, :, 0]


@pytest.mark.parametrize(
    "splits",
    [Splits.k_fold(60, 3, 1, 0), Splits.subsets(60, 0.5, 4, 0), Splits.subsets(60, 0.2, 5, 0), Splits.k_fold(60, 7, 1)],
)
def test_refits_take_the_steps_of_the_model_trained_on_all(tmp_path, splits):
    np.testing.assert_array_equal(steps_of(tmp_path / "steps", splits), np.tile([0, 3, 9, 18], (splits.n_splits, 1)))


def test_refits_may_share_epochs_instead(tmp_path):
    splits = Splits.k_fold(60, 3, 1, 0)  # 40 examples make 2 batches of 16, all 60 make 3
    np.testing.assert_array_equal(steps_of(tmp_path / "r", splits, match="epochs"), np.tile([0, 2, 6, 12], (3, 1)))


def test_refits_to_fewer_examples_than_a_batch_have_smaller_batches_and_as_many_steps(tmp_path, blobs):
    run = planned(tmp_path / "r", blobs[0][:20], splits=Splits.subsets(20, 0.5, 4, 0), method="loop")
    recipe = make_task(run).recipe()
    assert (recipe.batch_size, recipe.steps_per_epoch, recipe.steps_per_pass) == (10, 1, 1)


def plan_of(path):
    return json.loads((path / "run.json").read_text())


def test_the_plan_says_which(tmp_path, blobs):
    for match, asked in (("steps", {}), ("steps", {"match": "steps"}), ("epochs", {"match": "epochs"})):
        run = planned(tmp_path / str(asked), blobs[0], **asked)
        assert run.plan["match"] == match and run.n_matched == (len(blobs[0]) if match == "steps" else None)


def test_a_model_without_steps_has_no_match(tmp_path, blobs):
    for match in (None, "steps", "epochs"):  # the same run
        run = genmem.stages.plan(blobs[0], GaussianMixture(2), tmp_path / "r", folds=3, repeats=1, match=match)
        assert run.plan["match"] is None
        genmem.refit(run)


def older(path):
    """Turn a run into one of a version that did not match steps."""
    plan = plan_of(path)
    del plan["match"]
    (path / "run.json").write_text(json.dumps(plan))


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False])
def test_an_older_run_resumes_with_its_epochs(tmp_path, blobs, finished):
    run = genmem.stages.plan(blobs[0], "vae", tmp_path / "r", **SMALL, match="epochs")
    genmem.refit(run)
    before = run.log_probs()
    older(run.path)
    if not finished:
        (run.path / "shards" / "0001.npz").unlink()
    again = genmem.stages.plan(blobs[0], "vae", tmp_path / "r", **SMALL)
    assert again.n_matched is None and "match" not in plan_of(run.path)
    genmem.refit(again)
    np.testing.assert_array_equal(again.log_probs(), before)
    genmem.stages.plan(blobs[0], "vae", tmp_path / "r", **SMALL, match="epochs")
    with pytest.raises(RunMismatchError, match="match='?\"?epochs.*match='?\"?steps") as told:
        genmem.stages.plan(blobs[0], "vae", tmp_path / "r", **SMALL, match="steps")
    assert "null" not in str(told.value)


@pytest.mark.slow
def test_another_model_in_place_of_a_plan_without_work_takes_steps(tmp_path, blobs):
    genmem.stages.plan(blobs[0], GaussianMixture(2), tmp_path / "r", folds=3, repeats=1)
    assert genmem.stages.plan(blobs[0], "vae", tmp_path / "r", **SMALL).plan["match"] == "steps"
    older(tmp_path / "r")  # planned by an earlier version, and nothing computed
    assert genmem.stages.plan(blobs[0], "vae", tmp_path / "r", **SMALL).n_matched is None
    assert genmem.stages.plan(blobs[0], "vae", tmp_path / "r", **{**SMALL, "repeats": 3}).plan["match"] == "steps"


@pytest.mark.slow
def test_steps_and_epochs_are_different_runs(tmp_path, blobs):
    run = genmem.stages.plan(blobs[0], VAE(hidden=[8], latent_dim=2, epochs=2), tmp_path / "r", folds=3, repeats=1)
    genmem.refit(run)
    with pytest.raises(RunMismatchError, match="match"):
        genmem.stages.plan(
            blobs[0], VAE(hidden=[8], latent_dim=2, epochs=2), run.path, folds=3, repeats=1, match="epochs"
        )


@pytest.mark.parametrize("wrong", ["passes", "", 3, True])
def test_another_word_is_refused(tmp_path, blobs, wrong):
    with pytest.raises(DataError, match="steps, epochs"):
        genmem.stages.plan(blobs[0], "vae", tmp_path / "r", match=wrong)
    with pytest.raises(DataError, match="steps, epochs"):
        planned(tmp_path / "r", blobs[0], match=wrong)


@pytest.mark.slow
def test_a_damaged_match_is_refused(tmp_path, blobs):
    path = genmem.stages.plan(blobs[0], "vae", tmp_path / "r", **SMALL).path
    (path / "run.json").write_text(json.dumps({**plan_of(path), "match": "passes"}))
    with pytest.raises(RunError, match="match is"):
        Run.open(path)
