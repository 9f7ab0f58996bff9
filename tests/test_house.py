"""The walls of the house: imports go one way, files stay small, packaging names every folder."""

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each layer may import from the layers below it and from its own; questions never from each other.
LAYERS = (
    ("cli",),
    ("pipeline",),
    ("stages",),
    ("report", "plots"),
    ("findings", "compare"),
    ("leaveout", "influence", "neighbors", "regions", "neurons"),
    ("gradients",),
    ("models",),
    ("training",),
    ("run",),
    ("search",),
    ("data",),
    ("clusters", "stats", "protocols", "seeding", "errors", "version"),
)
LAYER_OF = {name: depth for depth, names in enumerate(LAYERS) for name in names}
FLOOR_MAY_IMPORT = {"numpy", "scipy", "genmem"} | set(sys.stdlib_module_names)
QUESTIONS = {"leaveout", "influence", "neighbors", "regions", "neurons"}
MOST_LINES = 400
UNPICKLING = re.compile(r"import pickle|allow_pickle=True|torch\.load\((?!.*weights_only=True)|joblib\.load")
MOST_AT_ROOT = 8


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


def test_the_house():
    """Everything that is asked of every file, all offenders at once."""
    wrong = []
    for path in python_files():
        name, lines = path.relative_to(ROOT), len(path.read_text().splitlines())
        if lines > MOST_LINES:
            wrong.append(f"{name} has {lines} lines")
        if UNPICKLING.search(path.read_text()):
            wrong.append(f"{name} unpickles")
    for path in inner_files():
        name, here = path.relative_to(ROOT), home_of(path)
        for there in homes_imported(path):
            if LAYER_OF[here] > LAYER_OF[there] or ({here, there} <= QUESTIONS and here != there):
                wrong.append(f"{name} ({here}) must not import {there}")
        roots = {module.split(".")[0] for module, _ in imports_of(path)}
        if LAYER_OF[here] == len(LAYERS) - 1 and roots - FLOOR_MAY_IMPORT:
            wrong.append(f"{name} is on the floor and must not import {roots - FLOOR_MAY_IMPORT}")
        if here == "report" and "torch" in roots:
            wrong.append(f"{name} must not import torch")
    wrong += [f"a circle of imports: {' -> '.join(circle)}" for circle in circles(import_graph())]
    assert not wrong, "\n".join(wrong)


def import_graph():
    """Return the modules of genmem that each module of it imports, wherever in the file."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in inner_files()}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items() if name.startswith("genmem.")}
    graph = {}
    for name, path in paths.items():
        graph[name] = set()
        for module, names in imports_of(path):
            parts = [f"{module}.{part}" if f"{module}.{part}" in paths else module for part in names] or [module]
            graph[name] |= {part for part in parts if part in paths and part != name}
    return graph


def circles(graph):
    """Yield a circle for every module that leads back to itself, found from its lexically first member."""
    for start in sorted(graph):
        paths, seen = [[start]], {start}
        while paths:
            path = paths.pop()
            for there in sorted(graph[path[-1]]):
                if there == start and min(path) == start:
                    yield [*path, start]
                    paths = []
                    break
                if there not in seen:
                    seen.add(there)
                    paths.append([*path, there])


def test_circles_are_found():
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": set()})) == []
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == [["b", "c", "b"]]


def test_the_root_stays_small():
    names = {path.stem for path in (ROOT / "genmem").iterdir() if path.name not in ("__pycache__", "py.typed")}
    assert len(list((ROOT / "genmem").glob("*.py"))) <= MOST_AT_ROOT
    assert names - {"__init__"} == LAYER_OF.keys() - {"cli"}


def test_tests_mirror_the_packages():
    packages = {path.parent.name for path in (ROOT / "genmem").glob("*/__init__.py")} | {"cli"}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == packages | {"external"}
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))  # pytest imports them by their names


def test_no_module_shares_its_name_with_a_public_function():
    import genmem

    modules = {path.stem for path in (ROOT / "genmem").iterdir()}
    assert not modules & set(genmem.__all__)


def test_every_public_name_resolves():
    import genmem

    for name in genmem.__all__:
        assert getattr(genmem, name) is not None
    for name in ("data", "findings", "gradients", "influence", "leaveout", "models", "neighbors", "run", "training"):
        assert getattr(genmem, name).__name__ == f"genmem.{name}"
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
