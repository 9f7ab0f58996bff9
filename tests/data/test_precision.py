"""Columns that float32 would round too coarsely stay float64 from the file to the refits; networks refuse them."""

import numpy as np
import pytest

import genmem
from genmem.data.precision import examples_in
from genmem.errors import DataError

ROWS = np.random.default_rng(0).normal(size=(60, 2))
METRES = ROWS * [2.0, 3.0] + [5e5, 5.4e6]


def right_scores(run, X):
    """Return the scores of one diagonal Gaussian by hand."""

    def log_p(T, Z):
        mean, variance = (T - X[0]).mean(0), (T - X[0]).var(0) + 1e-6
        return (-0.5 * (Z - X[0] - mean) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)).sum(1)

    splits = run.splits()
    log_probs = np.stack([log_p(X[~held], X) for held in splits.held_out])
    return genmem.memorization_score(log_probs, splits.held_out, repeat=splits.repeat).score


def test_what_float32_holds_stays_float32():
    for X in (ROWS, ROWS + 100.0, ROWS.astype(np.float32) + 1e6, ROWS * 1e9, (ROWS * 9).astype(np.int64)):
        assert examples_in("needed", X).dtype == np.float32
        assert np.array_equal(examples_in("needed", X), examples_in("single", X))
    assert examples_in("double", ROWS).dtype == np.float64
    assert examples_in("double", np.ones((3, 2), np.uint8)).dtype == np.uint8
    assert examples_in("needed", ROWS.astype(np.float16)).dtype == np.float32


def test_what_it_does_not_hold_stays_float64():
    nanoseconds = (1.7e18 + ROWS * 1e9).astype(np.int64)
    for X in (METRES, ROWS + 1e6, ROWS * 1e-50, nanoseconds, (ROWS * 1000 + 2**30).astype(np.int32)):
        assert np.array_equal(examples_in("needed", X), X.astype(np.float64))
    with pytest.raises(DataError, match="differ in float64"):
        examples_in("needed", (2**62 + np.arange(20)).reshape(10, 2))
    with pytest.raises(DataError, match="below 3.4e38"):
        examples_in("needed", ROWS * 1e200)
    with pytest.raises(DataError, match="NaN"):
        examples_in("needed", np.where(ROWS > 1, np.nan, METRES))
    with pytest.raises(DataError, match="dtype object"):
        examples_in("needed", METRES.astype(object))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gmm", "gmm-torch"])
def test_a_table_of_map_coordinates(tmp_path, model):
    np.savetxt(tmp_path / "t.csv", METRES, delimiter=",", header="east,north", comments="", fmt="%.17g")
    how = {"settings": {"n_components": 1, "reg_covar": 1e-6}, "out": tmp_path / "r", "folds": 3, "repeats": 2}
    found = genmem.audit(tmp_path / "t.csv", model, **how)
    run = genmem.Run.open(tmp_path / "r")
    assert run.plan["data"]["dtype"] == "float64"
    np.testing.assert_allclose(found.scores.score, right_scores(run, METRES), atol=1e-5)
    assert np.array_equal(genmem.audit(tmp_path / "t.csv", model, **how).scores.score, found.scores.score)  # resumed


@pytest.mark.slow
def test_kernels_and_neighbours_do_not_depend_on_the_offset(tmp_path):
    near = np.round(ROWS * 2**10) / 2**10
    for model, settings in (("kde", {"bandwidth": 0.5}), ("kde-torch", {"bandwidth": 0.5}), ("knn", {"k": 4})):
        scores = [
            genmem.audit(X, model, tmp_path / f"{model}{i}", settings=settings, folds=3, repeats=2).scores.score
            for i, X in enumerate((near, near + 2.0**33))
        ]
        np.testing.assert_allclose(*scores, atol=1e-5)


def test_networks_refuse_them_and_old_runs_resume(tmp_path):
    times = np.column_stack([ROWS[:, 0] * 1e5 + 1.7e9, ROWS[:, 1]])  # steps of 128 s in float32
    for model in (genmem.VAE(epochs=1), "vae"):
        with pytest.raises(DataError, match="Subtract an offset"):
            genmem.stages.plan(METRES * [1, 0] + ROWS * [0, 1] + [1e9, 0], model, tmp_path / "n")
    as_loaded = genmem.load(times)
    old = genmem.stages.plan(as_loaded.X, "knn", tmp_path / "old", folds=3)
    assert old.plan["data"]["dtype"] == "float32"
    again = genmem.stages.plan(times, "knn", tmp_path / "old", folds=3)
    assert again.plan == old.plan and again.data().X.dtype == np.float32
    assert genmem.stages.plan(times, "knn", tmp_path / "new", folds=3).plan["data"]["dtype"] == "float64"
