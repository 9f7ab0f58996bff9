"""Repeats that are used before others are computed, and how refits are cut into groups."""

import numpy as np
import pytest
from refits import PlainDensity, assert_same, planned

from genmem.errors import DataError, IncompleteRunError
from genmem.leaveout import refit
from genmem.leaveout.refitting import cut, make_task
from genmem.models import VAE
from genmem.run import Run, Splits


@pytest.mark.slow
def test_only_the_repeats_in_use_are_refitted_and_read(tmp_path, blobs):
    run = planned(tmp_path / "r", blobs[0], method="lanes")
    assert run.repeats == 4 and run.looks == ()
    run.use_repeats(2)
    refit(run)
    again = Run.open(run.path)
    assert again.repeats == 2 and again.pending() == [] and again.pending(repeats=3) == [6, 7, 8]
    assert again.log_probs().shape == (6, 120) and again.shard_arrays("variance_in", repeats=1).shape == (3, 2)
    assert again.used_splits().n_splits == 6 and again.shards() == list(range(6))
    np.testing.assert_array_equal(again.used_splits().held_out, run.splits().held_out[:6])
    with pytest.raises(IncompleteRunError, match="genmem refit"):
        again.log_probs(repeats=3)
    refit(again, repeats=3)
    assert again.log_probs(repeats=3).shape == (9, 120) and again.log_probs().shape == (6, 120)
    again.use_repeats(4)
    refit(again)
    assert again.looks == (2, 4) and again.pending() == []
    whole = planned(tmp_path / "w", blobs[0], method="lanes")
    refit(whole)
    assert_same(again, whole)
    again.use_repeats(3)
    assert again.looks == (2, 3) and len(again.log_probs()) == 9


@pytest.mark.parametrize("repeats", [0, 5])
def test_repeats_that_were_not_planned_are_refused(tmp_path, blobs, repeats):
    with pytest.raises(DataError, match="from 1 to 4 repeats"):
        planned(tmp_path / "r", blobs[0], method="lanes").use_repeats(repeats)


def test_repeats_may_be_named_and_shards_may_span_them():
    held_out = np.tile(np.eye(2, dtype=bool), (3, 1))
    splits = Splits(held_out, repeat=[7, 7, 9, 9, 8, 8], shard=[0, 0, 0, 1, 1, 2])
    first = splits.first_repeats(2)  # 7 and 8
    assert first.repeat.tolist() == [7, 7, 8, 8] and first.shard.tolist() == [0, 0, 1, 2]
    assert splits.first_repeats(3) is splits


def a_task(tmp_path, X, splits, model=None, method="lanes"):
    return make_task(planned(tmp_path / "task", X, model, splits, method))


def sizes(groups):
    return [len(group) for group in groups]


def test_groups_fill_the_lanes_and_keep_every_worker_busy(tmp_path, blobs):
    splits = Splits.k_fold(120, 5, 8, 0)
    task = a_task(tmp_path, blobs[0], splits)
    for lanes, workers, expected in [
        (20, 1, [20, 20]),
        (20, 2, [20, 20]),
        (40, 2, [20, 20]),
        (40, 3, [14, 13, 13]),
        (15, 1, [15, 15, 10]),
        (15, 2, [10] * 4),
        (1, 3, [1] * 40),
        (40, 64, [1] * 40),
    ]:
        groups = cut(task, splits, (8,), lanes, workers)
        assert sizes(groups) == expected and sum(groups, []) == list(range(40))
    assert sizes(cut(task, splits, (3, 5), 20, 2)) == [8, 7, 5, 5]  # what is decided on later is cut apart
    assert sizes(cut(task, splits, (3, 5), 5, 1)) == [5] * 5


def test_networks_that_draw_their_own_noise_are_cut_by_repeat(tmp_path, blobs):
    splits = Splits.k_fold(120, 5, 3, 0)
    task = a_task(tmp_path, blobs[0], splits, PlainDensity(epochs=6, batch_size=16))
    assert sizes(cut(task, splits, (3,), 20, 1)) == sizes(cut(task, splits, (3,), 20, 2)) == [5] * 3
    assert sizes(cut(task, splits, (3,), 20, 4)) == [3, 2] * 3


def test_shards_of_many_splits_stay_whole(tmp_path, blobs):
    splits = Splits.leave_out(120, np.arange(120))
    task = a_task(tmp_path, blobs[0], splits)
    assert cut(task, splits, (1,), 10, 1) == [[0], [1], [2], [3], [4]]
    assert cut(task, splits, (1,), 60, 1) == [[0, 1], [2, 3], [4]]


@pytest.mark.slow
def test_two_workers_of_odd_widths_resume_to_the_same_bits(tmp_path, blobs):
    from concurrent.futures import ThreadPoolExecutor

    model = VAE(hidden=[11], latent_dim=3, epochs=6, batch_size=16, device="cpu")
    whole, resumed = (planned(tmp_path / name, blobs[0], model, method="lanes") for name in "wr")
    with ThreadPoolExecutor(2) as pool:
        refit(whole, executor=pool, lanes=5)
        refit(resumed, executor=pool, lanes=5)
        for shard in (1, 4, 9):
            resumed.shard_path(shard).unlink()
        refit(resumed, executor=pool, lanes=5)
    assert_same(whole, resumed)
