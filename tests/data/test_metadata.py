"""Columns that describe examples: matched by row, divided into groups, refused with their cause."""

import numpy as np
import pyarrow as pa
import pytest

from genmem.data.metadata import read_metadata
from genmem.errors import DataError


def test_a_table_is_matched_by_the_row_of_the_source(tmp_path):
    file = tmp_path / "meta.csv"
    file.write_text("site,age,name\n" + "".join(f"{'ab'[i % 2]},{i},n{i}\n" for i in range(200)))
    found = read_metadata(file, np.array([3, 0, 199, 100]))
    assert found.keys() == {"site", "age", "name"}  # four rows: four names are few enough
    assert found["site"].tolist() == ["b", "a", "b", "a"]


def test_numbers_are_divided_into_quarters_and_gaps_are_a_group():
    ages = np.arange(100.0)
    ages[7] = np.nan
    groups = read_metadata({"age": ages}, np.arange(100))["age"]
    names, counts = np.unique(groups, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True))["missing"] == 1
    assert len(names) == 5
    assert max(counts) - min(counts[counts > 1]) <= 2


def test_few_numbers_are_names():
    assert read_metadata({"arm": [1.0, 2.0, 1.0]}, np.arange(3))["arm"].tolist() == ["1", "2", "1"]


def test_values_that_print_alike_stay_apart():
    site = np.array([1000001.0, 1000002.0, np.nan, 1000001.0])
    assert read_metadata({"site": site}, np.arange(4))["site"].tolist() == ["1000001", "1000002", "missing", "1000001"]
    close = read_metadata({"x": [0.12345678, 0.12345679]}, np.arange(2))["x"]
    assert len(set(close)) == 2
    times = read_metadata({"t": 1_600_000_000 + 60 * np.arange(200)}, np.arange(200))["t"]
    assert np.unique(times, return_counts=True)[1].tolist() == [50, 50, 50, 50]


def test_every_gap_is_told():
    column = np.array(["", "x", None, np.nan, " "], dtype=object)
    assert read_metadata({"a": column}, np.arange(5))["a"].tolist() == ["missing", "x", *["missing"] * 3]
    infinite = np.r_[np.arange(20.0), np.full(20, np.inf)]
    assert "inf" in read_metadata({"a": infinite}, np.arange(40))["a"]


def test_a_frame_in_memory():
    table = pa.table({"site": ["a", None, "b"]})
    assert read_metadata(table, np.arange(3))["site"].tolist() == ["a", "missing", "b"]


@pytest.mark.parametrize(
    ("source", "columns", "message"),
    [
        ({"a": [1, 2]}, ["b"], "one of the columns 'a'"),
        ({"a": [1, 2]}, [], "at least 3, but got 2 rows|at least 3"),
        ({"a": [1, 2, 3, 4]}, [], "one row of metadata for each row"),
        ({"a": [1, 1, 1]}, [], "a column of metadata that divides"),
        ({"a": [1, 1, 1]}, ["a"], "got one value, '1'"),
        ({}, [], "one row of metadata"),
        (7, [], "metadata as a table"),
        ({"a": np.zeros((3, 2))}, ["a"], "one value per example"),
    ],
)
def test_bad_input(source, columns, message):
    with pytest.raises(DataError, match=message):
        read_metadata(source, np.arange(3), columns)


def test_other_files_are_refused(tmp_path):
    np.save(tmp_path / "meta.npy", np.arange(3))
    with pytest.raises(DataError, match="metadata as a table"):
        read_metadata(tmp_path / "meta.npy", np.arange(3))
