"""The walls of the house: imports go one way, files stay small, packaging names every folder."""

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each layer may import from the layers below it and from its own.
LAYERS = (
    ("cli",),
    ("pipeline",),
    ("stages",),
    (
        "summary",
        "validity",
        "scored",
        "findings",
        "findings_influence",
        "findings_copies",
        "copies",
        "estimate",
        "report",
        "plots",
    ),
    ("leaveout", "influence", "neighbors", "regions"),
    ("models",),
    ("training",),
    ("run", "shards", "plan", "inputs", "search", "approximate", "torch_search", "splits", "repeats"),
    ("data", "formats", "images", "tables", "labels", "rows", "checks", "storage", "progress"),
    ("errors", "protocols", "seeding", "stats", "conditions", "version"),
)
LAYER_OF = {name: depth for depth, names in enumerate(LAYERS) for name in names}
FLOOR_MAY_IMPORT = {"numpy", "scipy", "genmem"} | set(sys.stdlib_module_names)
QUESTIONS = {"leaveout", "regions", "influence", "neighbors", "neurons"}


def python_files():
    return sorted([*(ROOT / "genmem").rglob("*.py"), *(ROOT / "cli").glob("*.py")])


def home_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "cli" else parts[1]


@cache
def imports_of(path):
    """Return (module, names) of every import outside TYPE_CHECKING blocks."""
    return list(_imports_in(ast.parse(path.read_text())))


def _imports_in(node):
    """Yield the imports among the statements below a node; expressions hold none."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, []) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module, [alias.name for alias in child.names]
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        elif isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
            yield from _imports_in(child)


def homes_imported(path):
    for module, names in imports_of(path):
        parts = module.split(".")
        if parts[0] != "genmem":
            continue
        yield from ([parts[1]] if len(parts) > 1 else names)


def inner_files():
    return [path for path in python_files() if path != ROOT / "genmem" / "__init__.py"]


def test_imports_go_one_way():
    wrong = []
    for path in inner_files():
        here = home_of(path)
        for there in homes_imported(path):
            if LAYER_OF[here] > LAYER_OF[there] or ({here, there} <= QUESTIONS and here != there):
                wrong.append(f"{path.relative_to(ROOT)} ({here}) must not import {there}")
    assert not wrong


def test_floor_needs_numpy_and_scipy_only():
    for path in inner_files():
        if LAYER_OF[home_of(path)] == len(LAYERS) - 1:
            roots = {module.split(".")[0] for module, _ in imports_of(path)}
            assert roots <= FLOOR_MAY_IMPORT, (path.name, roots - FLOOR_MAY_IMPORT)


def test_report_never_imports_torch():
    for path in (ROOT / "genmem" / "report").glob("*.py"):
        assert not any(module.startswith("torch") for module, _ in imports_of(path))


def test_no_file_nears_400_lines():
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in python_files()}
    assert {path: n for path, n in lengths.items() if n > 380} == {}


def test_no_module_shares_its_name_with_a_public_function():
    import genmem

    modules = {path.stem for path in (ROOT / "genmem").glob("*.py")} | {p.name for p in (ROOT / "genmem").iterdir()}
    assert not modules & set(genmem.__all__)


def test_every_public_name_resolves():
    import genmem

    for name in genmem.__all__:
        assert getattr(genmem, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        genmem.nothing  # noqa: B018


def test_packages_are_the_folders():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {str(p.parent.relative_to(ROOT)).replace("/", ".") for p in (ROOT / "genmem").rglob("__init__.py")}
    assert set(settings["packages"]) == folders | {"genmem_cli"}
    for pattern in settings["package-data"]["genmem"]:
        assert (ROOT / "genmem" / pattern).exists()


def test_every_dependency_is_pinned_and_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    imported = {module.split(".")[0].lower() for path in python_files() for module, _ in imports_of(path) if module}
    module_of = {"faiss-cpu": "faiss", "pillow": "pil", "pyro-ppl": "pyro", "scikit-learn": "sklearn"}
    for requirement in project["dependencies"]:
        name = re.match(r"[\w-]+", requirement).group().lower()
        assert name in pins, f"{name} is not pinned"
        assert module_of.get(name, name) in imported, f"{name} is never imported"


def test_nothing_is_unpickled():
    for path in python_files():
        assert not re.search(r"import pickle|allow_pickle=True|torch\.load\(|joblib\.load", path.read_text()), path
