"""The section on units: verdict, controls, comparisons, exemplars; nothing of it without the question."""

import json
import re
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from fake_run import make_run
from pages import PAYLOADS, Tags, own_part

from genmem.report import write_report
from genmem.run.storage import write_arrays

SCHEMA = json.loads(files("genmem.report").joinpath("audit.schema.json").read_text())
FINDING = {
    "id": "neurons_local", "question": "neurons", "title": "Nats in 4 units", "value": 1.2, "standard_error": None,
    "interval": [-1.1, 3.5], "null": 0.0, "p_value": 0.24, "n": 16, "unit": "nats", "sentence": "Not local.",
    "meaning": "Units are chosen on one half.", "source": None, "examples": [],
}  # fmt: skip


def add_neurons(path, *, m=3, pictures=True, say=""):
    """Add a result about units to a run directory of `fake_run.make_run`; `say` goes into every text."""
    rng, audit = np.random.default_rng(0), json.loads((path / "audit.json").read_text())
    size = np.load(path / "data" / "X.npy")[0].size if pictures else 0
    images = {name: rng.random((2, m, size)).astype(np.float32) for name in ("before", "after")}
    arrays = {"trained": np.arange(m), "held_out": np.arange(m) + m, "score": np.full((2, m), 30.25), **images}
    write_arrays(path / "results" / "neurons.npz", {**arrays, "drop": np.array([[25.5] * m, [2.5] * m])})
    audit["neurons"] = {
        "verdict": "not local", "sentence": f"Memorization is not local.{say}", "units": 192, "networks_used": 16,
        "memorization": 51.6, "sizes": [1, 4], "effect": [0.33, 1.21], "interval": [[-0.8, 1.4], [-1.1, 3.6]],
        "p_value": [0.43, 0.24], "permutation_p": 0.1, "detectable": [0.03, None], "void": ["in"],
        "controls": [
            {"name": f"additivity{say}", "passed": True, "value": 0.98, "sentence": f"Drops add up.{say}"},
            {"name": "permuted labels", "passed": False, "value": 0.2, "sentence": "Too many are found."},
        ],
        "comparisons": [
            {"name": "out", "control": f"others{say}", "decides": True, "void": False, "pairs": 40.1,
             "overlap": None, "size": 4, "effect": 1.21, "interval": [-1.1, 3.6], "p_value": 0.24},
            {"name": "in", "control": "the same log_prob_in", "decides": False, "void": True, "pairs": 28.6,
             "overlap": 0.62, "size": 4, "effect": 11.3, "interval": [7.0, 15.6], "p_value": 0.004},
        ],
    }  # fmt: skip
    audit["findings"].append(FINDING)
    jsonschema.validate(audit, SCHEMA)
    (path / "audit.json").write_text(json.dumps(audit, allow_nan=False))


def section(path):
    page = write_report(path).read_text()
    found = re.search(r'<section id="neurons">.*?</section>', page, flags=re.S)
    return page, found and " ".join(re.sub(r"<[^>]*>", " ", found.group()).split()), found and found.group()


@pytest.mark.slow
def test_the_section_answers_shows_controls_and_what_does_not_count(tmp_path):
    make_run(tmp_path / "r")
    assert section(tmp_path / "r")[1] is None
    add_neurons(tmp_path / "r")
    page, words, html = section(tmp_path / "r")
    for said in (
        "Is memorization local in few units of the network?",
        "Memorization is not local. 16 networks were trained on halves",
        "passed Drops add up.",
        "failed Too many are found.",
        "3% n/a",
        "the same log_prob_in 28.60 62% 4 11.30",
        "void",
        "score 30.25, falls by 25.50",
    ):
        assert said in words, said
    assert html.count("<img") == 12 and 'href="#neurons"' in page
    assert "Is memorization local" in page[: page.index('<section id="findings">')]


@pytest.mark.slow
def test_tables_have_no_pictures(tmp_path):
    X = np.random.default_rng(0).random((60, 4)).astype(np.float32)
    make_run(tmp_path / "r", X=X, labels=None)
    add_neurons(tmp_path / "r", pictures=False)
    _, words, html = section(tmp_path / "r")
    assert "<img" not in html and "falls by 2.50" in words


@pytest.mark.slow
def test_no_text_becomes_markup(tmp_path):
    run = make_run(tmp_path / "r")
    add_neurons(run, say="".join(PAYLOADS))
    tags = Tags(own_part(write_report(run))).found
    assert not [a for _, attributes in tags for a in attributes if a.startswith("on")]
    assert {tag for tag, _ in tags} & {"iframe", "object", "form", "link", "base"} == set()
    assert sum(tag == "script" for tag, _ in tags) == sum(tag == "script" for tag, _ in plain_tags(tmp_path))


def plain_tags(tmp_path):
    add_neurons(run := make_run(tmp_path / "plain"))
    return Tags(own_part(write_report(run))).found
