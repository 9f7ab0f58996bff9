"""C_T against its definition, and what it says of sets whose truth is known."""

import dataclasses

import numpy as np
import oracles_neighbors_copying as oracle
import pytest
from scipy import stats

from genmem.errors import DataError
from genmem.neighbors.data_copying import (
    FIT_ROWS,
    CopyingTest,
    cells_of,
    data_copying_test,
    default_cells,
    nearest_within,
    rank_distances,
)
from genmem.neighbors.sets import Sets


def gaussian(seed, n, width=3, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(n, width))


def three(seed=0, n_train=300, n_test=200, n_samples=250, width=3):
    return tuple(gaussian((seed, i), n, width) for i, n in enumerate((n_train, n_test, n_samples)))


def cells_by_row(found):
    return {name: found.details[f"cell_of_{name}"] for name in ("train", "test", "samples")}


# --- against the definition


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["continuous", "integers", "copies", "unequal"])
def test_it_is_the_statistic_of_the_definition(seed, kind):
    T, P, Q = three(seed)
    if kind == "integers":
        T, P, Q = (np.round(2 * X).astype(int) for X in (T, P, Q))
    if kind == "copies":
        Q[:60], T[:30] = T[:60], T[30:60]
    if kind == "unequal":
        P, Q = P[:37], 1.4 * Q[:90]
    found = data_copying_test(T, P, Q, n_cells=3 if kind == "unequal" else 6, seed=seed)
    value, z, used = oracle.c_t(T, P, Q, cells_by_row(found))
    assert found.value == found.statistic == pytest.approx(value, abs=1e-12)
    by_number = sorted(found.cells, key=lambda cell: cell.number)
    np.testing.assert_allclose([cell.z for cell in by_number], z, atol=1e-12)
    assert [cell.used for cell in by_number] == used.tolist()
    assert found.details["z_u"] == pytest.approx(
        oracle.z_u(oracle.distances(Q, T).min(axis=1), oracle.distances(P, T).min(axis=1))
    )


def test_cells_are_those_of_the_nearest_centre_and_counted_right():
    T, P, Q = three()
    found = data_copying_test(T, P, Q, n_cells=4)
    of = cells_by_row(found)
    centres = np.stack([T[of["train"] == c].mean(axis=0) for c in range(4)])  # k-means has converged
    for name, X in (("train", T), ("test", P), ("samples", Q)):
        np.testing.assert_array_equal(of[name], oracle.distances(X, centres).argmin(axis=1))
    for cell in found.cells:
        assert cell.n_train == (of["train"] == cell.number).sum()
        assert cell.share_test == (of["test"] == cell.number).mean()
        assert cell.share_samples == cell.n_samples / len(Q)
        assert len(cell.samples) == min(6, cell.n_samples) == len(cell.partners)
        near = oracle.distances(Q[list(cell.samples)], T[of["train"] == cell.number]).min(axis=1)
        pairs = np.linalg.norm(Q[list(cell.samples)] - T[list(cell.partners)], axis=1)
        np.testing.assert_allclose(pairs, near)
        others = oracle.distances(Q[of["samples"] == cell.number], T[of["train"] == cell.number]).min(axis=1)
        np.testing.assert_allclose(near, np.sort(others)[:6])
    assert sum(cell.weight for cell in found.cells) == pytest.approx(1)
    assert [cell.z for cell in found.cells] == sorted(cell.z for cell in found.cells)


def test_within_a_cell_only_its_own_training_examples_are_near():
    T, P, Q = three(3)
    sets = Sets(T, P, Q)
    cells = cells_of(sets, 5)
    distance, partner = nearest_within(sets, "samples", cells)
    apart = np.where(cells["samples"][:, None] == cells["train"], oracle.distances(Q, T), np.inf)
    np.testing.assert_allclose(distance, apart.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(partner, apart.argmin(axis=1))
    assert (distance > sets.distance("samples", "train") + 1e-9).any()  # the border matters somewhere


@pytest.mark.parametrize("ties", [False, True])
def test_variance_of_z_is_that_of_all_arrangements(ties):
    rng = np.random.default_rng(5)
    q, p = (rng.integers(0, 4, n) if ties else rng.normal(size=n) for n in (5, 6))
    rank = rank_distances(q.astype(float), p.astype(float))
    mean, variance = oracle.z_law(q, p)
    assert rank.ties == pytest.approx(variance) and (rank.ties < 1) == ties
    assert rank.z == pytest.approx(oracle.z_u(q, p)) and mean == pytest.approx(0.5 / np.sqrt(30 * 12 / 12))
    u = rank.z * np.sqrt(5 * 6 * 12 / 12) + 5 * 6 / 2 - 0.5
    assert u == pytest.approx(oracle.mann_whitney(q, p))


def test_standardised_by_the_weights():
    found = data_copying_test(*three(1), n_cells=5)
    weights = np.array([cell.weight for cell in found.cells])
    assert found.z == pytest.approx(found.value / np.sqrt((weights**2).sum()))  # no ties
    assert found.details["sd"] == pytest.approx(np.sqrt((weights**2).sum()))
    assert found.p_value == pytest.approx(stats.norm.cdf(found.z))


def test_ties_narrow_its_law():
    T, P, Q = (np.round(X).astype(int) for X in three(1))
    found = data_copying_test(T, P, Q, n_cells=3)
    of, variance = cells_by_row(found), 0.0
    for cell in found.cells:
        near = [
            oracle.distances(X[of[k] == cell.number], T[of["train"] == cell.number]).min(axis=1)
            for X, k in ((P, "test"), (Q, "samples"))
        ]
        t = np.unique(np.concatenate(near), return_counts=True)[1]
        variance += cell.weight**2 * (1 - (t**3 - t).sum() / (t.sum() ** 3 - t.sum()))
    assert found.details["sd"] == pytest.approx(np.sqrt(variance)) and found.z == pytest.approx(
        found.value / np.sqrt(variance)
    )
    assert found.details["sd"] < 0.97 * np.sqrt(sum(cell.weight**2 for cell in found.cells))


# --- on known truths


@pytest.mark.slow
def test_fresh_samples_give_a_standard_normal_z():
    found = [data_copying_test(*three(1000 + s, 200, 150, 150, 2), n_cells=3) for s in range(300)]
    z, raw = np.array([f.z for f in found]), np.array([f.value for f in found])
    assert stats.kstest([f.p_value for f in found], "uniform").pvalue > 0.01
    assert abs(z.mean()) < 0.3 and 0.85 < z.std() < 1.15
    assert raw.std() == pytest.approx(np.mean([f.details["sd"] for f in found]), rel=0.16) and raw.std() < 0.8
    inside = [f.interval[0] <= 0 <= f.interval[1] for f in found]
    assert 0.90 < np.mean(inside) < 0.985
    assert stats.kstest([f.details["p_u"] for f in found], "uniform").pvalue > 0.01


@pytest.mark.slow
def test_with_heavy_ties_p_stays_valid():
    rng = np.random.default_rng(7)
    draw = lambda n: rng.integers(0, 3, (n, 2))  # noqa: E731
    p = np.array([data_copying_test(draw(6), draw(80), draw(80), n_cells=1).p_value for _ in range(200)])
    assert (p <= 0.05).mean() < 0.1 and (p <= 0.2).mean() < 0.28


def test_copies_are_far_below_and_wide_samples_far_above():
    T, P, Q = three()
    assert data_copying_test(T, P, T[:250]).z < -15
    assert data_copying_test(T, P, T[:250] + 1e-3).p_value < 1e-50
    assert data_copying_test(T, P, np.concatenate([T, T[:50]])).p_value < 1e-50
    wide = data_copying_test(T, P, 3 * Q)
    assert wide.z > 8 and wide.p_value > 0.999 and "farther from" in wide.sentence
    assert "closer to" in data_copying_test(T, P, T).sentence
    assert "about as close" in data_copying_test(T, P, Q).sentence


def test_a_copied_cell_is_the_first_of_the_table_and_named():
    T, P, Q = (np.concatenate([X, X + 40]) for X in three(2))
    Q[:200] = T[:200]  # of the first blob only
    found = data_copying_test(T, P, Q, n_cells=2)
    first, other = found.cells
    assert first.z < -10 < other.z and abs(other.z) < 4
    assert all(row < 250 for row in first.samples) and (T[list(first.partners)] == Q[list(first.samples)]).all()


def test_sharp_samples_are_a_false_alarm_it_owns_up_to():
    T, P, Q = three(0, 1000, 500, 500, 16)
    found = data_copying_test(T, P, 0.7 * Q)
    assert found.p_value < 1e-20 and "sharper" in found.cannot_see


@pytest.mark.slow
def test_the_interval_covers_the_mean_of_other_draws():
    T = gaussian(9, 400)
    found = [
        data_copying_test(T, gaussian((1, s), 200), gaussian((2, s), 200, scale=0.8), n_cells=2) for s in range(80)
    ]
    centre = np.mean([f.value for f in found])
    assert centre < -1
    covered = np.mean([f.interval[0] <= centre <= f.interval[1] for f in found])
    assert 0.87 < covered <= 1


# --- invariances and forms


def test_order_of_rows_and_form_of_arrays_do_not_matter():
    T, P, Q = (np.round(X, 2).astype(np.float32) for X in three(4, 400, 420, 430, 4))
    once = data_copying_test(T, P, Q, n_cells=4, seed=3)
    shuffled = [X[np.random.default_rng(i).permutation(len(X))] for i, X in enumerate((T, P, Q))]
    again = data_copying_test(*shuffled, n_cells=4, seed=3)
    assert again.value == pytest.approx(once.value, abs=1e-12) and again.p_value == pytest.approx(once.p_value)
    assert [c.n_samples for c in again.cells] == [c.n_samples for c in once.cells]
    image = data_copying_test(*(X.reshape(-1, 2, 2) for X in (T, P, Q)), n_cells=4, seed=3)
    assert image.value == once.value
    searched = Sets(T, P, Q)
    assert data_copying_test(searched, n_cells=4, seed=3).value == once.value


def test_far_from_the_origin_and_in_whole_numbers():
    T, P, Q = three(6)
    far = data_copying_test(T + 1e7, P + 1e7, Q + 1e7, n_cells=4)
    of = cells_by_row(far)
    centres = np.stack([T[of["train"] == c].mean(axis=0) for c in range(4)])
    assert (of["samples"] == oracle.distances(Q, centres).argmin(axis=1)).mean() > 0.99
    assert far.value == pytest.approx(oracle.c_t(T, P, Q, of)[0], abs=0.01)
    bytes_ = [np.clip(X * 40 + 128, 0, 255).astype(np.uint8) for X in (T, P, Q)]
    as_float = data_copying_test(*(X.astype(float) for X in bytes_), n_cells=4)
    assert data_copying_test(*bytes_, n_cells=4).z == pytest.approx(as_float.z, abs=0.5)


def test_cells_by_default_and_at_most_as_many_as_rows_differ():
    assert default_cells(10**6, 10**6, 10**6) == 50 and default_cells(3, 3, 3) == 1
    assert len(data_copying_test(*three()).cells) == 1
    T, P, Q = three()
    assert len(data_copying_test(np.repeat(T[:3], 50, axis=0), P, Q, n_cells=8).cells) == 3
    assert FIT_ROWS >= 1000


def test_more_training_examples_than_are_fitted(monkeypatch):
    monkeypatch.setattr("genmem.neighbors.data_copying.FIT_ROWS", 50)
    T, P, Q = three()
    found = data_copying_test(T, P, Q, n_cells=4, seed=1)
    value, *_ = oracle.c_t(T, P, Q, cells_by_row(found))
    assert found.value == pytest.approx(value)
    flipped = data_copying_test(T[::-1], P, Q, n_cells=4, seed=1)
    assert flipped.value == pytest.approx(found.value)
    assert data_copying_test(T, P, Q, n_cells=4, seed=2).value != found.value


# --- the edges


def test_cells_without_enough_are_named_and_not_used():
    T = np.concatenate([gaussian(0, 100), gaussian(1, 100) + 50, gaussian(2, 100) - 50])
    P = np.concatenate([gaussian(3, 60), gaussian(4, 60) + 50])
    Q = np.concatenate([gaussian(5, 60), gaussian(6, 20) + 50, gaussian(7, 60) - 50])
    found = data_copying_test(T, P, Q, n_cells=3)
    assert {cell.reason for cell in found.cells} == {"", "20 samples; more than 20 are needed", "no held-out example"}
    assert found.cells[0].used and found.cells[0].weight == 1 and "in 1 of 3 cells" in found.sentence
    assert found.value == found.cells[0].z and np.isnan(found.cells[-1].z)
    Q = np.concatenate([Q, gaussian(8, 1) + 50])  # the twenty-first
    assert sum(cell.used for cell in data_copying_test(T, P, Q, n_cells=3).cells) == 2


def test_too_few_samples_for_any_cell():
    T, P, Q = three()
    found = data_copying_test(T, P, Q[:20])
    assert (
        np.isnan([found.value, found.z, found.p_value, *found.interval]).all() and "C_T is undefined" in found.sentence
    )
    assert np.isfinite(found.details["z_u"])
    assert np.isnan(data_copying_test(T[:1], P[:1], Q[:1]).z)
    assert np.isfinite(data_copying_test(T[:1], P[:1], Q[:21]).p_value)


def test_constant_data_say_nothing():
    same = np.ones((50, 4))
    found = data_copying_test(same, same, same, n_cells=5)
    assert (found.value, found.z, found.p_value, found.details["p_u"]) == (0, 0, 1, 1) and len(found.cells) == 1
    T, P, Q = three()
    padded = data_copying_test(*(np.hstack([X, np.ones((len(X), 2))]) for X in (T, P, Q)), n_cells=3)
    assert padded.value == pytest.approx(oracle.c_t(T, P, Q, cells_by_row(padded))[0])


def test_rows_that_hardly_differ_have_an_answer():
    T = 1 + np.finfo(float).eps * np.arange(300.0)[:, None]
    assert np.isfinite(data_copying_test(T, T[::2], T[1::2], n_cells=5).value)


@pytest.mark.parametrize("bad", [0, -2])
def test_cells_must_be_asked_for(bad):
    with pytest.raises(DataError, match="n_cells of 1 or more"):
        data_copying_test(*three(), n_cells=bad)


def test_what_cannot_be_tested_is_refused():
    T, P, Q = three()
    with pytest.raises(DataError, match="NaN"):
        data_copying_test(np.where(T > 2, np.nan, T), P, Q)
    with pytest.raises(DataError, match="width"):
        data_copying_test(T, P[:, :2], Q)
    with pytest.raises(DataError, match="one or more rows"):
        data_copying_test(T, P, Q[:0])


def test_the_result_is_frozen_and_complete():
    found = data_copying_test(*three())
    assert isinstance(found, CopyingTest) and found.direction == "lower" and found.null == 0 and found.citation
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.value = 1
