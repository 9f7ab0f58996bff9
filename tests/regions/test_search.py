"""The search for regions: the hierarchy, its counts and p-values against loops; planted regions are found."""

import numpy as np
import oracles_regions as slow
import pytest

from genmem.errors import DataError
from genmem.regions import Known, find_regions
from genmem.regions.scan import BOUND, LEAST_MEAN, count, score_p_values, share_evidence, share_p_values
from genmem.regions.tree import ward_tree
from genmem.seeding import stream


def world(rng, n=60, h=20, d=3):
    return rng.normal(size=(n + h, d)), rng.gamma(2, 2, n), h


def as_set(tree, node):
    return frozenset(tree.members(node).tolist())


def test_clusters_are_those_of_scipy():
    points = np.random.default_rng(0).normal(size=(40, 3))
    tree = ward_tree(points)
    assert {as_set(tree, node) for node in range(len(tree.start))} == set(slow.clusters(points))


def test_sums_are_sums_over_members():
    rng = np.random.default_rng(1)
    tree, values = ward_tree(rng.normal(size=(30, 2))), rng.normal(size=(4, 30))
    by_loop = [values[:, tree.members(node)].sum(axis=1) for node in range(len(tree.start))]
    assert tree.sums(values) == pytest.approx(np.array(by_loop).T)


def test_of_many_points_clusters_are_those_of_cells():
    points = np.random.default_rng(2).normal(size=(300, 2))
    tree = ward_tree(points, most=100)
    assert sorted(tree.order) == list(range(300))
    assert 30 < len(tree.start) < 60
    assert (tree.stop - tree.start).max() == 300


@pytest.mark.parametrize("h", [0, 20])
def test_counts_and_ranks_equal_loops(h):
    rng = np.random.default_rng(3)
    points, scores, _ = world(rng, h=h)
    tree = ward_tree(points)
    found = count(tree, scores, h)
    for node in range(len(tree.start)):
        t, held_out, mean, variance = slow.counted(as_set(tree, node), scores, h)
        assert (found.train[node], found.held_out[node]) == (t, held_out)
        assert (found.mean[node], found.variance[node]) == pytest.approx((mean, variance))
        assert found.rank[node] == pytest.approx(slow.rank(as_set(tree, node), scores, h, BOUND, LEAST_MEAN))


def test_without_memorization_the_share_decides_alone():
    rng = np.random.default_rng(4)
    points, scores, h = world(rng)
    found = count(ward_tree(points), scores - scores.mean() - 1, h)
    assert found.rank == pytest.approx(share_evidence(found.held_out, found))
    assert count(ward_tree(points[:60]), -scores, 0).rank.tolist() == [0.0] * 59


def test_p_values_equal_loops_over_the_same_deals():
    rng = np.random.default_rng(5)
    points, scores, h = world(rng, n=30, h=10)
    tree, n = ward_tree(points), 30
    found, sets = count(tree, scores, h), [as_set(tree, node) for node in range(len(tree.start))]
    flags = np.r_[np.zeros(n), np.ones(h)]
    of_scores = [slow.z_score(one, scores) for one in sets]
    of_shares = [slow.evidence(one, n, flags.tolist()) for one in sets]
    assert share_evidence(found.held_out, found) == pytest.approx(of_shares)
    deals = stream(0, "regions").permuted(np.tile(scores - scores.mean(), (19, 1)), axis=1)
    dealt = [[slow.z_score(one, deal) for one in sets] for deal in deals]
    assert score_p_values(tree, scores, found, 19, 0) == pytest.approx(slow.p_against_largest(of_scores, dealt))
    deals = stream(0, "regions").permuted(np.tile(flags, (19, 1)), axis=1)
    dealt = [[slow.evidence(one, n, deal.tolist()) for one in sets] for deal in deals]
    assert share_p_values(tree, found, 19, 0) == pytest.approx(slow.p_against_largest(of_shares, dealt))


# --- what is found


def clouds(rng, sizes, centres):
    return np.concatenate([rng.normal(centre, 1, (size, 2)) for size, centre in zip(sizes, centres, strict=True)])


CENTRES = ([0, 0], [12, 0], [0, 12])


def thinned(rng, scale=4.0):
    """Three clouds; the third has 6 of 206 training but a third of the held-out examples, and higher scores."""
    train, held_out = clouds(rng, (100, 100, 6), CENTRES), clouds(rng, (30, 30, 30), CENTRES)
    scores = rng.normal(2, 1, (8, 206)) + np.repeat([0, 0, scale], (100, 100, 6)) + rng.normal(0, 1, 206)
    return train, held_out, scores


def test_a_thin_region_comes_first():
    train, held_out, scores = thinned(np.random.default_rng(6))
    found = find_regions(scores, train, held_out, held_out[60:65], permutations=199)
    first = found.regions[0]
    assert np.flatnonzero(found.train == "1").tolist() == list(range(200, 206))
    assert (first.n, first.held_out, first.samples) == (6, 30, 5)
    assert first.share_p == 1 / 200
    assert first.p_corrected < 0.05
    assert first.stands_out
    assert (6 + first.more) / (206 + first.more) == pytest.approx(1 / 3)
    assert first.more_interval[0] < 94 < first.more_interval[1]
    assert [region.name for region in found.regions] == [str(at + 1) for at in range(len(found.regions))]


def test_without_held_out_examples_scores_alone_find_it():
    train, _, scores = thinned(np.random.default_rng(7))
    first = find_regions(scores, train, permutations=199).regions[0]
    assert first.examples
    assert set(first.examples) <= set(range(200, 206))
    assert first.p_corrected < 0.05
    assert first.held_out is None
    assert np.isnan(first.share_p)
    assert first.more == first.more_by_score


def test_shuffled_scores_and_shares_find_nothing():
    rng = np.random.default_rng(8)
    train, held_out, scores = thinned(rng)
    pooled = rng.permutation(np.concatenate([train, held_out]))
    found = find_regions(scores[:, rng.permutation(206)], pooled[:206], pooled[206:], permutations=199)
    assert not any(region.stands_out for region in found.regions)


def test_regions_are_disjoint_and_large_enough():
    rng = np.random.default_rng(9)
    found = find_regions(rng.gamma(2, 2, (3, 150)), rng.normal(size=(150, 4)), n_regions=5, min_examples=7)
    assert len(found.regions) == 5
    for region in found.regions:
        assert 7 <= region.n == (found.train == region.name).sum() <= 75


@pytest.mark.slow
def test_p_values_hold_over_worlds_without_regions():
    """At 5%, at most 5% of worlds name a region by scores, and at most 5% by shares: 200 worlds."""
    named = {"scores": 0, "shares": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        points, scores = rng.normal(size=(120, 3)), rng.gamma(1, 3, 80) + rng.normal(0, 1, (4, 80))
        found = find_regions(scores, points[:80], points[80:], n_regions=40, permutations=99, seed=seed)
        named["scores"] += any(region.p_corrected < 0.05 for region in found.regions)
        named["shares"] += any(region.share_p < 0.05 for region in found.regions)
    assert max(named.values()) <= 20  # 10 expected; P(more than 20) is .1%


@pytest.mark.slow
def test_noise_that_neighbours_share_names_no_region():
    """Half of the noise of each repeat is common to an eighth of the space: 100 worlds, 8 repeats."""
    named = 0
    for seed in range(100):
        rng = np.random.default_rng(1000 + seed)
        points = rng.normal(size=(160, 3))
        octant = (points > 0) @ np.array([1, 2, 4])
        scores = rng.normal(0, 2, (8, 8))[:, octant] + rng.normal(0, 2, (8, 160)) + 3
        found = find_regions(scores, points, permutations=99, seed=seed)
        named += any(region.p_corrected < 0.05 for region in found.regions)
    assert named <= 12  # 5 expected; P(more than 12) is .15%


# --- rows that belong together, and bad input


def test_rows_that_belong_together_are_tested_by_group():
    rng = np.random.default_rng(10)
    train, held_out, scores = thinned(rng)
    alone = find_regions(Known(scores, np.arange(206)), train, held_out)
    one_patient = find_regions(Known(scores, np.repeat([0, 1, 2], (100, 100, 6))), train, held_out)
    assert alone.regions[0].p_corrected < 0.05
    assert not one_patient.regions[0].p_corrected < 0.05
    assert np.isnan(alone.regions[0].share_p)
    assert np.isnan(alone.regions[0].more_interval).all()


def test_one_repeat_has_no_p():
    train, held_out, scores = thinned(np.random.default_rng(11))
    first = find_regions(scores[:1], train, held_out).regions[0]
    assert np.isnan(first.p_corrected)
    assert first.share_p < 0.05


@pytest.mark.parametrize(
    ("scores", "train", "held_out", "message"),
    [
        (np.ones((3, 20)), np.ones((19, 2)), None, "coordinates of the 20 examples"),
        (np.ones((3, 20)), np.ones((20, 2)), np.ones((4, 3)), "held-out examples with 2 coordinates"),
        (np.ones((3, 8)), np.ones((8, 2)), None, "at least 10 examples"),
        (np.full((3, 20), np.inf), np.ones((20, 2)), None, "finite score"),
        (np.full((3, 20), np.nan), np.ones((20, 2)), None, "finite score"),
    ],
)
def test_bad_input(scores, train, held_out, message):
    with pytest.raises(DataError, match=message):
        find_regions(scores, train, held_out)


def test_equal_scores_and_equal_points():
    found = find_regions(np.ones((3, 30)), np.zeros((30, 2)), np.zeros((9, 2)))
    assert not any(region.stands_out for region in found.regions)
