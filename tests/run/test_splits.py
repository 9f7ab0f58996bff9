"""Designs: balance, independence of repeats, shards, and what is refused."""

import json

import numpy as np
import pytest
from oracles import roll_by_loop

from genmem.errors import DataError
from genmem.leaveout.estimators import placebo_shifts, repeats_of, shifted
from genmem.run import Splits


@pytest.mark.parametrize(("n", "folds", "repeats"), [(10, 5, 2), (23, 10, 3), (7, 7, 1), (5, 2, 4)])
def test_k_fold_leaves_each_example_out_once_per_repeat(n, folds, repeats):
    splits = Splits.k_fold(n, folds, repeats)
    assert (splits.n, splits.n_splits, splits.n_repeats) == (n, folds * repeats, repeats)
    for r in range(repeats):
        held_out = splits.held_out[splits.repeat == r]
        assert (held_out.sum(axis=0) == 1).all()
        sizes = [n // folds + (k < n % folds) for k in range(folds)]
        assert held_out.sum(axis=1).tolist() == sizes
    assert (splits.shard == np.arange(splits.n_splits)).all()


def test_repeats_differ_and_do_not_depend_on_how_many_there_are():
    few, many = Splits.k_fold(50, 5, 2, seed=3), Splits.k_fold(50, 5, 4, seed=3)
    assert (few.held_out == many.held_out[:10]).all()
    assert (many.held_out[:5] != many.held_out[5:10]).any()
    assert (few.held_out != Splits.k_fold(50, 5, 2, seed=4).held_out).any()


@pytest.mark.parametrize(
    ("fraction", "length", "out"),
    [(0.5, 2, 1), (0.9, 10, 1), (0.7, 10, 3), (2 / 3, 3, 1), (0.667, 3, 1), (0.95, 20, 1)],
)
def test_subsets_are_balanced(fraction, length, out):
    n = 103
    splits = Splits.subsets(n, fraction, 2 * length, seed=1)
    for r in range(2):
        held_out = splits.held_out[splits.repeat == r]
        assert len(held_out) == length
        assert (held_out.sum(axis=0) == out).all()
        assert abs(held_out.sum(axis=1) - n * (1 - fraction)).max() <= out + 1
    assert splits.describe()["fraction"] == pytest.approx(fraction, abs=0.001)


def test_subsets_of_a_repeat_overlap_cyclically():
    held_out = Splits.subsets(40, 0.7, 10).held_out
    overlap = (held_out[:, None] & held_out[None]).sum(axis=2)
    distance = np.abs(np.arange(10)[:, None] - np.arange(10))
    assert (overlap == 4 * np.maximum(3 - np.minimum(distance, 10 - distance), 0)).all()


def test_leave_out_leaves_each_group_out_once_in_bounded_shards():
    groups = np.array([f"g{i % 60}" for i in range(150)])
    splits = Splits.leave_out(150, groups, seed=2)
    assert splits.n_splits == 60 and splits.n_repeats == 1
    left = [set(groups[row]) for row in splits.held_out]
    assert all(len(names) == 1 for names in left) and len(set.union(*left)) == 60
    assert (splits.held_out.sum(axis=0) == 1).all()
    assert np.bincount(splits.shard).max() <= 25 and splits.shard.max() == 2
    assert left != [set(groups[row]) for row in Splits.leave_out(150, groups, seed=3).held_out]


def test_the_description_is_json_and_tells_designs_apart():
    description = Splits.k_fold(20, 5, 3, seed=1).describe()
    assert json.loads(json.dumps(description)) == description
    assert {k: description[k] for k in ("kind", "n", "folds", "repeats", "n_splits")} == {
        "kind": "k_fold", "n": 20, "folds": 5, "repeats": 3, "n_splits": 15,
    }  # fmt: skip
    assert description["sha256"] == Splits.k_fold(20, 5, 3, seed=1).describe()["sha256"]
    assert description["sha256"] != Splits.k_fold(20, 5, 3, seed=2).describe()["sha256"]


def test_a_design_survives_its_four_fields():
    splits = Splits.subsets(30, 0.7, 20)
    again = Splits(held_out=splits.held_out, repeat=splits.repeat, shard=splits.shard, kind=splits.kind)
    assert again.describe() == splits.describe()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Splits.k_fold(10, folds=1), "folds=1"),
        (lambda: Splits.k_fold(10, folds=11), "folds=11"),
        (lambda: Splits.k_fold(10, folds=5, repeats=0), "repeats=0"),
        (lambda: Splits.subsets(100, 0.7, 15), "n_splits=15. Use 10 or 20"),
        (lambda: Splits.subsets(100, 0.7, 4), "n_splits=4. Use 10 or 20"),
        (lambda: Splits.subsets(100, 0.93, 15), "fraction=0.93. Use 0.9286"),
        (lambda: Splits.subsets(100, 1.0, 10), "fraction=1.0"),
        (lambda: Splits.subsets(5, 0.9, 10), "at least 10 examples"),
        (lambda: Splits.leave_out(3, [0, 1]), r"shape \(2,\)"),
        (lambda: Splits.leave_out(3, [7, 7, 7]), "2 groups or more"),
        (lambda: Splits(np.ones((1, 4), bool), np.zeros(1), np.zeros(1)), "split 0 leaving out all 4"),
        (lambda: Splits(np.eye(3, dtype=bool), np.zeros(2), np.zeros(3)), r"\(2,\)"),
        (lambda: Splits(np.eye(3, dtype=bool), np.zeros(3), np.array([0, 2, 2])), "without gaps"),
        (lambda: Splits(np.eye(3, dtype=bool), np.zeros(3), np.array([1, 0, 0])), "without gaps"),
    ],
)
def test_what_cannot_be_refitted_is_refused(make, named):
    with pytest.raises(DataError, match=named):
        make()


# --- repeats, and placebos within them


@pytest.mark.parametrize("splits", [Splits.k_fold(23, 4, 3), Splits.leave_out(9, np.arange(9) // 2)])
def test_repeats_are_recognised_by_their_partitions(splits):
    found, told = repeats_of(splits.held_out), repeats_of(splits.held_out, splits.repeat)
    assert [r.tolist() for r in found] == [r.tolist() for r in told]


@pytest.mark.parametrize(
    ("held_out", "repeat", "named"),
    [
        (Splits.subsets(40, 0.7, 10).held_out, None, "out twice before all were out once.*Splits.repeat"),
        (Splits.k_fold(10, 5, 2).held_out[:-1], None, "never out in the splits after the last whole repeat"),
        (Splits.k_fold(10, 5, 2).held_out, [0] * 4 + [1] * 6, "example . never left out in repeat 0"),
        (Splits.k_fold(10, 5, 2).held_out, [0] * 9, r"\(9,\)"),
        (np.array([[True, True], [False, True]]), [3, 3], "example 1 left out of every split of repeat 3"),
    ],
)
def test_repeats_that_cannot_be_told_are_refused(held_out, repeat, named):
    with pytest.raises(DataError, match=named):
        repeats_of(held_out, repeat)


@pytest.mark.parametrize("splits", [Splits.k_fold(31, 6, 2), Splits.subsets(50, 0.7, 20), Splits.subsets(9, 0.75, 4)])
def test_placebos_leave_out_others_and_as_many(splits):
    rows = repeats_of(splits.held_out, splits.repeat)
    shifts = placebo_shifts(splits.held_out, rows, seed=0, limit=8)
    out = splits.held_out[rows[0]].sum(axis=0)[0]
    assert shifts.shape == (len(rows[0]) - 2 * out + 1, len(rows))
    for shift in shifts:
        moved = shifted(splits.held_out, rows, shift)
        assert not (moved & splits.held_out).any()
        assert (moved == roll_by_loop(splits.held_out, splits.repeat, shift)).all()
        for r in rows:
            assert (moved[r].sum(axis=0) == out).all()
    assert all(len(set(column)) == len(column) for column in shifts.T.tolist())


def test_two_folds_leave_no_placebo():
    splits = Splits.k_fold(10, 2, 3)
    assert placebo_shifts(splits.held_out, repeats_of(splits.held_out), 0, 8).shape == (0, 3)


def test_groups_leave_together():
    rng = np.random.default_rng(3)
    groups = np.concatenate([np.arange(60), rng.integers(0, 60, 41)])  # copies of some
    splits = Splits.k_fold(len(groups), folds=5, repeats=3, seed=2, groups=groups)
    assert (splits.held_out.reshape(3, 5, -1).sum(axis=1) == 1).all()
    for group in np.unique(groups):
        members = splits.held_out[:, groups == group]
        assert (members == members[:, :1]).all()
    sizes, largest = splits.held_out.sum(axis=1), np.bincount(groups).max()
    assert sizes.max() - sizes.min() <= largest
    repeats = splits.held_out.reshape(3, 5, -1)
    assert not np.array_equal(repeats[0].argmax(0), repeats[1].argmax(0))


def test_groups_of_one_are_no_groups():
    sizes = Splits.k_fold(23, folds=4, repeats=1, groups=np.arange(23)).held_out.sum(axis=1)
    assert sorted(sizes) == [5, 6, 6, 6]


def test_more_folds_than_groups_are_refused():
    with pytest.raises(DataError, match="3 groups or more"):
        Splits.k_fold(6, folds=3, repeats=1, groups=[0, 0, 0, 1, 1, 1])
