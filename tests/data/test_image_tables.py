"""Tables of encoded images as Hugging Face data sets store them, in one file or in shards."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from sources import refused

from genmem.data import load
from genmem.data.csv_files import TableOptions
from genmem.data.three_sets import load_three
from genmem.errors import DataError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)


def encoded(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def table(images, labels=None, names=None):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    names = [None] * len(images) if names is None else names
    pairs = [{"bytes": encoded(image), "path": name} for image, name in zip(images, names, strict=True)]
    columns = {"image": pa.array(pairs, kind)} | ({} if labels is None else {"label": labels})
    return pa.table(columns)


def written(path, *args, **how):
    path.parent.mkdir(exist_ok=True, parents=True)
    parquet.write_table(table(*args, **how), path)
    return path


def test_images_and_labels(tmp_path):
    path = written(tmp_path / "hf.parquet", X, labels=[1, 2, 3, 1, 2, 3])
    data = load(path, label_column="label")
    np.testing.assert_array_equal(data.X, X)
    assert data.labels.tolist() == [1, 2, 3, 1, 2, 3] and data.names is None and data.notes == ()
    assert data.image_shape == (8, 9, 3) and data.columns is None
    assert load(path).notes == ("1 column beside the images left out: label.",)
    refused("the labels in a column of .*: label; got 'y'", path, label_column="y")
    sets = load_three(path, X[:3], written(tmp_path / "s.parquet", X[:2]))
    np.testing.assert_array_equal(sets.arrays[0], X)
    assert sets.image_shape == (8, 9, 3) and sets.notes["train"] == load(path).notes


def test_names_and_plain_bytes(tmp_path):
    names = [f"{i}.png" for i in range(6)]
    data = load(written(tmp_path / "hf.parquet", X, names=names))
    assert data.names.tolist() == names
    (tmp_path / "y.csv").write_text("file,y\n" + "".join(f"{i}.png,{i}\n" for i in (3, 1, 5, 0, 2, 4)))
    assert load(tmp_path / "hf.parquet", labels=tmp_path / "y.csv").labels.tolist() == list(range(6))
    plain = pa.table({"png": [encoded(image) for image in X], "n": range(6)})
    parquet.write_table(plain, tmp_path / "plain.parquet")
    np.testing.assert_array_equal(load(tmp_path / "plain.parquet").X, X)
    parquet.write_table(pa.table({"id": [b"abc", b"def"], "n": [1, 2]}), tmp_path / "codes.parquet")
    refused("columns of numbers", tmp_path / "codes.parquet")


def test_the_rules_for_image_files_hold(tmp_path):
    alpha = np.full((6, 8, 9, 1), 255, np.uint8)
    alpha[0, :4] = 0
    data = load(written(tmp_path / "hf.parquet", np.concatenate([X, alpha], axis=3)))
    assert (data.X[0, :4] == 255).all() and (data.X[0, 4:] == X[0, 4:]).all()
    assert "1 of 6 images with transparent pixels" in data.notes[0]
    black = np.zeros((3, 8, 9, 3), np.uint8)
    with pytest.raises(DataError, match="background the generator was trained with"):
        load_three(tmp_path / "hf.parquet", tmp_path / "hf.parquet", black)
    refused("8 x 9 in row 0 but 4 x 4 in row 1", written(tmp_path / "sizes.parquet", [X[0], X[0, :4, :4]]))


def test_refused_tables(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": encoded(X[0]), "path": None}, {"bytes": None, "path": "/home/a/1.png"}]
    parquet.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "p.parquet")
    refused("none in 1 row, the first 1 .*only names the file /home/a/1.png. Pass the folder", tmp_path / "p.parquet")
    two = table(X).append_column("mask", table(X)["image"])
    parquet.write_table(two, tmp_path / "two.parquet")
    refused("one column of images .*got image, mask", tmp_path / "two.parquet")
    np.testing.assert_array_equal(load(tmp_path / "two.parquet", drop="mask").X, X)
    refused("columns of .* to drop: image, mask; got x", tmp_path / "two.parquet", drop="x")
    refused("sep only with text tables", tmp_path / "two.parquet", sep=";")
    sets = load_three(*[tmp_path / "two.parquet"] * 3, options=TableOptions(drop=("mask",)))
    np.testing.assert_array_equal(sets.arrays[2], X)
    rows = [{"bytes": b"RIFF....WAVE", "path": None}] * 2
    parquet.write_table(pa.table({"audio": pa.array(rows, kind)}), tmp_path / "audio.parquet")
    refused("row 0, which cannot be read", tmp_path / "audio.parquet")


def test_a_folder_of_shards_is_one_table(tmp_path):
    for i, rows in enumerate(np.split(X, 3)):
        written(tmp_path / f"train-{i}-of-11.parquet", rows, labels=[2 * i, 2 * i + 1])
    written(tmp_path / "train-10-of-11.parquet", X[:1], labels=[20])
    (tmp_path / "README.md").touch()
    data = load(tmp_path, label_column="label")
    np.testing.assert_array_equal(data.X, [*X, X[0]])
    assert data.labels.tolist() == [0, 1, 2, 3, 4, 5, 20]
    written(tmp_path / "test-0-of-1.parquet", X)
    refused("differ only in numbers; got 2 kinds of names: test-0-of-1.parquet, train-0-of-11.parquet", tmp_path)


def test_shards_of_numbers(tmp_path):
    for i in range(2):
        parquet.write_table(pa.table({"a": [i, i], "b": [2, 3]}), tmp_path / f"{i}.parquet")
    assert load(tmp_path).X.tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
    assert load_three(tmp_path, tmp_path / "0.parquet", tmp_path / "1.parquet").columns == ("a", "b")
    parquet.write_table(pa.table({"a": [1.5]}), tmp_path / "2.parquet")
    refused(r"got a \(int64\), b \(int64\) in 0.parquet, a \(double\) in 2.parquet", tmp_path)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=6))
def test_any_images(tmp_path_factory, seeds):
    images = [np.random.default_rng(seed).integers(0, 256, (3, 4), dtype=np.uint8) for seed in seeds]
    path = written(tmp_path_factory.mktemp("t") / "t.parquet", images, labels=seeds)
    data = load(path, label_column="label")
    np.testing.assert_array_equal(data.X, images)
    assert data.labels.tolist() == seeds
