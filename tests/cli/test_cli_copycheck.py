"""`genmem copycheck`: any generator from three sets, its files, its exit codes, and what it keeps to itself."""

import json
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import genmem
from genmem.data import fingerprint
from genmem.findings.copies import NUMBERS, names, numbers
from genmem.neighbors.copycheck import copycheck
from genmem.stages import check_copies
from genmem_cli.main import run

SETS = ["--train", "train.npy", "--test", "test.npy", "--samples", "samples.npy"]
DOCS = Path(__file__).parents[2] / "docs"


@lru_cache
def remembered(arguments, shapes, settings):
    arrays = [np.frombuffer(raw, kind).reshape(shape) for raw, (kind, shape) in zip(arguments, shapes, strict=True)]
    return copycheck(*arrays, **dict(settings))


def check_once(*sets, **settings):
    """Do what `copycheck` does, once for each question: here it is how it is asked and told that is tested."""
    kept = tuple(np.ascontiguousarray(rows).tobytes() for rows in sets)
    return remembered(kept, tuple((rows.dtype.str, rows.shape) for rows in sets), tuple(settings.items()))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with three sets; a quarter of the samples copies training rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("genmem.stages._copycheck.copycheck", check_once)
    rng = np.random.default_rng(0)
    train, test, samples = (rng.normal(size=(n, 64)).round(4) for n in (200, 150, 160))
    samples[:40] = train[:40]
    for name, rows in (("train", train), ("test", test), ("samples", samples), ("fresh", rng.normal(size=(90, 64)))):
        np.save(f"{name}.npy", rows)
    return tmp_path


@pytest.mark.slow
def test_verdict_files_and_last_line(capsys):
    assert run(["copycheck", *SETS]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].startswith("train: 200 examples of 64 values, float64, from ") and len(lines) == 5
    assert lines[3].startswith("Copies found. At least ") and lines[-1] == "runs/samples-copycheck" and said.err == ""
    out = Path(lines[-1])
    assert {file.name for file in out.iterdir()} == {
        "report.html", "copycheck.json", "pairs.parquet", "samples.parquet", "rows.parquet",
    }  # fmt: skip
    about = json.loads((out / "copycheck.json").read_text())
    assert about["verdict"] == "copies found" and about["numbers"]["copied_share_low"] > 0.1
    assert about["data"]["sets"]["train"] == {
        "source": "train.npy", "n": 200, "sha256": fingerprint(np.load("train.npy")),
    }  # fmt: skip
    assert about["asked"]["command"] == "genmem copycheck " + " ".join(SETS)
    page = (out / "report.html").read_text()
    assert about["sentence"].split(":")[0] in page and about["asked"]["command"] in page


@pytest.mark.slow
def test_tables_hold_every_row_with_its_neighbour():
    done = check_copies("train.npy", "test.npy", "samples.npy", out="out")
    samples, rows, pairs = (pq.read_table(f"out/{name}.parquet") for name in ("samples", "rows", "pairs"))
    assert samples["sample"].to_pylist() == list(range(160)) and rows["train"].to_pylist() == list(range(200))
    assert samples["nearest_train"].to_pylist()[:40] == list(range(40))
    assert samples["distance"].to_numpy()[:40].max() == 0 and samples["flagged"].to_numpy().sum() >= 40
    np.testing.assert_array_equal(samples["p_value"].to_numpy(), done.check.samples.p_value)
    np.testing.assert_array_equal(rows["q_value"].to_numpy(), done.check.rows.q_value)
    assert set(pairs["sample"].to_pylist()[:40]) == set(range(40)) and all(pairs["stands_out"].to_pylist()[:40])


@pytest.mark.slow
def test_the_python_line_of_the_report_repeats_it():
    run(["copycheck", *SETS, "--out", "out", "--seed", "3", "--level", "0.2", "--space", "pca:4", "--redact"])
    first = json.loads(Path("out/copycheck.json").read_text())
    line = first["asked"]["python"]
    assert line.startswith("genmem.stages.check_copies('train.npy', ") and "redact=True" in line
    exec(line, {"genmem": genmem})
    again = json.loads(Path("out/copycheck.json").read_text())
    assert again["asked"]["command"] == "started from Python"
    for about in (first, again):
        del about["created"], about["seconds"], about["asked"]["command"]
    assert again == first


# --- conditions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("copied_share_low > 0.01", 1),
        ("copied_share_low > 0.9", 0),
        ("copies_found == 1 and flagged_samples >= 40", 1),
        ("copies_found == 0 or scan_share_p < 1e-9", 0),
    ],
)
def test_exit_code_of_conditions(condition, code, capsys):
    assert run(["copycheck", *SETS, "--fail-if", condition]) == code
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "runs/samples-copycheck"  # the report is there either way
    assert (condition in said.err) == bool(code)


@pytest.mark.slow
def test_fresh_samples_pass():
    assert run(["copycheck", *SETS[:-1], "fresh.npy", "--fail-if", "copied_share_low > 0.01"]) == 0


@pytest.mark.parametrize(
    "condition", ["copied_shar > 0.01", "copied_share_low", "copied_share_low > 1; 2", "copied_share > 1e999"]
)
def test_conditions_that_cannot_be_read_cost_no_time(condition, capsys, monkeypatch):
    monkeypatch.setattr("genmem.stages._copycheck.load_three", lambda *_, **__: pytest.fail("was loaded first"))
    assert run(["copycheck", *SETS, "--fail-if", condition]) == 2
    assert "Traceback" not in (said := capsys.readouterr().err) and "condition" in said
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_condition_on_what_is_undefined_is_no_pass(capsys):
    assert run(["copycheck", *SETS, "--fail-if", "dcr_median_p < 0.05"]) == 2
    assert (
        "no value for dcr_median_p" in capsys.readouterr().err and Path("runs/samples-copycheck/report.html").exists()
    )


@pytest.mark.slow
def test_the_names_of_conditions_are_those_of_the_check():
    sets = [np.load(f"{name}.npy") for name in ("train", "test", "fresh")]
    assert set(numbers(copycheck(*sets))) == set(names())


def test_the_names_of_conditions_are_documented():
    page = (DOCS / "copycheck-command.md").read_text()
    assert [f"| `{name}` | {words}" for name, words in NUMBERS.items() if f"| `{name}` | {words}" not in page] == []


# --- what goes in


@pytest.mark.slow
def test_folders_of_images_with_their_names():
    rng = np.random.default_rng(1)
    pixels = {name: rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for name, n in (("t", 40), ("h", 40), ("s", 30))}
    pixels["s"][:25] = pixels["t"][:25]
    for name, images in pixels.items():
        Path(name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(f"{name}/{name}-{i:02}.png")
    assert run(["copycheck", "--train", "t", "--test", "h", "--samples", "s", "--out", "out"]) == 0
    page = Path("out/report.html").read_text()
    about = json.loads(Path("out/copycheck.json").read_text())
    assert about["verdict"] == "copies found" and about["data"]["event_shape"] == [8, 8, 3]
    assert page.count("data:image/png;base64,") >= 3 * 24 and "t-03.png" in page


@pytest.mark.slow
def test_tables_with_text():
    rng = np.random.default_rng(2)
    names = {"t": 120, "h": 100, "s": 90}
    for name, n in names.items():
        rows = [f"{rng.normal():.3f},{'abc'[i % 3]},{rng.integers(9)}" for i in range(n)]
        Path(f"{name}.csv").write_text("size,kind,count\n" + "\n".join(rows) + "\n")
    lines = Path("s.csv").read_text().splitlines()
    lines[1:61] = Path("t.csv").read_text().splitlines()[1:61]
    Path("s.csv").write_text("\n".join(lines) + "\n")
    asked = ["copycheck", "--train", "t.csv", "--test", "h.csv", "--samples", "s.csv", "--categorical", "count"]
    assert run([*asked, "--out", "out"]) == 0
    about, page = json.loads(Path("out/copycheck.json").read_text()), Path("out/report.html").read_text()
    assert about["verdict"] == "copies found" and "Gower" in about["space"]["sentence"]
    assert ">size</td>" in page and ">kind</td>" in page


@pytest.mark.slow
def test_flat_rows_shown_as_images():
    assert run(["copycheck", *SETS, "--image-shape", "8x8", "--space", "pooled", "--out", "out"]) == 0
    assert Path("out/report.html").read_text().count("<img") >= 24
    for shape in ("8x9", "8", "axb", "0x8"):
        assert run(["copycheck", *SETS, "--image-shape", shape, "--out", "other"]) == 2
    assert not Path("other").exists()


# --- what stays inside


@pytest.mark.slow
def test_redacted_files_hold_no_values_and_no_names():
    secret = np.array([f"secret-{i}" for i in range(60)])
    for name, rows, first in (("t", secret, 3.14159), ("h", secret[::-1], 3.64159), ("s", secret[:30], 3.14159)):
        numbers_of = "\n".join(f"{first + i:.5f},{i % 2},{text}" for i, text in enumerate(rows))
        Path(f"{name}.csv").write_text(f"private_size,private_kind,private_id\n{numbers_of}\n")
    asked = ["copycheck", "--train", "t.csv", "--test", "h.csv", "--samples", "s.csv", "--id-column", "private_id"]
    assert run([*asked, "--out", "open"]) == 0
    assert "secret-3" in (page := Path("open/report.html").read_text()) and "private_kind" in page
    assert "&#39;private_size&#39; has" in page  # of the variance: it is named in words too
    assert run([*asked, "--out", "closed", "--redact"]) == 0
    for file in Path("closed").iterdir():
        text = file.read_bytes()
        assert b"secret-" not in text and b"private_size" not in text and b"private_kind" not in text, file.name
    page = re.sub(r"<style.*?</style>", "", Path("closed/report.html").read_text(), flags=re.S)
    assert "<img" not in page and ".14159" not in page and ".1416" not in page
    assert re.search(r"Sample \d+</b> from training example \d+ ", page)


def test_folders_of_others_are_left_alone(capsys):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    Path("run").mkdir()
    Path("run/run.json").write_text("{}")
    for folder, said in (("mine", "other files"), ("run", "a run"), ("train.npy", "Not a directory")):
        assert run(["copycheck", *SETS, "--out", folder]) == 2
        assert said in capsys.readouterr().err
    assert [file.name for file in Path("mine").iterdir()] == ["notes.txt"]
    assert run(["copycheck", *SETS, "--out", "again"]) == run(["copycheck", *SETS, "--out", "again"]) == 0


def test_a_check_that_was_killed_while_writing_is_made_anew(monkeypatch):
    def killed(file, fill):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("genmem.stages._copycheck.write_atomically", killed)
        assert run(["copycheck", *SETS, "--out", "out"]) == 130
    Path("out/report.html.77.partial").touch()
    assert {file.name for file in Path("out").glob("*.*")} >= {"pairs.parquet", "samples.parquet", "rows.parquet"}
    assert run(["copycheck", *SETS, "--out", "out"]) == 0 and Path("out/copycheck.json").exists()
    Path("begun").mkdir()
    Path("begun/pairs.parquet.77.partial").touch()
    assert run(["copycheck", *SETS, "--out", "begun"]) == 0
    for name in ("report.html", "rows.parquet"):  # names that others use too
        Path(name.split(".")[0]).mkdir()
        Path(name.split(".")[0], name).write_text("mine")
        assert run(["copycheck", *SETS, "--out", name.split(".")[0]]) == 2


def test_where_nothing_can_be_written_costs_no_time(capsys, monkeypatch):
    monkeypatch.setattr("genmem.stages._copycheck.load_three", lambda *_, **__: pytest.fail("was loaded first"))
    assert run(["copycheck", *SETS, "--out", "train.npy/deep/down"]) == 2
    assert "which is not a folder" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda _, mode: not mode & os.W_OK)  # whoever runs tests may write anywhere
    assert run(["copycheck", *SETS, "--out", "new/out"]) == 2
    assert "which is read-only" in capsys.readouterr().err and not Path("new").exists()


# --- what users get wrong


def test_the_training_set_is_no_held_out_set(capsys):
    Path("again.npy").write_bytes(Path("train.npy").read_bytes())
    for test in ("train.npy", "again.npy"):
        assert run(["copycheck", "--train", "train.npy", "--test", test, *SETS[4:], "--out", "bad"]) == 2
        assert "the training set itself" in capsys.readouterr().err and not Path("bad").exists()


def test_bad_input_exits_2_with_a_sentence(capsys):
    np.save("nan.npy", np.full((9, 64), np.nan))
    np.save("inf.npy", np.full((9, 64), np.inf))
    np.save("none.npy", np.zeros((0, 64)))
    np.save("wide.npy", np.zeros((9, 5)))
    np.save("one.npy", np.zeros((1, 64)))
    Path("text.csv").write_text("a,b\n1,x\n2,y\n")
    bad = [[*SETS[:-1], name] for name in ("nan.npy", "inf.npy", "none.npy", "wide.npy", "text.csv", "gone.npy")]
    bad += [["--train", "one.npy", *SETS[2:]], [*SETS, "--space", "rwa"], [*SETS, "--level", "2"], SETS[2:]]
    bad += [[*SETS, "--array", "a"], [*SETS, "--seed", "-1"], [*SETS, "--space", "latent"], [*SETS, "--scale", "range"]]
    for arguments in bad:
        assert run(["copycheck", *arguments, "--out", "bad"]) == 2, arguments
        said = capsys.readouterr()
        assert "Traceback" not in said.err and said.err.strip(), arguments
        assert not Path("bad").exists(), arguments
