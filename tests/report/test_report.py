"""The report: a page for a decision, offline, safe to open whatever the data are called."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from fake_run import make_run
from pages import PAYLOADS, Tags, figure_of, own_part, visible
from PIL import Image
from sklearn.datasets import load_digits

import genmem.report.build
from genmem.errors import IncompleteRunError, RunError
from genmem.report import pictures, verdicts, words, write_report
from genmem.report.results import read_results

SCHEMA = json.loads((Path(genmem.report.build.__file__).parent / "audit.schema.json").read_text())
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def digits_run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def hostile_run(tmp_path):
    """A run whose every text is a payload: labels, file names, columns, source, command, settings, sentences."""
    say = "".join(PAYLOADS)
    labels = np.array([f"{PAYLOADS[i % 3]}{i % 5}" for i in range(40)])
    names = np.array([f"{PAYLOADS[(i + 1) % 3]}{i}.png" for i in range(40)])
    columns = [f"{say}{i}" for i in range(6)]
    X = np.random.default_rng(0).normal(size=(40, 6))
    return make_run(tmp_path / "run", X=X, labels=labels, names=names, columns=columns, say=say)


# --- page one


@pytest.mark.slow
def test_page_one_answers_the_three_questions_with_numbers(digits_run):
    page, results = visible(write_report(digits_run)), read_results(digits_run)
    first = page[: page.index("Findings, by weight")]
    assert all(question in first for question in verdicts.QUESTIONS.values())
    flagged = int((results.scores["q_value"] < 0.05).sum())
    assert 0 < flagged < 600 and f"{flagged} of 600 examples" in first
    top = int(results.index[results.scores["score"].argmax()])
    assert f"row {top} (label" in first
    labels = [g for g in results.groups if g.kind == "label"]
    assert f"label {max(labels, key=lambda g: g.mean).name}" in first
    assert "rank correlation of score and distance is .62" in first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p_value", "said"), [(0.001, "most in need of data is label"), (0.009, "No group clearly stands out")]
)
def test_group_most_in_need_must_stand_out_from_ten(digits_run, p_value, said):
    audit = json.loads((digits_run / "audit.json").read_text())
    for group in audit["groups"]:
        group["p_value"] = p_value
    (digits_run / "audit.json").write_text(json.dumps(audit))
    page = visible(write_report(digits_run))
    assert said in page
    assert f"corrected for the choice among the groups {words.probability(10 * p_value)}" in page
    assert ("most in need of data" in page.split("Where to add data")[-1]) == (p_value == 0.001)


@pytest.mark.slow
def test_findings_are_sorted_by_standard_errors_from_their_null(digits_run):
    ordered = verdicts.ranked(read_results(digits_run).findings)
    assert [f.id for f in ordered] == ["mean_score", "score_distance", "highest_likely", "spread"]
    page = visible(write_report(digits_run))
    places = [page.index(f.meaning) for f in ordered]
    assert places == sorted(places)
    assert verdicts.weight(ordered[1]) == pytest.approx(0.62 / 0.02)
    assert verdicts.weight(ordered[3]) == 0


@pytest.mark.slow
def test_every_finding_shows_value_null_interval_and_n(digits_run):
    page = visible(write_report(digits_run))
    assert "0.62 Spearman null 0 95% interval 0.58 to 0.66 p 1×10⁻⁹ n 600" in page


@pytest.mark.slow
def test_a_failed_check_is_announced_before_the_verdicts(tmp_path):
    page = visible(write_report(make_run(tmp_path / "run", repeats=1)))
    assert page.index("1 of 4 validity checks did not pass") < page.index("Which examples are memorized?")


# --- numbers that are not there


@pytest.mark.slow
def test_one_repeat_reads_as_words_never_nan(tmp_path):
    path = write_report(make_run(tmp_path / "run", repeats=1))
    assert "not available (one repeat)" in visible(path)
    assert "could not be tested: with one repeat, memorization and noise look alike" in visible(path)
    assert not re.search(r"\bnan\b", visible(path), re.I)
    assert "NaN" not in "".join(re.findall(r'application/json"[^>]*>(.*?)</script>', own_part(path), re.S))


def test_only_required_files_are_needed(tmp_path):
    run = make_run(tmp_path / "run", labels=None)
    shutil.rmtree(run / "results")
    (run / "data" / "index.npy").unlink()
    page = visible(write_report(run))
    assert "Over training" not in page and "with their neighbours" not in page
    assert "most memorized examples" in page


def test_two_examples_are_enough(tmp_path):
    X = load_digits().data[:2]
    page = visible(write_report(make_run(tmp_path / "run", X=X, image_shape=[8, 8], labels=None)))
    assert "The 2 most memorized examples" in page


# --- size


@pytest.mark.slow
def test_sixty_thousand_examples_stay_bounded_and_lose_no_flagged_one(tmp_path):
    X = np.random.default_rng(0).integers(0, 255, (60_000, 4)).astype(np.uint8)
    labels = np.array([f"a rather long name of class {i % 10}" for i in range(60_000)])
    run = make_run(tmp_path / "run", X=X, image_shape=[2, 2], labels=labels)
    path = write_report(run)
    assert path.stat().st_size < 8_000_000
    flagged = int((read_results(run).scores["q_value"] < 0.05).sum())
    others, highlighted = figure_of(path, "log_prob")["data"]
    assert len(highlighted["text"]) == flagged > 20_000
    assert f"({len(others['text']):,} of {60_000 - flagged:,} drawn)" in others["name"]
    assert f"{flagged + len(others['text']):,} of 60,000 points" in visible(path)
    assert others["type"] == highlighted["type"] == "scattergl"


@pytest.mark.slow
def test_pictures_shrink_to_fit_the_page(tmp_path):
    X = np.random.default_rng(0).integers(0, 255, (60, 128, 128, 3)).astype(np.uint8)
    path = write_report(make_run(tmp_path / "run", X=X, image_shape=[128, 128, 3]))
    assert path.stat().st_size < 8_000_000
    assert re.search(r"Pictures are reduced to \d\d pixels", visible(path))


# --- safety


@pytest.mark.slow
def test_page_loads_nothing_and_runs_only_its_own_scripts(digits_run):
    tags = Tags(write_report(digits_run).read_text(encoding="utf-8")).found
    scripts = [attrs for tag, attrs in tags if tag == "script"]
    assert sum("nonce" in attrs for attrs in scripts) == 2
    assert all(attrs.get("type") == "application/json" for attrs in scripts if "nonce" not in attrs)
    assert not [tag for tag, _ in tags if tag in ("link", "iframe", "object", "embed", "base", "form")]
    sources = [attrs["src"] for _, attrs in tags if "src" in attrs]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(attrs["href"].startswith("#") for tag, attrs in tags if "href" in attrs)
    policy = next(attrs["content"] for tag, attrs in tags if "http-equiv" in attrs)
    assert "default-src 'none'" in policy and "unsafe-inline' script" not in policy
    assert policy.split("script-src")[1].split(";")[0].split() == [f"'nonce-{scripts[-1]['nonce']}'", "'unsafe-eval'"]


@pytest.mark.slow
def test_payloads_stay_text(hostile_run):
    path = write_report(hostile_run)
    page = own_part(path)
    assert not any(payload in page for payload in PAYLOADS[:3])
    tags = Tags(page).found
    plain = Tags(own_part(write_report(make_run(hostile_run.parent / "plain", X=np.ones((40, 6)), labels=None)))).found
    assert {tag for tag, _ in tags} <= {tag for tag, _ in plain} | {"dt"}
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]
    assert "{{ 7*7 }}" in page  # shown as it is, not computed
    assert "&lt;img src=x onerror" in page


@pytest.mark.slow
def test_payloads_stay_text_inside_plotly(hostile_run):
    path = write_report(hostile_run)
    for name in ("log_prob", "distance", "label", "cell"):
        raw = re.search(rf'id="plot-{name}-data">(.*?)</script>', own_part(path), re.S).group(1)
        assert "<" not in raw
        figure = figure_of(path, name)
        texts = [text for trace in figure["data"] for text in trace.get("text", ())]
        texts += figure["layout"]["yaxis"].get("ticktext", [])
        assert texts and not any("<" in text or ">" in text for text in texts)
        assert any("&lt;" in text for text in texts)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to load the page")
@pytest.mark.parametrize("policy", ["kept", "removed"])
def test_browser_draws_every_figure_and_runs_no_payload(hostile_run, tmp_path, policy):
    page = write_report(hostile_run).read_text(encoding="utf-8")
    if policy == "removed":  # escaping must hold on its own
        page = re.sub(r"<meta http-equiv=[^>]*>", "", page)
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    dom = browse(file, tmp_path / "profile")
    title = re.search(r"<title>(.*?)</title>", dom, re.S).group(1)
    assert title.startswith("Memorization audit") and title != "ran"
    assert not [attrs for _, attrs in Tags(dom).found if any(name.startswith("on") for name in attrs)]
    assert dom.count('class="plot-container plotly"') == page.count('<div class="plot"') > 4


def browse(file, profile):
    """Load a page without a network and return what became of it."""
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=8000 --dump-dom"
    ).split()
    command = [CHROMIUM, *options, f"--user-data-dir={profile}", file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
def test_a_name_that_is_no_text_does_not_stop_the_report(digits_run):
    audit = json.loads((digits_run / "audit.json").read_text())
    audit["data"]["source"] = "scan-\udcff.npy"
    (digits_run / "audit.json").write_text(json.dumps(audit))
    assert "scan-?.npy" in visible(write_report(digits_run))


# --- examples


@pytest.mark.slow
def test_gallery_pictures_are_the_examples(digits_run):
    results = read_results(digits_run)
    position = int(results.neighbors["most"][0])
    source = re.search(rf'src="([^"]*)" alt="row {results.index[position]},', own_part(write_report(digits_run))).group(
        1
    )
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    np.testing.assert_array_equal(shown, np.round(results.X[position].reshape(8, 8) * 255 / 16))


@pytest.mark.parametrize("layout", ["flat", "last", "first", "first in shape too"])
def test_colour_images_of_any_layout_look_the_same(layout):
    image = np.random.default_rng(0).integers(0, 255, (4, 5, 3)).astype(np.uint8)
    row = {"flat": image.ravel(), "last": image}.get(layout, np.moveaxis(image, -1, 0))
    shape = (3, 4, 5) if layout == "first in shape too" else (4, 5, 3)
    np.testing.assert_array_equal(pictures.pixels(row, shape, pictures.Scale(0, 255)), image)


def test_grey_images_keep_one_scale_for_all():
    X = np.array([[[0.0, 0.5]], [[0.25, 0.25]]])
    assert pictures.scale_of(X) == pictures.Scale(0.0, 1.0)
    assert pictures.scale_of(np.array([0, 1], np.uint8)) == pictures.Scale(0.0, 1.0)  # binarised
    assert pictures.scale_of(np.array([0, 2], np.uint8)) == pictures.Scale(0.0, 255.0)
    assert pictures.scale_of(X * 8 - 2) == pictures.Scale(-2.0, 2.0)
    constant = pictures.pixels(np.full((1, 2, 1), 7.0), (1, 2, 1), pictures.Scale(7.0, 7.0))
    assert constant.tolist() == [[0, 0]]


@pytest.mark.slow
def test_rows_of_a_table_show_the_columns_that_differ_most(tmp_path):
    X = np.random.default_rng(0).normal(size=(50, 12))
    columns = [f"feature {i}" for i in range(12)]
    X[:, 3] = 1.0  # never varies: it tells nothing
    differences = pictures.differ(X, columns)(4, 9)
    spread = np.where(X.std(0) > 0, X.std(0), np.inf)
    expected = np.argsort(-np.abs(X[4] - X[9]) / spread)[:5]
    assert [d.column for d in differences] == [columns[c] for c in expected]
    assert differences[0].here == X[4, expected[0]] and differences[0].there == X[9, expected[0]]
    page = visible(write_report(make_run(tmp_path / "run", X=X, columns=columns, labels=None)))
    assert "Column Here Nearest Median Apart, sd feature" in page and "feature 3" not in page


# --- files


@pytest.mark.slow
def test_the_page_is_a_function_of_the_results(digits_run):
    path = write_report(digits_run)
    assert path == digits_run / "report.html"
    first = path.read_bytes()
    assert write_report(digits_run).read_bytes() == first
    assert not list(digits_run.glob("report.html?*"))


@pytest.mark.parametrize("name", ["audit.json", "scores.parquet", "data/X.npy"])
def test_missing_results_are_named(digits_run, name):
    (digits_run / name).unlink()
    with pytest.raises(IncompleteRunError, match=Path(name).name):
        write_report(digits_run)


def test_results_of_other_examples_are_refused(digits_run):
    np.save(digits_run / "data" / "index.npy", np.arange(600)[::-1])
    with pytest.raises(RunError, match="another order"):
        write_report(digits_run)


@pytest.mark.parametrize(("text", "got"), [('{"schema_version": "2.0"}', "schema_version 2.0"), ("{", "damaged")])
def test_another_schema_or_a_damaged_file_is_refused(digits_run, text, got):
    (digits_run / "audit.json").write_text(text)
    with pytest.raises(RunError, match=got):
        write_report(digits_run)


# --- audit.json


@pytest.mark.parametrize("repeats", [1, 8])
def test_audit_follows_its_schema(tmp_path, repeats):
    audit = json.loads((make_run(tmp_path / "run", repeats=repeats) / "audit.json").read_text())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(audit, SCHEMA)
    audit["findings"][0]["question"] = "privacy"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(audit, SCHEMA)


def test_every_key_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "audit-json.md").read_text()
    for where, part in {
        "": SCHEMA,
        **{k: SCHEMA["properties"][k] for k in ("asked", "data", "environment")},
        **SCHEMA["$defs"],
    }.items():
        missing = [key for key in part["properties"] if f"`{key}`" not in text]
        assert not missing, f"{where}: {missing}"


def test_words_round_to_the_same_number_of_decimals():
    assert words.interval([7.704, 8.0]) == "7.7 to 8.0"
    assert words.fixed(-0.001) == "0.00"
    assert words.probability(float("nan"), "n/a") == "n/a"
