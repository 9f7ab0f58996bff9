"""A test of copying is added in its own file and one tuple; everything that tells of tests follows from the tuple."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from neighbor_sets import normal_sets

from genmem.neighbors import battery
from genmem.neighbors.copycheck import copycheck
from genmem.neighbors.results import Result
from genmem_cli.main import run

DOCS = Path(__file__).parents[2] / "docs"
SIZES = (100, 100, 100)  # of the sets whose texts the table of the docs holds


def toy(asked):
    at = asked.sets.distance("samples", "train") == 0
    return (
        Result(
            name="toy",
            title="Samples at a training example, a toy",
            value=float(at.mean()),
            null=0.0,
            direction="higher",
            n=len(at),
            sentence=f"{at.sum()} samples are at a training example.",
            cannot_see="Everything but toys.",
            citation="nobody",
        ),
    )


@pytest.fixture
def with_toy(monkeypatch):
    monkeypatch.setattr(battery, "TESTS", (*battery.TESTS, battery.CopyTest(("toy",), toy)))


def test_a_toy_is_among_the_tests(with_toy):
    assert copycheck(*normal_sets(0, 30, 30, 20, copies=5), power_trials=0)["toy"].value == 0.25


@pytest.mark.slow
def test_a_toy_is_in_conditions_files_and_the_report(with_toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["copycheck", "--out", "out"]
    for name, rows in zip(("train", "test", "samples"), normal_sets(0, 30, 30, 20, copies=5), strict=True):
        np.save(f"{name}.npy", rows)
        asked += [f"--{name}", f"{name}.npy"]
    assert run([*asked, "--fail-if", "toy > 0"]) == 1 and "toy > 0" in capsys.readouterr().err
    assert run([*asked, "--fail-if", "toy > 0.3"]) == 0
    about = json.loads(Path("out/copycheck.json").read_text())
    assert about["numbers"]["toy"] == 0.25 and about["tests"][-1]["name"] == "toy"
    assert about["tests"][-1]["cannot_see"] == "Everything but toys."
    assert "Samples at a training example, a toy" in (page := Path("out/report.html").read_text())
    assert "Everything but toys." in page


def test_without_its_tuple_it_is_unknown(tmp_path, capsys):
    assert run(["copycheck", "--train", "a", "--test", "b", "--samples", "c", "--fail-if", "toy > 0"]) == 2
    assert "toy" in capsys.readouterr().err


def results():
    """What every entry returns on sets of one size, by name."""
    train, test, samples = normal_sets(0, *SIZES)
    log_prob = (train.sum(1), test.sum(1))
    check = copycheck(train, test, samples, log_prob=log_prob, power_trials=0)
    return {test.name: test for test in check.tests}


def test_every_entry_returns_what_it_names():
    assert list(results()) == [name for test in battery.TESTS for name in test.names]


def test_the_table_of_tests_is_that_of_the_tuple():
    page = (DOCS / "copycheck-command.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", page, flags=re.MULTILINE)
    expected = [(name, test.title, test.cannot_see) for name, test in results().items()]
    assert rows == expected, "\n".join(f"| `{name}` | {title} | {blind} |" for name, title, blind in expected)
