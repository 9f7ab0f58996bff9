"""`genmem compare`: its files, its page, its exit codes; and names that try to be markup."""

import json
import re

import numpy as np
import pytest
from audits import audited_run, blobs, simulated
from pages import PAYLOADS, Tags, figure_of, own_part, visible
from PIL import Image

from genmem import stages
from genmem.compare import compare
from genmem.compare.comparison import CONDITIONS
from genmem.errors import DataError, RunError
from genmem_cli.main import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of the same rows with labels: narrow and wide kernels."""
    folder, X = tmp_path_factory.mktemp("runs"), blobs()
    labels = np.arange(60) % 3
    for name, bandwidth in (("narrow", 0.3), ("wide", 1.5)):
        audited_run(folder / name, X, labels=labels, repeats=4, settings={"bandwidth": bandwidth})
    return folder


def both(folder):
    return [str(folder / "narrow"), str(folder / "wide")]


@pytest.mark.slow
def test_files_words_and_the_last_line(folder, tmp_path, capsys):
    assert run(["compare", *both(folder), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Both models memorize ") and said[-1] == str(tmp_path / "out")
    about = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert about["asked"]["command"].startswith("genmem compare ")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"compare.html", "compare.json"}
    again = compare(*both(folder)).to_dict()
    assert {key: about[key] for key in again} == json.loads(json.dumps(again))
    words = visible(tmp_path / "out" / "compare.html")
    assert "What do narrow and wide memorize alike?" in words
    assert all(sentence in words for sentence in again["sentences"])
    pair = again["pairs"][0]
    assert f"Changed from narrow to wide {len(pair['changed']['examples'])}" not in words  # a heading, then a lead
    assert "Changed from narrow to wide" in words and "label" in words and "standard error" in words


def test_the_figure_draws_every_example(folder, tmp_path):
    stages.compare(both(folder), tmp_path / "out")
    figure = figure_of(tmp_path / "out" / "compare.html", "0")
    points = [trace for trace in figure["data"] if trace["mode"] == "markers"]
    assert sum(int(re.search(r"\((\d+)\)", trace["name"]).group(1)) for trace in points) == 60
    assert {"others", "changed"} <= {trace["name"].split(" (")[0] for trace in points}


def test_the_python_line_repeats_the_comparison(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages.compare(both(folder), tmp_path / "a", level=0.1)
    line = json.loads((tmp_path / "a" / "compare.json").read_text())["asked"]["python"]
    import genmem

    found = eval(line, {"genmem": genmem})
    assert found.comparison.level == 0.1 and found.path == tmp_path / "a"


@pytest.mark.slow
def test_exit_codes_and_conditions(folder, tmp_path, capsys):
    def code(*more):
        return run(["compare", *both(folder), "--out", str(tmp_path / "out"), *more])

    assert code("--fail-if", "mean_difference_high < 0 and changed > 3") == 1
    assert "--fail-if holds for wide: mean_difference_high < 0" in capsys.readouterr().err
    assert code("--fail-if", "mean_difference_low > 0 or rose > 59") == 0
    assert code("--fail-if", "chnged > 3") == 2
    assert "Did you mean changed" in capsys.readouterr().err
    assert code("--fail-if", "tpr_difference > 0") == 2  # 60 examples are too few for it
    said = capsys.readouterr().err
    assert "no value for tpr_difference" in said and (tmp_path / "out" / "compare.json").exists()
    assert run(["compare", both(folder)[0]]) == 2 and "two audits or more" in capsys.readouterr().err
    assert code("--name", "a") == 2


def test_a_condition_is_checked_against_the_first_run(folder, tmp_path):
    narrow, wide = both(folder)
    found = stages.compare([narrow, wide, narrow], tmp_path, names=["a", "b", "c"], fail_if="changed > 0")
    assert found.failed == ("b",)


def test_every_name_of_a_condition_is_documented():
    from pathlib import Path

    said = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    assert [name for name in CONDITIONS if f"`{name}`" not in said] == []


def test_other_folders_are_refused(folder, tmp_path):
    with pytest.raises(RunError, match="contains a run"):
        stages.compare(both(folder), folder / "narrow")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match=r"other files \(mine.txt\)"):
        stages.compare(both(folder), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_undefined_condition_is_an_error_after_the_files_are_written(tmp_path):
    rng = np.random.default_rng(0)
    few = [simulated(np.zeros(40), rng, repeats=2) for _ in range(2)]
    with pytest.raises(DataError, match="no value for changed"):
        stages.compare(few, tmp_path / "out", fail_if="changed > 0")
    assert "not tested" in visible(tmp_path / "out" / "compare.html")


# --- markup


def attempts(page):
    """Return what a browser would run or load of a page."""
    tags = Tags(own_part(page)).found
    handlers = [attrs for _, attrs in tags if any(name.startswith("on") for name in attrs)]
    scripts = [attrs for tag, attrs in tags if tag == "script" and "nonce" not in attrs and "type" not in attrs]
    strangers = [tag for tag, _ in tags if tag == "svg"]
    loaded = [attrs["src"] for tag, attrs in tags if tag == "img" and not attrs["src"].startswith("data:")]
    return handlers + scripts + strangers + loaded


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS)
def test_names_of_runs_are_escaped(folder, tmp_path, payload):
    stages.compare(both(folder), tmp_path / "out", names=[payload, f"b{payload}"], command=payload)
    page = tmp_path / "out" / "compare.html"
    assert attempts(page) == [] and "49" not in re.findall(r"<title>.*?</title>", own_part(page), re.S)[0]
    figure = figure_of(page, "0")
    assert "<" not in figure["layout"]["xaxis"]["title"]["text"]


@pytest.mark.slow
def test_names_of_files_and_labels_are_escaped(tmp_path):
    images, rng = tmp_path / "images", np.random.default_rng(0)
    hostile = ["<script>alert(1)<", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "'}}{{ 7*7 }}<!--"]
    for i in range(40):
        place = images / hostile[i % 4].replace("/", "")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / f"{i}{hostile[i % 4]}.png")
    runs = [
        audited_run(tmp_path / name, str(images), model="kde-torch", settings={"bandwidth": bandwidth})
        for name, bandwidth in (("one", 0.2), ("two", 0.9))
    ]
    stages.compare(runs, tmp_path / "out")
    page = tmp_path / "out" / "compare.html"
    shown = [attrs for tag, attrs in Tags(own_part(page)).found if tag == "img"]
    assert attempts(page) == []
    assert shown and any("<script>alert(1)<" in attrs["title"] for attrs in shown)
    assert "<script>alert(1)<" in visible_text(page)


def visible_text(page):
    from html import unescape

    return unescape(visible(page))
