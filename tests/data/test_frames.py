"""Data frames in memory are read as the files they would be written to, whatever interface they have."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sources import refused

from genmem.data import load
from genmem.data.csv_files import TableOptions
from genmem.data.three_sets import load_three
from genmem.errors import DataError
from genmem.neighbors import Sets
from genmem.stages import check_copies


class Frame:
    """A data frame that only Arrow's stream interface opens, as those of pandas and polars."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


class OldFrame(dict):
    """A data frame of columns with `to_numpy`."""

    @property
    def columns(self):
        return list(self)


class Series:
    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return np.asarray(self.values)


class Interchanged:
    """A data frame that only the interchange protocol opens."""

    def __init__(self, table):
        self.table, self.columns = table, table.column_names

    def __dataframe__(self, nan_as_null=False, allow_copy=True):
        return self.table.__dataframe__(nan_as_null, allow_copy)


class Unknown(OldFrame):
    """A data frame whose interchange protocol does not know a type, as that of pandas for mixed objects."""

    def __dataframe__(self, nan_as_null=False, allow_copy=True):
        raise NotImplementedError


def narwhals_frame(table):
    return pytest.importorskip("narwhals").from_native(table)


def old_frame(table, kind=OldFrame):
    return kind({name: Series(table[name].to_pylist()) for name in table.column_names})


KINDS = {
    "pyarrow": lambda table: table,
    "batch": lambda table: table.combine_chunks().to_batches()[0],
    "stream": Frame,
    "narwhals": narwhals_frame,
    "interchange": Interchanged,
    "old": old_frame,
    "unknown": lambda table: old_frame(table, Unknown),
    "mapping": lambda table: table.to_pydict(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_in_memory_are_read_as_their_files(tmp_path, kind):
    columns = {"a": [1.5, 2.5, 3.5], "b": [1, 2, 4], "who": ["x", "x", "y"], "y": [0, 1, 0]}
    table = pa.table(columns)
    parquet.write_table(table, tmp_path / "t.parquet")
    frame = KINDS[kind](table)
    asked = {"label_column": "y", "group_column": "who"}
    one, other = load(frame, **asked), load(tmp_path / "t.parquet", **asked)
    for name in ("X", "labels", "groups", "columns", "notes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.X.dtype == np.float32 and one.source == "table"
    refused(r"who \(string\)", frame)
    refused("array only with a file", frame, array="x")
    assert load(frame, drop=["who"]).columns == ("a", "b", "y")


def test_the_index_of_a_frame_in_memory_is_no_data():
    stored = {b"pandas": b'{"index_columns": ["patient"], "columns": []}'}
    table = pa.table({"a": [1.0, 2.0], "patient": [7, 9]}).replace_schema_metadata(stored)
    assert load(Frame(table)).columns == ("a",)
    sets = load_three(Frame(table), table, Frame(table))
    assert sets.columns == ("a",) and "index of a data frame" in sets.notes["train"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_compared_as_their_files(tmp_path, kind):
    """Numbers, gaps, text and dates of three frames make the same points as three files of them."""
    table = pa.table({
        "a": pa.array([1.5, None, 3.5]),
        "who": ["x", None, "y"],
        "when": pa.array(np.array(["2020-01-02", "2020-03-04", "2021-05-06"], "datetime64[us]")),
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "t.parquet")
    file, frame = tmp_path / "t.parquet", KINDS[kind](table)
    read, framed = load_three(file, file, file), load_three(frame, frame, frame)
    for one, other in zip(read.arrays, framed.arrays, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [(role.kind, role.gaps) for role in framed.roles] == [(role.kind, role.gaps) for role in read.roles]


def test_categories_are_categories_whatever_they_are():
    """A categorical column of codes is compared as categories, as pandas and the file say; plain ones as numbers."""
    codes = pa.array([10, 20, 40])
    plain, coded = pa.table({"c": codes}), pa.table({"c": codes.dictionary_encode()})
    assert load_three(coded, coded, coded).roles[0].kind == "category"
    assert load_three(plain, plain, plain).roles[0].kind == "number"
    with pytest.raises(DataError, match="text in train, text in test, numbers in samples"):
        load_three(coded, coded, plain)
    refused(r"c \(dictionary", coded)


def test_dates_of_any_precision_are_dates():
    for unit in ("s", "ms", "us", "ns", "D"):
        days = np.array(["2020-01-02", "2020-01-04"], f"datetime64[{unit}]")
        refused(r"d \((timestamp|date)", {"d": days})
        sets = load_three({"d": days}, {"d": days}, {"d": days}, scale="range")
        assert sets.roles[0].values == "2020-01-02 to 2020-01-04"


def test_columns_of_frames_are_dropped_where_they_are():
    table, other = pa.table({"a": [1.0, 2.0], "id": [7, 9]}), {"a": [3.0]}
    for frame in (table, Frame(table), table.to_pydict()):
        assert load_three(frame, frame, other, options=TableOptions(drop=("id",))).columns == ("a",)
        with pytest.raises(DataError, match="columns of tables to drop: a, id; got nothere"):
            load_three(frame, frame, frame, options=TableOptions(drop=("nothere",)))
    X = np.zeros((3, 2))
    for options in (TableOptions(drop=("id",)), TableOptions(sep=";")):
        with pytest.raises(DataError, match="only with text tables|these are no tables"):
            load_three(X, X, X, options=options)


class Lazy:
    columns = ("a",)

    def collect(self):
        """Return the values."""


def test_what_is_no_frame():
    refused(r"a Lazy, whose values are not in memory. Pass the result of .collect\(\)", Lazy())
    refused("values of one kind in column 'a'; got int and str", {"a": np.array([1, "x"], dtype=object)})
    refused("a mapping from different names", {1: [1.0], "1": [2.0]})
    refused("one row per example|shape", pa.chunked_array([[1.0, 2.0]]))  # a single column


@pytest.mark.slow
def test_a_check_of_frames(tmp_path):
    rng = np.random.default_rng(0)
    frames = [Frame(pa.table({"a": rng.normal(size=n), "b": rng.normal(size=n)})) for n in (60, 50, 40)]
    found = check_copies(*frames, out=tmp_path / "out")
    assert found.as_read[0] == "train: 60 examples of 2 values, float64, from " + found.as_read[0].split("from ")[1]
    plain = check_copies(*[np.column_stack(frame.table.columns) for frame in frames], out=tmp_path / "plain")
    assert found.numbers == plain.numbers


def test_columns_of_frames_are_matched_by_name_in_copycheck():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 60))
    train, turned = pa.table({"a": a, "b": 9 * b}), Frame(pa.table({"b": 9 * b, "a": a}))
    sets = Sets(train, {"a": a[:3], "b": a[:3]}, turned)
    np.testing.assert_array_equal(sets.samples, sets.train)
    np.testing.assert_array_equal(sets.train, np.column_stack([a, 9 * b]))
