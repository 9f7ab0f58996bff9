"""Weights of refits are kept if the plan says so, and those of another network are never asked for in vain."""

import numpy as np
import pytest
import torch
from refits import PlainDensity, planned

from genmem.errors import IncompleteRunError, RunMismatchError
from genmem.leaveout import refit
from genmem.leaveout.refitting import make_task
from genmem.run import Run
from genmem.training.ensemble import fresh_module


@pytest.mark.slow
def test_every_network_keeps_its_weights_if_asked(tmp_path, blobs):
    X = blobs[0]
    without, kept = (planned(tmp_path / str(keep), X, PlainDensity(epochs=6), **keep) for keep in ({}, KEEP))
    refit(without)
    refit(kept)
    np.testing.assert_array_equal(without.log_probs(), kept.log_probs())  # it changes no number
    module = fresh_module(make_task(kept).recipe(), 0)
    for i in kept.shards():
        weights = kept.weights(i)
        module.load_state_dict({name: torch.from_numpy(value[0].copy()) for name, value in weights.items()})
        with torch.no_grad():
            log_p = module.log_weights(torch.as_tensor(X, dtype=torch.float32))[0].numpy()
        np.testing.assert_allclose(log_p, kept.log_probs()[i], rtol=1e-4, atol=1e-4)
    with pytest.raises(IncompleteRunError, match=r"did not keep their weights. Plan a new run with --keep-weights"):
        without.weights(0)


KEEP = {"keep_weights": True}


@pytest.mark.slow
def test_weights_that_are_lost_are_computed_again(tmp_path, blobs):
    run = planned(tmp_path / "r", blobs[0], PlainDensity(epochs=6), **KEEP)
    refit(run)
    run.weights_path(0).unlink()
    with pytest.raises(IncompleteRunError, match="--recompute"):
        Run.open(run.path).weights(0)
    assert Run.open(run.path).drop_damaged() == [run.shard_path(0)]


def test_a_run_begun_without_is_not_one_that_keeps(tmp_path, blobs):
    run = planned(tmp_path / "r", blobs[0], PlainDensity(epochs=6))
    assert planned(tmp_path / "r", blobs[0], PlainDensity(epochs=6), **KEEP).keeps_weights  # nothing is done yet
    other = planned(tmp_path / "s", blobs[0], PlainDensity(epochs=6))
    refit(other)
    with pytest.raises(RunMismatchError, match="refits that were done without"):
        planned(tmp_path / "s", blobs[0], PlainDensity(epochs=6), **KEEP)
    assert not run.keeps_weights
