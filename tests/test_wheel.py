"""The wheel: built, installed elsewhere, audits digits outside the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.mark.slow
def test_wheel_audits_digits_outside_the_checkout(tmp_path):
    source = tmp_path / "source"  # a copy: building leaves files beside the source
    for name in ("genmem", "cli"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [
        *PIP,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("genmem-*.whl")
    site = tmp_path / "site"
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    code = "import genmem, genmem_cli; print(genmem.__file__, genmem_cli.__file__)"
    python = [sys.executable, "-P"]
    places = subprocess.check_output([*python, "-c", code], cwd=tmp_path, env=environment, text=True).split()
    assert len(places) == 2 and all(path.startswith(str(site)) for path in places)
    small = "--out out --subset 80 --epochs 2 --folds 3 --repeats 2".split()
    command = [*python, "-m", "genmem_cli.main", "audit", "digits", *small]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000
