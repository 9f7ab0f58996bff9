"""Labels of images by the names of the images: joined, whatever the order, or refused."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from sources import refused, text_file

from genmem.data import load
from genmem.data.named_labels import labels_by_name


@pytest.fixture
def folder(tmp_path):
    """Twelve images, 0.png to 11.png, each filled with its number."""
    (tmp_path / "im").mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / "im" / f"{i}.png")
    return tmp_path / "im"


def numbers_of(data):
    return data.X[:, 0, 0].tolist()


ORDER = np.random.default_rng(0).permutation(12).tolist()


@pytest.mark.parametrize(
    "name", ["{}.png", "im/{}.png", "./{}.png", "C:\\im\\{}.png", "{}", "/data/im/{}.png", "{}.jpg"]
)
def test_labels_are_joined_by_name(folder, name):
    if name.endswith("jpg"):
        refused("a column of .* that names the images, such as 0.png, 1.png", folder, labels=written(folder, name))
        return
    data = load(folder, labels=written(folder, name))
    assert data.labels.tolist() == [f"c{7 * i}" for i in numbers_of(data)] and numbers_of(data) == list(range(12))
    assert data.notes == (f"Labels by name, column 'file' of {folder.parent / 'y.csv'}.",)


def written(folder, name, rows=ORDER):
    return text_file(folder.parent / "y.csv", "file,label\n" + "".join(f"{name.format(i)},c{7 * i}\n" for i in rows))


def test_other_files_of_names_and_labels(folder):
    lines = [(f"{i}.png", f"class {i}" if i else "none", i % 2) for i in ORDER]
    table = pa.table({"age": [1.5] * 12, "image_id": [n for n, *_ in lines], "class": [c for _, c, _ in lines]})
    parquet.write_table(table, folder.parent / "y.parquet")
    assert load(folder, labels=folder.parent / "y.parquet").labels.tolist()[:2] == ["none", "class 1"]
    table = table.append_column("sex", [[s for *_, s in lines]])
    parquet.write_table(table.rename_columns(["age", "image_id", "words", "sex"]), folder.parent / "y.parquet")
    refused(
        "the column of labels in .*age, words, sex; got none.*--label-column",
        folder,
        labels=folder.parent / "y.parquet",
    )
    found = load(folder, labels=folder.parent / "y.parquet", label_column="sex")
    assert found.labels.tolist() == [0, 1] * 6
    text = text_file(folder.parent / "y.txt", "".join(f"{name} {sex}\n" for name, _, sex in lines))
    assert load(folder, groups=text).groups.tolist() == [0, 1] * 6
    np.save(folder.parent / "y.npy", np.arange(12))
    refused("from one source; got 'sex'", folder, labels=folder.parent / "y.npy", label_column="sex")


def test_files_in_class_folders(tmp_path):
    """Names of files that several folders hold name no image; paths do."""
    for kind in "ab":
        (tmp_path / kind).mkdir()
        for i in range(2):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / kind / f"{i}.png")
    path = text_file(tmp_path / "y.csv", "y,path\n4,b/1.png\n3,b/0.png\n2,a/1.png\n1,a/0.png\n0,c/0.png\n")
    data = load(tmp_path, labels=path)
    assert data.labels.tolist() == [1, 2, 3, 4]
    assert data.notes[-1] == f"1 row of {path} name no image: c/0.png."
    refused(
        "a column .* that names the images", tmp_path, labels=text_file(path, "y,path\n4,1.png\n3,0.png\n2,1.png\n")
    )


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("{}.png", range(11), "no label for 1 image: 11.png"),
        ("{}.png", [*range(12), 3], "several labels for 1 image: 3.png"),
        ("{}.jpg", range(12), "names the images, such as 0.png, .*; got columns file, label; .* names 0 of 12 images"),
    ],
)
def test_what_does_not_name_each_image_is_refused(folder, name, rows, message):
    refused(message, folder, labels=written(folder, name, rows))
    bare = text_file(folder.parent / "y.csv", "".join(f"{i}.png,{i}\n" for i in range(12)))
    refused("first line of column names .*got the name of an image: 0.png", folder, labels=bare)


def test_labels_in_the_order_of_the_images_are_shown(folder):
    np.save(folder.parent / "y.npy", np.arange(12))
    data = load(folder, labels=folder.parent / "y.npy")
    assert data.labels.tolist() == numbers_of(data) == list(range(12))
    assert data.notes == (
        "Labels in the order of the images (numbers in names are compared as numbers): 0.png is 0, 1.png is 1, "
        "2.png is 2 and so on.",
    )
    one = text_file(folder.parent / "one.csv", "y\n" + "".join(f"{i}\n" for i in range(12)))
    assert load(folder, labels=one).notes == data.notes
    words = text_file(folder.parent / "y.txt", "".join(f"big cat{i}\n" for i in range(12)))
    assert load(folder, labels=words).labels[3] == "big cat3"


@given(st.permutations(range(9)), st.sampled_from(["{}.png", "n{:03}.jpg", "a/{}.x.png", "00{}.png", "{} b.png"]))
def test_any_order_and_names(tmp_path_factory, order, pattern):
    names = [pattern.format(i) for i in range(9)]
    path = tmp_path_factory.mktemp("y") / "y.csv"
    text_file(path, "value,what\n" + "".join(f"{i + 100},{names[i]}\n" for i in order))
    found, notes = labels_by_name(path, names)
    assert found.tolist() == list(range(100, 109)) and len(notes) == 1
