"""The README runs: every command (made small) and every block of Python."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genmem_cli.main import run

ROOT = Path(__file__).parents[1]
SMALL = ["--epochs", "1", "--repeats", "1"]


def blocks(language):
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def a_users_folder(folder):
    rng = np.random.default_rng(0)
    (folder / "photos" / "cats").mkdir(parents=True)
    for i in range(12):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / "cats" / f"{i}.png")
    rows = [f"{a:.3f},{b:.3f},{'xyz'[i % 3]}" for i, (a, b) in enumerate(rng.normal(size=(30, 2)))]
    (folder / "table.csv").write_text("width,height,species\n" + "\n".join(rows) + "\n")
    scans = [f"p{i // 3},{a:.3f},{b:.3f}" for i, (a, b) in enumerate(rng.normal(size=(30, 2)))]
    (folder / "scans.csv").write_text("patient,width,height\n" + "\n".join(scans) + "\n")
    x_train = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(folder / "images.npz", x_train=x_train, y_train=np.arange(40) % 4)
    for name in ("train", "test", "samples"):  # fresh: nothing is copied
        np.save(folder / f"{name}.npy", rng.normal(size=(120, 4)))
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").write_text("")
    (folder / "my_package" / "densities.py").write_text(
        "import genmem\ndef make_model(epochs=1): return genmem.VAE(hidden=(4,), latent_dim=2, epochs=epochs)\n"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The reliability:UserWarning")  # no target is reached in one epoch
def test_every_command_runs(tmp_path, monkeypatch, capsys):
    a_users_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command, comments=True)
        assert words[0] == "genmem"
        small = SMALL if words[1] in ("audit", "plan") else []
        small = [*small, "--subset", "60"] if "digits" in words else small
        assert run([*words[1:], *small]) == 0, (command, capsys.readouterr().err)


@pytest.mark.slow
def test_every_block_of_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert found
    for code in found:
        exec(compile(code, "README.md", "exec"), {})
    assert "most memorized: 7" in capsys.readouterr().out


def test_it_opens_with_title_sentence_picture_and_the_two_commands():
    title, sentence, picture, commands = (ROOT / "README.md").read_text().split("\n\n")[:4]
    assert title == "# genmem" and sentence.count("\n") == 0 and picture.startswith("![")
    assert [line.split("#")[0].strip() for line in commands.splitlines()] == ["make audit", "make test"]


def test_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "data").glob("*/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).stat().st_size > 0, f"{page.name} -> {target}"
