"""Loading: every source gives checked examples; every damaged one gives a message that names what came."""

import gzip
import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import genmem.rows
from genmem.data import (
    Data,
    constant_columns,
    fingerprint,
    identical_groups,
    load,
    plant_duplicates,
    prepare,
    to_images,
)
from genmem.errors import DataError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def text_file(path, text):
    path.write_text(text)
    return path


def idx_bytes(array):
    codes = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    head = bytes([0, 0, codes[array.dtype.str[1:]], array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def refused(message, source, **options):
    with pytest.raises(DataError, match=message) as error:
        load(source, **options)
    assert error.value.do.endswith(".")
    assert str(error.value).startswith("Expected ")


# --- arrays


def test_digits():
    data = load("digits")
    assert data.X.shape == (1797, 64) and data.X.dtype == np.float32
    assert data.X.min() == 0 and data.X.max() == 1
    assert data.labels.shape == (1797,) and set(data.labels) == set(range(10))
    assert data.image_shape == (8, 8) and data.source == "digits" and data.preparation == "as given"
    np.testing.assert_array_equal(data.index, np.arange(1797))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("bool", "uint8"),
        ("uint8", "uint8"),
        ("int8", "float32"),
        ("int64", "float32"),
        ("uint16", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        (">f4", "float32"),
        ("float64", "float32"),
    ],
)
def test_dtypes(given, kept):
    values = np.array([[0, 1], [1, 0], [1, 1]]).astype(given)
    data = load(values)
    assert data.X.dtype == np.dtype(kept) and data.X.dtype.isnative
    np.testing.assert_array_equal(data.X, values)
    assert data.source == "array" and data.labels is None


def test_lists_and_array_likes():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return np.eye(3)

    np.testing.assert_array_equal(load(Tensor()).X, np.eye(3))
    np.testing.assert_array_equal(load([[1, 2], [3, 4]]).X, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.float64(1), r"shape \(\)"),
        (np.zeros(5), r"shape \(5,\).*reshape\(-1, 1\)"),
        (np.zeros((0, 3)), r"0 of 0 values"),
        (np.zeros((3, 0)), r"3 of 0 values"),
        (np.zeros((1, 3)), r"1 of 3 values"),
        (np.zeros((3, 2), complex), "complex128"),
        (np.array([["a", "b"], ["c", "d"]]), "<U1"),
        (np.array([[None, 1], [2, 3]]), "dtype object"),
        (np.zeros((3, 2), "M8[s]"), "datetime64"),
        ([[1, 2], [3]], "list .*inhomogeneous"),
        ({"a": 1}, "dtype object"),
        (np.ma.masked_equal([[1, 2], [3, 2]], 2), "2 masked"),
        (np.array([[1.0, 2.0], [np.nan, np.inf], [np.nan, 1.0]]), "3 of 6 .*first nan in row 1, column 0"),
        (np.array([[1.0, 2.0], [3.0, -np.inf]]), "1 of 4 .*first -inf in row 1, column 1"),
        (np.array([[1.0, 2.0], [3.0, 1e39]]), "3.4e38.*first inf in row 1, column 1"),
    ],
)
def test_refused_arrays(values, message):
    refused(message, values)


def test_non_finite_values_are_counted_across_blocks(monkeypatch):
    monkeypatch.setattr(genmem.rows, "_CHUNK", 4)
    X = np.zeros((9, 2, 2))
    X[3, 1, 0] = X[7, 0, 0] = np.nan
    refused("2 of 36 .*first nan in row 3, column 2", X)


@pytest.mark.parametrize("name", ["array", "label_array", "label_column"])
@pytest.mark.parametrize("source", ["digits", np.eye(3)])
def test_options_of_files_are_refused_elsewhere(name, source):
    refused(f"{name}='x'", source, **{name: "x"})


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((5, 28, 28), (28, 28)),
        ((5, 1, 28, 20), (28, 20)),
        ((5, 28, 20, 1), (28, 20)),
        ((5, 32, 30, 3), (32, 30, 3)),
        ((5, 3, 32, 30), (32, 30, 3)),
        ((5, 784), None),
        ((5, 28, 3), None),
        ((5, 7, 28), None),
        ((5, 2, 32, 32), None),
        ((5, 32, 32, 4), None),
        ((5, 1, 1, 28), None),
        ((5, 8, 8, 8), None),
        ((5, 3, 8, 8, 8), None),
    ],
)
def test_image_shape_only_where_clear(shape, image_shape):
    assert load(np.zeros(shape, np.uint8)).image_shape == image_shape


def test_channels_first_are_shown_right(rng):
    images = rng.integers(0, 256, size=(4, 9, 11, 3), dtype=np.uint8)
    first = load(np.moveaxis(images, -1, 1))
    assert first.X.shape == (4, 3, 9, 11)
    np.testing.assert_array_equal(to_images(first.X, first.image_shape), images)
    np.testing.assert_array_equal(to_images(images, (9, 11, 3)), images)
    np.testing.assert_array_equal(to_images(images.reshape(4, -1), (9, 11, 3)), images)


# --- subset


def test_subset_keeps_source_rows_in_order(rng):
    X = rng.normal(size=(50, 3)).astype(np.float32)
    data = load(X, labels=np.arange(50), subset=20, seed=1)
    assert len(set(data.index)) == 20 and (np.diff(data.index) > 0).all()
    np.testing.assert_array_equal(data.X, X[data.index])
    np.testing.assert_array_equal(data.labels, data.index)
    np.testing.assert_array_equal(data.index, load(X, subset=20, seed=1).index)
    assert (data.index != load(X, subset=20, seed=2).index).any()
    np.testing.assert_array_equal(load(X, subset=50).index, np.arange(50))


@pytest.mark.parametrize("size", [51, 1, 0, -3])
def test_refused_subsets(size):
    refused(f"2 to 50 examples; got {size}", np.zeros((50, 2)), subset=size)


# --- numpy files


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


# --- tables


def test_csv(tmp_path):
    path = text_file(tmp_path / "t.csv", "a,b,kind,flag\n1,2.5,x,true\n3,4,y,false\n5,6,x,true\n")
    data = load(path, label_column="kind")
    np.testing.assert_array_equal(data.X, np.array([[1, 2.5, 1], [3, 4, 0], [5, 6, 1]], np.float32))
    assert data.X.dtype == np.float32 and data.columns == ("a", "b", "flag") and list(data.labels) == ["x", "y", "x"]
    assert data.labels.dtype.kind == "U"


def test_parquet(tmp_path):
    table = pa.table({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "y": [7, 8, 9]})
    parquet.write_table(table, tmp_path / "t.parquet")
    data = load(tmp_path / "t.parquet", label_column="y")
    np.testing.assert_array_equal(data.X, [[1, 0.5], [2, 1.5], [3, 2.5]])
    np.testing.assert_array_equal(data.labels, [7, 8, 9])
    pixels = pa.table({"p0": pa.array([0, 255, 3], pa.uint8()), "p1": pa.array([1, 2, 3], pa.uint8())})
    parquet.write_table(pixels, tmp_path / "p.parquet")
    assert load(tmp_path / "p.parquet").X.dtype == np.uint8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", "Row #3: Expected 2 columns, got 3"),
        ("", "[Ee]mpty"),
        ("a,b\n", "0 of 0 values"),
        ("a,b\n1,2\n", "1 of 2 values"),
        ("a,b\n1,2\n,3\n", "column 'a' .*1 missing, the first in row 1"),
        ("a,b\n1,2\n3,NaN\n", "column 'b' .*1 missing, the first in row 1"),
        ("a,b\n1,2\n3,inf\n", "inf in row 1, column 'b'"),
        ("a,b\n,2\n,3\n", "column 'a' .*2 missing"),
        ("a,b,c\n1,x,2020-01-01\n2,y,2020-01-02\n", r"2 of another kind: b \(string\), c \(date.*--label-column"),
        ("1,2\n3,4\n5,6\n", "numbers: 1, 2.*first example would be lost"),
        (",b\n0,2\n1,4\n", r"none for column 1 .*index=False"),
        ("a,a\n1,2\n3,4\n", "repeated: a"),
        ("\0\1\2\xff", "t.csv"),
        ('a,b\n1,"2\n3,4\n', "t.csv"),
    ],
)
def test_refused_csv(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("latin-1"))
    refused(message, path)


def test_numbered_columns_are_names(tmp_path):
    data = load(text_file(tmp_path / "t.csv", "0,1\n5,6\n7,8\n"))
    np.testing.assert_array_equal(data.X, [[5, 6], [7, 8]])


def test_refused_label_columns(tmp_path):
    path = text_file(tmp_path / "t.csv", "a,b,y\n1,2,x\n3,4,\n5,6,z\n")
    refused("a, b, y; got 'q'", path, label_column="q")
    refused("1 blank .*row 1", path, label_column="y")
    alone = text_file(tmp_path / "alone.csv", "y\n1\n2\n")
    refused("only the labels, 'y'", alone, label_column="y")
    gaps = text_file(tmp_path / "gaps.csv", "a,y\n1,2\n3,\n5,6\n")
    refused("column 'y' .*1 missing, the first in row 1", gaps, label_column="y")
    real = text_file(tmp_path / "real.csv", "a,y\n1,2.5\n3,1\n5,6\n")
    refused("float64 .*such as 2.5", real, label_column="y")


def test_refused_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 nonsense PAR1")
    refused("sound .parquet file", path)
    parquet.write_table(pa.table({"a": [1.0, None, 3.0], "b": [1.0, 2.0, 3.0]}), path)
    refused("column 'a' .*1 missing, the first in row 1", path)
    parquet.write_table(pa.table({"a": [1.0, 2.0], "v": [[1], [2]]}), path)
    refused(r"v \(list", path)
    parquet.write_table(pa.table({"a": [1.0, 2.0], "__index_level_0__": [1, 2]}), path)
    refused("none for column 2", path)
    parquet.write_table(pa.table({}), path)
    refused("no columns", path)
    parquet.write_table(pa.table({"a": [1.0, float("nan")]}), path)
    refused("nan in row 1, column 'a'", path)


# --- folders of images


def save_images(folder, images):
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def test_gray_images_in_class_folders(tmp_path, rng):
    images = {f"{kind}/{i}.png": rng.integers(0, 256, (9, 12), dtype=np.uint8) for kind in "ba" for i in (2, 1)}
    save_images(tmp_path, images)
    for ignored in (".hidden.png", ".cache/1.png", "notes.txt", "a/.x.png"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).write_text("not an image")
    data = load(tmp_path)
    assert data.names.tolist() == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"] == sorted(images)
    assert data.labels.tolist() == ["a", "a", "b", "b"]
    np.testing.assert_array_equal(data.X, [images[name] for name in data.names])
    assert data.X.dtype == np.uint8 and data.image_shape == (9, 12)
    assert load(tmp_path, labels=[1, 2, 3, 4]).labels.tolist() == [1, 2, 3, 4]
    assert load(tmp_path, subset=3).names.tolist() == data.names[load(tmp_path, subset=3).index].tolist()


def test_colour_images(tmp_path, rng):
    colour = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    gray = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    see_through = np.dstack([colour, np.full((8, 8), 9, np.uint8)])
    save_images(tmp_path, {"1.png": colour, "2.BMP": gray, "3.png": see_through})
    data = load(tmp_path)
    assert data.labels is None and data.image_shape == (8, 8, 3)
    np.testing.assert_array_equal(data.X, [colour, np.dstack([gray] * 3), colour])


def test_refused_folders(tmp_path, rng):
    refused("images in .*png.*got none", tmp_path)
    save_images(tmp_path, {"1.png": rng.integers(0, 256, (8, 9), dtype=np.uint8)})
    refused("1 of 72 values", tmp_path)
    save_images(tmp_path, {"2.png": np.zeros((9, 8), np.uint8)})
    refused("8 x 9 in 1.png but 9 x 8 in 2.png", tmp_path)
    (tmp_path / "2.png").write_text("<svg/>")
    refused("2.png, which cannot", tmp_path)
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    refused("2.png, which cannot", tmp_path)
    Image.fromarray(np.zeros((8, 9), np.uint16)).save(tmp_path / "2.png")
    refused("mode 'I;16' in .*2.png", tmp_path)
    (tmp_path / "2.png").unlink()
    save_images(tmp_path, {"a/2.png": np.zeros((8, 9), np.uint8)})
    refused("1 of 2 outside, the first 1.png", tmp_path)
    refused("folder the images are in", tmp_path / "1.png")


# --- IDX


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
        (b"\x1f\x8b", "sound .gz file"),
        (gzip.compress(whole)[:20] + b"\0" * 30, "sound .gz file"),
    ]:
        zipped.write_bytes(content)
        refused(message, zipped)


# --- paths


def test_refused_paths(tmp_path, monkeypatch):
    refused("nothing there.*digits", tmp_path / "missing.npy")
    refused("nothing there", "mnist")
    refused("File name too long", "x" * 5000)
    (tmp_path / "folder.npy").mkdir()
    refused("images in", tmp_path / "folder.npy")
    refused("never unpickled", text_file(tmp_path / "model.pt", "x"))
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


# --- labels


def test_labels_of_every_form(tmp_path):
    X, expected = np.eye(3), np.array([3, 1, 2])
    np.save(tmp_path / "y.npy", expected[:, None].astype(float))
    text_file(tmp_path / "y.txt", "3\n1\n2\n")
    text_file(tmp_path / "y.csv", "y\n3\n1\n2\n")
    (tmp_path / "y-idx1").write_bytes(idx_bytes(expected.astype(np.uint8)))
    for labels in (expected, [3, 1, 2], *(tmp_path / name for name in ("y.npy", "y.txt", "y.csv", "y-idx1"))):
        found = load(X, labels=labels).labels
        np.testing.assert_array_equal(found, expected)
        assert found.dtype.kind in "iu"


def test_labels_of_text_and_booleans(tmp_path):
    X = np.eye(3)
    text = text_file(tmp_path / "y.txt", "cat\n7\ndog\n")
    forms = [["cat", "7", "dog"], np.array(["cat", "7", "dog"], object), np.array([b"cat", b"7", b"dog"]), str(text)]
    for labels in forms:
        found = load(X, labels=labels).labels
        assert found.dtype.kind == "U" and found.tolist() == ["cat", "7", "dog"]
    assert load(X, labels=[True, False, True]).labels.dtype == bool
    assert load(X, labels=np.array([1, 2, 3], object)).labels.dtype.kind == "i"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2], r"3 examples; got shape \(2,\) from an array"),
        (np.eye(3), r"got shape \(3, 3\)"),
        ([1, 2.5, 3], "such as 1.0"),
        ([1, np.nan, 3], "such as nan"),
        ([1, None, 3], "dtype object"),
        (["a", " ", "c"], "1 blank .*row 1"),
        ([1j, 2, 3], "complex"),
        ("missing.csv", "nothing there"),
    ],
)
def test_refused_labels(labels, message):
    refused(message, np.eye(3), labels=labels)


def test_refused_label_files(tmp_path):
    X = np.eye(3)
    refused(r"got shape \(2,\) from .*y.csv.*below a line", X, labels=text_file(tmp_path / "y.csv", "a\nb\nc\n"))
    refused("2: a, b", X, labels=text_file(tmp_path / "y2.csv", "a,b\n1,2\n3,4\n5,6\n"))
    refused("1 blank .*row 1", X, labels=text_file(tmp_path / "y.txt", "a\n\nc\n"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    refused("sound .txt file", X, labels=tmp_path / "bytes.txt")
    np.savez(tmp_path / "y.npz", y=np.arange(3))
    refused("labels in a .npy, .csv, .txt or IDX file", X, labels=tmp_path / "y.npz")
    refused("labels in a .npy, .csv, .txt or IDX file", X, labels=tmp_path)
    table = text_file(tmp_path / "t.csv", "a,y\n1,2\n3,4\n")
    refused("from one place; got 'y' and an array", table, label_column="y", labels=[1, 2])


# --- prepare


@pytest.fixture
def pixels(rng):
    return load(rng.integers(0, 256, size=(1000, 4, 5), dtype=np.uint8), labels=np.arange(1000))


@pytest.mark.parametrize("likelihood", [None, "gaussian"])
def test_dequantise(pixels, likelihood):
    ready = prepare(pixels, likelihood, 3)
    assert ready.X.dtype == np.float32 and ready.X.shape == pixels.X.shape
    assert ready.X.min() >= 0 and ready.X.max() < 1
    assert ready.preparation == "dequantised once, seed 3"
    np.testing.assert_array_equal(np.floor(ready.X * 256), pixels.X)
    within = (ready.X.astype(np.float64) * 256 - pixels.X).ravel()
    assert abs(within.mean() - 0.5) < 0.01 and abs(within.var() - 1 / 12) < 0.003


def test_the_brightest_pixel_stays_below_one():
    white = load(np.full((400, 1000), 255, np.uint8))
    X = prepare(white, None, 0).X
    assert X.max() < 1 and X.min() >= 255 / 256 and len(np.unique(X)) > 60_000


def test_binarise(pixels):
    ready = prepare(pixels, "bernoulli", 3)
    assert ready.X.dtype == np.uint8 and set(np.unique(ready.X)) == {0, 1}
    assert ready.preparation == "binarised once, seed 3"
    assert not ready.X[pixels.X == 0].any() and ready.X[pixels.X == 255].all()
    residual = ready.X - pixels.X / 255
    assert abs(residual.mean()) < 4 * 0.5 / np.sqrt(residual.size)
    dark = prepare(load(np.full((300, 1000), 51, np.uint8)), "bernoulli", 0)
    assert abs(dark.X.mean() - 0.2) < 4 * 0.4 / np.sqrt(300_000)


def test_binarise_probabilities(rng):
    digits = load("digits")
    ready = prepare(digits, "bernoulli", 0)
    assert ready.X.dtype == np.uint8 and ready.image_shape == (8, 8)
    residual = ready.X - digits.X
    assert abs(residual.mean()) < 4 * 0.5 / np.sqrt(residual.size)
    assert np.corrcoef(ready.X.ravel(), digits.X.ravel())[0, 1] > 0.8


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_noise_belongs_to_the_source_row(pixels, likelihood):
    whole = prepare(pixels, likelihood, 3)
    for at in (np.arange(0, 1000, 7), np.array([999, 3, 256, 255, 3]), np.arange(1000)[::-1]):
        np.testing.assert_array_equal(prepare(pixels.take(at), likelihood, 3).X, whole.X[at])
    assert (prepare(pixels, likelihood, 4).X != whole.X).any()
    same = prepare(load(np.full((600, 40), 128, np.uint8)), likelihood, 3)
    assert len(np.unique(identical_groups(same.X))) == 600


def test_prepare_keeps_what_needs_nothing(rng):
    binary = load(rng.integers(0, 2, size=(20, 3), dtype=np.uint8))
    real = load(rng.normal(size=(20, 3)))
    unit = load(rng.integers(0, 2, size=(20, 3)).astype(float))
    assert prepare(binary, "bernoulli", 0) is binary
    assert prepare(unit, "bernoulli", 0) is unit
    assert prepare(real, None, 0) is real
    assert prepare(real, "gaussian", 0) is real


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.nan])
def test_bernoulli_refuses_values_outside_0_1(bad):
    X = np.full((4, 3), 0.5, np.float32)
    X[2, 1] = bad
    data = Data(X, None, np.array([5, 6, 9, 11]), "somewhere")
    with pytest.raises(DataError, match=f"got {bad}.* in row 9, column 1 of somewhere"):
        prepare(data, "bernoulli", 0)


# --- rows


def test_fingerprint_sees_dtype_shape_values_and_nothing_else(rng, monkeypatch):
    X = rng.normal(size=(40, 6)).astype(np.float32)
    first = fingerprint(X)
    assert first == hashlib.sha256(b"<f4(40, 6)" + X.tobytes()).hexdigest()
    assert first == fingerprint(np.asfortranarray(X)) == fingerprint(X.copy())
    others = [X.reshape(40, 3, 2), X.astype(np.float64), X.view(np.int32), X[::-1], X + 1e-6]
    assert len({first, *map(fingerprint, others)}) == 6
    monkeypatch.setattr(genmem.rows, "_CHUNK", 7)
    assert fingerprint(X) == first
    assert len(fingerprint(np.array(["a", "bc"]))) == 64


def test_constant_columns(rng, monkeypatch):
    X = rng.normal(size=(100, 3, 4))
    X[:, 1, 2] = 7
    X[:, 0, 0] = 0
    X[:-1, 2, 3] = 1
    np.testing.assert_array_equal(constant_columns(X), [0, 6])
    monkeypatch.setattr(genmem.rows, "_CHUNK", 30)
    np.testing.assert_array_equal(constant_columns(X), [0, 6])
    np.testing.assert_array_equal(constant_columns(load("digits").X), [0, 32, 39])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("collide", [False, True])
def test_identical_groups(rng, monkeypatch, dtype, collide):
    if collide:
        monkeypatch.setattr(genmem.rows, "_row_hashes", lambda X: np.zeros(len(X), np.uint64))
    monkeypatch.setattr(genmem.rows, "_CHUNK", 100)
    X = rng.integers(0, 3, size=(300, 3, 1)).astype(dtype)
    seen = {}
    expected = [seen.setdefault(row.tobytes(), len(seen)) for row in X]
    np.testing.assert_array_equal(identical_groups(X), expected)
    distinct = np.arange(300).reshape(100, 3).astype(dtype)
    np.testing.assert_array_equal(identical_groups(distinct)[:85], np.arange(85))


def test_zero_equals_minus_zero():
    np.testing.assert_array_equal(identical_groups(np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]])), [0, 0, 1])


def test_hashes_tell_rows_of_round_numbers_apart(rng):
    rows = rng.choice(np.array([0, -(2**31)], np.int32), size=(2**18, 64))
    assert len(np.unique(genmem.rows._row_hashes(rows))) == 2**18


def test_plant_duplicates(rng):
    data = load(rng.normal(size=(30, 4)), labels=np.arange(30), subset=20)
    more, groups = plant_duplicates(data, [3, 11], 2)
    assert len(more.X) == 24
    np.testing.assert_array_equal(more.X[20:], data.X[[3, 3, 11, 11]])
    np.testing.assert_array_equal(more.labels[20:], data.labels[[3, 3, 11, 11]])
    np.testing.assert_array_equal(more.index[20:], data.index[[3, 3, 11, 11]])
    np.testing.assert_array_equal(groups, [*range(20), 3, 3, 11, 11])
    assert len(plant_duplicates(data, [], 2)[0].X) == 20
    for positions, copies in (([20], 1), ([-1], 1), ([0], -1)):
        with pytest.raises(DataError, match="0 to 19"):
            plant_duplicates(data, positions, copies)


def test_planted_copies_stay_copies_when_prepared(pixels):
    more, groups = plant_duplicates(pixels, [3, 500], 3)
    for likelihood in ("bernoulli", None):
        ready = prepare(more, likelihood, 0)
        np.testing.assert_array_equal(ready.X[1000:1003], ready.X[[3, 3, 3]])
        np.testing.assert_array_equal(identical_groups(ready.X), groups)


# --- the scripts in data/


def script(name):
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", ROOT / "data" / name / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_script_writes_what_load_returns(tmp_path, capsys):
    assert script("digits").main(["--out", str(tmp_path / "digits.npz")]) == 0
    data = load(tmp_path / "digits.npz", array="x", label_array="y")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "digits.npz")
    assert fingerprint(data.X) == fingerprint(load("digits").X)
    np.testing.assert_array_equal(data.labels, load("digits").labels)
    assert fingerprint(data.X) in (ROOT / "data" / "digits" / "README.md").read_text()


@pytest.fixture
def small_mnist(rng):
    shapes = {"x_train": (6, 28, 28), "y_train": (6,), "x_test": (3, 28, 28), "y_test": (3,)}
    return {name: rng.integers(0, 10, size=shape, dtype=np.uint8) for name, shape in shapes.items()}


@pytest.fixture
def mnist_script(small_mnist, monkeypatch):
    """The script, told that the small arrays are the right ones."""
    module = script("mnist")
    sums = {name: hashlib.md5(idx_bytes(array)).hexdigest() for name, array in small_mnist.items()}
    monkeypatch.setattr(module, "MD5", sums)
    return module


def idx_files(folder, arrays, zipped=()):
    paths = []
    for name, array in arrays.items():
        content = idx_bytes(array)
        paths.append(folder / f"{name}-idx-ubyte{'.gz' if name in zipped else ''}")
        paths[-1].write_bytes(gzip.compress(content) if name in zipped else content)
    return [str(path) for path in paths]


def test_mnist_script_from_idx_files_in_any_order(tmp_path, small_mnist, mnist_script, capsys):
    files = idx_files(tmp_path, small_mnist, zipped=("x_train", "y_test"))
    out = tmp_path / "mnist.npz"
    assert mnist_script.main([*files[::-1], "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    data = load(out, array="x_train", label_array="y_train")
    np.testing.assert_array_equal(data.X, small_mnist["x_train"])
    np.testing.assert_array_equal(data.labels, small_mnist["y_train"])
    again = tmp_path / "again.npz"
    assert mnist_script.main([str(out), "--out", str(again)]) == 0
    with np.load(again) as stored:
        assert {name: stored[name].tolist() for name in stored} == {n: a.tolist() for n, a in small_mnist.items()}


def test_mnist_script_refuses_other_contents(tmp_path, small_mnist, mnist_script, capsys):
    out = tmp_path / "mnist.npz"

    def fails(message, *arguments):
        assert mnist_script.main([*arguments, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()

    files = idx_files(tmp_path, small_mnist)
    fails("y_test", *files[:3])
    fails("No such file", *files[:3], str(tmp_path / "missing"))
    changed = {**small_mnist, "x_test": small_mnist["x_test"] + 1}
    fails(hashlib.md5(idx_bytes(changed["x_test"])).hexdigest(), *idx_files(tmp_path, changed))
    np.savez(tmp_path / "changed.npz", **changed)
    fails("x_test", str(tmp_path / "changed.npz"))
    np.savez(tmp_path / "part.npz", x_train=small_mnist["x_train"])
    fails("y_train", str(tmp_path / "part.npz"))


def test_mnist_script_knows_the_published_checksums(tmp_path, small_mnist):
    module, readme = script("mnist"), (ROOT / "data" / "mnist" / "README.md").read_text()
    assert set(module.MD5) == set(small_mnist)
    assert all(md5 in readme for md5 in module.MD5.values())
    assert module.main([*idx_files(tmp_path, small_mnist), "--out", str(tmp_path / "mnist.npz")]) == 2
