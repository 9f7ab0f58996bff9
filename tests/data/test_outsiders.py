"""Files as other programs write them: read as they were meant, told, or refused by what they really are."""

import datetime
import decimal
import gzip

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file
from sources import refused, text_file

from genmem.data import load
from genmem.data.as_read_sets import as_read_sets
from genmem.data.three_sets import load_three
from genmem.errors import DataError


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.h5ad", b"\x89HDF\r\n\x1a\n", r"an AnnData file. .*scipy.sparse.save_npz\(path, anndata.read_h5ad"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", r"an HDF5 file. Save its array as .npy: .* with h5py"),
        ("a.loom", b"\x89HDF\r\n\x1a\n", "a Loom file"),
        ("a.mat", b"\x89HDF\r\n\x1a\n", "a MATLAB file of version 7.3"),
        ("b.mat", b"MATLAB 5.0 MAT-file", "a MATLAB file. .*scipy.io.loadmat"),
        ("a.xlsx", b"PK\x03\x04", "an Excel workbook. Save its sheet as .csv"),
        ("a.xls", b"\xd0\xcf\x11\xe0", "an Excel workbook"),
        ("a.ods", b"PK\x03\x04", "a spreadsheet"),
        ("a.rds", b"\x1f\x8b\x08", "an R object. Write its table in R: write.csv"),
        ("a.dta", b"<stata_dta>", "a Stata table"),
        ("a.jsonl", b'{"a": 1}', "lines of JSON"),
        ("a.json", b"[[1, 2]]", "JSON"),
        ("a.tar", b"a.png", "an archive. Unpack it"),
        ("a.tar.gz", b"\x1f\x8b\x08", "an archive. Unpack it"),
        ("a.zip", b"PK\x03\x04", "an archive. Unpack it"),
        ("a.csv.bz2", b"BZh9", "an archive. Unpack it"),
        ("a.feather", b"ARROW1", "an Arrow file. Save it as .parquet"),
        ("a.pkl", b"\x80\x04", "a Python pickle, which could run any code"),
        ("gz.csv", gzip.compress(b"a,b\n1,2\n", mtime=0), "a file that is gzipped. Rename .* ends in .gz"),
        ("x.csv", b"PK\x03\x04\x14\0", "a file that is an archive"),
        ("p.csv", b"PAR1", "a Parquet file. Rename it so that it ends in .parquet"),
        ("h.csv", b"<!DOCTYPE html><html>", "a web page, as after a failed download"),
        ("a.nii.gz", gzip.compress(b"\x5c\x01\0\0", mtime=0), r"an IDX file.* unpack it \(gunzip\)"),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), r"unpack it \(gunzip\)"),
        *((f"lfs.{end}", b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS .*git lfs pull")
          for end in ("csv", "parquet", "npy", "npz", "pt", "safetensors", "bin")),
    ],
)  # fmt: skip
def test_what_a_file_really_is(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    refused(what, tmp_path / name)
    with pytest.raises(DataError, match=what):
        load_three(*[tmp_path / name] * 3)


# --- tensors and arrays


def test_weights_of_a_network_are_no_examples(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    torch.save(network.state_dict(), tmp_path / "m.pt")
    save_file(network.state_dict(), tmp_path / "m.safetensors")
    for name in ("m.pt", "m.safetensors"):
        refused("got weights of a network: 0.bias, 0.weight, 1.bias", tmp_path / name)
    torch.save({"weight": torch.eye(3), "height": torch.eye(3)[0]}, tmp_path / "x.pt")
    assert load(tmp_path / "x.pt").X.tolist() == np.eye(3).tolist()


def test_types_that_numpy_lacks(tmp_path):
    values = torch.tensor([[0.5, 1.0], [-2.0, 448.0]])
    for kind in (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16):
        save_file({"x": values.to(kind)}, tmp_path / "x.safetensors")
        assert load(tmp_path / "x.safetensors").X.tolist() == [[0.5, 1.0], [-2.0, values.to(kind).float()[1, 1].item()]]


def test_arrays_left_out_are_named(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.eye(3), y=np.arange(3), age=np.arange(3))
    (note,) = load(tmp_path / "x.npz", label_array="y").notes
    assert note == "Examples are the array 'x'; 1 array left out: age (3,)."
    assert note.without_names == "1 array left out."
    save_file({"x": torch.eye(3), "y": torch.arange(3)}, tmp_path / "x.safetensors")
    assert load(tmp_path / "x.safetensors").notes[0].endswith("1 array left out: y (3,).")
    assert not load(tmp_path / "x.safetensors", label_array="y").notes


def test_arrays_with_fields_are_tables(tmp_path):
    np.save(tmp_path / "s.npy", np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f4")]))
    sets = load_three(*[tmp_path / "s.npy"] * 3)
    assert sets.columns == ("a", "b") and sets.arrays[0].tolist() == [[1, 2.5], [3, 4.5]]
    refused(r"real numbers; got dtype \[\('a'", tmp_path / "s.npy")


@pytest.mark.parametrize("how", ["fortran", ">f8", ">i4", "f2", "bool", "i1"])
def test_arrays_of_any_layout(tmp_path, how):
    X = np.arange(6).reshape(2, 3)
    stored = np.asfortranarray(X) if how == "fortran" else (X % 2 if how == "bool" else X).astype(how)
    np.save(tmp_path / "x.npy", stored)
    np.testing.assert_array_equal(load(tmp_path / "x.npy").X, stored.astype(float))


def test_whole_numbers_that_float64_confuses():
    near = {"id": [2**53, 2**53 + 1], "a": [1.0, 2.0]}
    with pytest.raises(DataError, match=r"up to 2\^53 in columns.*got 9007199254740993, .*--categorical"):
        load_three(near, near, near)
    sets = load_three(near, near, near, categorical=["id"])
    assert (sets.arrays[0][0] != sets.arrays[0][1])[0]  # two categories


# --- columns of parquet


def column(tmp_path, values, kind=None):
    table = pa.table({"a": pa.array(values, kind), "b": [1.0, 2.0, 4.0][: len(values)]})
    parquet.write_table(table, tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def role(path):
    (words,) = [note for note in as_read_sets(load_three(path, path, path)) if note.startswith("Columns: ")]
    return words.removeprefix("Columns: a ").partition("; b number")[0]


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ([decimal.Decimal("1.50"), decimal.Decimal("2.25")], None, "number 1.5 to 2.25"),
        ([0, 86400], pa.timestamp("s", "Europe/Berlin"), "date 1970-01-01 to 1970-01-02"),
        ([0, 86400 * 10**9], pa.timestamp("ns"), "date 1970-01-01 to 1970-01-02"),
        ([datetime.date(2020, 1, 2), None], None,
         "date 2020-01-02 to 2020-01-02, 1 gap in train, 1 gap in test, 1 gap in samples"),
        ([60, 90], pa.duration("s"), "number 60 to 90"),
        (["x", "y", "x"], pa.large_string(), "category of 2 values: x (2), y (1)"),
        ([True, None, False], None, "true or false, 1 gap in train, 1 gap in test, 1 gap in samples"),
        ([None, None], pa.int64(), "empty, 2 gaps in train, 2 gaps in test, 2 gaps in samples"),
        ([b"x", b"y"], None, "category of 2 values: x (1), y (1)"),
    ],
)  # fmt: skip
def test_types_of_columns(tmp_path, values, kind, words):
    assert role(column(tmp_path, values, kind)) == words


def test_decimals_are_numbers_in_an_audit(tmp_path):
    path = column(tmp_path, [decimal.Decimal("1.50"), decimal.Decimal("2.25")])
    assert load(path).X.tolist() == [[1.5, 1], [2.25, 2]]


@pytest.mark.parametrize(
    ("values", "kind", "cause"),
    [
        ([{"x": 1}, {"x": 2}], None, "structures in 'a'"),
        ([[("k", 1)], [("k", 2)]], pa.map_(pa.string(), pa.int64()), "structures in 'a'"),
        ([[[1, 2]], [[3, 4]]], None, "lists of list"),
        ([1, 2], pa.time32("s"), "numbers, text or dates in column 'a' of train; got time"),
    ],
)
def test_columns_that_are_no_values(tmp_path, values, kind, cause):
    path = column(tmp_path, values, kind)
    with pytest.raises(DataError, match=cause):
        load_three(path, path, path)


# --- folders


def pictures(folder, *names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 10 * i, np.uint8)).save(folder / name, "PNG")
    return folder


def test_what_systems_write_beside_images(tmp_path):
    folder = pictures(tmp_path, "a/0.PNG", "b/1.Png", "__MACOSX/a/0.png", ".ipynb_checkpoints/0.png")
    for name in (".DS_Store", "Thumbs.db", "a/._0.PNG"):
        (folder / name).touch()
    data = load(folder)
    assert data.labels.tolist() == ["a", "b"] and data.X[:, 0, 0].tolist() == [0, 10]
    assert data.notes[0] == (
        "5 files skipped: 4 hidden (.DS_Store, .ipynb_checkpoints, __MACOSX and 1 more), 1 .db (Thumbs.db)."
    )


def test_empty_subfolders_and_parts_are_told(tmp_path):
    folder = pictures(tmp_path / "x", "train/0.png", "train/1.png", "test/2.png")
    (folder / "other" / "deep").mkdir(parents=True)
    notes = " ".join(load(folder).notes)
    assert "2 subfolders without images: other/deep, other." in notes
    assert "Pass one of these folders if they are parts of a data set, not classes." in notes
    assert "Pass one" not in " ".join(load(pictures(tmp_path / "y", "train/0.png", "bus/1.png")).notes)


def test_a_table_named_as_text(tmp_path):
    refused("a file of text. If it is a table", text_file(tmp_path / "x.data", "1,2\n3,4\n"))


def test_a_mixed_table_in_an_audit_names_what_no_density_takes(tmp_path):
    table = pa.table({"work": ["x", "y"], "age": [1, 2], "born": [datetime.date(2020, 1, 2)] * 2, "z": [0.5, 1.5]})
    parquet.write_table(table, tmp_path / "t.parquet")
    for source in (table, tmp_path / "t.parquet"):
        refused(
            r"columns of numbers in .*that a density can take; got 2 of another kind: work \(string\), born \(date32"
            r".*--drop work,born\), or write categories as columns of 0 and 1 and dates as days: every model takes"
            r".*one of your own \(package.module:factory\) can give categories probabilities",
            source,
        )
        assert load(source, drop="work,born").columns == ("age", "z")
