"""A run reads each file once and notices when one changes: what is shown rests on what was verified."""

import copy
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reads import counted_reads
from refits import planned

import genmem
from genmem import stages
from genmem.data import load
from genmem.errors import RunError
from genmem.leaveout import posterior_log_probs
from genmem.models import VAE, KernelDensity
from genmem.models.posterior import STEPS
from genmem.run import Run, Splits, storage
from genmem.run.directory import stage
from genmem.run.storage import write_arrays

STAGES = ("plan", "refit", "fit", "posterior", "score", "neighbors", "regions", "report", "influence", "copies")
USES = {
    "splits.npz": lambda run: run.splits().held_out,
    "data/X.npy": lambda run: np.array(run.data().X),
    "data/labels.npy": lambda run: run.data().labels,
    "shards/0001.npz": lambda run: run.log_probs(),
    "posterior/0001.npz": lambda run: posterior_log_probs(run)[1],
    "results/scores.npz": lambda run: run.result("scores")["score"],
}


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    n, draws, steps = 400, np.asarray(16), np.asarray(STEPS)
    data = load(rng.normal(size=(n, 3)).astype(np.float32), labels=np.arange(n) % 3)
    run = Run.create(tmp_path / "r", model=KernelDensity(), data=data, splits=Splits.k_fold(n, 2, 2, 0))
    for i in run.shards():
        run.write_shard(i, log_probs=rng.normal(size=(1, 1, n)).astype(np.float32), failed=np.array([""]))
        refitted = {name: rng.normal(size=(1, n)) for name in ("log_probs", "effective_draws", "variance")}
        arrays = {"examples": np.arange(n), "draws": draws, "steps": steps, **refitted}
        write_arrays(run.path / "posterior" / f"{i:04d}.npz", arrays, run.stamp(i))
    run.write_result("scores", score=rng.normal(size=n))
    return run


def flip(file, where=0.5):
    """Flip a bit in the file as it lies there, and give it back its time of modification."""
    before = file.stat()
    with open(file, "r+b") as handle:
        handle.seek(int(where * before.st_size))
        byte = handle.read(1)[0]
        handle.seek(-1, os.SEEK_CUR)
        handle.write(bytes([byte ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("between", ["two calls", "two stages"])
def test_a_flipped_bit_is_noticed(run, name, between):
    use, file = USES[name], run.path / name
    with stage(run, "first"):
        expected = use(run)
        np.testing.assert_array_equal(use(run), expected)
        if between == "two calls":
            flip(file)
            with pytest.raises(RunError, match=name):
                use(run)
    if between == "two stages":
        flip(file)
    with stage(run, "second"), pytest.raises(RunError, match=name):
        use(run)
    flip(file)
    np.testing.assert_array_equal(use(run), expected)


@pytest.mark.parametrize("name", USES)
def test_a_cut_file_is_noticed(run, name):
    USES[name](run)
    os.truncate(run.path / name, (run.path / name).stat().st_size - 8)
    with pytest.raises(RunError):
        USES[name](run)


@pytest.mark.parametrize("name", ["shards/0001.npz", "results/scores.npz"])
def test_changes_in_quick_succession_are_noticed(run, name):
    """Between two ticks of the clock of the file system all changes have the same time."""
    for _ in range(8):
        USES[name](run)
        flip(run.path / name)
        with pytest.raises(RunError, match=name):
            USES[name](run)
        flip(run.path / name)


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(run, monkeypatch):
    file, first, second = run.path / "results" / "x.npz", np.zeros(3), np.ones(3)
    write_arrays(file, {"x": first})
    original = storage.read_arrays

    def slow(*arguments):
        found = original(*arguments)
        write_arrays(file, {"x": second})
        return found

    monkeypatch.setattr(storage, "read_arrays", slow)
    np.testing.assert_array_equal(run.result("x")["x"], first)
    monkeypatch.undo()
    np.testing.assert_array_equal(run.result("x")["x"], second)


def test_what_is_held_cannot_be_written_to(run):
    with pytest.raises(ValueError, match="read-only"):
        run.result("scores")["score"][0] = 1
    run.result("scores").clear()
    assert "score" in run.result("scores")


def test_only_what_is_small_outlives_a_stage(run, monkeypatch):
    run = Run.open(run.path)
    monkeypatch.setattr(storage, "SMALL", 1000)
    with counted_reads(run.path, monkeypatch) as reads:
        for name in ("first", "second"):
            with stage(run, name):
                run.log_probs(), run.log_probs(), run.splits(), run.data()
    assert reads["splits.npz"] == reads["data/X.npy"] == 1
    assert [reads[f"shards/{i:04d}.npz"] for i in run.shards()] == [2] * 4


def test_no_more_is_held_than_there_is_room_for(run, monkeypatch):
    expected = run.log_probs()
    again = Run.open(run.path)
    monkeypatch.setattr(storage, "HELD", int(1.5 * sum(a.nbytes for a in run._shard(0).values())))
    with counted_reads(run.path, monkeypatch) as reads:
        for _ in range(3):
            np.testing.assert_array_equal(again.log_probs(), expected)
    assert [reads[f"shards/{i:04d}.npz"] for i in run.shards()] == [1, 3, 3, 3]


def test_a_file_of_the_future_is_read_without_a_long_wait(run, monkeypatch):
    waits, now = [], time.time()
    monkeypatch.setattr(storage.time, "time", lambda: now - 3600)
    monkeypatch.setattr(storage.time, "sleep", waits.append)
    run.result("scores")
    assert waits == [storage.SETTLED]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        (KernelDensity(bandwidth=0.5), {}),
        (VAE(hidden=[8], latent_dim=2, epochs=4), {"posterior": "refit", "estimator": "adjusted", "influence": True}),
    ],
)
def test_an_audit_reads_each_file_at_most_twice_a_stage(tmp_path, monkeypatch, model, options):
    X, most = np.random.default_rng(0).normal(size=(80, 5)).astype(np.float32), {}

    def counted(name, do):
        def counting(*arguments, **keywords):
            with counted_reads(tmp_path, monkeypatch) as reads:
                found = do(*arguments, **keywords)
            # Unfinished sums of influence, and what was written so far, grow; states of a network are not held.
            grow = ("r/influence/", "r/results/written.json", "r/trajectory/")
            most[name] = max((n for file, n in reads.items() if not file.startswith(grow)), default=0)
            return found

        return counting

    for name in STAGES:
        monkeypatch.setattr(stages, name, counted(name, getattr(stages, name)))
    genmem.audit(X, model, tmp_path / "r", folds=4, repeats=3, workers=1, copies=True, **options)
    assert most.keys() >= {"refit", "posterior", "score", "report", "copies"}
    assert all(count <= 2 for count in most.values()), most


def test_what_a_run_gives_out_cannot_be_changed_for_others(tmp_path):
    run = planned(tmp_path / "run", np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32))
    for array in (run.data().index, run.splits().held_out, run.splits().repeat):
        with pytest.raises(ValueError, match="read-only"):
            array[:1] = 0


def test_a_copied_run_reads_for_itself_and_threads_share_one(tmp_path):
    run = planned(tmp_path / "run", np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32))
    for i in range(30):
        run.write_result(f"result{i}", values=np.full(5, i))

    def read(i):
        return int(run.splits().n_splits), int(run.result(f"result{i % 30}")["values"][0])

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(read, range(600)))
    assert found == [(run.splits().n_splits, i % 30) for i in range(600)]
    again = copy.deepcopy(run)
    assert again.result("result3")["values"][0] == 3 and again.held is not run.held
    assert run.held.__getstate__() == {}  # what it read is not sent to workers


def test_large_arrays_stay_for_a_stage_and_not_longer(run, monkeypatch):
    monkeypatch.setattr(storage, "SMALL", 100)
    first = run.held.arrays(run.shard_path(0), run.stamp(0))["log_probs"]
    assert run.held.arrays(run.shard_path(0), run.stamp(0))["log_probs"] is not first
    with stage(run, "score"):
        first = run.held.arrays(run.shard_path(0), run.stamp(0))["log_probs"]
        with stage(run, "report"):
            pass
        assert run.held.arrays(run.shard_path(0), run.stamp(0))["log_probs"] is first
    assert run.held.arrays(run.shard_path(0), run.stamp(0))["log_probs"] is not first
