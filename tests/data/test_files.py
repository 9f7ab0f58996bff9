"""Files: each kind is read, and any damage gives a message that names the file."""

import gzip
import os

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sources import idx_bytes, refused, text_file

from genmem.data import load
from genmem.errors import DataError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_npy(tmp_path):
    path = tmp_path / "X.npy"
    np.save(path, np.eye(4))
    data = load(path)
    np.testing.assert_array_equal(data.X, np.eye(4))
    assert data.source == str(path) == load(str(path)).source


def test_objects_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    objects = np.empty((2, 1), object)
    objects[:] = Bomb()
    np.save(tmp_path / "X.npy", objects)
    np.savez(tmp_path / "X.npz", X=objects, other=np.eye(2))
    refused("Python objects in .*never unpickled", tmp_path / "X.npy")
    refused("Python objects in .*never unpickled", tmp_path / "X.npz", array="X")
    refused("Python objects in .*never unpickled", np.eye(2), labels=tmp_path / "X.npy")
    assert not (tmp_path / "exploded").exists()


def test_npz(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x_train=np.eye(4), y_train=np.arange(4), x_test=np.eye(4)[:3], name="d")
    data = load(path, array="x_train", label_array="y_train")
    np.testing.assert_array_equal(data.X, np.eye(4))
    np.testing.assert_array_equal(data.labels, np.arange(4))
    refused(r"x_train \(4, 4\), y_train \(4,\), x_test \(3, 4\).*--array", path)
    refused(r"x_train \(4, 4\).*got 'x'", path, array="x")
    refused(r"x_train \(4, 4\).*got 'y'", path, array="x_train", label_array="y")
    refused(r"4 examples; got shape \(3, 4\)", path, array="x_train", label_array="x_test")


def test_npz_with_one_candidate(tmp_path):
    np.savez(tmp_path / "one.npz", values=np.eye(4))
    np.savez_compressed(tmp_path / "two.npz", x=np.eye(4), y=np.arange(4))
    np.savez(tmp_path / "none.npz")
    assert load(tmp_path / "one.npz").X.shape == (4, 4)
    assert load(tmp_path / "two.npz").labels is None
    np.testing.assert_array_equal(load(tmp_path / "two.npz", label_array="y").labels, np.arange(4))
    refused("no arrays", tmp_path / "none.npz")


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx(tmp_path, rng, dtype, zipped):
    images = rng.integers(0, 100, (5, 10, 9)).astype(dtype)
    path = tmp_path / ("train-images-idx3-ubyte" + ".gz" * zipped)
    path.write_bytes(gzip.compress(idx_bytes(images)) if zipped else idx_bytes(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(5, dtype=np.uint8)))
    data = load(path, labels=tmp_path / "train-labels-idx1-ubyte")
    np.testing.assert_array_equal(data.X, images)
    assert data.X.dtype == (np.uint8 if dtype == "u1" else np.float32)
    assert data.image_shape == (10, 9)
    np.testing.assert_array_equal(data.labels, np.arange(5))


def test_refused_idx(tmp_path):
    whole = idx_bytes(np.zeros((5, 4, 4), np.uint8))
    path = tmp_path / "images-idx3-ubyte"
    for content, message in [
        (whole[:-1], r"79 bytes of values; its header says 80 for \(5, 4, 4\)"),
        (whole + b"\0", "81 bytes of values"),
        (whole[:9], "header is truncated"),
        (whole[:8], "header is truncated"),
        (idx_bytes(np.zeros(5, np.uint8)), r"shape \(5,\)"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "0 bytes of values"),
    ]:
        path.write_bytes(content)
        refused(message, path)
    zipped = tmp_path / "images.gz"
    for content, message in [
        (gzip.compress(whole)[:-9], "ended before"),
        (gzip.compress(b"hello"), "68 65 6c 6c"),
        (b"", "nothing"),
        (b"\x1f\x8b", "undamaged .gz file"),
        (gzip.compress(whole)[:20] + b"\0" * 30, "undamaged .gz file"),
    ]:
        zipped.write_bytes(content)
        refused(message, zipped)


def test_refused_paths(tmp_path, monkeypatch):
    refused("nothing there.*digits", tmp_path / "missing.npy")
    refused("nothing there", "mnist")
    refused("File name too long", "x" * 5000)
    (tmp_path / "folder.npy").mkdir()
    refused("images in", tmp_path / "folder.npy")
    refused("model.pt; got a file that cannot be read without running its code", text_file(tmp_path / "model.pt", "x"))
    refused("never unpickled", text_file(tmp_path / "model.xyz", "x"))
    refused("a .npy, .npz, .csv", text_file(tmp_path / "notes.md", "x"))
    os.mkfifo(tmp_path / "pipe")
    refused("a .npy, .npz, .csv", tmp_path / "pipe")
    np.save(tmp_path / "X.npy", np.eye(3))
    refused("array='x' with .*Drop --array", tmp_path / "X.npy", array="x")
    refused("label_array='x' with .*Drop --label-array", tmp_path / "X.npy", label_array="x")
    refused("label_column='x' with .*Drop --label-column", tmp_path / "X.npy", label_column="x")


def test_no_permission(tmp_path, monkeypatch):
    np.save(tmp_path / "X.npy", np.eye(3))

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    refused("readable file at .*X.npy; got Permission denied", tmp_path / "X.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet", ".gz"])
def test_every_truncation_and_any_noise_is_a_data_error(tmp_path, suffix, rng):
    good = tmp_path / f"good{suffix}"
    X = rng.normal(size=(6, 5)).astype(np.float32)
    if suffix == ".npy":
        np.save(good, X)
    elif suffix == ".npz":
        np.savez_compressed(good, X=X)
    elif suffix == ".csv":
        good.write_text("a,b,c,d,e\n" + "\n".join(",".join(map(str, row)) for row in X))
    elif suffix == ".parquet":
        parquet.write_table(pa.table({name: X[:, i] for i, name in enumerate("abcde")}), good)
    else:
        good.write_bytes(gzip.compress(idx_bytes(X)))
    np.testing.assert_array_equal(load(good).X, X)
    content, bad = good.read_bytes(), tmp_path / f"bad{suffix}"
    damaged = [content[:size] for size in range(0, len(content), 1 + len(content) // 60)]
    for _ in range(60):
        noisy = np.frombuffer(content, np.uint8).copy()
        noisy[rng.integers(len(noisy), size=3)] = rng.integers(256, size=3)
        damaged.append(noisy.tobytes())
    for some in damaged:
        bad.write_bytes(some)
        try:
            assert np.isfinite(load(bad).X).all()
        except DataError as error:
            assert "got" in str(error)
