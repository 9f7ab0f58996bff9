"""Atomic files, checksums and the lock."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from genmem.errors import RunError
from genmem.run.storage import lock, read_arrays, read_tensors, write_arrays, write_atomically, write_tensors


def some_arrays():
    rng = np.random.default_rng(0)
    return {
        "a": rng.normal(size=(3, 4)),
        "text": np.array(["x", "longer"]),
        "flag": np.array(True),
        "none": np.empty(0),
    }


def test_arrays_come_back(tmp_path):
    write_arrays(tmp_path / "x.npz", some_arrays(), "plan")
    read = read_arrays(tmp_path / "x.npz", "plan")
    assert read.keys() == some_arrays().keys()
    for name, value in some_arrays().items():
        np.testing.assert_array_equal(read[name], value)


def test_arrays_of_another_plan_are_refused(tmp_path):
    write_arrays(tmp_path / "x.npz", some_arrays(), "plan")
    with pytest.raises(RunError, match=r"x\.npz.*--recompute"):
        read_arrays(tmp_path / "x.npz", "another plan")


def test_truncation_at_any_length_is_noticed(tmp_path):
    file = tmp_path / "x.npz"
    write_arrays(file, some_arrays())
    whole = file.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(RunError, match="undamaged file"):
            read_arrays(file)


def test_flipped_bits_never_change_a_value(tmp_path):
    file = tmp_path / "x.npz"
    write_arrays(file, some_arrays())
    whole, noticed = bytearray(file.read_bytes()), 0
    for at in range(0, len(whole), 13):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << (at % 8)
        file.write_bytes(flipped)
        try:
            read = read_arrays(file)
        except RunError:
            noticed += 1
            continue
        for name, value in some_arrays().items():  # padding or time stamps: the values are untouched
            np.testing.assert_array_equal(read[name], value)
    assert noticed > len(whole) / 13 / 3


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "x.json"
    write_atomically(file, lambda handle: handle.write(b"old"))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left.*Free some space"):
        write_atomically(file, lambda handle: handle.write(b"new"))
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_unwritable_paths(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Choose another --out"):
        write_atomically(tmp_path / "file" / "inside", lambda handle: handle.write(b"x"))


def test_lock_refuses_another_process_and_is_released_with_it(tmp_path):
    code = f"""
import sys, pathlib
from genmem.run.storage import lock
with lock(pathlib.Path({str(tmp_path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match="another process"), lock(tmp_path):
        pass
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with lock(tmp_path), lock(tmp_path):  # free again, and open to who holds it
        pass


def test_lock_refuses_another_thread(tmp_path):
    found = []

    def other() -> None:
        try:
            with lock(tmp_path):
                found.append("entered")
        except RunError:
            found.append("refused")

    with lock(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == ["refused"]


def test_lock_clears_what_a_killed_writer_left(tmp_path):
    left = tmp_path / "shards" / "0001.npz.123.partial"
    left.parent.mkdir()
    left.touch()
    with lock(tmp_path):
        assert not left.exists()
    assert Path(tmp_path / ".lock").exists()


# --- weights


def some_tensors():
    rng = np.random.default_rng(0)
    return {"a.weight": rng.normal(size=(2, 3, 4)).astype(np.float32), "b": np.array([1, np.nan], np.float32)}


def test_tensors_come_back(tmp_path):
    write_tensors(tmp_path / "w.safetensors", some_tensors(), "plan")
    read = read_tensors(tmp_path / "w.safetensors", "plan")
    assert read.keys() == some_tensors().keys()
    for name, value in some_tensors().items():
        np.testing.assert_array_equal(read[name], value)
    with pytest.raises(RunError, match="this plan"):
        read_tensors(tmp_path / "w.safetensors", "another plan")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.safetensors")


def test_damaged_tensors_are_never_read(tmp_path):
    file = tmp_path / "w.safetensors"
    write_tensors(file, some_tensors(), "plan")
    whole, noticed = file.read_bytes(), 0
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(RunError, match="undamaged file"):
            read_tensors(file, "plan")
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << (at % 8)
        file.write_bytes(flipped)
        try:
            read = read_tensors(file, "plan")
        except RunError:
            noticed += 1
            continue
        for name, value in some_tensors().items():  # the copy of the stamp, or padding: the values are untouched
            np.testing.assert_array_equal(read[name], value)
    assert noticed > 0.9 * len(whole)
