"""Figures: what they draw is what they were given, all of it that matters, and text stays text."""

import json

import numpy as np
import pytest

from genmem import plots
from genmem.errors import DataError
from genmem.plots import Group


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def heights(trace):
    return np.nan_to_num(np.asarray(trace.y, dtype=float))


def test_distribution_counts_every_example_and_scales_the_null_to_as_many(rng):
    score, placebo = rng.gamma(2, 3, 500), rng.normal(size=(8, 500))
    score[3], placebo[2, :7] = np.nan, np.nan
    figure = plots.score_distribution(score, placebo)
    bars, null = figure.data
    assert heights(bars).sum() == 499
    assert heights(null).sum() == pytest.approx(499)
    assert figure.layout.yaxis.type == "log"
    assert 10 ** figure.layout.yaxis.range[1] > max(heights(bars).max(), heights(null).max())


@pytest.mark.parametrize("placebo", [None, np.empty((0, 3)), np.full((2, 3), np.nan)])
def test_distribution_without_a_null_or_a_spread(placebo):
    figure = plots.score_distribution(np.array([2.0, 2.0, 2.0]), placebo)
    assert len(figure.data) == 1 and heights(figure.data[0]).sum() == 3


def test_distribution_of_nothing_is_refused():
    with pytest.raises(DataError, match="none finite"):
        plots.score_distribution(np.full(4, np.nan))


def test_scatter_parts_flagged_from_others_and_keeps_their_rows(rng):
    score, log_prob, q = rng.normal(size=9), rng.normal(size=9), np.array([0.01, 0.2, np.nan] * 3)
    others, flagged = plots.score_against_log_prob(score, log_prob, q, np.arange(9) * 10, list("abcabcabc")).data
    assert flagged.customdata.tolist() == [0, 30, 60] and flagged.text == ("a", "a", "a")
    np.testing.assert_allclose(flagged.y, score[::3], rtol=1e-6)
    np.testing.assert_allclose(others.x, np.delete(log_prob, [0, 3, 6]), rtol=1e-6)
    assert "(3)" in flagged.name and "(6)" in others.name


def test_scatter_of_many_draws_all_flagged_and_says_what_it_leaves_out(rng):
    n = 40_000
    q = np.where(np.arange(n) % 4 == 0, 0.01, 0.5)
    others, flagged = plots.score_against_log_prob(rng.normal(size=n), rng.normal(size=n), q, np.arange(n)).data
    assert len(flagged.y) == 10_000 and len(others.y) == plots.POINTS - 10_000
    assert others.name == "others (10,000 of 30,000 drawn)"
    assert flagged.type == "scattergl"


@pytest.mark.parametrize("flagged", [0, 15_000, 25_000])
def test_drawn_keeps_every_highlighted_point_and_always_some_others(flagged):
    mark = np.arange(60_000) < flagged
    shown = plots.drawn(mark)
    assert shown[mark].all()
    assert shown.sum() == max(plots.POINTS, flagged + plots.POINTS // 10)
    np.testing.assert_array_equal(shown, plots.drawn(mark))


def test_highest_is_a_twentieth_and_never_nan():
    score = np.r_[np.arange(40.0), np.nan]
    assert np.flatnonzero(plots.highest(score)).tolist() == [38, 39]
    assert plots.highest(np.array([1.0])).tolist() == [True]


def test_distance_scatter_highlights_the_highest_scores(rng):
    score, distance = rng.normal(size=100), rng.gamma(3, size=100)
    highlighted = plots.score_against_distance(score, distance).data[1]
    assert sorted(highlighted.customdata.tolist()) == sorted(np.argsort(-score)[:5].tolist())


def test_tenths_count_the_highest_scores_once_each(rng):
    score = rng.normal(size=1000)
    bars = plots.memorized_by_log_prob(score, -score).data[0]
    assert list(bars.y) == [50] + [0] * 9
    band = plots.memorized_by_log_prob(score, rng.normal(size=1000)).layout.shapes[0]
    assert 0 <= band.y0 < 5 < band.y1  # 50 of 1,000 in ten tenths: five each by chance


EPOCHS, MEANS = np.array([1, 2, 4]), (np.array([-3.0, -2, -1]), np.array([-3.0, -2.5, -2.8]))


def test_trajectory_draws_each_quantile_with_its_null_and_the_losses():
    score, null = np.arange(6.0).reshape(3, 2), np.zeros((3, 2))
    figure = plots.trajectory(EPOCHS, np.array([0.5, 0.95]), score, null, *MEANS)
    by_name = {trace.name: trace for trace in figure.data}
    assert set(by_name) == {
        "median score", "median score, null", "95% quantile", "95% quantile, null", "training loss", "held-out loss",
    }  # fmt: skip
    np.testing.assert_array_equal(by_name["95% quantile"].y, score[:, 1])
    np.testing.assert_array_equal(by_name["held-out loss"].y, [3, 2.5, 2.8])
    assert by_name["held-out loss"].yaxis == "y2"
    assert figure.layout.xaxis.type is None and not figure.layout.shapes


def test_trajectory_marks_what_comes_first_and_where_to_stop():
    epochs, score = EPOCHS * [1, 2, 25], np.arange(6.0).reshape(3, 2)
    figure = plots.trajectory(
        epochs, np.array([0.5, 0.95]), score, score - 2, *MEANS,
        quantiles_null_low=score - 3, quantiles_null_high=score - 1, quantiles_first_epoch=[-1, 4], gap_first_epoch=100,
        best_epoch=4,
    )  # fmt: skip
    rings = [trace for trace in figure.data if trace.mode == "markers"]
    assert [(list(ring.x), list(ring.y)) for ring in rings] == [([4], [3.0]), ([100], [2.8])]
    bands = [trace for trace in figure.data if trace.fill == "tonexty"]
    np.testing.assert_array_equal(bands[0].y, score[:, 1] - 1)
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"
    assert {shape.x0 for shape in figure.layout.shapes} == {4}
    assert "epoch 4" in figure.layout.annotations[0].text and figure.layout.annotations[0].x == np.log10(4)


def group(name, mean, interval=(np.nan, np.nan), rest=1.0):
    return Group(name, 9, mean, np.nan, interval, rest, np.nan, (), "label")


def test_groups_stand_highest_on_top_with_their_intervals():
    same = "x" * 40  # alike once they are cut: they must not fall together
    groups = [group(f"{same}1", 2.0, (1.5, 3.0)), group(f"{same}2", 5.0, rest=np.nan), group("3", 4.0, (3, 5))]
    figure = plots.group_intervals(groups)
    mean = figure.data[1]
    assert list(mean.x) == [2.0, 4.0, 5.0] and list(mean.y) == [0, 1, 2]
    np.testing.assert_array_equal(mean.error_x.array, [1.0, 1.0, np.nan])
    np.testing.assert_array_equal(mean.error_x.arrayminus, [0.5, 1.0, np.nan])
    assert len(figure.layout.yaxis.ticktext) == 3
    assert max(len(text) for text in figure.layout.yaxis.ticktext) == 22


def test_text_of_the_data_cannot_be_markup(rng):
    bad = "</script><b onclick=x>\"'"
    scatter = plots.score_against_log_prob(*rng.normal(size=(2, 3)), np.zeros(3), np.arange(3), [bad] * 3)
    forest = plots.group_intervals([group(bad, 1.0)])
    for figure in (scatter, forest):
        assert "<" not in figure.to_json()
        assert "&lt;/script&gt;" in json.dumps(json.loads(figure.to_json()))
