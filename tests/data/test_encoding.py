"""Mixed tables: distances of the encoding are the Gower-type distance, whatever holds the table."""

import datetime
import decimal

import numpy as np
import oracles_neighbors_tabular as oracle
import pyarrow as pa
import pytest

from genmem.data.encoding import mixed_space
from genmem.errors import DataError
from genmem.neighbors.sets import Sets

KINDS = (False, True, False, True, False)
NAMES = ("age", "work", "gain", "city", "score")


def table(n, seed, gaps=0.15, cities=6):
    """Return a table of numbers, text, many zeros, more text and normal values, with gaps."""
    rng = np.random.default_rng(seed)
    columns = {
        "age": rng.integers(17, 90, n).tolist(),
        "work": rng.choice(["private", "state", " state ", "none"], n).tolist(),
        "gain": np.where(rng.random(n) < 0.8, 0.0, rng.lognormal(8, 1, n)).tolist(),
        "city": [f"city {i}" for i in rng.integers(cities, size=n)],
        "score": rng.normal(1e6, 1.0, n).tolist(),
    }
    for name in ("age", "work", "city", "score"):
        for i in np.flatnonzero(rng.random(n) < gaps):
            columns[name][i] = None
    return columns


def rows_of(columns):
    return list(zip(*columns.values(), strict=True))


def squared(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def refused(message, *tables, **options):
    with pytest.raises(DataError, match=message) as found:
        mixed_space(*tables, **options)
    assert found.value.do.endswith(".")


def expected_distances(train, left, right):
    found = [oracle.scale_and_median(train[name], kind) for name, kind in zip(NAMES, KINDS, strict=True)]
    scales, medians = zip(*found, strict=True)
    return [[oracle.distance(a, b, KINDS, scales, medians) for b in rows_of(right)] for a in rows_of(left)]


@pytest.mark.parametrize("gaps", [0.0, 0.2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_squared_distances_are_the_stated_ones(seed, gaps):
    sets = table(25, seed, gaps), table(11, seed + 10, gaps, cities=9), table(12, seed + 20, gaps, cities=12)
    points, words = mixed_space(*sets)
    for i in range(3):
        for j in range(3):
            wanted = expected_distances(sets[0], sets[i], sets[j])
            np.testing.assert_allclose(squared(points[i], points[j]), wanted, rtol=1e-9, atol=1e-12)
    assert words == "Gower-type distance over 3 columns of numbers (by range) and 2 of categories"


def test_a_search_finds_the_nearest_row_of_the_table():
    sets = table(60, 3), table(40, 4), table(50, 5)
    points, _ = mixed_space(*sets)
    distance, nearest = Sets(*points).near("samples", "train")
    wanted = np.array(expected_distances(sets[0], sets[2], sets[0]))
    np.testing.assert_allclose(distance[:, 0] ** 2, wanted.min(axis=1), rtol=1e-9)
    np.testing.assert_allclose(wanted[np.arange(50), nearest[:, 0]], wanted.min(axis=1), rtol=1e-9)


def test_equal_rows_lie_at_zero_and_other_rows_do_not():
    columns = table(40, 6)
    order = np.random.default_rng(0).permutation(40)
    copies = {name: [values[i] for i in order] for name, values in columns.items()}
    (train, test, samples), _ = mixed_space(columns, table(5, 7), copies)
    np.testing.assert_array_equal(samples, train[order])
    copies["score"][0] = 1e6 + 17.0
    (train, _, samples), _ = mixed_space(columns, table(5, 7), copies)
    assert not (samples[0] == train).all(axis=1).any()


def test_every_holder_of_a_table_gives_the_same_points():
    columns = {"n": [1.5, np.nan, 3.0], "t": ["a", None, "b"], "k": [1, 2, 3]}
    others = {"n": [2.0], "t": ["b"], "k": [3]}, {"n": [0.0], "t": ["c"], "k": [1]}
    wanted, _ = mixed_space(columns, *others, categorical=["k"])
    fields = np.array([(1.5, "a", 1), (np.nan, "", 2), (3.0, "b", 3)], [("n", float), ("t", "U3"), ("k", int)])
    frame = pa.table({"n": [1.5, None, 3.0], "t": ["a", None, "b"], "k": [1, 2, 3]})
    dictionary = frame.set_column(1, "t", frame.column("t").dictionary_encode())

    class Frame:  # as pandas and polars have it
        columns = ("n", "t", "k")

        def __getitem__(self, name):
            return Column({"n": [1.5, None, 3.0], "t": ["a", None, "b"], "k": [1, 2, 3]}[name])

    class Column(list):
        def to_numpy(self):
            return np.array(self, dtype=object)

    reordered = {name: columns[name] for name in ("k", "t", "n")}
    for form in (fields, frame, dictionary, Frame()):
        found, _ = mixed_space(form, *others, categorical=["k"])
        np.testing.assert_array_equal(found[0], wanted[0])
    found, _ = mixed_space(columns, others[0], reordered, categorical=["k"])
    np.testing.assert_array_equal(found[2], found[0])
    mixed = np.array([[1.5, "a", 1], [None, None, 2], [3.0, "b", 3]], dtype=object)
    rest = ({str(i): column for i, column in enumerate(part.values())} for part in others)
    found, _ = mixed_space(mixed, *rest, categorical=["2"])
    np.testing.assert_array_equal(found[0], wanted[0])


def test_codes_truths_and_dates():
    day, stamp = datetime.date(2020, 1, 1), np.array(["2020-01-01", "2020-01-03"], "datetime64[D]")
    train = {"zip": [1000, 2000], "on": [True, False], "day": [day, day + datetime.timedelta(2)]}
    test = {"zip": np.array([1000.0]), "on": np.array([1.0]), "day": stamp[:1]}
    samples = {"zip": ["1000"], "on": [0], "day": stamp[1:]}
    (train, test, samples), words = mixed_space(train, test, samples, categorical=["zip"])
    np.testing.assert_array_equal(test[0], train[0])
    np.testing.assert_allclose(squared(samples, train), [[2 / 3, 1 / 3]])
    assert words == "Gower-type distance over 2 columns of numbers (by range) and 1 of categories"
    money = {"x": [decimal.Decimal("1.5"), decimal.Decimal("2.5")]}
    (train, _, samples), words = mixed_space(money, {"x": [2]}, {"x": [2.5]})
    np.testing.assert_allclose(squared(samples, train), [[1, 0]])
    assert words == "Gower-type distance over 1 column of numbers (by range)"


def test_mixed_values_named_as_categories():
    (train, _, samples), _ = mixed_space({"k": [1, "x"]}, {"k": [2.5]}, {"k": ["1", "x "]}, categorical=["k"])
    np.testing.assert_allclose(squared(samples, train), [[0, 1], [1, 0]], atol=1e-15)


def test_scales():
    rng = np.random.default_rng(0)
    train = {
        "zeros": np.where(np.arange(100) < 92, 0.0, 100.0),
        "one": np.full(100, 7.0),
        "heavy": rng.normal(size=100),
    }
    train["heavy"][0] = 1e6
    few = {"zeros": [0.0], "one": [7.0], "heavy": [0.0]}
    more = {"zeros": [100.0], "one": [9.0], "heavy": [1.0]}
    quartiles = np.subtract(*np.quantile(train["heavy"], [0.75, 0.25]))
    for scale, unit in (("range", np.ptp(train["heavy"])), ("spread", quartiles)):
        (_, test, samples), words = mixed_space(train, few, more, scale=scale)
        np.testing.assert_allclose(squared(test, samples), [[(1 + 4 + 1 / unit**2) / 3]])
        assert f"(by {scale})" in words


def test_unseen_categories_differ_from_all_of_train_and_equal_each_other():
    train, samples = {"c": ["a", "b"]}, {"c": ["new", "new", "a"]}
    (train, _, samples), _ = mixed_space(train, {"c": ["a"]}, samples)
    np.testing.assert_allclose(squared(samples, train), [[1, 1], [1, 1], [0, 1]], atol=1e-15)
    np.testing.assert_array_equal(samples[0], samples[1])


def test_columns_without_values():
    empty = {"x": [None, None], "y": [1.0, 2.0]}
    (train, test, samples), _ = mixed_space(empty, {"x": [np.nan], "y": [1.0]}, {"x": [5.0], "y": [2.0]})
    np.testing.assert_allclose(squared(test, train), [[0, 0.5]])
    np.testing.assert_allclose(squared(samples, train), [[(1 + 25 + 1) / 2, (1 + 25) / 2]])
    (train, *_), _ = mixed_space({"x": pa.nulls(2)}, {"x": [None]}, {"x": ["b"]})
    assert np.isfinite(train).all()


def test_the_square_counts_small_differences_for_less():
    """The documented limit: Gower's |x - y| / s would give .1 here, the square gives .01."""
    (train, test, samples), _ = mixed_space({"x": [0.0, 1.0]}, {"x": [0.1]}, {"x": [0.0]})
    np.testing.assert_allclose(squared(samples, test), [[0.01]])


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"b": ["x"]}, {}, "the same columns in samples as in train; got no a"),
        ({"a": [1], "b": ["x"], "c": [2]}, {}, "also c"),
        ({"a": ["1"], "b": ["x"]}, {}, "one kind in column 'a'.*numbers in train.*text in samples.*categorical"),
        ({"a": [np.inf], "b": ["x"]}, {}, "'a' of samples; got 1 infinite, the first in row 0"),
        ({"a": [1, "x"], "b": ["x", "y"]}, {}, "numbers and text"),
        ({"a": [[1]], "b": ["x"]}, {}, "one length|list"),
        ({"a": [1], "b": [{}]}, {}, "got dict"),
        ({"a": [1, 2], "b": ["x"]}, {}, "columns of one length"),
        ({"a": [], "b": []}, {}, "one or more rows"),
        ({}, {}, "got none"),
        (np.zeros(3), {}, "ndarray of shape .3,"),
        ({"a": [1], "b": ["x"]}, {"scale": "sd"}, 'scale "range" or "spread"; got \'sd\''),
        ({"a": [1], "b": ["x"]}, {"categorical": ["q"]}, "such as a, b; got q"),
        ({"a": [1], "b": ["x"]}, {"categorical": "a"}, "a list of columns"),
    ],
)
def test_refused_tables(columns, options, message):
    fine = {"a": [1, 2], "b": ["x", "y"]}
    refused(message, fine, fine, columns, **options)


def test_repeated_columns_are_refused():
    twice = pa.table([[1, 2], [3, 4]], names=["a", "a"])
    refused("repeated: a", twice, twice, twice)


def test_identifiers_are_refused_by_name():
    names = {"id": [f"n{i}" for i in range(5000)], "x": np.arange(5000.0)}
    refused("5,000 values in 'id'.*identifiers", names, names, names)
