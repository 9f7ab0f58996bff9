"""Rows: fingerprints, constant columns and groups of identical rows."""

import hashlib

import numpy as np
import pytest

import genmem.data.arrays
from genmem.data import constant_columns, fingerprint, identical_groups, load
from genmem.data.arrays import first_where, matrix, require_shape, vector
from genmem.errors import DataError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_fingerprint_sees_dtype_shape_values_and_nothing_else(rng, monkeypatch):
    X = rng.normal(size=(40, 6)).astype(np.float32)
    first = fingerprint(X)
    assert first == hashlib.sha256(b"<f4(40, 6)" + X.tobytes()).hexdigest()
    assert first == fingerprint(np.asfortranarray(X)) == fingerprint(X.copy())
    others = [X.reshape(40, 3, 2), X.astype(np.float64), X.view(np.int32), X[::-1], X + 1e-6]
    assert len({first, *map(fingerprint, others)}) == 6
    monkeypatch.setattr(genmem.data.arrays, "_CHUNK", 7)
    assert fingerprint(X) == first
    assert len(fingerprint(np.array(["a", "bc"]))) == 64


def test_fingerprint_of_several_parts_is_that_of_one_after_another(rng):
    X = rng.normal(size=(4, 3))
    whole = b"n\xc3\xb6te" + b"<f8(4, 3)" + X.tobytes() + b"\x00"
    assert fingerprint("n\u00f6te", X, b"\x00") == hashlib.sha256(whole).hexdigest()
    assert fingerprint(X.reshape(-1).view(np.uint8).data) == hashlib.sha256(X.tobytes()).hexdigest()
    assert fingerprint(np.float64(2.0)) == fingerprint(np.array([2.0])) and fingerprint(np.empty((0, 3)))


def test_constant_columns(rng, monkeypatch):
    X = rng.normal(size=(100, 3, 4))
    X[:, 1, 2] = 7
    X[:, 0, 0] = 0
    X[:-1, 2, 3] = 1
    np.testing.assert_array_equal(constant_columns(X), [0, 6])
    monkeypatch.setattr(genmem.data.arrays, "_CHUNK", 30)
    np.testing.assert_array_equal(constant_columns(X), [0, 6])
    np.testing.assert_array_equal(constant_columns(load("digits").X), [0, 32, 39])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("collide", [False, True])
def test_identical_groups(rng, monkeypatch, dtype, collide):
    if collide:
        monkeypatch.setattr(genmem.data.arrays, "_row_hashes", lambda X: np.zeros(len(X), np.uint64))
    monkeypatch.setattr(genmem.data.arrays, "_CHUNK", 100)
    X = rng.integers(0, 3, size=(300, 3, 1)).astype(dtype)
    seen = {}
    expected = [seen.setdefault(row.tobytes(), len(seen)) for row in X]
    np.testing.assert_array_equal(identical_groups(X), expected)
    distinct = np.arange(300).reshape(100, 3).astype(dtype)
    np.testing.assert_array_equal(identical_groups(distinct)[:85], np.arange(85))


def test_zero_equals_minus_zero():
    np.testing.assert_array_equal(identical_groups(np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]])), [0, 0, 1])


@pytest.mark.slow
def test_hashes_tell_rows_of_round_numbers_apart(rng):
    rows = rng.choice(np.array([0, -(2**31)], np.int32), size=(2**18, 64))
    assert len(np.unique(genmem.data.arrays._row_hashes(rows))) == 2**18


def test_a_matrix_is_what_is_asked_for():
    images = np.arange(24, dtype=np.uint16).reshape(4, 2, 3)
    flat = matrix(images, flatten=True)
    assert flat.dtype == np.float64 and flat.tolist() == images.reshape(4, 6).tolist()
    assert matrix([[True, False]]).dtype == np.uint8
    assert matrix(np.float32([[1, 2]]), float64=True).dtype == np.float64
    assert np.isnan(matrix([[1.0, np.nan]], nan=True)[0, 1])
    for call, message in (
        (lambda: matrix(images), "Flatten"),
        (lambda: matrix([[1.0], [np.nan]], "Z"), "Z of finite numbers.*the first in row 1"),
        (lambda: matrix([[np.nan], [np.inf]], nan=True), "or NaN; got infinite.*row 1"),
        (lambda: matrix([[1.0]], least=2), "2 or more"),
        (lambda: matrix([[1.0], [2.0, 3.0]], "Z"), "Z as an array, or as rows of one shape"),
        (lambda: vector([[1.0]], "score"), r"score of shape \(n,\)"),
        (lambda: vector(["a"], "score"), "dtype <U1"),
        (lambda: vector([np.inf], "score"), "finite"),
        (lambda: require_shape((3,), (4,), "queries", "as the others have"), r"queries of shape \(4,\), as the others"),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_what_is_wrong_is_counted_and_the_first_found(monkeypatch):
    monkeypatch.setattr(genmem.data.arrays, "_CHUNK", 6)
    X = np.zeros((9, 2, 3))
    assert first_where(X, lambda block: block > 0) == (0, -1, -1)
    X[4, 1, 2] = X[7, 0, 0] = X[4, 1, 1] = 1
    assert first_where(X, lambda block: block > 0) == (3, 4, 4)
