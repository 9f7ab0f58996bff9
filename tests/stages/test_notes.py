"""What was left out or changed when data were read is kept with a run, and does not keep it from being resumed."""

import json

import numpy as np
import pytest
from PIL import Image

import genmem
from genmem.errors import RunMismatchError
from genmem.stages import check_copies
from genmem_cli.main import run as command

RNG = np.random.default_rng(0)
NOTE = "1 file skipped: 1 .txt (secret.txt)."


def folder_of(path, n):
    path.mkdir()
    for i in range(n):
        Image.fromarray(RNG.integers(0, 256, (8, 8), dtype=np.uint8)).save(path / f"{i}.png")
    return path


def plan(folder, out):
    return genmem.stages.plan(folder, "kde", out, folds=2, repeats=1)


def test_a_run_keeps_its_notes(tmp_path):
    folder = folder_of(tmp_path / "im", 12)
    (folder / "secret.txt").touch()
    run = plan(folder, tmp_path / "run")
    told = [NOTE, "As read, pixels were from 0 to 255."]
    assert run.plan["data"]["notes"] == told and list(run.data().notes) == told
    (folder / "more.txt").touch()
    assert plan(folder, tmp_path / "run").plan["data"]["notes"] == told


def test_runs_planned_before_there_were_notes(tmp_path):
    folder = folder_of(tmp_path / "im", 12)
    (folder / "secret.txt").touch()
    file = plan(folder, tmp_path / "run").path / "run.json"
    planned = json.loads(file.read_text())
    del planned["data"]["notes"]
    file.write_text(json.dumps(planned))
    assert plan(folder, tmp_path / "run").data().notes == ()


def test_the_command_prints_them(tmp_path, capsys):
    folder = folder_of(tmp_path / "im", 12)
    (folder / "secret.txt").touch()
    assert command(["plan", str(folder), "--model", "kde", "--folds", "2", "--out", str(tmp_path / "run")]) == 0
    assert NOTE in capsys.readouterr().out.splitlines()


def test_runs_planned_in_the_order_of_names_as_text(tmp_path, monkeypatch):
    """They are resumed in that order, with the noise of their pixels; new ones are in the order of the numbers."""
    folder = folder_of(tmp_path / "im", 12)
    monkeypatch.setattr("genmem.data.folders.in_order", sorted)
    before = plan(folder, tmp_path / "run").plan
    monkeypatch.undo()
    run = plan(folder, tmp_path / "run")
    assert run.plan == before and run.data().names.tolist()[:3] == ["0.png", "1.png", "10.png"]
    assert before["data"]["preparation"] == "dequantised once, seed 0"
    genmem.refit(run)
    (folder / "11.png").rename(folder / "12.png")
    with pytest.raises(RunMismatchError):
        plan(folder, tmp_path / "run")
    assert plan(folder, tmp_path / "new").data().names.tolist()[:3] == ["0.png", "1.png", "2.png"]


@pytest.mark.slow
def test_a_check_of_copies_tells_them_and_keeps_names_to_itself(tmp_path):
    sets = [folder_of(tmp_path / name, n) for name, n in (("train", 40), ("test", 30), ("samples", 20))]
    (sets[1] / "secret.txt").touch()
    found = check_copies(*sets, out=tmp_path / "open")
    assert found.notes == (f"test: {NOTE}",)
    assert json.loads((tmp_path / "open" / "copycheck.json").read_text())["data"]["notes"] == [f"test: {NOTE}"]
    check_copies(*sets, out=tmp_path / "redacted", redact=True)
    text = (tmp_path / "redacted" / "copycheck.json").read_text()
    assert json.loads(text)["data"]["notes"] == ["test: 1 file skipped."] and "secret" not in text
    assert "secret" not in (tmp_path / "redacted" / "report.html").read_text()
