"""Bytes are pixels where they are meant as such, and numbers otherwise; what was decided is told."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits
from sources import refused

import genmem
from genmem.data import load

RNG = np.random.default_rng(0)
DARK = load_digits().images[:20].astype(np.uint8)  # 0 to 16
BRIGHT = RNG.integers(0, 256, (20, 8, 8), dtype=np.uint8)
BINARY = RNG.integers(0, 2, (20, 8, 8), dtype=np.uint8)


@pytest.mark.parametrize("flat", [True, False])
def test_bytes_are_decided_by_their_range(flat):
    dark, bright, binary = (X.reshape(20, -1) if flat else X for X in (DARK, BRIGHT, BINARY))
    found = load(dark)
    assert found.X.dtype == np.float32 and "Bytes up to 16 were taken as numbers" in found.notes[0]
    np.testing.assert_array_equal(found.X, dark)
    for X in (bright, binary):
        assert load(X).X.dtype == np.uint8 and not load(X).notes


def test_it_may_be_said():
    assert load(DARK, pixels=True).X.dtype == np.uint8 and not load(DARK, pixels=True).notes
    assert load(BRIGHT, pixels=False).X.dtype == np.float32
    assert load(BRIGHT.astype(np.float64), pixels=True).X.dtype == np.uint8
    for wrong in (BRIGHT / 2, BRIGHT + 1.0, -1.0 * BRIGHT):
        refused("whole numbers from 0 to 255", wrong, pixels=True)


def test_files_of_images_hold_pixels_however_dark(tmp_path):
    for i, image in enumerate(DARK[:5]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    assert load(tmp_path).X.dtype == np.uint8 and not load(tmp_path).notes


def test_columns_of_pixels(tmp_path):
    table = pa.table({f"p{i}": column for i, column in enumerate(BRIGHT.reshape(20, -1).T)})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").X.dtype == np.float32
    np.testing.assert_array_equal(load(tmp_path / "t.parquet", pixels=True).X, BRIGHT.reshape(20, -1))


@pytest.mark.slow
def test_numbers_are_not_binarized(tmp_path):
    run = genmem.stages.plan(DARK, "vae", tmp_path / "run", folds=2, repeats=1, epochs=1)
    np.testing.assert_array_equal(run.data().X, DARK)
    assert run.plan["data"]["preparation"] == "as given"
