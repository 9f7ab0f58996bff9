"""Pages run: every block of Python, one page after another in a namespace of its own."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from genmem_cli.main import run

DOCS = Path(__file__).parents[1] / "docs"
WITH_CODE = ("custom-models.md", "pyro.md", "diffusion.md", "copycheck.md", "neurons.md")
PAGES = [page for page in WITH_CODE if (DOCS / page).exists()]
SMALL = ["--epochs", "1", "--repeats", "1", "--folds", "2", "--subset", "60"]


def blocks(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, namespace = blocks(page), {"__name__": "__main__"}
    assert found
    for code in found:
        exec(compile(code, page, "exec"), namespace)


def test_a_vae_of_your_own_takes_fewer_than_25_lines():
    code = blocks("custom-models.md")[0]
    lines = [line for line in code.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert "class MyVAE" in code and "genmem.audit" in code
    assert len(lines) < 25 and max(map(len, lines)) <= 120


def test_the_networks_of_the_page_run_in_lanes(tmp_path, monkeypatch):
    import torch

    from genmem.data import load
    from genmem.training.probe import can_batch

    monkeypatch.chdir(tmp_path)
    namespace, X = {"__name__": "__main__"}, load("digits").X[:100]
    first, lightning, file = blocks("custom-models.md")
    exec(first.partition("found =")[0], namespace)
    exec(lightning.partition("X = ")[0], namespace)
    exec(file, namespace)
    for model in (namespace["model"], namespace["lit"], namespace["make_model"]()):
        assert can_batch(model.resolve(X).recipe((64,), 80, seed=0), torch.from_numpy(X))


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code = next(block for block in blocks("custom-models.md") if block.startswith("# my_package/densities.py"))
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "densities.py").write_text(code)
    commands = [line[2:] for block in blocks("custom-models.md", "console") for line in block.splitlines()]
    assert commands
    try:
        for command in commands:
            assert run([*shlex.split(command)[1:], *SMALL]) == 0, capsys.readouterr().err
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
            del sys.modules[name]
