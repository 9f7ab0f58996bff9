"""Flags: valid p-values, false discoveries held, the right rows; and the bound on the share of copies."""

import numpy as np
import pytest
from neighbor_sets import lattice_sets, normal_sets, shuffled
from oracles_neighbors_rows import chance_before, distances, flagged_by_loop, rank_p_by_loop, ranks_before
from scipy import stats

from genmem.errors import DataError
from genmem.neighbors.copied_share import Hits, by_labels, by_neighbourhoods, copied_share, others_by_labels
from genmem.neighbors.flagged import conformal_rows, conformal_samples
from genmem.neighbors.results import rows_needed
from genmem.neighbors.sets import Sets

BOTH = (conformal_samples, conformal_rows)


# --- lists of rows


@pytest.mark.parametrize("make", [lambda s: normal_sets(s, 40, 30, 20, copies=6), lattice_sets])
def test_equal_the_definition(make):
    for seed in range(5):
        train, test, samples = make(seed)
        for flags, queries, base in (
            (conformal_samples(train, test, samples, level=0.3), samples, train),
            (conformal_rows(train, test, samples, level=0.3), train, samples),
        ):
            apart = distances(queries, base)
            np.testing.assert_allclose(flags.statistic, apart.min(1), rtol=1e-12)
            np.testing.assert_array_equal(flags.partner, apart.argmin(1))
            np.testing.assert_allclose(flags.p_value, rank_p_by_loop(flags.statistic, distances(test, base).min(1)))
            np.testing.assert_array_equal(flags.flagged, flagged_by_loop(flags.p_value, 0.3))
            np.testing.assert_array_equal(flags.flagged, flags.q_value <= 0.3)
            assert flags.resolution == 1 / (len(test) + 1)


@pytest.mark.parametrize("test_of", BOTH)
def test_p_of_fresh_rows_is_valid(test_of):
    p = np.concatenate([test_of(*normal_sets(seed, 99, 99, 99)).p_value for seed in range(40)])
    for level in (0.05, 0.2, 0.5):
        assert abs((p <= level).mean() - level) < 0.035
    tied = np.concatenate([test_of(*lattice_sets(seed)).p_value for seed in range(20)])
    assert all((tied <= level).mean() <= level for level in (0.05, 0.2, 0.5))


def test_false_discoveries_stay_at_the_level():
    shares, found = [], []
    for seed in range(60):
        flagged = conformal_samples(*normal_sets(seed, 300, 300, 200, 8, copies=20)).flagged
        shares.append(flagged[20:].sum() / max(1, flagged.sum()))
        found.append(flagged[:20].mean())
    assert np.mean(shares) < 0.1 + 3 * np.std(shares) / 60**0.5
    assert 0.02 < np.mean(shares)
    assert np.mean(found) > 0.9


def test_one_row_copied_500_times():
    train, test, samples = normal_sets(0, 1000, 1000, 1000, 16)
    samples[:500] = train[7]
    flags = conformal_samples(train, test, samples)
    assert flags.flagged[:500].all() and (flags.partner[:500] == 7).all()
    rows = conformal_rows(train, test, samples)
    assert rows.p_value[7] == rows.resolution and not rows.flagged.any()
    assert "fewer than 10 cannot be flagged" in rows.sentence
    few = conformal_rows(train[:90], test, samples)  # 90 <= 0.1 * 1001
    assert few.flagged[7]


def test_rows_say_which_training_rows_were_copied():
    train, test, samples = normal_sets(3, 300, 400, 300, 16)
    samples[:60] = train[:60]
    flags = conformal_rows(train, test, samples)
    assert flags.rows == "train" and flags.flagged[:60].all() and flags.flagged[60:].mean() < 0.1
    np.testing.assert_array_equal(flags.partner[:60], np.arange(60))


@pytest.mark.parametrize("test_of", BOTH)
def test_order_of_rows_does_not_matter(test_of):
    sets = normal_sets(2, 50, 60, 70, copies=20)
    again, (train_order, _, sample_order) = shuffled(sets)
    one, other = test_of(*sets), test_of(*again)
    order = sample_order if one.rows == "samples" else train_order
    base, base_again = (sets[0], again[0]) if one.rows == "samples" else (sets[2], again[2])
    np.testing.assert_array_equal(one.p_value[order], other.p_value)
    np.testing.assert_array_equal(one.flagged[order], other.flagged)
    np.testing.assert_array_equal(base[one.partner[order]], base_again[other.partner])


def test_too_few_held_out_rows_are_said():
    flags = conformal_samples(*normal_sets(0, 50, 5, 40, copies=40))
    assert not flags.flagged.any() and "none can be flagged" in flags.sentence
    assert rows_needed(40, 5, 0.1) > 40
    # One row less than needed is not flagged, as many are.
    needed = rows_needed(100, 49, 0.1)
    for copies in (needed - 1, needed):
        train, test, samples = normal_sets(1, 50, 49, 100, copies=copies)
        samples[copies:] += 100
        assert conformal_samples(train, test, samples).flagged.sum() == (copies if copies == needed else 0)


def test_images_and_single_precision():
    rng = np.random.default_rng(0)
    train, test, samples = (rng.integers(256, size=(60, 5, 5), dtype=np.uint8) for _ in range(3))
    samples[:30] = train[:30]
    assert conformal_samples(train, test, samples).flagged[:30].all()
    single = [rows.astype(np.float32) for rows in normal_sets(0)]
    np.testing.assert_array_equal(
        conformal_samples(*single).p_value, conformal_samples(*(rows.astype(float) for rows in single)).p_value
    )


@pytest.mark.parametrize("level", [0, 1, -0.1, np.nan])
def test_levels_that_are_none(level):
    for test_of in (*BOTH, copied_share):
        with pytest.raises(DataError, match="level between 0 and 1"):
            test_of(*normal_sets(0, 20, 20, 20), level=level)


# --- the share of copies


def by_hand(n_train, n_other, held_out_at):
    """Hits of distinct rows, the nearest first; those at `held_out_at` are held out."""
    in_train = ~np.isin(np.arange(n_train + n_other), held_out_at)
    order = np.arange(len(in_train))
    return Hits(order + 1.0, in_train, order, n_train, n_other)


PARTS = {0: 1 / 2, 1: 1 / 6, 2: 1 / 6, 4: 1 / 6}  # of the error, by the number of held-out rows hit


PARTS = {0: 1 / 2, 1: 1 / 6, 2: 1 / 6, 4: 1 / 6}  # of the error, by the number of held-out rows hit


def test_labels_give_the_bound_of_all_orders():
    # Ten training rows hit, then four held-out ones.
    hits = by_hand(10, 4, [10, 11, 12, 13])
    for error in (0.02, 0.1, 0.4, 0.9):
        least, p = [], [1.0]
        for b, part in PARTS.items():
            chance = chance_before(b, 10, 4, 10 + b)
            most = next(k for k in range(b, 15) if k == 10 + b or chance[k] <= error * part)
            by_chance = most - b - (chance[most] <= error * part)
            least.append(10 - by_chance)
            p.append(chance[-1] / part)
        bound = by_labels(hits, error)
        assert bound.low == max(least)
        assert bound.p_value == pytest.approx(min(p))
        assert (bound.low > 0) == (bound.p_value <= error)


def test_labels_count_the_rows_with_the_fewest_samples():
    # 8 rows hit by 1 sample each and one by 100, no held-out row: chance explains the one with 100.
    group = np.concatenate([np.arange(8), np.full(100, 8)])
    hits = Hits(np.zeros(108), np.ones(108, bool), group, 500, 500)
    bound = by_labels(hits, 0.2)
    assert 0 < bound.low < 8
    alone = Hits(np.zeros(500), np.ones(500, bool), np.zeros(500, int), 500, 500)
    assert by_labels(alone, 0.2).low == 0


def at_training_rows(m, others=0):
    return Hits(np.ones(m), np.arange(m) >= others, np.arange(m), 500, 500)


def test_neighbourhoods_give_the_bound_of_all_orders():
    held_out = np.linspace(0.5, 1, 7)
    for count in range(7):
        ratio = np.concatenate([np.full(count, 0.1), np.full(6 - count, 0.9)])
        for error, parts in ((0.13, {1: 1}), (0.3, {1: 0.5, 2: 0.5}), (0.6, {1: 0.5, 2: 0.25, 4: 0.25})):
            least, p = [0], [1.0]
            for j, part in parts.items():
                chance = [*ranks_before(j, 7, 6), 0.0]
                least.append(count - (next(a for a in range(8) if chance[a] <= error * part) - 1))
                p.append(chance[count] / part)
            bound = by_neighbourhoods(at_training_rows(6), ratio, held_out, error)
            assert bound.low == max(least)
            assert bound.p_value == pytest.approx(min(p))
    assert by_neighbourhoods(at_training_rows(6), ratio, held_out, 0.1).p_value == 1  # 1 / 8 is above 0.1


def test_neighbourhoods_take_half_the_ratio():
    held_out, hits = np.full(100, 0.5), at_training_rows(50)
    assert by_neighbourhoods(hits, np.full(50, 0.25), held_out, 0.05).low == 0
    assert by_neighbourhoods(hits, np.full(50, 0.2499), held_out, 0.05).low > 30
    assert by_neighbourhoods(hits, np.zeros(50), np.zeros(100), 0.05).low == 0  # coincidences are natural here
    apart = np.concatenate([[0.1], np.full(99, 0.5)])
    assert by_neighbourhoods(hits, np.full(50, 0.1), apart, 0.05).low > 40  # j = 2 tells
    assert by_neighbourhoods(hits, np.full(50, 0.1), apart, 0.015).low == 0  # and j = 1 alone does not


def test_neighbourhoods_claim_nothing_where_samples_lie_at_held_out_rows_too():
    held_out, ratio = np.full(100, 0.5), np.full(105, 0.1)
    some, few = (by_neighbourhoods(at_training_rows(105, others), ratio, held_out, 0.05) for others in (6, 5))
    assert (some.low, some.p_value) == (0, 1)
    assert 80 < few.low < 100


def test_others_are_at_least_those_at_held_out_rows():
    hits = by_hand(6, 6, [0, 1, 2, 3])
    hits = Hits(hits.distance[:9], hits.in_train[:9], hits.group[:9], 6, 6)
    chance = [1 - x for x in chance_before(3, 6, 6, 12)]  # P(4 or more of the first k are held out)
    for error in (0.02, 0.2, 0.6):
        least = next(k for k in range(4, 13) if chance[k] > error) - 4
        assert others_by_labels(hits, error) == 4 + least


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({}, 0.0),
        ({"scale": 0.7}, 0.0),
        ({"scale": 1.3}, 0.0),
        ({"copies": 5}, 0.05),
        ({"copies": 30, "scale": 1.25}, 0.3),
        ({"copies": 30, "noise": 0.1}, 0.3),
        ({"copies": 100}, 1.0),
        ({"n_train": 900, "copies": 20}, 0.2),
    ],
)
def test_the_interval_covers_the_share(settings, share):
    missed = []
    for seed in range(20):
        result = copied_share(*normal_sets(seed, **{"n_train": 100, "n_test": 100, "n_samples": 100, **settings}))
        low, high = result.interval
        assert low <= result.value <= high
        missed.append(not low <= share <= high)
    assert np.mean(missed) <= 0.05


def test_power_and_what_is_reported():
    result = copied_share(*normal_sets(0, 500, 500, 500, 16, copies=25))
    assert 0.02 < result.interval[0] <= 0.05 <= result.interval[1]
    assert abs(result.value - 0.05) < 0.01
    assert result.p_value < 1e-4 and result.null == 0 and result.n == 500
    assert f"interval {result.interval[0]:.1%} to" in result.sentence
    details = result.details
    assert result.interval[0] == max(details["low_by_labels"], details["low_by_neighbourhoods"])
    assert result.p_value == 2 * min(details["p_by_labels"], details["p_by_neighbourhoods"])
    fresh = copied_share(*normal_sets(0, 500, 500, 500, 16))
    assert fresh.value == fresh.interval[0] == 0 and "No copying is shown" in fresh.sentence


def test_each_bound_takes_a_quarter_of_the_error():
    # Around the smallest numbers of copies at which anything is said p is just at the limit.
    for copies in range(1, 12):
        details = copied_share(*normal_sets(1, 100, 100, 100, 16, copies=copies), level=0.2).details
        for way in ("labels", "neighbourhoods"):
            assert (details[f"low_by_{way}"] > 0) == (details[f"p_by_{way}"] <= 0.05)


@pytest.mark.parametrize("change", ["all", "shuffled", "subset", "superset", "duplicates"])
def test_the_training_set_itself(change):
    train, test, _ = normal_sets(0, 300, 300)
    rng = np.random.default_rng(1)
    samples = {
        "all": train,
        "shuffled": rng.permutation(train),
        "subset": train[:150],
        "superset": np.concatenate([train, rng.normal(size=(30, 4))]),
        "duplicates": np.concatenate([train, train[:100]]),
    }[change]
    train = np.concatenate([train, train[:100]]) if change == "duplicates" else train
    result = copied_share(train, test, samples)
    assert result.interval[0] > 0.85
    flags = conformal_samples(train, test, samples)
    assert flags.flagged.mean() > 0.9


def test_one_row_many_times_and_nine_times_as_many_training_rows():
    train, test, samples = normal_sets(0, 900, 100, 100, 8)
    samples[:50] = train[3]
    one_row = copied_share(train, test, samples)
    assert one_row.details["low_by_labels"] == 0 and 0.4 < one_row.interval[0] <= 0.5
    few_held_out = copied_share(train, test[:50], samples)
    assert few_held_out.details["p_by_neighbourhoods"] == 1


def test_labels_see_noisy_copies_that_neighbourhoods_do_not():
    result = copied_share(*normal_sets(0, 1000, 1000, 500, 16, copies=150, noise=0.5))
    assert result.details["low_by_labels"] > 0.1 > result.details["low_by_neighbourhoods"] + 0.09


@pytest.mark.slow
def test_p_of_the_share_is_valid():
    p = [copied_share(*normal_sets(seed, 60, 160, 60, 2)).p_value for seed in range(80)]
    p += [copied_share(*lattice_sets(seed)).p_value for seed in range(40)]
    for level in (0.05, 0.1, 0.3):
        assert stats.binomtest(int((np.array(p) <= level).sum()), len(p), level, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize("make", [lambda s: normal_sets(s, 50, 90, 70, copies=20), lattice_sets])
def test_share_does_not_depend_on_order_or_on_searches_made_before(make):
    sets = make(0)
    one = copied_share(*sets)
    other = copied_share(*shuffled(sets)[0])
    searches = Sets(*sets)
    searches.near("samples", "train", 50)
    third = copied_share(searches)
    assert one.details == other.details == third.details
    assert one.interval == other.interval == third.interval


def test_rows_of_both_sets_are_no_copies():
    train, test, _ = normal_sets(0)
    result = copied_share(train, train, train)
    assert result.interval[0] == 0 and result.p_value == 1
    test[:20] = train[:20]
    assert copied_share(train, test, np.repeat(train[:20], 10, axis=0)).interval[0] == 0


def test_samples_of_one_tight_group_are_no_copies():
    # 1 row in 200 lies within .01 of a point, and the model draws only there: as near to held-out rows.
    for seed in range(3):
        rng = np.random.default_rng(seed)
        train, test, _ = normal_sets(seed, 2000, 1000, 5)
        for rows in (train, test):
            rows[: len(rows) // 200] = 0.01 * rng.normal(size=(len(rows) // 200, 4))
        samples = 0.01 * rng.normal(size=(1000, 4))
        assert conformal_samples(train, test, samples).flagged.mean() > 0.9
        assert copied_share(train, test, samples).interval[0] == 0
