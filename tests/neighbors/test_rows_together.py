"""Rows that belong together: groups of one change nothing, groups act as identical rows do, films raise no alarm."""

import itertools

import numpy as np
import pytest
from oracles_neighbors_verdict import linked_by_loop

from genmem.errors import DataError
from genmem.neighbors.belonging import (
    belonging,
    beside_in_file,
    joined,
    one_of_each,
    smallest_of_each,
    units,
)
from genmem.neighbors.cautions import cautions_of
from genmem.neighbors.copycheck import copycheck, read, searched
from genmem.neighbors.exact_copies import fewest_copies, fewest_rows, identical_rows
from genmem.neighbors.sets import Sets
from genmem.neighbors.two_sample import same_source_test, same_spread_test


def films(rng, n, length, d=8, spread=0.3):
    """n frames of films of one length."""
    return np.repeat(rng.normal(size=(n // length, d)), length, 0) + spread * rng.normal(size=(n, d))


def three(seed, n=200, length=10, copies=0):
    rng = np.random.default_rng([13, seed])
    T, H, S = films(rng, n, length), films(rng, n, length), films(rng, n, 1)
    S[:copies] = T[rng.choice(n, copies, replace=False)]
    return T, H, S


def numbers(n, length):
    return np.arange(n) // length, n + np.arange(n) // length


def lattice(seed):
    """Sets full of ties and of identical rows."""
    rng = np.random.default_rng(seed)
    T, H, S = (rng.integers(0, 4, (n, 4)).astype(float) for n in (90, 70, 80))
    S[:9] = T[:9]
    return T, H, S


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: three(0, 120, 1, 6), lambda: lattice(1)], ids=["continuous", "lattice"])
def test_groups_of_one_change_nothing(make):
    T, H, S = make()
    alone = copycheck(T, H, S, power_trials=20, context_rows=60)
    groups = [f"row {i}" for i in range(len(T))], [f"held out {i}" for i in range(len(H))]
    grouped = copycheck(T, H, S, groups=groups, power_trials=20, context_rows=60)
    assert grouped.verdict == alone.verdict and grouped.evidence == alone.evidence
    assert grouped.copied_share.interval == alone.copied_share.interval and grouped.sentence == alone.sentence
    assert (grouped.power.smallest, grouped.power_noisy.smallest) == (alone.power.smallest, alone.power_noisy.smallest)
    for one, other in zip(alone.tests, grouped.tests, strict=True):
        np.testing.assert_array_equal([other.value, other.null, other.p_value], [one.value, one.null, one.p_value])
    for name in ("samples", "rows", "calibrated"):
        np.testing.assert_array_equal(getattr(grouped, name).p_value, getattr(alone, name).p_value)


def test_a_group_is_as_its_rows_made_identical():
    """Frames so close that nothing else tells them apart give the permutation tests of identical rows."""
    rng = np.random.default_rng(2)
    T, H, S = (np.repeat(rng.normal(size=(n, 5)), k, 0) for n, k in ((30, 4), (20, 4), (80, 1)))
    same = Sets(T, H, S)
    near = [rows + 1e-9 * rng.normal(size=rows.shape) for rows in (T, H, S)]
    linked = Sets(*near).belonging(belonging((np.arange(120) // 4, 50 + np.arange(80) // 4), (120, 80, 80)))
    np.testing.assert_array_equal(linked.groups[0], same.groups[0])
    np.testing.assert_array_equal(linked.both.group, same.both.group)
    np.testing.assert_array_equal(linked.both.labels, same.both.labels)
    assert linked.closest.null == same.closest.null and linked.closest.spread == same.closest.spread


def test_linked_rows_equal_a_loop():
    rng = np.random.default_rng(3)
    for _ in range(20):
        identical = np.unique(rng.integers(0, 12, 20), return_inverse=True)[1]
        own = np.unique(rng.integers(0, 9, 14), return_inverse=True)[1]
        assert joined(identical, own).tolist() == linked_by_loop(identical.tolist(), own.tolist())
    assert joined(np.arange(5), np.arange(3)).tolist() == list(range(5))


def test_one_row_of_each_group_whatever_their_order():
    own, place = np.array([4, 4, 0, 0, 0, 2]), np.array([5, 0, 3, 1, 4, 2])
    kept = one_of_each(own, place, 0)
    assert own[kept].tolist() == own[np.sort(kept)].tolist() and sorted(own[kept]) == [0, 2, 4]
    order = np.random.default_rng(0).permutation(6)
    assert set(order[one_of_each(own[order], place[order], 0)]) == set(kept)
    assert smallest_of_each(np.array([3.0, 1, 2, 5, 4, 9]), own).tolist() == [2, 9, 1]
    assert units(np.array([0, 0, 0, 1]), np.array([7, 7, 8, 8]), 3).tolist() == [2, 1, 0]
    assert units(np.array([0, 0, 0, 1]), None, 3).tolist() == [3, 1, 0]


def test_copies_of_one_film_count_once():
    T, H, S = three(4)
    S[:10] = T[:10]  # every frame of the first film
    rows = identical_rows(Sets(T, H, S))
    sets = Sets(T, H, S).belonging(belonging(numbers(200, 10), (200, 200, 200)))
    film = identical_rows(sets)
    assert rows.rows == 10 and rows.copies > 0
    assert film.rows == 1 and film.copies == 0 and film.any_train == rows.any_train == 10
    assert fewest_copies(sets) > fewest_rows(sets) and fewest_copies(Sets(T, H, S)) == fewest_rows(Sets(T, H, S))


@pytest.mark.slow
def test_same_source_neither_counts_frames_of_a_film_nor_misses_another_source():
    p = []
    for seed in range(6):
        T, H, S = three(20 + seed)
        sets = Sets(T, H, S).belonging(belonging(numbers(200, 10), (200, 200, 200)))
        p.append(same_source_test(sets).p_value)
        assert same_source_test(T, H, S).p_value <= 0.01  # as rows, films are mistaken for another source
    assert min(p) > 0.01
    moved = Sets(T, H + 3, S).belonging(belonging(numbers(200, 10), (200, 200, 200)))
    assert same_source_test(moved).p_value <= 0.01


def test_groups_in_both_sets_are_told():
    T, H, S = three(5)
    train, test = numbers(200, 10)
    test[:30] = train[:30]
    found = copycheck(T, H, S, groups=(train, test), power_trials=0, context_rows=20)
    assert found.sentence.startswith(
        "3 groups are in the training and in the held-out set: 30 of 200 held-out examples"
    )
    shares = Sets(T, H, S).belonging(belonging((train, test), (200, 200, 200))).both.labels
    assert (shares == 0.5).sum() == 3


def test_samples_that_belong_together_switch_the_test_of_neighbourhoods_off():
    T, H, S = three(6, 220, 1)
    S[:] = T[0]
    groups = [*numbers(220, 1), np.zeros(220)]
    assert read(searched(Sets(T, H, S)), n_cells=1).evidence.gathered > 0
    found = copycheck(T, H, S, groups=groups, power_trials=0, context_rows=20)
    assert found.evidence.gathered == 0 and found.verdict != "copies found"


@pytest.mark.parametrize(
    ("groups", "words"),
    [((np.arange(9), np.arange(20)), "20 rows of train"), (np.arange(20), "two or three"),
     ((1, 2, 3, 4), "two or three"),
     ((np.zeros(20), np.arange(20)), "2 or more groups of rows in train"),
     ((np.full(20, np.nan), np.arange(20)), "missing values"),
     (([None] * 20, np.arange(20)), "missing values")],
)  # fmt: skip
def test_wrong_groups_are_refused(groups, words):
    with pytest.raises(DataError, match=words):
        copycheck(*np.random.default_rng(0).normal(size=(3, 20, 2)), groups=groups)


def test_names_and_numbers_are_one_group():
    assert belonging((["1", "2"], [2, 3]), (2, 2, 1)).shared == (1, 1)


# --- films


@pytest.mark.slow
@pytest.mark.parametrize("length", [20, 5])
def test_fresh_films_raise_no_alarm_and_copies_of_them_do(length):
    verdicts = {0: [], 10: []}
    for seed, copies in itertools.product(range(12), verdicts):
        own = belonging(numbers(200, length), (200, 200, 200))
        sets = Sets(*three(100 + seed, 200, length, copies)).belonging(own)
        verdicts[copies].append(read(searched(sets), n_cells=1, seed=seed).evidence)
    assert sum(one.scan_p <= 0.004 or one.identical.copies > 0 or one.gathered > 0 for one in verdicts[0]) <= 1
    assert sum(one.scan_p <= 0.004 or one.identical.copies > 0 for one in verdicts[10]) >= 10


@pytest.mark.slow
def test_clustered_files_are_told_and_shuffled_ones_are_not():
    T, H, S = three(7)
    found = copycheck(T, H, S, power_trials=0, context_rows=20)
    assert "look as if some belong together" in found.sentence and "--group-column" in found.sentence
    assert beside_in_file(T) > 0.9
    rng = np.random.default_rng(8)
    shuffled = [rng.permutation(films(rng, 150, length)) for length in (1, 5, 10) for _ in range(10)]
    assert [beside_in_file(rows) for rows in shuffled] == [0] * 30
    assert "belong together" not in copycheck(
        *(rng.permutation(rows) for rows in (T, H, S)), power_trials=0, context_rows=20
    ).sentence  # fmt: skip


def test_identical_rows_beside_each_other_need_no_groups():
    rng = np.random.default_rng(9)
    sets = Sets(np.repeat(rng.normal(size=(80, 3)), 2, 0), rng.normal(size=(80, 3)), rng.normal(size=(5, 3)))
    assert beside_in_file(sets.train) > 0.9
    assert cautions_of(sets, (same_source_test(sets), same_spread_test(sets)), 0) == ()
