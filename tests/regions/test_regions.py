"""What is known of each region, and how many examples to collect."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from genmem.errors import DataError
from genmem.regions import Decline, Known, by_score, by_share, describe_regions, group_scores, hdbscan_cells


def known(rng, n=40):
    return Known(rng.gamma(2, 2, (4, n)), None, rng.random(n), rng.normal(-20, 3, n), rng.gamma(3, 1, n))


def test_every_number_of_a_region_by_hand():
    rng = np.random.default_rng(0)
    what, names = known(rng), np.array(["a", "b"])[rng.integers(0, 2, 40)]
    theirs, drawn = np.array(["a"] * 3 + ["b"] * 12), np.array(["b", "b", "a", "c"])
    for region in describe_regions("site", what, names, theirs, drawn):
        inside = names == region.name
        scored = next(g for g in group_scores(what.per_repeat, names) if g.name == region.name)
        assert (region.kind, region.n, region.mean, region.p_value) == (
            "site",
            inside.sum(),
            scored.mean,
            scored.p_value,
        )
        assert region.p_corrected == min(1, 2 * scored.p_value)
        assert region.train_share == pytest.approx(inside.mean())
        h = int((theirs == region.name).sum())
        assert (region.held_out, region.held_out_share) == (h, h / 15)
        table = [[h, 15 - h], [inside.sum(), 40 - inside.sum()]]
        assert region.share_p == pytest.approx(min(1, 2 * scipy_stats.fisher_exact(table, "greater").pvalue))
        ratio = ((h + 0.5) / 15) / ((inside.sum() + 0.5) / 40)
        assert region.need == pytest.approx(scored.mean / what.per_repeat.mean() * ratio)
        assert region.samples == (drawn == region.name).sum()
        assert region.identified == pytest.approx(what.identified[inside].mean())
        assert region.log_prob_out == pytest.approx(what.log_prob_out[inside].mean())
        assert region.distance == pytest.approx(what.distance[inside].mean())


def test_most_in_need_comes_first_and_small_regions_are_not_tested():
    scores = np.repeat([1.0, 5.0, 3.0], (20, 4, 16)) + np.random.default_rng(1).normal(0, 0.1, (4, 40))
    found = describe_regions("label", Known(scores), np.repeat(["x", "y", "z"], (20, 4, 16)))
    assert [region.name for region in found] == ["y", "z", "x"]
    assert math.isnan(found[0].p_corrected)
    assert found[1].p_corrected < 0.05
    assert found[1].stands_out


def test_a_region_without_training_examples_has_a_share_and_no_score():
    found = describe_regions("label", known(np.random.default_rng(2)), np.full(40, "a"), ["a"] * 5 + ["b"] * 15)
    empty = next(region for region in found if region.name == "b")
    assert empty.n == 0
    assert math.isnan(empty.mean)
    assert math.isnan(empty.p_corrected)
    assert empty.share_p < 0.05
    assert empty.more == 120  # of 160, a share of three quarters
    assert math.isnan(empty.more_by_score)


def test_shares_of_examples_that_belong_together_are_not_tested():
    what = known(np.random.default_rng(8))
    grouped = Known(what.per_repeat, np.arange(40) // 4)
    (_, b) = sorted(describe_regions("site", grouped, ["a"] * 36 + ["b"] * 4, ["b"] * 20), key=lambda one: one.name)
    assert b.held_out_share == 1
    assert math.isnan(b.share_p)
    assert np.isnan(b.more_interval).all()


def test_of_two_tests_the_smaller_p_is_doubled():
    first = describe_regions("site", known(np.random.default_rng(9)), ["a"] * 30 + ["b"] * 10, ["b"] * 20)[0]
    assert first.p_any == min(1, 2 * min(first.p_corrected, first.share_p))


def test_one_region_of_all_examples_has_nothing_to_be_compared_with():
    (only,) = describe_regions("label", known(np.random.default_rng(3)), np.full(40, "a"))
    assert math.isnan(only.rest)
    assert math.isnan(only.more)
    assert not only.stands_out


def test_unnamed_regions_are_left_out():
    found = describe_regions("found", known(np.random.default_rng(4)), ["a"] * 10 + [""] * 30)
    assert [region.name for region in found] == ["a"]


@pytest.mark.parametrize("train", [["a"] * 39, [["a"] * 40]])
def test_regions_of_other_examples_are_refused(train):
    with pytest.raises(DataError, match="region of each of the 40 training examples"):
        describe_regions("label", known(np.random.default_rng(5)), train)


# --- amounts


def test_the_share_is_restored():
    found = by_share(7, 1300, 36, 350)
    assert (7 + found.more) / (1300 + found.more) == pytest.approx(36 / 350, abs=1e-3)
    assert found.interval[0] < found.more < found.interval[1]
    assert by_share(7, 1300, 36, 350, searched=100).interval[1] > found.interval[1]


def test_a_region_with_its_share_needs_nothing():
    assert by_share(200, 1000, 20, 100).more == 0
    assert by_share(0, 1000, 100, 100).more == math.inf


@pytest.mark.parametrize("truth", [0.02, 0.1, 0.4])
def test_the_interval_of_the_amount_covers(truth):
    rng, n = np.random.default_rng(6), 1000
    needed = (truth * n - 5) / (1 - truth)
    found = [by_share(5, n, int(h), 200) for h in rng.binomial(200, truth, 400)]
    covered = np.mean([one.interval[0] - 1 <= needed <= one.interval[1] + 1 for one in found])
    assert covered > 0.92


def test_scores_fall_by_the_power():
    decline = Decline(0.5, (0.4, 0.8))
    found = by_score(10, 9.0, (6.0, 12.0), 3.0, decline)
    assert 9.0 * (10 / (10 + found.more)) ** 0.5 == pytest.approx(3.0)
    assert found.interval == (math.ceil(10 * (2 ** (1 / 0.8) - 1)), math.ceil(10 * (4 ** (1 / 0.4) - 1)))
    assert by_score(10, 2.0, (1.0, 3.0), 3.0, decline).more == 0
    assert math.isnan(by_score(10, 2.0, (1.0, 3.0), -1.0, decline).more)


# --- cells by density


def test_dense_cells_are_found_and_the_rest_is_in_none():
    rng = np.random.default_rng(7)
    points = np.concatenate([rng.normal(0, 0.1, (30, 2)), rng.normal(5, 0.1, (20, 2)), rng.uniform(-20, 20, (6, 2))])
    cells = hdbscan_cells(points)
    assert set(cells[:30]) == {0}
    assert set(cells[30:50]) == {1}
    assert -1 in cells[50:]
