"""The shares of samples nearest to training examples against brute force, and their p-values on known truths."""

import numpy as np
import oracles_neighbors_copying as oracle
import pytest
from scipy import stats

from genmem.errors import DataError
from genmem.neighbors.pooled import _drawn, label_permutation, of_one_row
from genmem.neighbors.sets import Sets
from genmem.neighbors.shares import tail_excess_power, tail_excess_test, tail_share_test, train_share_test
from genmem.stats import share_interval


def three(seed, n_train=300, n_test=200, n_samples=250, width=3):
    return tuple(
        np.random.default_rng((seed, i)).normal(size=(n, width)) for i, n in enumerate((n_train, n_test, n_samples))
    )


def whole(*sets, times=1):
    return tuple(np.round(times * X).astype(int) for X in sets)


def results_of(T, H, S, **settings):
    sets = Sets(T, H, S)
    shares = [test(sets, **settings) for test in (train_share_test, tail_share_test)]
    return [*shares, tail_excess_test(sets)]


# --- against brute force


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["continuous", "doubled", "lattice", "images"])
def test_the_nearest_of_both_is_one_of_the_nearest(seed, kind):
    T, H, S = three(seed, 40, 30, 50, 2)
    if kind == "doubled":
        T, H, S = np.concatenate([T, T[:9]]), np.concatenate([H, T[3:6]]), np.concatenate([S, T[:20]])
    if kind == "lattice":
        T, H, S = whole(T, H, S)
    if kind == "images":
        T, H, S = (np.abs(X * 50).astype(np.uint8).reshape(-1, 1, 2) for X in (T, H, S))
    both = Sets(T, H, S).both
    group, nearest, distance = oracle.nearest_groups(T, H, S)
    names = np.unique(group, return_index=True)[1][np.argsort(np.unique(group))]
    first_row = {
        g: group[np.flatnonzero(np.unique(group, return_inverse=True)[1] == i)[0]] for i, g in enumerate(names)
    }
    assert len(both.labels) == len(first_row)
    number = {g: i for i, g in enumerate(sorted(set(group.tolist())))}  # by first appearance
    assert all(mine in {number[g] for g in theirs} for mine, theirs in zip(both.group, nearest, strict=True))
    np.testing.assert_allclose(both.distance, distance, rtol=1e-12)
    np.testing.assert_allclose(both.labels, list(oracle.label_of(group, len(T)).values()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("twins", [0, 2])
def test_the_law_is_that_of_all_permutations(seed, twins):
    T, H, S = three(seed, 3, 4, 9, 2)
    T = np.concatenate([T, T[:twins]])
    found = train_share_test(T, H, S, seed=seed)
    group, nearest, _ = oracle.nearest_groups(T, H, S)
    nearest = [near.pop() for near in nearest]
    law = oracle.share_law(group, len(T), nearest)
    assert found.value == pytest.approx(oracle.share(group, len(T), nearest))
    assert found.null == pytest.approx(law.mean()) == pytest.approx(3 / 7)
    assert found.details["null_sd"] == pytest.approx(law.std())
    reached = (law >= found.value - 1e-9).mean()
    assert found.p_value == pytest.approx(reached, abs=0.008)
    assert found.details["mid_p"] == pytest.approx((reached + (law > found.value + 1e-9).mean()) / 2, abs=0.008)


def test_a_group_in_both_sets_counts_by_its_rows():
    T, H, S = [[0.0], [0.0], [5.0]], [[0.0], [9.0]], [[0.1], [5.1], [8.9], [9.1]]
    found = train_share_test(T, H, S)
    assert found.value == pytest.approx((2 / 3 + 1) / 4) and found.null == pytest.approx((2 / 3 + 1 + 0) / 3)
    both = Sets(T, H, S).both
    drawn = np.array([of_one_row(both.labels, seed, both.place) for seed in range(600)])
    assert set(np.unique(drawn)) == {0, 1}
    np.testing.assert_allclose(drawn.mean(axis=0), both.labels, atol=0.06)


def test_closed_form_variance_for_labels_of_nought_and_one():
    found = train_share_test(*three(1))
    both = Sets(*three(1)).both
    c, N = np.bincount(both.group, minlength=500), 500
    expected = 300 * 200 / (N * (N - 1)) * ((c - c.mean()) ** 2).sum()
    assert (250 * found.details["null_sd"]) ** 2 == pytest.approx(expected)
    assert _drawn(c, both.labels.astype(int), 0, 50_000).var() == pytest.approx(expected, rel=0.03)
    rng = np.random.default_rng(0)
    by_hand = [(c * rng.permutation(both.labels)).sum() for _ in range(4000)]
    assert np.var(by_hand) == pytest.approx(expected, rel=0.1)


def test_counts_of_nought_and_one_are_exact():
    counts, labels = np.repeat([1, 0], [6, 14]), np.repeat([1.0, 0.0, 1.0], [6, 9, 5])
    found = label_permutation(counts, labels, 0)
    assert found.p_value == pytest.approx(stats.hypergeom(20, 11, 6).pmf(6)) == found.resolution
    by_draws = label_permutation(2 * counts, labels, 0)
    assert by_draws.p_value == pytest.approx(found.p_value, rel=0.1) and by_draws.mid_p == pytest.approx(
        found.mid_p, rel=0.1
    )


@pytest.mark.parametrize("n, m, r", [(4, 5, 1), (5, 4, 2), (3, 7, 3), (1, 6, 1)])
def test_tail_excess_is_exact(n, m, r):
    law = oracle.exceedance_law(n, m, r)
    H = np.arange(1, n + 1)[:, None] * 1.0
    for a in range(m + 1):
        S = np.concatenate([np.full(a, H[r - 1, 0] - 0.5), np.full(m - a, n + 9.0)])[:, None]
        found = tail_excess_test([[0.0]], H, S, tail=r / n)
        assert found.p_value == pytest.approx(law[a:].sum()) and found.value == a / m
        assert found.details["mid_p"] == pytest.approx(law[a + 1 :].sum() + law[a] / 2)
    assert found.null == pytest.approx(law @ np.arange(m + 1) / m)


def test_the_tail_is_of_the_samples_nearest_to_either_set():
    T, H, S = three(2)
    found = tail_share_test(T, H, S, tail=0.1)
    group, nearest, distance = oracle.nearest_groups(T, H, S)
    asked = np.argsort(distance)[:25]
    np.testing.assert_array_equal(np.flatnonzero(found.details["asked"]), np.sort(asked))
    assert found.n == 25 and found.value == np.mean([nearest[i].pop() < len(T) for i in asked])
    tied = tail_share_test(*whole(T, H, S), tail=0.1)
    assert tied.n == (tied.details["asked"]).sum() > 25  # all of the distance 0
    assert tail_share_test(T, H, S, tail=1).value == train_share_test(T, H, S).value


# --- fresh samples


def fresh(kind, seed):
    T, H, S = three(seed, 90, 60, 80, 2)
    if kind == "ninefold":
        T, H, S = three(seed, 180, 20, 80, 2)
    if kind == "twins in train":
        T = np.concatenate([T, *[T[:20]] * 4])
    if kind == "twins in test":
        H = np.concatenate([H, *[H[:20]] * 4])
    if kind == "lattice":
        T, H, S = whole(T, H, S, times=2)
    if kind == "coarse lattice of unequal sets":
        T, H, S = whole(*three(seed, 20, 180, 80, 2))
    if kind == "sharp":
        S = 0.5 * S
    return T, H, S


KINDS = ["ninefold", "twins in train", "twins in test", "lattice", "coarse lattice of unequal sets", "sharp"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_fresh_samples_are_no_copies(kind):
    found = [results_of(*fresh(kind, seed), draws=499) for seed in range(100)]
    # Distances are exchangeable only where samples are as sharp as the data and held-out rows not duplicated.
    for of_one in list(zip(*found, strict=True))[: 2 if kind in ("sharp", "twins in test") else 3]:
        name, p = of_one[0].name, np.array([f.p_value for f in of_one])
        for level in (0.02, 0.05, 0.1, 0.3):
            assert (p <= level).sum() <= stats.binom.ppf(0.999, len(p), level), (name, level, (p <= level).mean())
        if "lattice" in kind:
            continue  # rows in both sets make the test conservative
        away = np.array([f.value - f.null for f in of_one])
        assert abs(away.mean()) < 4 * away.std() / np.sqrt(len(p)), name
        assert stats.kstest(spread_out(of_one), "uniform").pvalue > 0.001, name


def spread_out(results):
    """Return p-values spread evenly over the jumps that the mid-p is the middle of: uniform on fresh samples."""
    u = np.random.default_rng(0).random(len(results))
    return [f.p_value - 2 * v * (f.p_value - f.details["mid_p"]) for f, v in zip(results, u, strict=True)]


@pytest.mark.slow
def test_the_interval_of_the_share_covers_the_null():
    found = [train_share_test(*three(seed, 90, 60, 400, 2), draws=9) for seed in range(150)]
    assert 0.89 < np.mean([f.interval[0] <= f.null <= f.interval[1] for f in found]) < 0.99
    narrow = [f.details["interval_samples"][0] <= f.null <= f.details["interval_samples"][1] for f in found]
    assert np.mean(narrow) < 0.93  # for these training examples only


def test_ninefold_training_sets_have_their_own_null():
    found = train_share_test(*three(0, 900, 100, 300))
    assert found.null == pytest.approx(0.9) and found.p_value > 0.01


# --- copies


def test_copies_of_every_kind_alarm():
    T, H, S = three(3, 400, 300, 300, 5)
    for copies in (T, T[::-1], T[:77], np.concatenate([T, T]), T[:300] + 1e-6, np.repeat(T[:1], 300, axis=0)):
        share, tail, excess = results_of(T, H, copies)
        assert share.value == tail.value == excess.value == 1
        assert excess.p_value < 1e-12
        if len({*map(bytes, copies)}) > 50:
            assert share.p_value <= 1e-5 and tail.p_value < 1e-3


def test_one_row_many_times_is_one_row_to_the_shares():
    T, H, S = three(3, 400, 300, 300, 5)
    share, tail, excess = results_of(T, H, np.repeat(T[:1], 300, axis=0))
    assert share.p_value > 0.3 and tail.p_value > 0.3 and excess.p_value < 1e-30  # one label of many


def test_few_copies_show_in_the_tail():
    T, H, S = three(4, 1000, 1000, 1000, 8)
    S[:50] = T[:50]
    share, tail, excess = results_of(T, H, S)
    assert tail.p_value < 1e-4 and excess.p_value < 1e-7 and share.p_value > tail.p_value
    assert tail.details["asked"][:50].all() and excess.details["below"][:50].all()


def test_copies_among_samples_too_wide_are_found():
    T, H, S = three(5, 1000, 1000, 1000, 8)
    S = np.concatenate([T[:200], 1.25 * S[200:]])
    share, tail, excess = results_of(T, H, S)
    assert excess.p_value < 1e-50 and tail.p_value < 1e-4 and share.p_value < 1e-4


def test_sharp_samples_fool_distances_but_not_shares():
    T, H, S = three(6, 1000, 500, 500, 16)
    share, tail, excess = results_of(T, H, 0.7 * S)
    assert excess.p_value < 0.01 and "sharper" in excess.cannot_see
    assert share.p_value > 0.01 and tail.p_value > 0.01


def test_copies_of_rows_that_are_in_both_sets_show_nothing():
    T, H, S = three(7)
    shared = np.concatenate([T[:100], H])
    share, tail, excess = results_of(T, shared, T[:100])
    assert share.value == pytest.approx(0.5) and share.p_value > 0.2 and excess.p_value == 1
    assert "held out as well" in share.cannot_see and "identical to" in excess.cannot_see


@pytest.mark.slow
def test_power_is_what_simulation_finds():
    hits = []
    for seed in range(120):
        T, H, S = three(seed, 100, 100, 100, 2)
        copies = np.random.default_rng(seed).random(100) < 0.06
        S[copies] = T[copies]
        hits.append(tail_excess_test(T, H, S).p_value <= 0.05)
    assert np.mean(hits) == pytest.approx(tail_excess_power(100, 100, 0.06), abs=0.12)
    found = tail_excess_test(*three(0, 100, 100, 100, 2))
    assert tail_excess_power(100, 100, found.details["detectable"]) == pytest.approx(0.8, abs=0.01)
    assert np.isnan(tail_excess_test(*three(0, 100, 2, 2)).details["detectable"])


# --- invariances and edges


@pytest.mark.parametrize("times", [None, 2])
def test_order_of_rows_does_not_matter(times):
    sets = three(8, 120, 90, 100, 2)
    if times:
        sets = whole(*sets, times=times)
    sets = (np.concatenate([sets[0], sets[0][:7]]), *sets[1:])
    order = [np.random.default_rng(i).permutation(len(X)) for i, X in enumerate(sets)]
    for one, other in zip(
        results_of(*sets), results_of(*(X[at] for X, at in zip(sets, order, strict=True))), strict=True
    ):
        assert (one.value, one.p_value, one.null, one.interval) == (
            other.value,
            other.p_value,
            other.null,
            other.interval,
        )


def test_forms_of_arrays():
    sets = [np.abs(X * 30).astype(np.uint8).reshape(-1, 2, 2) for X in three(9, 90, 80, 70, 4)]
    ones = results_of(*sets)
    for kind in (np.float32, np.float64, np.int64):
        others = results_of(*(X.astype(kind) for X in sets))
        for one, other in zip(ones, others, strict=True):
            assert other.value == pytest.approx(one.value, abs=0.06)  # rows at one distance may be chosen otherwise
    np.testing.assert_array_equal(ones[2].details["below"], others[2].details["below"])


def test_constant_data_and_single_rows_have_answers():
    same = np.ones((30, 2))
    share, tail, excess = results_of(same, same[:10], same)
    assert share.value == share.null == 0.75 and share.p_value == tail.p_value == excess.p_value == 1
    share, tail, excess = results_of([[0.0]], [[1.0]], [[0.1]])
    assert share.value == 1 and share.p_value == 0.5 == tail.p_value and excess.p_value == 0.5
    assert share.details["mid_p"] == 0.25


@pytest.mark.parametrize("tail", [0, -0.1, 1.2, np.nan])
def test_tails_are_shares(tail):
    for test in (tail_share_test, tail_excess_test):
        with pytest.raises(DataError, match="tail above 0"):
            test(*three(0), tail=tail)


def test_results_speak():
    for found in results_of(*three(0)):
        assert f"{found.p_value:.2g}" in found.sentence and found.direction == "higher" and found.cannot_see
        assert found.interval[0] <= found.value <= found.interval[1]
    assert "closest of 200 held-out examples" in found.sentence and "2nd closest" in found.sentence
    assert found.interval == share_interval(round(found.value * 250), 250)
