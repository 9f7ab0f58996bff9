"""The command line: exit codes, last lines, help, errors without tracebacks."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from genmem_cli.commands import ALL
from genmem_cli.main import run

QUICK = "--folds 3 --repeats 2 --epochs 3 --set hidden=8 --set latent_dim=2".split()
COMMAND = [sys.executable, "-m", "genmem_cli.main"]


@pytest.fixture
def table(tmp_path, blobs, monkeypatch):
    """The path of a saved array, and the working folder beside it."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", blobs[0])
    return tmp_path / "x.npy"


@pytest.mark.slow
def test_audit_ends_with_the_path_of_the_run(table, capsys):
    assert run(["audit", "x.npy", "--out", "out", *QUICK]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "out"
    assert captured.err == ""  # not a terminal: quiet
    assert all((Path("out") / name).exists() for name in ("audit.json", "scores.parquet", "report.html"))


@pytest.mark.slow
def test_default_run_directory(table, capsys):
    assert run(["plan", "x.npy", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "runs/x-vae"
    assert lines[0] == "120 examples of 6 values, float32, from -3.10634 to 8.39168." and "6 refits" in lines[1]


@pytest.mark.slow
def test_stages_one_by_one_make_the_same_audit(table, capsys):
    assert run(["audit", "x.npy", "--out", "whole", *QUICK]) == 0
    assert run(["plan", "x.npy", "--out", "steps", *QUICK]) == 0
    for stage in ("refit", "fit", "posterior", "score", "neighbors", "regions", "report"):
        assert run([stage, "steps"]) == 0, stage
        assert capsys.readouterr().out.splitlines()[-1] == "steps"
    import pyarrow.parquet as pq

    # each run made its own probe: equal to the last digit only if both chose lanes, so compare loosely
    one, other = (pq.read_table(f"{name}/scores.parquet")["score"].to_numpy() for name in ("whole", "steps"))
    np.testing.assert_allclose(one, other, atol=0.05)


@pytest.mark.slow
def test_stages_out_of_order_say_what_is_missing(table, capsys):
    run(["plan", "x.npy", "--out", "r", *QUICK])
    assert run(["score", "r"]) == 2
    assert "genmem refit r" in capsys.readouterr().err
    assert run(["neighbors", "r"]) == 2
    assert "genmem score r" in capsys.readouterr().err


@pytest.mark.slow
def test_neurons_says_what_is_missing(table, capsys):
    run(["plan", "x.npy", "--out", "r", *QUICK])
    assert run(["neurons", "r", "--repeats", "2"]) == 2
    assert "16 networks; got 2" in capsys.readouterr().err
    assert run(["neurons", "r"]) == 2
    assert "16 or more memorized examples" in capsys.readouterr().err


@pytest.mark.slow
def test_python_lines_of_the_help_run(table, capsys):
    assert run(["audit", "digits", "--out", "runs/digits", "--subset", "60", *QUICK]) == 0
    lines = [command.epilog.removeprefix("Python: ") for command in ALL]
    # `genmem neurons` needs more than 60 examples
    lines = [line for line in lines if "runs/digits" in line and "Run.open" in line and "neurons" not in line]
    assert len(lines) >= 8
    # Each line has a package of its own, as if it were the first of its process; the libraries are loaded once.
    code = """
import sys
for line in sys.argv[1:]:
    for name in [name for name in sys.modules if name.split('.')[0] == 'genmem']:
        del sys.modules[name]
    print(line, file=sys.stderr)
    exec('import genmem; ' + line, {})
"""
    done = subprocess.run([sys.executable, "-c", code, *lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_ends_with_the_python_line(capsys):
    last = {}
    for command in ALL:
        assert run([command.name, "--help"]) == 0
        last[command.name] = capsys.readouterr().out.strip().splitlines()[-1].strip()
    assert {name: line for name, line in last.items() if not re.match(r"(Python: )?genmem\.", line)} == {}


def bad_inputs(folder):
    """Yield (name, arguments) of what users get wrong."""
    np.save(folder / "one.npy", np.zeros((1, 3)))
    np.save(folder / "none.npy", np.zeros((0, 3)))
    np.save(folder / "nan.npy", np.array([[1.0, np.nan], [2.0, 3.0]]))
    np.save(folder / "inf.npy", np.array([[1.0, np.inf], [2.0, 3.0]]))
    np.save(folder / "same.npy", np.ones((9, 3)))
    np.save(folder / "objects.npy", np.array([[1, "a"], [2, None]], dtype=object), allow_pickle=True)
    (folder / "ragged.csv").write_text("a,b\n1,2\n3\n4,5,6\n")
    (folder / "text.csv").write_text("a,b\n1,x\n2,y\n")
    (folder / "noise.png").write_text("not an image")
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_text("not an image")
    for name in ("missing.npy", "one.npy", "none.npy", "nan.npy", "inf.npy", "same.npy", "objects.npy"):
        yield name, [name]
    for name in ("ragged.csv", "text.csv", "images", "noise.png"):
        yield name, [name]
    good = ["x.npy"]
    yield "folds", [*good, "--folds", "121"]
    yield "labels", [*good, "--labels", "one.npy"]
    yield "set", [*good, "--set", "latentdim=3"]
    yield "value", [*good, "--set", "latent_dim=many"]
    yield "no equals", [*good, "--set", "latent_dim"]
    yield "model", [*good, "--model", "vea"]
    yield "factory", [*good, "--model", "os.path:join"]
    yield "array", [*good, "--array", "a"]
    yield "subset", [*good, "--subset", "500"]
    yield "out", [*good, "--out", "x.npy/inside"]
    yield "out is a file", [*good, "--out", "x.npy"]
    yield "device", [*good, "--device", "abacus"]
    yield "score epochs", [*good, "--score-epochs", "5,x"]


def test_bad_input_exits_2_with_a_sentence(table, capsys):
    for name, arguments in bad_inputs(table.parent):
        code = run(["audit", *QUICK, *arguments, *([] if "--out" in arguments else ["--out", "bad"])])
        captured = capsys.readouterr()
        assert code == 2, (name, captured)
        assert "Traceback" not in captured.err and captured.err.strip(), name
        assert not Path("bad").exists(), f"{name}: refused before a run directory exists"


@pytest.mark.slow
def test_mismatch_names_the_key(table, capsys):
    run(["audit", "x.npy", "--out", "r", *QUICK])
    assert run(["audit", "x.npy", "--out", "r", *QUICK, "--set", "latent_dim=3"]) == 2
    assert "latent_dim=3" in capsys.readouterr().err


@pytest.mark.slow
def test_damaged_shard_is_named_and_recomputed(table, capsys):
    run(["audit", "x.npy", "--out", "r", *QUICK])
    shard = Path("r/shards/0001.npz")
    before = shard.read_bytes()
    shard.write_bytes(before[:100])
    assert run(["audit", "x.npy", "--out", "r", *QUICK]) == 2
    assert "0001.npz" in capsys.readouterr().err
    assert run(["audit", "x.npy", "--out", "r", *QUICK, "--recompute"]) == 0
    with np.load(shard) as again:
        assert again["log_probs"].shape == (1, 3, 120)


@pytest.mark.slow
def test_factory_beside_the_data(table, capsys):
    Path("my_model.py").write_text(
        "from sklearn.neighbors import KernelDensity\ndef kde(bandwidth): return KernelDensity(bandwidth=bandwidth)\n"
    )
    arguments = ["audit", "x.npy", "--model", "my_model:kde", "--set", "bandwidth=0.7", "--out", "kde", "--folds", "3"]
    assert run([*arguments, "--repeats", "2"]) == 0
    assert run(["score", "kde"]) == 0


@pytest.mark.slow
def test_full_disk(table, capsys, monkeypatch):
    run(["plan", "x.npy", "--out", "r", *QUICK])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run(["refit", "r"]) == 2
    assert "Free some space" in capsys.readouterr().err
    monkeypatch.undo()
    os.chdir(table.parent)
    assert run(["refit", "r"]) == 0


@pytest.mark.slow
def test_interrupt_says_how_to_resume(table):
    arguments = ["audit", "x.npy", "--out", "r", "--folds", "3", "--repeats", "4", "--epochs", "9000"]
    started = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while not (Path("r") / "run.json").exists() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "Traceback" not in err
    assert f"genmem {' '.join(arguments)}" in err
    assert out == ""


def test_an_interrupt_lost_in_a_library_stops_the_next_report(monkeypatch):
    from genmem.protocols import Progress
    from genmem_cli import progress

    monkeypatch.setattr(progress.signal, "signal", lambda number, handler: handlers.append(handler))
    monkeypatch.setattr(progress, "_interrupted", threading.Event())
    handlers = []
    progress.watch_interrupts()
    with progress.bars() as listen:
        listen(Progress("refit", 0, 1))
        with contextlib.suppress(KeyboardInterrupt):  # as a callback would
            handlers[0]()
        with pytest.raises(KeyboardInterrupt):
            listen(Progress("refit", 1, 1))


@pytest.mark.slow
def test_second_process_is_refused(table, capsys):
    run(["plan", "x.npy", "--out", "r", *QUICK])
    code = "import sys, pathlib, genmem.run.storage as s\n"
    code += "with s.lock(pathlib.Path('r')): print(flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()
    assert run(["refit", "r"]) == 2
    assert "another process" in capsys.readouterr().err
    holder.communicate()


@pytest.mark.parametrize(
    "setting", ["epochs=abc", "batch_size=x", "learning_rate=fast", "hidden=wide", "latent_dim=-1"]
)
def test_a_setting_is_checked_before_it_is_used(table, capsys, setting):
    assert run(["plan", "x.npy", "--set", setting]) == 2
    assert f"Expected {setting.partition('=')[0]} to be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("kde", "bandwidth=abc"),
        ("kde", "bandwidth=-1"),
        ("kde", "kernel=none"),
        ("gmm", "n_components=0.5"),
        ("gmm", "covariance_type=round"),
        ("gmm-torch", "n_components=many"),
        ("gmm-torch", "reg_covar=-1"),
        ("kde-torch", "bandwidth=wide"),
        ("kde-torch", "device=tpu"),
        ("knn", "k=0"),
        ("mfa", "components=x"),
        ("flow", "transforms=x"),
        ("diffusion", "timesteps=x"),
    ],
)
def test_settings_of_every_density_are_checked_before_the_plan(table, capsys, model, setting):
    """With exit code 2, and no run directory is left behind."""
    assert run(["plan", "x.npy", "--model", model, "--set", setting, "--out", "r"]) == 2
    error = capsys.readouterr().err
    assert setting.partition("=")[0] in error and "refits" not in error and not Path("r").exists()


@pytest.mark.slow
def test_a_closed_pipe_is_no_condition(table):
    """With every command that prints at the end or before: the code is that of SIGPIPE, not that of --fail-if."""
    assert run(["audit", "x.npy", "--model", "kde", "--folds", "2", "--repeats", "1", "--out", "r"]) == 0
    asked = [["plan", "x.npy", *QUICK], ["plan", "x.npy", "--show"], ["audit", "x.npy", "--model", "kde", "--out", "s"]]
    asked += [[name, "r"] for name in ("report", "regions", "refit", "score", "neighbors")]
    asked += [["copycheck", "--train", "x.npy", "--test", "x.npy", "--samples", "x.npy", "--help"]]
    for arguments in asked:
        command = [sys.executable, "-m", "genmem_cli.main", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.close()
            assert process.wait() == 141, arguments
            assert b"Traceback" not in process.stderr.read()


def test_how_data_are_read_may_be_shown_alone(table, capsys):
    assert run(["plan", "x.npy", "--show", "--subset", "50"]) == 0
    assert capsys.readouterr().out.startswith("50 examples of 6 values, float32, from ")
    assert not Path("runs").exists()
