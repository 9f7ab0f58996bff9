"""Errors by group: against plain loops, and against the spread over fresh draws of whole groups."""

import numpy as np
import pytest

from genmem import clusters, stats

RNG = np.random.default_rng(0)


def in_groups(rng, count=40, size=6, within=0.3):
    """Values that a group shares, up to a part of its own for each; groups of 1 to 2 * size - 1 members."""
    sizes = rng.integers(1, 2 * size, count)
    member = np.repeat(np.arange(count), sizes)
    return rng.exponential(2, count)[member] + within * rng.standard_normal(len(member)), member


def test_single_examples_are_groups_of_one():
    x = RNG.normal(size=30)
    for groups in (None, np.arange(30), [f"{i}" for i in range(30)]):
        assert clusters.mean_variance(x, groups) == (pytest.approx(x.var(ddof=1) / 30), 29)
    assert np.isnan(clusters.mean_variance(x, np.zeros(30))[0]) and np.isnan(clusters.mean_variance([])[0])


def test_the_variance_of_a_mean_is_that_of_the_formula():
    x, member = in_groups(np.random.default_rng(1))
    count, total = len(np.unique(member)), 0.0
    for group in np.unique(member):
        own = x[member == group]
        total += (own.sum() - len(own) * x.mean()) ** 2
    found, df = clusters.mean_variance(x, member)
    assert found == pytest.approx(count / (count - 1) * total / len(x) ** 2) and df == count - 1


@pytest.mark.slow
def test_intervals_of_a_mean_cover_by_group_and_not_by_row():
    by_group, by_row = [], []
    for seed in range(400):
        x, member = in_groups(np.random.default_rng(seed))
        for covered, groups in ((by_group, member), (by_row, None)):
            half = clusters.half_width([clusters.mean_variance(x, groups)])
            covered.append(abs(x.mean() - 2) <= half)
    assert np.mean(by_group) > 0.9 and np.mean(by_row) < 0.7


def test_blocks_divide_the_examples_into_whole_groups_of_similar_size():
    _, member = in_groups(np.random.default_rng(2), count=300)
    found = clusters.blocks(member)
    assert len(found) == clusters.BLOCKS and (np.sum(found, axis=0) == 1).all()
    assert all(len({bool(block[i]) for i in np.flatnonzero(member == g)}) == 1 for block in found for g in range(300))
    sizes = [block.sum() for block in found]
    assert max(sizes) - min(sizes) <= 12


def test_the_jackknife_of_a_mean_is_its_variance():
    x = RNG.normal(size=18)
    variance, df = clusters.jackknife(lambda kept: x[kept].mean(), np.arange(18))
    assert variance == pytest.approx(x.var(ddof=1) / 18) and df == 17
    assert np.isnan(clusters.jackknife(lambda kept: 0.0, np.zeros(24))[0])


@pytest.mark.slow
def test_intervals_of_a_rank_correlation_cover_by_group():
    covered = {"group": [], "row": []}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        member = np.repeat(np.arange(40), 8)
        a = rng.standard_normal(40)[member] + 0.2 * rng.standard_normal(320)
        b = rng.standard_normal(40)[member] + 0.2 * rng.standard_normal(320)  # unrelated
        for name, groups in (("group", member), ("row", None)):
            low, high = clusters.spearman(a, b, groups).interval
            covered[name].append(low <= 0 <= high)
    assert np.mean(covered["group"]) > 0.9 and np.mean(covered["row"]) < 0.75


def test_a_rank_correlation_without_groups_is_the_plain_one():
    a, b = RNG.normal(size=(2, 50))
    assert clusters.spearman(a, b) == stats.spearman(a, b)
    assert clusters.spearman(a, a, np.arange(50) // 5) == stats.spearman(a, a)
    assert np.isnan(clusters.spearman(a, np.zeros(50), np.arange(50) // 5).rho)
