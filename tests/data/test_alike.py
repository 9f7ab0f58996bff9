"""Held-out examples are read as the data of the run were: columns by name, bytes as pixels or as numbers."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sources import text_file

from genmem.data.alike import load_alike
from genmem.errors import DataError

RNG = np.random.default_rng(0)
DARK = RNG.integers(0, 40, (20, 12), dtype=np.uint8)
BRIGHT = RNG.integers(0, 256, (20, 12), dtype=np.uint8)
BINARY = RNG.integers(0, 2, (20, 12), dtype=np.uint8)


def read(source, columns=None, pixels=False):
    return load_alike(source, columns, pixels, "single")


@pytest.mark.parametrize("kind", ["csv", "parquet", "memory"])
def test_columns_are_matched_by_name(tmp_path, kind):
    table = {"who": ["p", "q"], "b": [2.0, 4.0], "y": [0, 1], "a": [1.5, 3.5]}
    source = tmp_path / f"t.{kind}"
    if kind == "csv":
        text_file(source, "who;b;y;a\np;2;0;1,5\nq;4;1;3,5\n")
    elif kind == "parquet":
        parquet.write_table(pa.table(table), source)
    else:
        source = table
    data = read(source, ["a", "b"])
    assert data.columns == ("a", "b") and data.X.tolist() == [[1.5, 2], [3.5, 4]]
    with pytest.raises(DataError, match="columns of the run: a, c; got no c"):
        read(source, ["a", "c"])


def test_an_array_for_a_table_is_matched_by_position():
    assert read(np.arange(6.0).reshape(2, 3), ["a", "b", "c"]).X.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("X", [DARK, BRIGHT, BINARY])
def test_bytes_are_what_they_were_in_the_run(X, tmp_path):
    np.save(tmp_path / "h.npy", X)
    for source in (X, tmp_path / "h.npy"):
        assert read(source, pixels=True).X.dtype == np.uint8
        found = read(source, pixels=False).X
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, X)
