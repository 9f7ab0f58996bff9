"""The acceptance matrix of the copy check: what everyone tries, what fools the usual tests, what cannot be checked."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from genmem.errors import DataError
from genmem.neighbors.copycheck import CopyCheck, copycheck

FOUND, LOOK, SHARP, NONE = "copies found", "inspect these pairs", "sharp but not copying", "no evidence"
D = 16


def normal(seed, n, scale=1.0, d=D):
    return scale * np.random.default_rng([7, seed]).normal(size=(n, d))


def check(T, H, S, **how):
    return copycheck(T, H, S, **{"power_trials": 0, "context_rows": 50, **how})


T, H, FRESH = normal(0, 400), normal(1, 250), normal(2, 250)
COPIES = T[::3][:50]
CASES = {
    "fresh": (T, H, FRESH, NONE),
    "the training set itself": (T, H, T, FOUND),
    "shuffled": (T, H, T[::-1], FOUND),
    "a subset": (T, H, T[:60], FOUND),
    "a superset": (T, H, np.vstack([T, FRESH]), FOUND),
    "jitter": (T, H, T[:250] + 0.1 * FRESH, FOUND),
    "one row 500 times": (T, H, np.repeat(T[:1], 500, 0), FOUND),
    "one fresh row 500 times": (T, H, np.repeat(FRESH[:1], 500, 0), SHARP),
    "5% copies, fresh rest": (T, H, np.vstack([COPIES[:13], FRESH[13:]]), FOUND),
    "5% copies, wide rest": (T, H, np.vstack([COPIES[:13], 1.25 * FRESH[13:]]), FOUND),
    "5% copies, sharp rest": (T, H, np.vstack([COPIES[:13], 0.7 * FRESH[13:]]), FOUND),
    "20% copies, fresh rest": (T, H, np.vstack([COPIES, FRESH[50:]]), FOUND),
    "20% copies, wide rest": (T, H, np.vstack([COPIES, 1.25 * FRESH[50:]]), FOUND),
    "sharp": (T, H, 0.7 * FRESH, SHARP),
    "wide": (T, H, 1.3 * FRESH, NONE),
    "duplicates in T, fresh": (np.vstack([T, *[T[:40]] * 9]), H, FRESH, NONE),
    "duplicates in T, copies of them": (np.vstack([T, *[T[:40]] * 9]), H, np.vstack([T[:13], FRESH[13:]]), FOUND),
    "duplicates in T, itself": (np.vstack([T, *[T[:40]] * 9]), H, np.vstack([T, *[T[:40]] * 9]), FOUND),
    "n_T = 9 n_H, fresh": (normal(3, 1350), H[:150], FRESH, NONE),
    "n_T = 9 n_H, sharp": (normal(3, 1350), H[:150], 0.7 * FRESH, SHARP),
    "n_T = 9 n_H, 20% copies": (normal(3, 2250), H, np.vstack([normal(3, 2250)[:50], FRESH[50:]]), FOUND),
    "constant columns": (*(np.hstack([X, np.full((len(X), 3), 7.0)]) for X in (T, H, FRESH)), NONE),
    "all constant": (0 * T, 0 * H, 0 * FRESH, NONE),
}


@pytest.fixture(scope="module")
def found():
    return {name: check(*sets[:3]) for name, sets in CASES.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is(found, name):
    result = found[name]
    assert result.verdict == CASES[name][3], (result.evidence, result.sentence)
    low, high = result.copied_share.interval
    assert 0 <= low <= result.copied_share.value <= high <= 1
    assert (low > 0) == (result.verdict == FOUND)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share"),
    [("the training set itself", 1), ("a subset", 1), ("a superset", 400 / 650), ("jitter", 1),
     ("one row 500 times", 1), ("20% copies, fresh rest", 0.2), ("20% copies, wide rest", 0.2),
     ("5% copies, sharp rest", 0.052), ("n_T = 9 n_H, 20% copies", 0.2)],
)  # fmt: skip
def test_the_share_of_copies_is_bounded(found, name, share):
    low, high = found[name].copied_share.interval
    assert 0.4 * share < low <= share <= high
    assert found[name].copied_share.value == pytest.approx(share, abs=0.04)


@pytest.mark.slow
def test_what_the_usual_tests_say(found):
    sharp, wide, nine = found["sharp"], found["20% copies, wide rest"], found["n_T = 9 n_H, fresh"]
    assert sharp.cells.p_value < 1e-6 and sharp["tail_excess"].p_value < 0.01  # both take sharpness for copying
    assert (
        sharp["train_share"].p_value > 0.01
        and sharp["tail_share"].p_value > 0.01
        and sharp["scan_share"].p_value > 0.01
    )
    assert wide.cells.p_value > 0.05 and wide["tail_excess"].p_value < 1e-10  # C_T misses what the tail shows
    assert nine["train_share"].null == pytest.approx(0.9) and nine["train_share"].value == pytest.approx(0.9, abs=0.06)


@pytest.mark.slow
def test_one_row_often_is_caught_by_sample_not_by_row(found):
    one = found["one row 500 times"]
    assert one.samples.flagged.all() and one.calibrated.flagged.all() and not one.rows.flagged.any()
    assert one["train_share"].p_value > 0.05  # a single label
    assert set(one.pairs["train"]) == {0} and (one.pairs["distance_train"] == 0).all()


@pytest.mark.slow
def test_fresh_samples_are_not_flagged(found):
    for flags in (found["fresh"].samples, found["fresh"].rows, found["fresh"].calibrated):
        assert flags.flagged.mean() < 0.02
    assert found["fresh"].near_test.shape == (250,) and found["fresh"].level == 0.1


@pytest.mark.parametrize(("n", "verdict"), [(2, NONE), (3, LOOK), (4, LOOK), (5, FOUND), (9, FOUND)])
def test_a_few_rows_get_what_they_can_show(n, verdict):
    """With 4 and 4 rows, one way in 70 of dealing them puts all the samples' rows on one side."""
    result = check(T[:n], H[:n], T[:n], power_trials=20)
    assert result.verdict == verdict
    assert f"{n} of {n} samples are identical to a training example" in result.sentence
    assert np.isnan(result.power.smallest) == (verdict != FOUND)
    assert check(T[:n], H[:n], FRESH[:n]).verdict == NONE


def moved(images, how):
    return np.roll(images, 1, axis=2) if how == "shifted" else images[:, :, ::-1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["shifted", "flipped"])
def test_moved_images_are_caught_where_the_space_undoes_the_move(how):
    images = load_digits().images[np.random.default_rng(0).permutation(1797)]
    T, H = images[:600], images[600:1100]
    S = moved(T[:300], how)
    assert check(T, H, S, space="raw").verdict != FOUND
    assert check(T, H, S, space="spectrum").verdict == FOUND
    assert check(T, H, moved(images[1100:1400], how), space="spectrum").verdict != FOUND  # moved, but no copies


def test_the_order_of_rows_plays_no_part():
    rng = np.random.default_rng(5)
    sets = [rng.integers(0, 4, (n, 5)).astype(float) for n in (90, 60, 70)]  # full of ties
    sets[2][:20] = sets[0][:20]
    once = check(*sets)
    orders = [rng.permutation(len(rows)) for rows in sets]
    again = check(*(rows[order] for rows, order in zip(sets, orders, strict=True)))
    assert again.verdict == once.verdict == FOUND
    assert (again.evidence.scan_p, again.evidence.gathered) == (once.evidence.scan_p, once.evidence.gathered)
    assert again.copied_share.interval == pytest.approx(once.copied_share.interval)
    for one, other in zip(once.tests, again.tests, strict=True):
        np.testing.assert_allclose([other.value, other.null, other.p_value], [one.value, one.null, one.p_value], 1e-9)
    np.testing.assert_array_equal(again.samples.p_value, once.samples.p_value[orders[2]])
    np.testing.assert_array_equal(again.rows.p_value, once.rows.p_value[orders[0]])
    shuffled = sets[2][orders[2]]
    np.testing.assert_array_equal(sets[2][once.pairs["sample"]], shuffled[again.pairs["sample"]])


ON_SOME_ROWS = {"same_source", "same_spread", "one_nn_train", "one_nn_test"}
ON_SOME_ROWS |= {"precision", "recall", "density", "coverage"}


@pytest.mark.slow
def test_dtypes_and_shapes_give_the_same():
    rng = np.random.default_rng(6)
    sets = [rng.integers(0, 256, (n, 4, 4), dtype=np.uint8) for n in (120, 80, 70)]
    sets[2][:20] = sets[0][:20]
    once = check(*sets)
    for dtype in (np.float32, np.float64, np.int64):
        other = check(*(rows.astype(dtype).reshape(len(rows), -1) for rows in sets))
        assert other.verdict == once.verdict == FOUND and other.evidence.scan_p == once.evidence.scan_p
        for test in once.tests:
            if test.name not in ON_SOME_ROWS:  # drawn by the bytes of the rows
                assert other[test.name].value == pytest.approx(test.value, nan_ok=True), test.name


@pytest.mark.slow
def test_seeds_repeat():
    small = (T[:100], H[:80], FRESH[:80])
    one, two = (check(*small, seed=3, power_trials=10) for _ in range(2))
    assert one.sentence == two.sentence and one["scan_share"].p_value == two["scan_share"].p_value


def test_pairs_name_the_copied_row():
    rng = np.random.default_rng(8)
    rows, at = rng.choice(400, 30, replace=False), rng.choice(250, 30, replace=False)
    S = 0.7 * FRESH.copy()  # sharp, so that plain distance does not tell
    S[at] = T[rows] + 0.2 * normal(9, 30)
    pairs = check(T, H, S).pairs
    row_of = dict(zip(at.tolist(), rows.tolist(), strict=True))
    assert set(pairs["sample"][:25]) <= set(at.tolist())
    assert all(row_of[s] == t for s, t in zip(pairs["sample"][:25], pairs["train"][:25], strict=True))
    gaps = np.linalg.norm(S[pairs["sample"]] - H[pairs["test"]], axis=1)
    np.testing.assert_allclose(gaps, pairs["distance_test"])
    np.testing.assert_allclose(pairs["ratio"], pairs["distance_train"] / pairs["distance_test"])
    assert len(pairs["sample"]) == 250 and {len(column) for column in pairs.values()} == {250}


def test_log_prob_adds_membership_inference_and_power_is_told():
    rng = np.random.default_rng(0)
    result = check(
        T[:150], H[:100], FRESH[:100], log_prob=(rng.normal(size=150) + 1, rng.normal(size=100)), power_trials=20
    )
    assert isinstance(result, CopyCheck)
    assert any(test.name.startswith("membership") for test in result.tests)
    assert 0 < result.power.smallest < 0.3 and result.power.smallest <= result.power_noisy.smallest
    assert f"less than {100 * result.power.smallest:.3g}%" in result.sentence
    frame = result.to_frame()
    assert frame.num_rows == len(result.tests) and "cannot_see" in frame.column_names
    assert len({test.name for test in result.tests}) == len(result.tests)
    for test in result.tests:
        assert test.sentence and test.cannot_see and test.citation, test.name


def test_another_source_is_said_first():
    result = check(T, H + 1, FRESH)
    assert result["same_source"].p_value <= 0.01 and result.sentence.startswith("Training and held-out examples differ")


def broken(sets, which, value):
    sets = [rows.copy() for rows in sets]
    sets[which][3, 2] = value
    return sets


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_and_infinite_values_are_refused(which, value):
    with pytest.raises(DataError, match="NaN or inf|finite"):
        check(*broken((T, H, FRESH), which, value))


@pytest.mark.parametrize(
    "sets",
    [(T, H, FRESH[:0]), (T[:0], H, FRESH), (T[:1], H, FRESH), (T, H[:1], FRESH), (T, H, FRESH[:, :5]),
     (T, H, FRESH.astype(str)), (T, H, 3.0)],
    ids=["no samples", "no rows", "one row", "one held out", "widths", "text", "no array"],
)  # fmt: skip
def test_what_cannot_be_checked_is_refused(sets):
    with pytest.raises(DataError):
        check(*sets)


def test_one_sample_is_enough():
    assert check(T, H, T[:1]).verdict in (NONE, FOUND)


@pytest.mark.parametrize(
    "setting", [{"level": 0}, {"level": 2.0}, {"n_cells": 0}, {"space": "nowhere"}, {"context_rows": 0}]
)
def test_settings_are_checked(setting):
    with pytest.raises(DataError):
        check(T, H, FRESH, **setting)
