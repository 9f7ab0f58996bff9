"""The page of a copy check: what it shows, what it hides when asked to, and that no text of the user becomes markup."""

import base64
import dataclasses
import io
import json
import re
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from fake_copycheck import about, add_copies, digits_check, pairs
from fake_run import make_run
from pages import PAYLOADS, Tags, own_part
from PIL import Image

from genmem.findings.copies import one_for_each_row, stands_out
from genmem.report import write_report
from genmem.report.build import render_copies
from genmem.report.copies import CopyResults, copies, spread_figure, spread_of

SCHEMA = json.loads(files("genmem.report").joinpath("audit.schema.json").read_text())
COPIES = {**SCHEMA, **SCHEMA["$defs"]["copies"], "required": SCHEMA["$defs"]["copies"]["required"]}


def visible(page):
    text = re.sub(r"<style\b.*?</style>", " ", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split()).replace(" .", ".")


def table_check(say="", redacted=False, verdict="copies found"):
    """Copies in a table of numbers whose last column never varies."""
    rng = np.random.default_rng(0)
    at = {kind: rng.normal(size=(30, 9)).round(3) for kind in ("sample", "train", "test")}
    for rows in at.values():
        rows[:, 8] = 1.0
    at["sample"][0] = at["train"][0]
    return CopyResults(
        about=about(say, redacted, verdict),
        pairs=pairs(),
        shown=np.arange(30),
        examples={} if redacted else at,
        columns=[f"col{say}{i}" for i in range(9)],
        spread=np.r_[np.ones(8), 0.0],
    )


# --- what it shows


@pytest.mark.parametrize("make", [digits_check, table_check])
def test_page_one_answers_three_questions(make):
    page = render_copies(make())
    words = visible(page)
    order = [
        "Do samples copy training examples?",
        "Copies found. At least 2% of samples are copies.",
        "Which samples copy which training examples?",
        "9 of 300 samples stand out.",
        "What could this check have missed?",
        "Copies of 1% of samples would be found.",
    ]
    places = [words.index(text) for text in order]
    assert places == sorted(places)
    assert "95% interval 0.58 to 0.90; p 2×10⁻⁹" in words


@pytest.mark.parametrize(
    ("verdict", "colour"), [("copies found", "fail"), ("inspect these pairs", "look"), ("no evidence", "pass")]
)
def test_only_copies_are_an_alarm(verdict, colour):
    page = render_copies(digits_check(verdict=verdict))
    assert f'<span class="{colour}">{verdict.capitalize()}</span>. At least' in page


def test_pictures_are_those_of_the_pair():
    check = digits_check()
    page = render_copies(check)
    row = int(check.pairs["train"][check.shown[3]])
    source = re.search(rf'src="([^"]*)" alt="training {row}"', page).group(1)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    np.testing.assert_array_equal(shown, np.round(check.examples["train"][3] * 255 / 16))


def test_a_row_copied_often_is_shown_once_first_and_counted():
    found = pairs()
    found["train"][8] = found["train"][5]  # like the first two, two of one row, but further off
    found["train"][2] = found["train"][20]  # another of this row does not stand out
    at = one_for_each_row(found, least=30)
    assert at[:3].tolist() == [0, 5, 2] and len(at) == 24
    assert len(set(found["train"][at])) == 24 and found["stands_out"][at[:7]].all()
    assert visible(render_copies(digits_check())).count("1 more sample is closest to this example") == 1


@pytest.mark.parametrize(("flagged", "shown"), [(0, 8), (3, 8), (9, 8), (12, 11), (30, 24)])
def test_what_stands_out_is_shown_and_some_others(flagged, shown):
    at = one_for_each_row(found := pairs(flagged=flagged))
    assert len(at) == max(8, shown) and len(set(found["train"][at])) == len(at)
    assert found["stands_out"][at].sum() == min(24, max(0, flagged - (flagged > 1)))


def test_what_is_nearer_to_a_held_out_row_does_not_stand_out():
    found = pairs()
    found["distance_test"][3] = found["distance_train"][3]
    found["calibrated_flagged"][20] = True
    assert stands_out(found).nonzero()[0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 20]


@pytest.mark.parametrize("verdict", ["sharp but not copying", "no evidence"])
def test_without_copies_no_pair_is_called_one(verdict):
    page = visible(render_copies(digits_check(verdict=verdict)))
    assert "from training example" not in page and "stands out" not in page.replace("No sample stands out", "")
    assert "closest to training example" in page


def test_rows_of_a_table_show_where_the_held_out_row_differs_most():
    check = table_check()
    plate = copies(check).plates[0]
    sample, test = check.examples["sample"][0], check.examples["test"][0]
    expected = np.argsort(-np.abs(sample - test)[:8])[:6]
    assert [c.name for c in plate.columns] == [f"col{c}" for c in expected]
    assert all(c.train == c.sample for c in plate.columns) and plate.pictures == []
    assert 'class="n same"' in render_copies(check)


def test_columns_of_text_and_gaps_stand_beside_numbers():
    check = table_check()
    rows = np.array([["red", 1.5, None], ["blue", 2.5, 7]] * 15, object)
    at = {"sample": rows, "train": rows, "test": np.array([["red", 3.5, 7]] * 30, object)}
    spread = spread_of(rows)
    np.testing.assert_array_equal(spread, [np.nan, 0.5, 0])
    columns = ["colour", "size", "count"]
    shown = copies(dataclasses.replace(check, examples=at, spread=spread, columns=columns)).plates
    assert [(c.name, c.sample, c.test) for c in shown[0].columns] == [
        ("size", "1.50", "3.50"),  # four standard deviations
        ("count", "missing", "7"),  # as much as one
        ("colour", "red", "red"),
    ]
    assert [(c.name, c.sample) for c in shown[1].columns] == [("size", "2.50"), ("colour", "blue"), ("count", "7")]


def test_a_value_that_is_missing_is_said_to_be():
    check = table_check()
    check.examples["sample"][0, :] = np.nan
    assert "missing" in {c.sample for c in copies(check).plates[0].columns}
    assert "nan" not in visible(render_copies(check)).lower().split()


# --- redacted


@pytest.mark.parametrize("make", [digits_check, table_check])
def test_redacted_pages_hold_no_pictures_and_no_values(make):
    check = make(redacted=True)
    redacted = dataclasses.replace(check, examples={})
    page = render_copies(redacted)
    plates = copies(redacted).plates
    assert "<img" not in page and "data:" not in page.replace("img-src data:", "")
    assert all(not plate.pictures and not plate.columns for plate in plates)
    assert "col0" not in page and "As requested, only row numbers are shown." in page
    assert f"Sample {check.pairs['sample'][0]}" in visible(page)  # ids and distances stay
    assert plates[0].distances in page


# --- safe to open


def test_no_text_of_the_user_becomes_markup():
    say = "".join(PAYLOADS)
    names = {kind: [f"{say}{i}" for i in range(300)] for kind in ("sample", "train", "test")}
    for check in (table_check(say), dataclasses.replace(digits_check(say=say), names=names)):
        page = render_copies(check)
        tags = Tags(page).found
        assert not {tag for tag, _ in tags} & {"script", "iframe", "object", "form", "link", "base"}
        assert not [a for _, attributes in tags for a in attributes if a.startswith("on")]
        assert all(a.get("src", "data:").startswith("data:image/png") for tag, a in tags if tag == "img")
        assert "{{ 7*7 }}" in page  # as it came, never evaluated


@pytest.mark.slow
@pytest.mark.parametrize("say", ["", "".join(PAYLOADS)])
def test_the_page_of_a_run_holds_the_same(tmp_path, say):
    X = np.random.default_rng(0).normal(size=(40, 6))
    columns = [f"{say}{i}" for i in range(6)]
    path = add_copies(make_run(tmp_path / "run", X=X, labels=None, columns=columns, say=say), say)
    jsonschema.validate(json.loads((path / "audit.json").read_text())["copies"], COPIES)
    page = own_part(write_report(path))
    tags = Tags(page).found
    assert not [a for _, attributes in tags for a in attributes if a.startswith("on")]
    assert {a["href"] for tag, a in tags if tag == "a"} >= {"#copies"} and any(a.get("id") == "copies" for _, a in tags)
    words = visible(re.sub(r"<script\b.*?</script>", " ", page, flags=re.S))
    assert words.count("Does the model repeat its training set?") == 2
    row = int(pairs(rows=40)["train"][0]) * 3  # of the source: every third
    assert f"Sample {pairs(rows=40)['sample'][0]} from training example {row} stands out" in words
    assert {tag for tag, _ in tags} & {"iframe", "object", "form", "link", "base"} == set()
    assert ("Measures that reports often give" in words) and "Column Sample Training Held out" in words


def test_the_page_loads_nothing():
    page = render_copies(digits_check())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    links = [a["href"] for tag, a in Tags(page).found if tag == "a"]
    assert all(link.startswith(("#", "https://")) for link in links)  # citations, which the reader may follow
    ids = [a["id"] for _, a in Tags(page).found if "id" in a]
    assert len(ids) == len(set(ids)) and {link[1:] for link in links if link[0] == "#"} <= set(ids)


# --- the figure


def test_the_figure_counts_every_row():
    samples, held = np.r_[np.zeros(50), np.full(50, 10.0)], np.linspace(0, 10, 100)
    figure = spread_figure(samples, held)
    line = re.search(r'class="train" d="M0,148 (.*?)"', figure).group(1)
    heights = [148 - float(y) for y in re.findall(r"L[\d.]+,([\d.]+)", line)][::2]
    assert heights[0] == heights[-1] == 140 and sum(heights) == 280  # half the samples at either end


@pytest.mark.parametrize("samples", [np.zeros(5), np.full(3, 7.0), np.array([1e-300]), np.array([1e300])])
def test_the_figure_survives_odd_distances(samples):
    assert "nan" not in spread_figure(samples, np.zeros(4)) and "inf" not in spread_figure(samples, np.zeros(4))
