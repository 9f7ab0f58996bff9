"""Results that were changed or deleted since they were written are noticed, and the stage that computes them mends."""

import json
import shutil

import numpy as np
import pytest

import genmem
from genmem import stages
from genmem.errors import RunError
from genmem.run import Run, written
from genmem.training.trajectory import load_trajectory
from genmem_cli.main import run as cli

QUICK = {"folds": 2, "repeats": 2, "workers": 1, "posterior": "amortised"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    X = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    model = genmem.VAE(hidden=(6,), latent_dim=2, epochs=3)
    return genmem.audit(X, model, tmp_path_factory.mktemp("runs") / "run", influence=True, **QUICK).path


@pytest.fixture
def run(finished, tmp_path):
    return Run.open(shutil.copytree(finished, tmp_path / "run"))


def test_a_killed_write_leaves_either_contents_sound(tmp_path):
    (tmp_path / "a.json").write_bytes(b"old")
    written.note(tmp_path, "a.json", b"old")
    written.note(tmp_path, "a.json", b"new")  # killed before the file is replaced
    assert written.changed(tmp_path) == []
    (tmp_path / "a.json").write_bytes(b"new")
    assert written.changed(tmp_path) == []
    (tmp_path / "a.json").write_bytes(b"other")
    assert written.changed(tmp_path) == [("a.json", "changed")]
    (tmp_path / "a.json").unlink()
    assert written.changed(tmp_path) == [("a.json", "deleted")]
    written.forget(tmp_path, "a.json")
    assert written.changed(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["a digit", "emptied", "deleted"])
@pytest.mark.parametrize("name", ["groups.json", "regions.json", "influence.json"])
def test_a_changed_result_stops_the_report_and_its_stage_restores_it(run, capsys, name, how):
    file, page = run.path / "results" / name, (run.path / "report.html").read_bytes()
    text = file.read_text()
    if how == "deleted":
        file.unlink()
    else:
        file.write_text(text.replace("1", "7", 1) if how == "a digit" else "")
    assert cli(["report", str(run.path)]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert (run.path / "report.html").read_bytes() == page
    stage = "influence" if name == "influence.json" else "regions"
    assert f"genmem {stage}" in said
    assert cli([stage, str(run.path)]) == 0
    assert cli(["report", str(run.path)]) == 0
    assert json.loads(file.read_text()).__class__ is json.loads(text).__class__


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regions", "cells", "influence", "neighbors"])
def test_deleted_arrays_drop_no_section_silently(run, capsys, name):
    (run.path / "results" / f"{name}.npz").unlink()
    assert cli(["report", str(run.path)]) == 2
    assert f"{name}.npz" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_an_earlier_version_has_no_note(run):
    (run.path / "results" / written.FILE).unlink()
    run.check_results()
    stages.report(run)


@pytest.mark.slow
def test_a_flipped_bit_of_a_checkpoint_is_noticed(run):
    folder = run.path / "trajectory"
    weights = sorted(folder.glob("*.safetensors"))[-1]
    raw = bytearray(weights.read_bytes())
    raw[-3] ^= 0x40
    weights.write_bytes(raw)
    with pytest.raises(RunError, match="does not match its checksum"):
        for checkpoint in load_trajectory(folder):
            checkpoint.state_dict()
            checkpoint.second_moments()


@pytest.mark.slow
def test_a_changed_manifest_of_a_trajectory_is_noticed(run):
    file = run.path / "trajectory" / "manifest.json"
    file.write_text(file.read_text().replace('"n_train": 50', '"n_train": 51'))
    with pytest.raises(RunError, match="does not match its checksum"):
        load_trajectory(file.parent)


@pytest.mark.slow
def test_a_trajectory_of_an_earlier_version_is_read(run):
    file = run.path / "trajectory" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    for row in manifest["checkpoints"]:
        del row["sha256"]
        row.pop("moments_sha256", None)
    file.write_text(json.dumps(manifest))
    assert all(checkpoint.state_dict() for checkpoint in load_trajectory(file.parent))
