"""Identical rows of the three sets: what chance explains, against rows assigned at random, and what it does not."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from genmem.neighbors.copycheck import read, searched
from genmem.neighbors.exact_copies import by_any_model, by_exchange, fewest_rows, identical_rows
from genmem.neighbors.sets import Sets
from genmem.neighbors.verdict import decide, unexplained

COPIES = "copies found"


def randomly_assigned(groups, rng):
    """Return counts (3, groups) of rows that are assigned to the three sets at random."""
    total = groups.sum()
    sizes = int(0.5 * total), int(0.2 * total), total - int(0.5 * total) - int(0.2 * total)
    labels, at = rng.permutation(np.repeat([0, 1, 2], sizes)), np.repeat(np.arange(len(groups)), groups)
    return np.stack([np.bincount(at[labels == label], minlength=len(groups)) for label in range(3)])


@pytest.mark.parametrize("sizes", [(2,), (2, 3, 7), (5, 5, 5)])
def test_randomly_assigned_rows_give_valid_p_values(sizes):
    rng = np.random.default_rng(0)
    groups = np.array([*np.repeat(sizes, 12), *np.ones(120, int)])
    p = np.array([by_exchange(randomly_assigned(groups, rng)) for _ in range(1500)])
    for level in (0.01, 0.05, 0.1, 0.2):
        assert stats.binom.sf((p <= level).sum() - 1, len(p), level) > 0.01, level
    assert (p <= 0.1).mean() > 0.01  # nor does it never speak


def normal(seed, *sizes, d=8):
    rng = np.random.default_rng([9, seed])
    return [rng.normal(size=(n, d)) for n in sizes]


def verdict(T, H, S):
    return decide(read(searched(Sets(T, H, S)), n_cells=1).evidence)


@pytest.mark.parametrize("seed", range(4))
def test_few_rows_copied_often_and_many_rows_beside_few_held_out_are_found(seed):
    T, H, S = normal(seed, 200, 150, 160, d=64)
    S[:40] = T[np.random.default_rng(seed).integers(10, size=40)]
    assert verdict(T, H, S) == COPIES
    T, H, S = normal(seed, 1350, 150, 250)
    S[:50] = T[:50]
    same = identical_rows(Sets(T, H, S))
    assert same.rows == same.samples == 50 and 0 < same.copies <= 50 and verdict(T, H, S) == COPIES


def test_one_row_copied_often_is_not_called_sharp():
    T, H, S = normal(5, 200, 150, 160, d=64)
    S[:40] = T[0]
    evidence = read(searched(Sets(T, H, S)), n_cells=1).evidence
    assert evidence.identical.copies == 0 and evidence.closer_p < 0.01 and unexplained(evidence.identical)
    assert decide(evidence) == "inspect these pairs"  # one fresh point that happens to be in the data looks the same
    assert decide(replace(evidence, visible=0)) == "no evidence"


@pytest.mark.parametrize("levels", [2, 3, 6])
@pytest.mark.parametrize("sizes", [(150, 100, 100), (270, 30, 100)])
def test_rows_of_few_values_coincide_without_alarm(levels, sizes):
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng([levels, seed])
        T, H, S = (rng.integers(levels, size=(n, 4)) for n in sizes)
        alarms += identical_rows(Sets(T, H, S)).copies > 0
        alarms += identical_rows(Sets(T, H, np.repeat(S[:5], 20, axis=0))).copies > 0  # gathered at few points
    assert alarms <= 2


def test_the_bound_is_below_the_copies():
    for seed in range(20):
        T, H, S = normal(seed, 150, 120, 100)
        S[: 3 * (seed % 5)] = T[: 3 * (seed % 5)]
        assert identical_rows(Sets(T, H, S)).copies <= 3 * (seed % 5)
    rng = np.random.default_rng(0)
    for _ in range(20):  # rows that coincide by chance beside copies
        T, H, S = (rng.integers(5, size=(n, 4)) for n in (150, 120, 100))
        S[:30] = T[:30]
        assert identical_rows(Sets(T, H, S)).copies <= 30


def test_the_fewest_rows_that_show_are_those_that_show():
    T, H, S = normal(0, 150, 120, 100)
    rows = int(fewest_rows(Sets(T, H, S)))
    for count in (rows - 1, rows):
        planted = S.copy()
        planted[:count] = T[:count]
        assert (identical_rows(Sets(T, H, planted)).copies > 0) == (count == rows)
    assert fewest_rows(Sets(T[:3], H[:3], S[:3])) == np.inf


def test_what_any_model_does_is_to_meet_rows_in_proportion():
    pairs = np.array([[1] * 5, [0] * 5, [1] * 5])
    rest = np.repeat(np.eye(3, dtype=int), [5, 10, 6], axis=1)  # 10 training, 10 held-out rows, 11 samples
    assert by_any_model(np.hstack([pairs, rest])) == pytest.approx((10 / 25) ** 5)
