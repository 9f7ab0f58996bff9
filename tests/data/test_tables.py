"""Tables: numbers, names and labels; gaps, text and ragged rows are refused by name."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sources import refused, text_file

from genmem.data import load


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
    for kind in (pa.uint8(), pa.int8(), pa.int64(), pa.bool_(), pa.uint64()):  # bytes of a table are no pixels
        small = pa.table({"p0": pa.array([0, 1, 1]).cast(kind), "p1": pa.array([1, 0, 1]).cast(kind)})
        parquet.write_table(small, tmp_path / "p.parquet")
        found = load(tmp_path / "p.parquet").X
        assert found.dtype == np.float32 and found.tolist() == [[0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", "Expected 2 fields in every row of .*; got 3 in row 3: 1,2,3"),
        ("", "[Ee]mpty"),
        ("a,b\n", "0 with 0 values"),
        ("a,b\n1,2\n", "1 with 2 values"),
        ("a,b\n1,2\n,3\n", "column 'a' .*1 missing, the first in row 1"),
        ("a,b\n1,2\n3,NaN\n", "column 'b' .*1 missing, the first in row 1"),
        ("a,b\n1,2\n3,inf\n", "inf in row 1, column 'b'"),
        ("a,b\n,2\n,3\n", "column 'a' .*2 missing"),
        ("a,b,c\n1,x,2020-01-01\n2,y,2020-01-02\n", r"2 of another kind: b \(string\), c \(date.*--label-column"),
        ("1,2\n3,4\n5,6\n", "numbers: 1, 2.*first example would be read as names"),
        (",b\n0.5,2\n1.5,4\n", r"none for column 1 .*index=False"),
        (",b\n3,2\n3,4\n", r"none for column 1 .*index=False"),
        ("a,b\n1,02\n3,04\n", r"b \(string: numbers with leading zeros"),
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
    refused("column 'y' .*1 missing, the first in row 1", path, label_column="y")
    alone = text_file(tmp_path / "alone.csv", "y\n1\n2\n")
    refused("only the labels, 'y'", alone, label_column="y")
    gaps = text_file(tmp_path / "gaps.csv", "a,y\n1,2\n3,\n5,6\n")
    refused("column 'y' .*1 missing, the first in row 1", gaps, label_column="y")
    real = text_file(tmp_path / "real.csv", "a,y\n1,2.5\n3,1\n5,6\n")
    refused("float64 .*such as 2.5", real, label_column="y")


def test_refused_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 nonsense PAR1")
    refused("undamaged .parquet file", path)
    parquet.write_table(pa.table({"a": [1.0, None, 3.0], "b": [1.0, 2.0, 3.0]}), path)
    refused("column 'a' .*1 missing, the first in row 1", path)
    parquet.write_table(pa.table({"a": [1.0, 2.0], "v": [[1], [2]]}), path)
    assert load(path).columns == ("a", "v[0]")
    for odd in ([[1], [2, 3]], [[1], None], [["x"], ["y"]], [[], []]):
        parquet.write_table(pa.table({"a": [1.0, 2.0], "v": odd}), path)
        refused("lists of equally many numbers in column 'v'", path)
        assert load(path, drop="v").columns == ("a",)
    parquet.write_table(pa.table({"a": [1.0, 2.0], "v": [{"x": 1}, {"x": 2}]}), path)
    refused("structures in 'v'.*--drop v", path)
    parquet.write_table(pa.table({"a": [1.0, 2.0], "__index_level_0__": [1, 2]}), path)
    assert load(path).columns == ("a",) and "index of a data frame" in load(path).notes[0]
    parquet.write_table(pa.table({}), path)
    refused("no columns", path)
    parquet.write_table(pa.table({"a": [1.0, float("nan")]}), path)
    refused("nan in row 1, column 'a'", path)
