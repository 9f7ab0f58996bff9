"""`genmem copycheck` with rows that belong together: a column of tables, subfolders of images, arrays of groups."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genmem.data.set_groups import groups_of_folders
from genmem.data.three_sets import load_three
from genmem.errors import DataError
from genmem.stages import check_copies
from genmem_cli.main import run


def write_table(name, rows, films):
    head = "a,b,c" + ("" if films is None else ",film")
    lines = [",".join(f"{v:.5f}" for v in row) + ("" if films is None else f",{film}")
             for row, film in zip(rows, films if films is not None else rows, strict=True)]  # fmt: skip
    Path(f"{name}.csv").write_text("\n".join([head, *lines]) + "\n")


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Tables of three columns and a film; samples have no film."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    films = {"t": [f"t{i // 4}" for i in range(80)], "h": [f"h{i // 4}" for i in range(60)], "s": None}
    for name, n in (("t", 80), ("h", 60), ("s", 50)):
        write_table(name, rng.normal(size=(n, 3)), films[name])
    return ["copycheck", "--train", "t.csv", "--test", "h.csv", "--samples", "s.csv", "--out", "out"]


@pytest.mark.slow
def test_a_column_of_groups_is_not_compared_and_is_told(tables, capsys):
    assert run([*tables, "--group-column", "film", "--fail-if", "other_source == 1 or inspect == 1"]) == 0
    about = json.loads(Path("out/copycheck.json").read_text())
    assert about["asked"]["groups"] == "column" and about["data"]["event_shape"] == [3]
    assert "group_column='film'" in about["asked"]["python"]
    assert "groups of held-out examples; there are 15" in about["sentence"]
    groups = [[f"t{i // 4}" for i in range(80)], [f"h{i // 4}" for i in range(60)]]
    X = load_three("t.csv", "h.csv", "s.csv", group_column="film")
    assert [of.tolist() for of in X.groups] == groups
    again = check_copies(*X.arrays, groups=tuple(map(np.array, groups)), out="again")
    assert again.check.sentence == about["sentence"]
    assert json.loads(Path("again/copycheck.json").read_text())["asked"]["groups"] == "given"


def test_what_is_wrong_with_groups_is_said(tables, capsys):
    assert run([*tables, "--group-column", "no"]) == 2
    assert "group_column to be a column of the tables: a, b, c, film" in capsys.readouterr().err
    with pytest.raises(DataError, match="subfolder for each group; got no folder of images"):
        check_copies(*np.random.default_rng(0).normal(size=(3, 20, 2)), groups="folders", out="out")


def test_groups_that_are_missing_are_refused(tables):
    lines = Path("t.csv").read_text().splitlines()
    lines[3] = lines[3].rpartition(",")[0] + ","
    Path("t.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="1 missing values in train"):
        load_three("t.csv", "h.csv", "s.csv", group_column="film")
    Path("g.csv").write_text("\n".join(Path("h.csv").read_text().splitlines()[:40]) + "\n")
    with pytest.raises(DataError, match="groups from one source"):
        check_copies("h.csv", "g.csv", "s.csv", groups="folders", group_column="film")


@pytest.mark.slow
def test_subfolders_are_groups(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for name, n in (("t", 40), ("h", 30), ("s", 20)):
        for i in range(n):
            file = Path(name) / ("" if name == "s" else f"{name}{i // 5}") / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8)).save(file)
    asked = ["copycheck", "--train", "t", "--test", "h", "--samples", "s", "--out", "out", "--groups", "folders"]
    assert run(asked) == 0
    about = json.loads(Path("out/copycheck.json").read_text())
    assert about["asked"]["groups"] == "folders" and "groups of held-out examples; there are 6" in about["sentence"]
    with pytest.raises(DataError, match="got no folder of images"):
        groups_of_folders({"train": ["a/1.png"]})
