"""What the verdict is read from, against the slow versions; its rule; the power of planted copies."""

import numpy as np
import pytest
from oracles_neighbors_verdict import (
    exact_p_by_loop,
    largest_z_by_loop,
    pooled_by_loop,
    same_set_share_by_loop,
)
from scipy import stats

from genmem.neighbors.copycheck import copycheck
from genmem.neighbors.exact_copies import Identical
from genmem.neighbors.pooled import earlier, standardised
from genmem.neighbors.power import detectable_share
from genmem.neighbors.scan import critical_value, scan_share_test
from genmem.neighbors.sets import Sets
from genmem.neighbors.two_sample import same_source_test
from genmem.neighbors.verdict import Evidence, decide, gathered_share


def normal(seed, *sizes, d=3):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, d)) for n in sizes]


def clumps(seed):
    """Sets with identical rows in one set, in both, and many samples at one row."""
    T, H, S = normal(seed, 40, 30, 50)
    T[5:9], H[:3], S[:12] = T[4], T[20], T[7]
    return T, H, S


@pytest.mark.parametrize("make", [lambda: normal(0, 40, 30, 50), lambda: clumps(1), lambda: normal(2, 5, 60, 9)])
def test_the_closest_examples_and_the_scan_equal_loops(make):
    T, H, S = make()
    closest = Sets(T, H, S).closest
    labels, group, distance, free = pooled_by_loop(T, H, S)
    np.testing.assert_allclose(closest.distance, distance)
    np.testing.assert_allclose(closest.density_free, free)
    np.testing.assert_allclose(closest.labels[closest.group], labels[group])
    closest = closest.of_one_row(0)
    assert set(np.unique(closest.labels)) <= {0, 1}
    z = standardised(closest.excess(closest.labels), closest.deviations)
    by_loop = largest_z_by_loop(closest.labels, closest.group, closest.orders, closest.tails)
    assert z.max() == pytest.approx(by_loop)
    found = scan_share_test(T, H, S, draws=199)
    assert found.value == pytest.approx(z.max())
    for order, key in zip(closest.orders, (closest.distance, closest.density_free), strict=True):
        assert (np.diff(key[order]) >= 0).all()


def test_a_row_of_both_sets_has_the_label_of_one_of_its_copies():
    T, H, S = np.array([[0.0], [0.0], [5.0]]), np.array([[0.0], [9.0]]), np.array([[0.1], [5.1], [9.1]])
    closest = Sets(T, H, S).closest
    drawn = np.array([closest.of_one_row(seed).labels for seed in range(300)])
    np.testing.assert_allclose(drawn.mean(0), closest.labels, atol=0.09)
    values = {round(scan_share_test(T, H, S, seed=seed).value, 6) for seed in range(20)}
    assert len(values) == 2  # by the label drawn


def test_the_scan_is_valid_on_a_coarse_lattice():
    """Shares of groups, permuted as if they were labels, gave too many small p-values here."""
    p = []
    for seed in range(40):
        rng = np.random.default_rng([4, seed])
        T, H, S = (rng.integers(3, size=(n, 4)) for n in (20, 180, 60))
        p.append(scan_share_test(T, H, S, draws=99, seed=seed).p_value)
    for level in (0.05, 0.1, 0.2, 0.5):
        assert stats.binom.sf((np.array(p) <= level).sum() - 1, len(p), level) > 0.01, level


def test_every_permutation_of_few_labels_is_counted():
    T, H, S = normal(3, 4, 4, 6)
    S[:3] = T[:3]
    closest = Sets(T, H, S).closest
    exact = exact_p_by_loop(closest.labels, closest.group, closest.orders, closest.tails)
    found = scan_share_test(T, H, S)
    assert found.p_value == pytest.approx(exact)
    assert len(found.details["null_draws"]) == 69  # 8 choose 4, less the one at hand
    drawn = scan_share_test(T, H, S, draws=60)  # too few for all ways
    assert abs(drawn.p_value - exact) < 0.2


def test_random_permutations_agree_with_all_of_them():
    T, H, S = normal(4, 7, 6, 12)  # 1,716 ways
    every, drawn = scan_share_test(T, H, S, draws=1999), scan_share_test(T, H, S, draws=1700)
    assert len(every.details["null_draws"]) == 1715 and len(drawn.details["null_draws"]) == 1700
    assert drawn.p_value == pytest.approx(every.p_value, abs=0.06)


def test_earlier_counts():
    groups = np.random.default_rng(0).integers(0, 9, 200)
    assert earlier(groups).tolist() == [int((groups[:i] == g).sum()) for i, g in enumerate(groups)]


def test_a_critical_value_is_where_p_reaches_alpha():
    null = np.round(np.random.default_rng(0).normal(size=199), 1)
    for alpha in (0.005, 0.01, 0.05):
        for z in np.unique(null):
            p = (1 + (null >= z - 1e-9).sum()) / 200
            assert (z > critical_value(null, alpha)) == (p <= alpha + 1e-12), (alpha, z)


NOT_IDENTICAL = Identical(0, 0, 0, 1.0, 1.0, 1.0, 0, 0)


def test_the_rule():
    assert decide(Evidence(0.004, NOT_IDENTICAL, 0, 1e-9)) == "copies found"
    assert decide(Evidence(0.0041, NOT_IDENTICAL, 0, 1e-9)) == "sharp but not copying"
    assert decide(Evidence(0.5, NOT_IDENTICAL, 0.02, 1)) == "copies found"
    assert decide(Evidence(0.5, NOT_IDENTICAL._replace(copies=1), 0, 1)) == "copies found"
    for closer_p in (0.0101, np.nan):
        assert decide(Evidence(0.5, NOT_IDENTICAL, 0, closer_p)) == "no evidence"
    same = NOT_IDENTICAL._replace(samples=9, any_train=9, p_samples=0.001)
    assert decide(Evidence(0.5, same, 0, 1e-9)) == "no evidence"  # sharpness does not make rows identical
    assert decide(Evidence(0.5, same._replace(at_test=1), 0, 1e-9)) == "sharp but not copying"


def test_a_dense_spot_is_no_copy_but_a_row_repeated_is():
    local = np.r_[np.zeros(50), np.full(50, 0.9)]
    assert gathered_share(0.48, local, np.full(100, 0.9)) == 0.48
    assert gathered_share(0.48, local, np.r_[np.full(97, 0.9), np.zeros(3)]) == 0  # as near to held-out rows
    assert gathered_share(0.0, local, local) == 0


def test_same_source_equals_a_loop_and_sees_another_source():
    T, H, S = normal(5, 60, 40, 10)
    found = same_source_test(T, H, S)
    assert found.n == 80 and found.p_value > 0.01
    rows = same_source_test(T[:40], H, S)
    labels = np.repeat([True, False], 40)
    assert rows.value == pytest.approx(same_set_share_by_loop(np.concatenate([T[:40], H]), labels, 5))
    assert same_source_test(T, H + 2, S).p_value < 0.001
    shared = same_source_test(T, np.concatenate([H, T[:7]]), S)
    assert shared.details["identical"] == 7
    nothing = same_source_test(T, T, S)
    assert np.isnan(nothing.p_value) and "nan" not in nothing.sentence


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_planted_copies_are_found_as_often_as_told(noise):
    T, H, S = normal(6, 200, 150, 150, d=6)
    searches = Sets(T, H, S)
    scan = scan_share_test(searches, draws=399)
    critical = critical_value(scan.details["null_draws"], 0.005)
    power = detectable_share(searches, critical=critical, alpha=0.005, noise=noise, seed=1)
    assert 0.01 < power.smallest < 0.2 and (np.diff(power.shares) > 0).all()
    assert power.found[power.shares >= power.smallest].min() >= 0.8
    assert power.value == power.smallest
    count, found = round(power.smallest * len(S)), []
    for seed in range(10):
        T, H, S = normal(100 + seed, 200, 150, 150, d=6)
        rng = np.random.default_rng(seed)
        step = rng.normal(size=(count, 6))
        length = noise * np.median(Sets(T, H, S).distance("test", "train"))
        S[:count] = T[rng.choice(200, count, replace=False)]
        S[:count] += step * length / np.linalg.norm(step, axis=1, keepdims=True)
        found.append(copycheck(T, H, S, power_trials=0, context_rows=20).verdict == "copies found")
    assert np.mean(found) >= 0.5


def test_power_is_nan_where_all_samples_would_not_do():
    T, H, S = normal(7, 3, 3, 3)
    searches = Sets(T, H, S)
    scan = scan_share_test(searches)
    power = detectable_share(searches, critical=critical_value(scan.details["null_draws"], 0.005), alpha=0.005)
    assert np.isnan(power.smallest) and "are not detected" in power.sentence
    assert detectable_share(searches, critical=1.0, alpha=0.005, trials=0).trials == 0
