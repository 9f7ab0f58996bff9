"""Nothing computed is lost and nothing wrong is read: damaged files, a full disk, plans edited by hand."""

import errno
import json
import os
import resource
import shutil
import subprocess

import numpy as np
import pytest
from refits import assert_same, planned

from genmem.errors import GenmemError, IncompleteRunError, RunError
from genmem.leaveout import refit
from genmem.leaveout.refitting import make_task
from genmem.run import Run, Splits


def small(path, X):
    return planned(path, X, splits=Splits.k_fold(len(X), 3, 2, 0), method="lanes", lanes=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    rng = np.random.default_rng(0)
    run = small(tmp_path_factory.mktemp("whole") / "r", rng.normal(size=(120, 6)).astype(np.float32))
    refit(run)
    return run


# --- damaged files


def damages(content):
    """Yield (what, content): cut at, and with a bit flipped in, the header, the middle and the end."""
    for where, at in {"header": 5, "early": 60, "middle": len(content) // 2, "end": len(content) - 3}.items():
        yield f"cut at the {where}", content[:at]
        flipped = bytearray(content)
        flipped[at] ^= 4
        yield f"flipped at the {where}", bytes(flipped)
    yield "empty", b""


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("shards/0003.npz", marks=pytest.mark.slow),
        pytest.param("weights/0003.safetensors", marks=pytest.mark.slow),
    ],
)
def test_damaged_files_are_refused_and_made_again(tmp_path, whole, kind):
    run = Run.open(shutil.copytree(whole.path, tmp_path / "r"))
    file, noticed = run.path / kind, 0
    content = file.read_bytes()
    for what, damaged in damages(content):
        file.write_bytes(damaged)
        try:
            run.log_probs()
            weights = run.weights(3)
        except RunError as error:
            assert kind in str(error) and "--recompute" in str(error), what
            noticed += 1
        else:  # a time stamp of the archive, or its copy of the size
            assert_same(run, whole)
            assert all((weights[name] == whole.weights(3)[name]).all() for name in weights), what
        both = [run.shard_path(3), run.weights_path(3)]
        assert run.drop_damaged() in (both, []), what
        for path in both:
            shutil.copy(whole.path / path.relative_to(run.path), path)
    assert noticed >= 7
    file.write_bytes(content[:-9])
    assert run.drop_damaged() == [run.shard_path(3), run.weights_path(3)]
    refit(run)
    assert_same(run, whole)
    assert file.read_bytes()[-50:] == content[-50:]


@pytest.mark.slow
def test_lost_weights_are_made_again_on_request(tmp_path, whole):
    run = Run.open(shutil.copytree(whole.path, tmp_path / "r"))
    run.weights_path(2).unlink()
    assert run.pending() == []  # whoever needs the room may delete them
    with pytest.raises(IncompleteRunError, match="--recompute"):
        run.weights(2)
    assert run.drop_damaged() == [run.shard_path(2)]
    refit(run)
    for name, weights in whole.weights(2).items():
        np.testing.assert_array_equal(run.weights(2)[name], weights)


def test_files_are_verified_once_and_again_when_they_change(tmp_path, whole, monkeypatch):
    from genmem.run import storage

    run, read = Run.open(shutil.copytree(whole.path, tmp_path / "r")), []
    for i in run.shards():
        os.utime(run.shard_path(i), (1, 1))
    original, expected = storage.read_arrays, whole.shard_arrays("log_probs")
    monkeypatch.setattr(storage, "read_arrays", lambda *a: read.append(a[0]) or original(*a))
    for _ in range(3):
        for epoch in (0, 1, -1):
            np.testing.assert_array_equal(run.log_probs(epoch), expected[:, epoch])
    assert sorted(read) == [run.shard_path(i) for i in run.shards()]
    content = bytearray(run.shard_path(1).read_bytes())
    content[len(content) // 2] ^= 1
    run.shard_path(1).write_bytes(content)
    with pytest.raises(RunError, match=r"0001\.npz"):
        run.log_probs(0)


# --- a full disk


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """(folder, grow): a small disk and how to make it larger; a stand-in where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", folder], capture_output=True).returncode:
        room = [24_000]

        def fsync(handle):
            if sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) > room[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fsync)
        yield folder, lambda: room.append(room.pop() * 100)
        return
    try:
        yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=10m", folder], check=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_keeps_what_is_finished(disk, whole):
    folder, grow = disk
    run = small(folder / "r", np.asarray(whole.data().X))
    with pytest.raises(RunError, match="Free some space"):
        refit(run)
    done = set(run.shards()) - set(run.pending())
    assert done and done < set(run.shards())
    assert not list(folder.rglob("*.partial"))
    grow()
    before = {i: run.shard_path(i).stat().st_mtime_ns for i in done}
    refit(run)
    assert_same(run, whole)
    assert before == {i: run.shard_path(i).stat().st_mtime_ns for i in done}


@pytest.mark.parametrize(
    "limit", [pytest.param(600, marks=pytest.mark.slow), pytest.param(3_000, marks=pytest.mark.slow)]
)  # neither weights nor shard fit; the weights fit
def test_a_file_size_limit_is_a_full_disk(tmp_path, whole, limit):
    run = small(tmp_path / "r", np.asarray(whole.data().X))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(RunError, match="Free some space"):
            refit(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.pending() == run.shards() and not list(run.path.rglob("*.partial"))
    refit(run)
    assert_same(run, whole)


# --- plans edited by hand

WRONG = (None, True, -1, 0, 3, 1.5, "x", "", [], [None], ["x"], [[1]], {}, {"x": 1})


def leaves(value, path=()):
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from leaves(value[key], (*path, key))


@pytest.mark.slow
def test_a_plan_with_anything_anywhere_is_an_error_that_can_be_read(tmp_path, whole):
    run = Run.open(shutil.copytree(whole.path, tmp_path / "r"))
    file, refused = run.path / "run.json", 0
    text = file.read_text()
    for path in leaves(json.loads(text)):
        for wrong in WRONG:
            plan = [json.loads(text)]
            inner = plan
            for key in (0, *path)[:-1]:
                inner = inner[key]
            inner[(0, *path)[-1]] = wrong
            file.write_text(json.dumps(plan[0]))
            try:
                opened = Run.open(run.path)
                make_task(opened)
                opened.pending(), opened.failed(), opened.log_probs(), opened.data(), opened.weights(0)
            except GenmemError:
                refused += 1
            except Exception as error:
                raise AssertionError(f"{path} = {wrong!r}") from error
    assert refused > 300


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"looks": 3}', '{"looks": ["x"]}', '{"looks": [0]}'])
def test_damaged_stopping_is_named(tmp_path, whole, text):
    run = Run.open(shutil.copytree(whole.path, tmp_path / "r"))
    (run.path / "stopping.json").write_text(text)
    with pytest.raises(RunError, match=r"stopping\.json"):
        run.log_probs()
