"""Score against score: what is drawn, in which colour, and what its text cannot do."""

import numpy as np

from genmem.plots import score_against_score

PARTS = ("others", "memorized by all", "changed")


def drawn(one, other, part=None, names=("a", "b"), labels=None):
    part = np.zeros(len(one), int) if part is None else part
    return score_against_score(one, other, names, part, PARTS, np.arange(len(one)) * 3, labels)


def test_each_part_has_its_points_and_rows():
    one, other, part = np.arange(9.0), np.arange(9.0)[::-1], np.arange(9) % 3
    figure = drawn(one, other, part)
    for at, trace in enumerate(figure.data[:3]):
        np.testing.assert_array_equal(trace.customdata, np.flatnonzero(part == at) * 3)
        np.testing.assert_array_equal(trace.x, one[part == at])
        np.testing.assert_array_equal(trace.y, other[part == at])
    assert [trace.name for trace in figure.data] == [*(f"{name} (3)" for name in PARTS), "equal scores"]


def test_infinite_and_missing_scores_are_left_out_and_counted():
    figure = drawn(np.array([0.0, np.inf, np.nan, 2.0]), np.array([0.0, 1.0, 1.0, 3.0]))
    assert figure.data[0].name == "others (2 of 4 drawn)"
    assert list(figure.data[-1].x) == [0.0, 3.0]
    assert len(drawn(np.full(3, np.nan), np.zeros(3)).data[0].x) == 0


def test_a_few_huge_scores_do_not_squeeze_the_others():
    score = np.random.default_rng(0).normal(size=1000)
    huge = np.where(np.arange(1000) == 5, 4000.0, score)
    figure = drawn(score, huge)
    assert figure.layout.xaxis.range is None and figure.layout.yaxis.range[1] < 10


def test_text_of_the_user_is_no_markup():
    figure = drawn(np.zeros(2), np.ones(2), names=("<b>a</b>", "<a href=x>"), labels=["<i>", "&"])
    text = figure.to_json()
    assert "<b>a" not in text and "<a href" not in text and "<i>" not in text
