"""The section on regions: what images, rows of a table and sequences look like; escaped; nothing without a search."""

import json
import re
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from fake_run import make_run
from pages import PAYLOADS, Tags, own_part

from genmem.findings.records import to_json
from genmem.findings.regions import described, sentence
from genmem.regions import Known, describe_regions, find_regions
from genmem.report import write_report
from genmem.run.storage import write_arrays

SCHEMA = json.loads(files("genmem.report").joinpath("audit.schema.json").read_text())


def add_regions(path, *, held_out=True, say=""):
    """Add a search for regions to a run directory of `fake_run.make_run`; `say` goes into every text."""
    X, rng = np.load(path / "data" / "X.npy"), np.random.default_rng(0)
    rows = X.reshape(len(X), -1)[:, :6].astype(float)
    known = Known(rng.gamma(2, 2, (3, len(X))))
    theirs = rng.normal(rows.mean(0) + 40, 1, (30, rows.shape[1])) if held_out else None
    found = find_regions(known, rows, theirs, theirs, permutations=99)
    site = np.where(rng.random(len(X)) < 0.5, f"north{say}", "south")
    kinds = {f"site{say}": describe_regions(f"site{say}", known, site)}
    about = described(found, kinds, "data", 30 if held_out else 0, 30 if held_out else 0, known)
    del about["repeats"]
    audit = json.loads((path / "audit.json").read_text())
    audit["regions"] = about | {"sentence": about["sentence"] + say}
    jsonschema.validate(audit, SCHEMA)
    (path / "audit.json").write_text(json.dumps(audit, allow_nan=False))
    arrays = {"train": found.train, "held_out": found.held_out, "samples": found.samples, "map": rows[:, :2]}
    write_arrays(path / "results" / "regions.npz", arrays)
    return about


def section(path):
    page = write_report(path).read_text()
    return re.search(r'<section id="groups">.*?</section>', page, flags=re.S).group()


@pytest.mark.slow
def test_images_are_shown_and_the_verdict_is_on_page_one(tmp_path):
    make_run(tmp_path / "r")
    assert "Regions found" not in section(tmp_path / "r")
    about = add_regions(tmp_path / "r")
    text = section(tmp_path / "r")
    assert about["sentence"].startswith("Region 1 needs more examples: it holds 100.0% of the held-out examples")
    assert text.count(about["sentence"]) == 1
    assert 'class="thumbs"' in text
    assert 'id="plot-map"' in text
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.index(about["sentence"]) < page.index('id="findings"')


@pytest.mark.slow
def test_rows_of_a_table_are_told_by_their_columns(tmp_path):
    X = np.random.default_rng(1).normal(size=(80, 3)).astype(np.float32)
    make_run(tmp_path / "r", X=X, labels=None, columns=["age", "weight", "<b>height</b>"])
    add_regions(tmp_path / "r", held_out=False)
    text = section(tmp_path / "r")
    assert "What it holds" in text
    assert re.search(r'<span class="user">(age|weight|&lt;b&gt;height&lt;/b&gt;)</span> -?[−\d]', text)
    assert "Of held-out" not in text


@pytest.mark.slow
def test_sequences_are_drawn_as_lines(tmp_path):
    X = np.cumsum(np.random.default_rng(2).normal(size=(80, 40)), axis=1).astype(np.float32)
    make_run(tmp_path / "r", X=X, labels=None)
    add_regions(tmp_path / "r", held_out=False)
    assert section(tmp_path / "r").count('class="sparkline"') >= 3


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_names_are_escaped(tmp_path, payload):
    make_run(tmp_path / "plain")
    make_run(tmp_path / "r", say=payload)
    add_regions(tmp_path / "plain")
    add_regions(tmp_path / "r", say=payload)
    tags = []
    for name in ("plain", "r"):
        write_report(tmp_path / name)
        tags.append([tag for tag, _ in Tags(own_part(tmp_path / name / "report.html")).found])
    assert tags[0] == tags[1]


def test_sentences_read_right_at_the_extremes():
    none = describe_regions("found", Known(np.ones((3, 20))), ["1"] * 5 + [""] * 15)
    assert sentence(none, True) == "No region stands out, by its scores or by its share of held-out examples."
    scores = np.r_[np.full(5, 9.0), np.ones(15)] + np.random.default_rng(0).normal(0, 0.1, (4, 20))
    by_score = describe_regions("found", Known(scores), ["1"] * 5 + [""] * 15)
    assert "its 5 training examples score 9.0 nats on average (p =" in sentence(by_score, False)
    assert sentence(by_score, False).endswith("or merely unusual.")
    empty = describe_regions("found", Known(np.ones((3, 20))), [""] * 20, ["1"] * 19 + [""])
    assert "score" not in sentence(empty, True)
    everything = describe_regions("found", Known(np.ones((3, 20))), [""] * 20, ["1"] * 20)
    assert "Collect" not in sentence(everything, True)
    assert to_json(everything[0])["more"] is None
