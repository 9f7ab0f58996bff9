"""Three sets from files, folders and memory: brought into one form, or refused with a way out."""

import decimal

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from sources import idx_bytes, text_file

from genmem.data.three_sets import load_three
from genmem.errors import DataError
from genmem.neighbors.sets import Sets


def images(n, seed=0, shape=(9, 8)):
    return np.random.default_rng(seed).integers(0, 256, size=(n, *shape), dtype=np.uint8)


def folder_of(path, X, suffix=".png"):
    path.mkdir(parents=True)
    for i, image in enumerate(X):
        Image.fromarray(image).save(path / f"{i:03}{suffix}")
    return path


def refused(message, *sources, **options):
    with pytest.raises(DataError, match=message) as found:
        load_three(*sources, **options)
    assert found.value.do.endswith(".")
    return str(found.value)


# --- arrays and files of arrays


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64, np.bool_, np.float16])
def test_arrays_keep_their_type_and_values(dtype):
    sets = [images(n, n, (5,)).astype(dtype) for n in (4, 3, 2)]
    found = load_three(*sets)
    for one, other in zip(found.arrays, sets, strict=True):
        assert one is other or (np.array_equal(one, other) and one.dtype == dtype)
    assert found.values is found.arrays and found.image_shape is None and found.names == {}
    assert found.sources == {"train": "array", "test": "array", "samples": "array"}
    Sets(*found.arrays).near("samples", "train")


def test_files_of_every_kind(tmp_path):
    train, test, samples = images(6), images(4, 1), images(1, 2)
    np.save(tmp_path / "train.npy", train)
    np.savez(tmp_path / "test.npz", test)
    (tmp_path / "samples-ubyte").write_bytes(idx_bytes(samples))
    paths = [tmp_path / name for name in ("train.npy", "test.npz", "samples-ubyte")]
    found = load_three(*paths)
    for one, other in zip(found.arrays, (train, test, samples), strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.image_shape == (9, 8) and found.sources["test"] == str(paths[1])
    found = load_three(*paths, array="arr_0")
    np.testing.assert_array_equal(found.arrays[1], test)


def test_arrays_within_one_file(tmp_path):
    whole = tmp_path / "all.npz"
    named = {"x_train": images(6), "x_test": images(4, 1), "drawn": images(3, 2), "y_train": np.arange(6)}
    np.savez(whole, **named)
    for array in ("x_train,x_test,drawn", ["x_train", "x_test", "drawn"], (None, None, "drawn"), ",,drawn"):
        found = load_three(whole, whole, whole, array=array)
        for one, name in zip(found.arrays, named, strict=False):
            np.testing.assert_array_equal(one, named[name])
    refused("name of the array.*x_train .6, 9, 8.", whole, whole, whole)
    refused("'no'", whole, whole, whole, array="x_train,x_test,no")
    refused("one array, or three names.*2 names: a,b", whole, whole, whole, array="a,b")
    refused("array only with .npz", images(3), images(3), images(3), array="x")


def test_flat_and_shaped_rows_go_together():
    train, test, samples = images(5), images(4, 1)[:, None], images(3, 2).reshape(3, 72)
    found = load_three(train, test, samples)
    assert [X.shape[0] for X in found.arrays] == [5, 4, 3] and found.image_shape == (9, 8)
    found = load_three(train, test, images(3, 2))
    assert {X.shape[1:] for X in found.arrays} == {(9, 8)}


def test_channels_first_and_last_are_brought_together():
    train, test = images(5, 0, (8, 10, 3)), images(4, 1, (8, 10, 3))
    first = np.moveaxis(test, -1, 1)
    found = load_three(train, test, first)
    np.testing.assert_array_equal(found.arrays[2], test)
    same = load_three(first, first, first)
    assert same.arrays[0].shape == (4, 3, 8, 10) and same.image_shape == (8, 10, 3)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ((images(3), images(3), images(3, 0, (8, 8))), "9 x 8 in array, 9 x 8 in array, 8 x 8 in array.*Resize"),
        ((np.zeros((3, 5)), np.zeros((3, 5)), np.zeros((3, 4))), r"one shape.*\(5,\) in array.*\(4,\)"),
        ((np.zeros(3), np.zeros((3, 1)), np.zeros((3, 1))), r"train with one row.*\(3,\).*reshape\(-1, 1\)"),
        ((np.zeros((3, 1)), np.zeros((0, 1)), np.zeros((3, 1))), "test with one row.*Add rows"),
        (([[1, 2], [3]], np.zeros((3, 1)), np.zeros((3, 1))), "as an array, or as rows of one shape"),
        (("nowhere.npy", np.zeros((3, 1)), np.zeros((3, 1))), "train: a file or folder at nowhere.npy; got nothing"),
        ((images(3), images(3), images(3) / 255), "0 to 255 in array, 0 to 255 in array, 0 to 1 in array.*one scale"),
        ((images(3) / 255, images(3) / 255, images(3)), "0 to 1 in array.*0 to 255 in array"),
        ((images(3) / 255, images(3) / 255, images(3) / 127.5 - 1), "-1 to 1 in array"),
        ((images(3, 0, (64,)), images(3, 1, (64,)), images(3, 2, (64,)) / 255), "one scale"),
    ],
)
def test_refused_arrays(sources, message):
    refused(message, *sources)


def test_scales_that_may_be_meant():
    rng = np.random.default_rng(0)
    gray = images(5) / 255
    below = gray.copy()
    below[0, 0, 0] = -0.95
    flat = gray.reshape(5, 72)
    for sets in (
        (gray, gray, gray + rng.normal(scale=0.3, size=gray.shape)),  # noise about values from 0 to 1
        (gray, gray, below),
        (images(5), images(5), images(5).astype(float)),
        (images(5), images(5), np.zeros((4, 9, 8), np.uint8)),  # a generator that collapsed
        (flat, flat, images(3).reshape(3, 72).astype(float)),  # not known as images
        (images(5) > 100, images(5) > 100, gray),
    ):
        for read, given in zip(load_three(*sets).arrays, sets, strict=True):
            np.testing.assert_array_equal(read.reshape(given.shape), given)


def test_masked_values_are_refused():
    masked = np.ma.array(np.ones((3, 2)), mask=[[0, 1], [0, 0], [0, 0]])
    refused("1 masked", masked, np.ones((3, 2)), np.ones((3, 2)))


# --- folders of images


def test_folders_of_images(tmp_path):
    sets = images(4), images(3, 1), images(2, 2)
    paths = [folder_of(tmp_path / name, X) for name, X in zip(("t", "h", "s"), sets, strict=True)]
    found = load_three(*paths)
    for one, other in zip(found.arrays, sets, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.image_shape == (9, 8) and set(found.names) == {"train", "test", "sample"}
    assert list(found.names["sample"]) == ["000.png", "001.png"]
    beside = load_three(paths[0], sets[1], paths[2])
    assert set(beside.names) == {"train", "sample"} and beside.sources["test"] == "array"


def test_small_images_in_folders(tmp_path):
    paths = [folder_of(tmp_path / name, images(2, i, (4, 5))) for i, name in enumerate("ths")]
    assert load_three(*paths).image_shape == (4, 5)


def test_gray_saved_in_colour_becomes_gray(tmp_path):
    gray = images(3)
    colour = np.repeat(gray[..., None], 3, axis=3)
    found = load_three(folder_of(tmp_path / "t", gray), gray, folder_of(tmp_path / "s", colour))
    np.testing.assert_array_equal(found.arrays[2], gray)
    assert found.image_shape == (9, 8)
    truly = colour.copy()
    truly[0, 0, 0] = (1, 2, 3)
    found = load_three(gray, gray, truly)
    np.testing.assert_array_equal(found.arrays[0], colour)
    np.testing.assert_array_equal(found.arrays[2], truly)
    assert found.image_shape == (9, 8, 3)


def test_refused_folders(tmp_path):
    good = folder_of(tmp_path / "good", images(2))
    other = folder_of(tmp_path / "other", images(2, 0, (7, 8)))
    message = refused("9 x 8 in .*good, 9 x 8 in .*good, 7 x 8 in .*other", good, good, other)
    assert "Resize" in message
    (tmp_path / "empty").mkdir()
    refused("images in .*empty.*none", good, good, tmp_path / "empty")
    Image.fromarray(images(1, 0, (6, 6))[0]).save(other / "x.png")
    refused("images of one size .* in .*other", good, good, other)
    refused("Drop categorical, or pass tables", good, good, good, categorical="a")


# --- tables


def test_tables_of_numbers_are_compared_as_they_are(tmp_path):
    text_file(tmp_path / "t.csv", "a,b\n1,2.5\n3,4\n5,6\n")
    text_file(tmp_path / "h.csv", "b,a\n7.5,8\n")
    parquet.write_table(pa.table({"a": [1, 2], "b": [0.5, 1.5]}), tmp_path / "s.parquet")
    found = load_three(tmp_path / "t.csv", tmp_path / "h.csv", tmp_path / "s.parquet")
    np.testing.assert_array_equal(found.arrays[1], [[8, 7.5]])
    np.testing.assert_array_equal(found.arrays[2], [[1, 0.5], [2, 1.5]])
    assert found.columns == ("a", "b") and found.words == "values as given" and found.values is found.arrays


def test_a_column_that_decides_is_said():
    rng = np.random.default_rng(0)
    parts = [{"age": rng.normal(40, 10, n), "income": rng.normal(5e4, 1e4, n)} for n in (50, 20, 10)]
    assert "'income' has 100.0% of their variance" in load_three(*parts).words
    encoded = load_three(*parts, scale="range")
    assert encoded.words == "Gower-type distance over 2 columns of numbers (by range)"
    assert encoded.arrays[0].std(axis=0).max() < 0.5 and encoded.values[0][0, 1] == parts[0]["income"][0]


def test_tables_with_text_are_encoded_and_shown_as_they_are(tmp_path):
    text_file(tmp_path / "t.csv", "age,work\n20,a\n40,b\n,b\n")
    text_file(tmp_path / "h.csv", "age,work\n30,a\n")
    found = load_three(tmp_path / "t.csv", tmp_path / "h.csv", {"work": ["b"], "age": [40]})
    assert found.words == "Gower-type distance over 1 column of numbers (by range) and 1 of categories"
    distance, nearest = Sets(*found.arrays).near("samples", "train")
    assert distance[0, 0] == 0 and nearest[0, 0] == 1
    assert found.values[0].tolist()[1] == [40.0, "b"] and found.values[2].tolist() == [[40, "b"]]
    assert found.columns == ("age", "work") and found.sources["samples"] == "table"
    codes = load_three({"k": [1, 2]}, {"k": [1]}, {"k": [3]}, categorical="k")
    np.testing.assert_allclose(((codes.arrays[2] - codes.arrays[0]) ** 2).sum(axis=1), [1, 1])


def test_numbers_in_other_clothes_and_dates():
    exact = {"a": np.array([1, 2], dtype=object), "b": [decimal.Decimal("0.5"), decimal.Decimal("2")]}
    found = load_three(exact, exact, exact)
    np.testing.assert_array_equal(found.arrays[0], [[1, 0.5], [2, 2]])
    assert found.words == "values as given" and found.arrays[0].dtype == np.float64
    days = {"day": np.array(["2020-01-01", "2020-01-03"], "datetime64[ns]"), "t": ["x", "y"]}
    found = load_three(days, days, days)
    assert str(found.values[0][1, 0]) == "2020-01-03 00:00:00"
    np.testing.assert_allclose(((found.arrays[0][0] - found.arrays[0][1]) ** 2).sum(), 1)


def test_arrays_beside_tables_go_by_order(tmp_path):
    text_file(tmp_path / "t.csv", "a,b\n1,2\n3,4\n")
    np.save(tmp_path / "s.npy", np.array([[3.0, 4.0]]))
    found = load_three(tmp_path / "t.csv", tmp_path / "t.csv", tmp_path / "s.npy")
    assert Sets(*found.arrays).near("samples", "train")[1][0, 0] == 1
    refused("samples with the 2 columns.*shape .2, 3.", tmp_path / "t.csv", tmp_path / "t.csv", np.zeros((2, 3)))


def test_a_column_of_names():
    train = {"who": ["ann", "bob"], "a": [1, 2], "t": ["x", "y"]}
    test, samples = {"who": [7], "a": [3], "t": ["x"]}, {"a": [1], "t": ["x"]}
    found = load_three(train, test, samples, id_column="who")
    assert found.names == {"train": ["ann", "bob"], "test": ["7"]} and found.columns == ("a", "t")
    beside = load_three(train, test, np.array([[1, "x"]], dtype=object), id_column="who")
    refused("id_column to be a column of the tables: who, a, t; got 'no'", train, train, train, id_column="no")
    np.testing.assert_array_equal(beside.arrays[2], found.arrays[2])


def test_arrays_of_numbers_and_text():
    train = np.array([["x", 1], ["y", 3], [None, 2]], dtype=object)
    found = load_three(train, train[:1], np.array([["y", 2]], dtype=object))
    assert found.columns == ("0", "1") and found.words.endswith("(by range) and 1 of categories")
    np.testing.assert_allclose(((found.arrays[2] - found.arrays[0]) ** 2).sum(axis=1), [(1 + 1 / 4) / 2, 1 / 8, 1 / 2])
    text = np.array([["x", "a"], ["y", "b"]])
    assert load_three(text, text, text[:1]).words == "Gower-type distance over 2 columns of categories"
    refused("no 1", train, train, np.array([["y"]], dtype=object))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n1\n", "the same columns in samples as in train; got no b"),
        ("a,b,c\n1,x,3\n", "also c"),
        ("a,a\n1,2\n", "repeated: a"),
        (",b\n0.5,x\n", "index=False"),
        ("1,x\n2,y\n", "no a, b; also 1, x"),
        ("a,b\n1,x,3\n", "2 fields in every row of .*; got 3 in row 2: 1,x,3"),
        ("a,b\n", "one or more rows"),
        ("", "[Ee]mpty"),
    ],
)
def test_refused_tables(tmp_path, text, message):
    train = text_file(tmp_path / "t.csv", "a,b\n1,x\n2,y\n")
    refused(message, train, train, text_file(tmp_path / "s.csv", text))


def test_nested_columns_are_refused(tmp_path):
    parquet.write_table(pa.table({"v": [[1.0], [2.0, 3.0]]}), tmp_path / "t.parquet")
    refused("lists of equally many numbers in column 'v'", *[tmp_path / "t.parquet"] * 3)
    nested = {"v": np.array([[1, 2], [3]], dtype=object)}
    refused("'v' of train; got list", nested, nested, nested)
    refused("single values in a column of categories; got a list", nested, nested, nested, categorical="v")


def sprites(n, seed=0):
    """Return n sprites in the middle of 9 x 8 pixels: colours, and alpha."""
    rng = np.random.default_rng(seed)
    X, alpha = rng.integers(0, 256, (n, 9, 8, 3), dtype=np.uint8), np.zeros((n, 9, 8), np.uint8)
    alpha[:, 2:7, 2:6] = 255
    return X, alpha


def test_transparent_images_beside_opaque_ones(tmp_path):
    """They are compared on white if the opaque ones are on white, else refused."""
    X, alpha = sprites(6)
    shown = np.where(alpha[..., None] == 255, X, 255).astype(np.uint8)
    see_through = folder_of(tmp_path / "t", np.concatenate([X, alpha[..., None]], axis=3))
    white = folder_of(tmp_path / "w", shown[:3])
    found = load_three(see_through, shown, white)
    np.testing.assert_array_equal(found.arrays[0], shown)
    assert found.notes == {
        "train": (
            "6 of 6 images with transparent pixels, which were put on a white background: 000.png, 001.png, 002.png "
            "and 3 more.",
        )
    }
    assert len(load_three(see_through, see_through, see_through).arrays[0]) == 6
    black = np.where(alpha[..., None] == 255, X, 0).astype(np.uint8)[:3]
    message = r"opaque images in (array|.*b), with 0% of .* beside transparent ones in .*t \(on white, 100%"
    for samples in (folder_of(tmp_path / "b", black), black, black.transpose(0, 3, 1, 2), black / 255):
        with pytest.raises(DataError, match=message):
            load_three(see_through, see_through, samples)
