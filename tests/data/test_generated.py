"""Generated files of every kind are read as their writers meant: pyarrow, Pillow, scipy and numpy are the judges."""

import csv
import io

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps
from pyarrow import parquet
from sources import idx_bytes

from genmem.data import load
from genmem.data.image_files import read_pictures
from genmem.data.tensors import read_sparse
from genmem.data.three_sets import load_three

FEW = settings(max_examples=4, deadline=None)
MANY = settings(max_examples=150, deadline=None)
NUMBERS = some.floats(-1e6, 1e6, allow_nan=False, width=32).map(lambda x: round(x, 2))  # no three digits: see below


@some.composite
def text_tables(draw):
    """Return numbers, gaps, and the bytes of a text table that holds them."""
    n, p = draw(some.integers(2, 8)), draw(some.integers(2, 4))
    rows = [[draw(some.none() | NUMBERS) for _ in range(p)] for _ in range(n)]
    sep = draw(some.sampled_from([",", ";", "\t", "|"]))
    decimal = "." if sep == "," else draw(some.sampled_from([".", ","]))
    gap, end = draw(some.sampled_from(["", "NA", "nan", "null"])), draw(some.sampled_from(["\n", "\r\n"]))
    file = io.StringIO()
    quoting = draw(some.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(file, delimiter=sep, lineterminator=end, quoting=quoting)
    writer.writerow([f"größe {i}" for i in range(p)])
    space = draw(some.sampled_from(["", " "])) if quoting == csv.QUOTE_ALL else ""
    for row in rows:
        writer.writerow([gap if v is None else f"{space}{v:.2f}".replace(".", decimal) + space for v in row])
    encoding = draw(some.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    return rows, file.getvalue().encode(encoding)


def check_text_table(folder, table):
    rows, content = table
    path = folder / "t.csv"
    path.write_bytes(content)
    values = load_three(path, path, path).values[0]
    for given_row, row in zip(rows, values.tolist(), strict=True):
        for cell, value in zip(given_row, row, strict=True):
            assert (value is None or np.isnan(value)) if cell is None else value == float(f"{cell:.2f}")


@FEW
@given(text_tables())
def test_text_tables(tmp_path_factory, table):
    check_text_table(tmp_path_factory.mktemp("t"), table)


@pytest.mark.slow
@MANY
@given(text_tables())
def test_many_text_tables(tmp_path_factory, table):
    check_text_table(tmp_path_factory.mktemp("t"), table)


COLUMNS = {
    "u1": (pa.uint8(), some.integers(0, 255)),
    "i2": (pa.int16(), some.integers(-(2**15), 2**15 - 1)),
    "i8": (pa.int64(), some.integers(-(2**53), 2**53)),
    "f4": (pa.float32(), some.floats(-1e6, 1e6, width=32)),
    "f8": (pa.float64(), some.floats(-1e6, 1e6)),
    "bool": (pa.bool_(), some.booleans()),
    "list": (pa.list_(pa.int32()), some.lists(some.integers(0, 9), min_size=2, max_size=2)),
    "fixed": (pa.list_(pa.float64(), 3), some.lists(some.floats(-9, 9), min_size=3, max_size=3)),
    "decimal": (pa.decimal128(9, 2), some.decimals(-1000, 1000, places=2)),
}


@some.composite
def arrow_tables(draw):
    kinds, n = draw(some.lists(some.sampled_from(sorted(COLUMNS)), min_size=1, max_size=4)), draw(some.integers(2, 6))
    columns = {}
    for i, kind in enumerate(kinds):
        of_type, values = COLUMNS[kind]
        columns[f"{kind} {i}"] = pa.array(draw(some.lists(values, min_size=n, max_size=n)), of_type)
    return pa.table(columns)


def check_parquet(folder, table):
    """The judge is pyarrow's own reader; a column of lists is as many columns as they are long."""
    parquet.write_table(table, folder / "t.parquet", row_group_size=3)
    expected = []
    for column in parquet.read_table(folder / "t.parquet").columns:
        values = np.array([np.asarray(value, float) for value in column.to_pylist()])
        expected += list(values.reshape(len(values), -1).T)
    read = load_three(*[folder / "t.parquet"] * 3).values[0]
    assert read.shape == (len(table), len(expected))
    for i, values in enumerate(expected):
        np.testing.assert_array_equal(np.asarray(read[:, i], float), values)


@FEW
@given(arrow_tables())
def test_parquet(tmp_path_factory, table):
    check_parquet(tmp_path_factory.mktemp("p"), table)


@pytest.mark.slow
@MANY
@given(arrow_tables())
def test_many_parquet_tables(tmp_path_factory, table):
    check_parquet(tmp_path_factory.mktemp("p"), table)


@some.composite
def image_files(draw):
    """Return an encoded image, and the pixels that Pillow shows: upright, on white, in gray or RGB."""
    mode = draw(some.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]))
    h, w = draw(some.integers(2, 6)), draw(some.integers(2, 6))
    channels = {"LA": 2, "RGB": 3, "RGBA": 4}.get(mode, 1)
    kind = np.uint16 if mode == "I;16" else np.uint8
    values = draw(arrays(kind, (h, w, channels) if channels > 1 else (h, w)))
    if mode in ("LA", "RGBA"):
        values[0, 0, -1], values[0, 1, -1] = 255, 100  # neither opaque nor hidden
    image = Image.fromarray(values % 2 == 1) if mode == "1" else Image.fromarray(values)
    image = image.convert("P") if mode == "P" else image
    exif, orientation = Image.Exif(), draw(some.sampled_from([1, 1, 3, 6, 8]))
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue())))
    if mode in ("LA", "RGBA"):
        shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown.convert("RGBA"))
    if mode != "I;16":
        shown = shown.convert("L" if mode in ("1", "L") else "RGB")
        shown = shown.convert("L") if mode == "LA" else shown
    return file.getvalue(), np.asarray(shown)


@FEW
@given(image_files())
def test_images(case):
    content, expected = case
    np.testing.assert_array_equal(read_pictures(["x"], "here", lambda _: io.BytesIO(content)).X[0], expected)


@pytest.mark.slow
@MANY
@given(image_files())
def test_many_images(case):
    content, expected = case
    np.testing.assert_array_equal(read_pictures(["x"], "here", lambda _: io.BytesIO(content)).X[0], expected)


SHAPES = some.tuples(some.integers(2, 5), some.integers(1, 5))
TYPES = some.sampled_from(["u1", "i2", "i4", "f4", "f8"])


@FEW
@given(SHAPES.flatmap(lambda s: arrays(np.float32, s, elements=some.integers(-99, 99))),
       some.sampled_from(["csr", "csc", "coo", "bsr", "dia"]))  # fmt: skip
def test_sparse_matrices(tmp_path_factory, X, form):
    path = tmp_path_factory.mktemp("s") / "x.npz"
    scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(X).asformat(form))
    np.testing.assert_array_equal(read_sparse(path), X)


@FEW
@given(SHAPES, TYPES, some.integers(0, 2**32 - 1), some.sampled_from(["idx", "npy", "npz"]))
def test_arrays(tmp_path_factory, shape, kind, seed, form):
    X = np.random.default_rng(seed).integers(0, 100, shape).astype(kind)
    X[0, 0] = 90  # or small bytes are numbers, see `pixels`
    path = tmp_path_factory.mktemp("a") / {"idx": "x-idx3-ubyte", "npy": "x.npy", "npz": "x.npz"}[form]
    if form == "idx":
        path.write_bytes(idx_bytes(X))
    elif form == "npy":
        np.save(path, X)
    else:
        np.savez_compressed(path, X)
    np.testing.assert_array_equal(load(path).X, X.astype(np.float32))
