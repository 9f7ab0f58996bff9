"""What results show in a terminal: at most five lines of 120 columns, with the size and the main figure first."""

import importlib
import inspect

import numpy as np
import pytest

import genmem
from genmem.errors import GenmemError
from genmem.leaveout.curves import Excess
from genmem.protocols import Brief, figure
from genmem.stats import Rate

N = 1234
SHAPES = {"per_repeat": (8, N), "placebo": (8, N)}
# Public classes that are no results: models, settings, what is asked, and named tuples of a few numbers.
NO_RESULTS = {"DeepDensity", "Density", "Direction", "Lane", "Ledger", "Pace", "PerExampleGradients", "Recipe", "Unit"}
SCORE = np.linspace(-2, 30, N)


def public():
    """Return the public classes of genmem and of its packages."""
    homes = [genmem, *(importlib.import_module(f"genmem.{name}") for name in genmem._PACKAGES)]
    found = [getattr(home, name) for home in homes for name in getattr(home, "__all__", ())]
    return list(dict.fromkeys(kind for kind in found if inspect.isclass(kind)))


def is_result(kind):
    if kind.__name__ in NO_RESULTS or issubclass(kind, GenmemError | tuple) or hasattr(kind, "fit"):
        return False
    return kind.__module__.startswith("genmem")


def test_every_public_result_is_brief():
    assert [kind for kind in public() if is_result(kind) and not issubclass(kind, Brief)] == []
    assert len([kind for kind in public() if is_result(kind)]) > 30


def numbers(name, shape=(N,)):
    return np.random.default_rng(0).normal(size=SHAPES.get(name, shape))


def scores():
    return genmem.MemorizationScores(**{name: numbers(name) for name in (
        "log_prob_in", "log_prob_out", "standard_error", "p_value", "q_value", "per_repeat", "placebo",
    )}, score=SCORE, estimator="mean_log")  # fmt: skip


def excess():
    names = ("value", "error", "denoised", "null_mean", "null_low", "null_high", "p_value", "p_corrected")
    return Excess(np.arange(5), **{n: np.arange(5) + 2.25 for n in names}, p_without=np.zeros((8, 5)))


def result(kind, **more):
    said = {"title": "t" * 300, "sentence": "words " * 200, "cannot_see": "x" * 500, "citation": "c" * 300}
    return kind(name="c_t", value=-3.125, null=0.0, interval=(-4.0, -2.5), direction="lower", n=N, **said, **more)


def flags():
    from genmem.neighbors import Flags

    said = {name: "words " * 100 for name in ("title", "sentence", "cannot_see", "citation")}
    arrays = {name: numbers(name) for name in ("statistic", "p_value", "q_value")}
    return Flags(name="f", rows="samples", flagged=np.arange(N) < 9, level=0.1, resolution=0.01,
                 partner=np.arange(N), **arrays, **said)  # fmt: skip


def made():
    """Return results, each with words that its `repr` must hold."""
    from genmem.leaveout import AdjustedScores, Covariates, Effective, MembershipAttack, MemorizationCurve, Prevalence
    from genmem.leaveout.attack import AttackRates
    from genmem.models import LogProbs
    from genmem.neighbors import CopyingTest, Power, Sets
    from genmem.regions import GroupScore
    from genmem.search.approximate import Approximate

    rate = Rate(0.75, (0.5, 0.875))
    yield scores(), ["1,234 examples", "8 repeats", "mean score 14 nats", "highest 30 (example 1233)"]
    yield genmem.load(np.zeros((N, 8, 8)) + np.arange(8)), ["1,234 examples of 8 x 8 values", "0 to 7"]
    yield genmem.Splits.k_fold(N, 5, 8, 0), ["1,234 examples", "40 splits in 8 repeats"]
    names = ("score", "prediction", "weight", "standard_error")
    yield (
        AdjustedScores(*(SCORE for _ in names), 0.625, 0.0, 0.01, True, ""),
        ["1,234 examples, mean score 14 nats, reliability 0.625"],
    )
    yield (
        MembershipAttack(*[AttackRates(rate, {0.01: rate})] * 3, numbers("identified"), 1.5, 8, N * 8),
        ["1,234 examples, 8 repeats, AUC 0.75 (0.5 to 0.875), epsilon at least 1.5"],
    )
    yield (
        MemorizationCurve(np.arange(5), np.array([0.5]), excess(), excess(), *[np.arange(5.0)] * 2,
                          *[np.zeros((5, 40))] * 2, np.zeros((5, 8))),
        ["5 epochs, 40 refits, gap 6.25 nats at epoch 4"],
    )  # fmt: skip
    yield excess(), ["5 epochs, at the last 6.25 nats"]
    yield Prevalence({1.0: rate}, rate, numbers("m")), ["1,234 examples", "share above 1 nats 0.75 (0.5 to 0.875)"]
    yield Effective(rate, rate, (0.75, 0.5)), ["0.75 (0.5 to 0.875) parameters", "2 designs", "each (0.75, 0.5)"]
    yield Covariates(np.zeros((N, 2)), ("a", "b")), ["2 facts about 1,234 examples: a, b"]
    yield LogProbs(SCORE, numbers("e"), numbers("v")), ["1,234 examples, mean log p 14 nats"]
    yield result(CopyingTest, z=-2.0, cells=()), ["c_t = -3.125 (-4 to -2.5), null 0, p nan, n = 1,234"]
    yield flags(), ["9 of 1,234 samples flagged at 0.1"]
    yield Power(0.01, numbers("s"), numbers("f"), 0.8, 0.05, 0.0, 100, "s" * 400), ["smallest share 0.01", "100 trials"]
    yield Sets(np.zeros((3, 2)), np.zeros((4, 2)), np.zeros((5, 2))), ["3 training examples, 4 held out, 5 samples"]
    yield GroupScore("5", 20, 48.5, 1.0, (46.0, 51.0), 40.25, 0.01, (1, 2)), ["20 examples, mean 48.5 (46 to 51) nats"]
    yield (
        Approximate(np.zeros((N, 3)), np.zeros((N, 3), int), 0.96, (0.9, 0.99), np.arange(200), 8),
        ["3 neighbours of 1,234 queries, recall 0.96 (0.9 to 0.99)"],
    )


@pytest.mark.parametrize("at", range(17))
def test_five_lines_with_the_main_figures(at):
    found, words = list(made())[at]
    lines = repr(found).splitlines()
    assert lines[0].startswith(f"{type(found).__name__}: ")
    assert 1 <= len(lines) <= 5 and max(map(len, lines)) <= 120
    assert all(word in " ".join(lines) for word in words), repr(found)


def test_all_cases_are_tried():
    assert len(list(made())) == 17


@pytest.mark.slow
def test_results_of_a_whole_job(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    done = genmem.audit(X, "kde", tmp_path / "run", folds=2, repeats=3)
    run = genmem.Run.open(done.path)
    check = genmem.copycheck(X, rng.normal(size=(50, 3)), X[:40])
    for found, words in (
        (done, "60 examples, 3 repeats, mean_log, mean score"),
        (run, "60 examples of array, sklearn"),
        (check, f"{check.verdict}; copied share"),
        (check, "40 samples, 60 training examples, 50 held out"),
        (check.evidence, "scan p"),
        (check.cells.cells[0], "60 training examples"),
    ):
        lines = repr(found).splitlines()
        assert len(lines) <= 5 and max(map(len, lines)) <= 120 and words in " ".join(line.strip() for line in lines)


def test_infinite_and_missing_numbers():
    class Some(Brief):
        pass

    assert repr(Some()) == "Some"
    assert figure(np.inf) == "inf" and figure(np.nan, (np.nan, 1.0)) == "nan (nan to 1)"
    infinite = np.array([np.inf, -np.inf, np.nan])
    empty = [np.zeros(0)] * 5
    found = genmem.MemorizationScores(infinite, *empty, "exact", np.zeros((0, 3)), np.zeros((0, 3)))
    assert "mean score nan nats" in repr(found) and "score (3,) float64 without finite values" in repr(found)
