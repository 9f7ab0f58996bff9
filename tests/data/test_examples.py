"""Loading arrays, subsets, preparing once and planting copies: values, dtypes, and what is refused."""

import numpy as np
import pytest
from sources import refused

import genmem.data.arrays
from genmem.data import Data, identical_groups, load, plant_duplicates, prepare, to_images
from genmem.errors import DataError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_digits():
    data = load("digits")
    assert data.X.shape == (1797, 64) and data.X.dtype == np.float32
    assert data.X.min() == 0 and data.X.max() == 1
    assert data.labels.shape == (1797,) and set(data.labels) == set(range(10))
    assert data.image_shape == (8, 8) and data.source == "digits" and data.preparation == "as given"
    np.testing.assert_array_equal(data.index, np.arange(1797))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("bool", "uint8"),
        ("uint8", "uint8"),
        ("int8", "float32"),
        ("int64", "float32"),
        ("uint16", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        (">f4", "float32"),
        ("float64", "float32"),
    ],
)
def test_dtypes(given, kept):
    values = np.array([[0, 1], [1, 0], [1, 1]]).astype(given)
    data = load(values)
    assert data.X.dtype == np.dtype(kept) and data.X.dtype.isnative
    np.testing.assert_array_equal(data.X, values)
    assert data.source == "array" and data.labels is None


def test_lists_and_array_likes():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return np.eye(3)

    np.testing.assert_array_equal(load(Tensor()).X, np.eye(3))
    np.testing.assert_array_equal(load([[1, 2], [3, 4]]).X, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.float64(1), r"shape \(\)"),
        (np.zeros(5), r"shape \(5,\).*reshape\(-1, 1\)"),
        (np.zeros((0, 3)), r"0 with 0 values"),
        (np.zeros((3, 0)), r"3 with 0 values"),
        (np.zeros((1, 3)), r"1 with 3 values"),
        (np.zeros((3, 2), complex), "complex128"),
        (np.array([["a", "b"], ["c", "d"]]), "<U1"),
        (np.array([[None, 1], [2, 3]]), "dtype object"),
        (np.zeros((3, 2), "M8[s]"), "datetime64"),
        ([[1, 2], [3]], "list .*inhomogeneous"),
        ({"a": 1}, "columns of one length"),
        ({"a": [1, 2], "b": [1]}, "columns of one length"),
        ({}, "columns of one length"),
        (np.ma.masked_equal([[1, 2], [3, 2]], 2), "2 masked"),
        (np.array([[1.0, 2.0], [np.nan, np.inf], [np.nan, 1.0]]), "3 of 6 .*first nan in row 1, column 0"),
        (np.array([[1.0, 2.0], [3.0, -np.inf]]), "1 of 4 .*first -inf in row 1, column 1"),
        (np.array([[1.0, 2.0], [3.0, 1e39]]), "3.4e38.*first inf in row 1, column 1"),
    ],
)
def test_refused_arrays(values, message):
    refused(message, values)


def test_non_finite_values_are_counted_across_blocks(monkeypatch):
    monkeypatch.setattr(genmem.data.arrays, "_CHUNK", 4)
    X = np.zeros((9, 2, 2))
    X[3, 1, 0] = X[7, 0, 0] = np.nan
    refused("2 of 36 .*first nan in row 3, column 2", X)


@pytest.mark.parametrize("name", ["array", "label_array", "label_column"])
@pytest.mark.parametrize("source", ["digits", np.eye(3)])
def test_options_of_files_are_refused_elsewhere(name, source):
    refused(f"{name}='x'", source, **{name: "x"})


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((5, 28, 28), (28, 28)),
        ((5, 1, 28, 20), (28, 20)),
        ((5, 28, 20, 1), (28, 20)),
        ((5, 32, 30, 3), (32, 30, 3)),
        ((5, 3, 32, 30), (32, 30, 3)),
        ((5, 784), None),
        ((5, 28, 3), None),
        ((5, 7, 28), None),
        ((5, 2, 32, 32), None),
        ((5, 32, 32, 4), None),
        ((5, 1, 1, 28), None),
        ((5, 8, 8, 8), None),
        ((5, 3, 8, 8, 8), None),
    ],
)
def test_image_shape_only_where_clear(shape, image_shape):
    assert load(np.zeros(shape, np.uint8)).image_shape == image_shape


def test_channels_first_are_shown_right(rng):
    images = rng.integers(0, 256, size=(4, 9, 11, 3), dtype=np.uint8)
    first = load(np.moveaxis(images, -1, 1))
    assert first.X.shape == (4, 3, 9, 11)
    np.testing.assert_array_equal(to_images(first.X, first.image_shape), images)
    np.testing.assert_array_equal(to_images(images, (9, 11, 3)), images)
    np.testing.assert_array_equal(to_images(images.reshape(4, -1), (9, 11, 3)), images)


# --- subset


def test_subset_keeps_source_rows_in_order(rng):
    X = rng.normal(size=(50, 3)).astype(np.float32)
    data = load(X, labels=np.arange(50), subset=20, seed=1)
    assert len(set(data.index)) == 20 and (np.diff(data.index) > 0).all()
    np.testing.assert_array_equal(data.X, X[data.index])
    np.testing.assert_array_equal(data.labels, data.index)
    np.testing.assert_array_equal(data.index, load(X, subset=20, seed=1).index)
    assert (data.index != load(X, subset=20, seed=2).index).any()
    np.testing.assert_array_equal(load(X, subset=50).index, np.arange(50))


def test_take(rng):
    data = load(rng.normal(size=(5, 2)), labels=list("abcde"))
    assert data.take([3, 0]).labels.tolist() == ["d", "a"] and data.take([3, 0]).index.tolist() == [3, 0]
    assert data.take(np.array([True, False, False, True, False])).labels.tolist() == ["a", "d"]
    assert data.take([]).X.shape == (0, 2)


@pytest.mark.parametrize("size", [51, 1, 0, -3, 2.5])
def test_refused_subsets(size):
    refused(f"2 to 50 examples; got {size}", np.zeros((50, 2)), subset=size)


# --- prepare


@pytest.fixture
def pixels(rng):
    return load(rng.integers(0, 256, size=(1000, 4, 5), dtype=np.uint8), labels=np.arange(1000))


@pytest.mark.parametrize("likelihood", [None, "gaussian"])
def test_dequantise(pixels, likelihood):
    ready = prepare(pixels, likelihood, 3)
    assert ready.X.dtype == np.float32 and ready.X.shape == pixels.X.shape
    assert ready.X.min() >= 0 and ready.X.max() < 1
    assert ready.preparation == "dequantised once, seed 3"
    np.testing.assert_array_equal(np.floor(ready.X * 256), pixels.X)
    within = (ready.X.astype(np.float64) * 256 - pixels.X).ravel()
    assert abs(within.mean() - 0.5) < 0.01 and abs(within.var() - 1 / 12) < 0.003


def test_the_brightest_pixel_stays_below_one():
    white = load(np.full((400, 1000), 255, np.uint8))
    X = prepare(white, None, 0).X
    assert X.max() < 1 and X.min() >= 255 / 256 and len(np.unique(X)) > 60_000


def test_binarise(pixels):
    ready = prepare(pixels, "bernoulli", 3)
    assert ready.X.dtype == np.uint8 and set(np.unique(ready.X)) == {0, 1}
    assert ready.preparation == "binarised once, seed 3"
    assert not ready.X[pixels.X == 0].any() and ready.X[pixels.X == 255].all()
    residual = ready.X - pixels.X / 255
    assert abs(residual.mean()) < 4 * 0.5 / np.sqrt(residual.size)
    dark = prepare(load(np.full((300, 1000), 51, np.uint8), pixels=True), "bernoulli", 0)
    assert abs(dark.X.mean() - 0.2) < 4 * 0.4 / np.sqrt(300_000)


def test_binarise_probabilities(rng):
    digits = load("digits")
    ready = prepare(digits, "bernoulli", 0)
    assert ready.X.dtype == np.uint8 and ready.image_shape == (8, 8)
    residual = ready.X - digits.X
    assert abs(residual.mean()) < 4 * 0.5 / np.sqrt(residual.size)
    assert np.corrcoef(ready.X.ravel(), digits.X.ravel())[0, 1] > 0.8


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_noise_belongs_to_the_source_row(pixels, likelihood):
    whole = prepare(pixels, likelihood, 3)
    for at in (np.arange(0, 1000, 7), np.array([999, 3, 256, 255, 3]), np.arange(1000)[::-1]):
        np.testing.assert_array_equal(prepare(pixels.take(at), likelihood, 3).X, whole.X[at])
    assert (prepare(pixels, likelihood, 4).X != whole.X).any()
    same = prepare(load(np.full((600, 40), 128, np.uint8)), likelihood, 3)
    assert len(np.unique(identical_groups(same.X))) == 600


def test_prepare_keeps_what_needs_nothing(rng):
    binary = load(rng.integers(0, 2, size=(20, 3), dtype=np.uint8))
    real = load(rng.normal(size=(20, 3)))
    unit = load(rng.integers(0, 2, size=(20, 3)).astype(float))
    assert prepare(binary, "bernoulli", 0) is binary
    assert prepare(unit, "bernoulli", 0) is unit
    assert prepare(real, None, 0) is real
    assert prepare(real, "gaussian", 0) is real


def test_prepare_keeps_pixels_for_a_likelihood_of_levels(pixels):
    assert prepare(pixels, "discretized_logistic", 0) is pixels


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.nan])
def test_bernoulli_refuses_values_outside_0_1(bad):
    X = np.full((4, 3), 0.5, np.float32)
    X[2, 1] = bad
    data = Data(X, None, np.array([5, 6, 9, 11]), "somewhere")
    with pytest.raises(DataError, match=f"got {bad}.* in row 9, column 1 of somewhere"):
        prepare(data, "bernoulli", 0)


# --- plant


def test_plant_duplicates(rng):
    data = load(rng.normal(size=(30, 4)), labels=np.arange(30), subset=20)
    more, groups = plant_duplicates(data, [3, 11], 2)
    assert len(more.X) == 24
    np.testing.assert_array_equal(more.X[20:], data.X[[3, 3, 11, 11]])
    np.testing.assert_array_equal(more.labels[20:], data.labels[[3, 3, 11, 11]])
    np.testing.assert_array_equal(more.index[20:], data.index[[3, 3, 11, 11]])
    np.testing.assert_array_equal(groups, [*range(20), 3, 3, 11, 11])
    assert len(plant_duplicates(data, [], 2)[0].X) == 20
    for positions, copies in (([20], 1), ([-1], 1), ([0], -1)):
        with pytest.raises(DataError, match="0 to 19"):
            plant_duplicates(data, positions, copies)


def test_planted_copies_stay_copies_when_prepared(pixels):
    more, groups = plant_duplicates(pixels, [3, 500], 3)
    for likelihood in ("bernoulli", None):
        ready = prepare(more, likelihood, 0)
        np.testing.assert_array_equal(ready.X[1000:1003], ready.X[[3, 3, 3]])
        np.testing.assert_array_equal(identical_groups(ready.X), groups)
