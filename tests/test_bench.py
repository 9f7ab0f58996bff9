"""Every benchmark is in the one list and can be run at tiny sizes; CI runs them so."""

import ast
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench"


def value_of(name):
    """Return a constant of bench/run.py without importing it."""
    tree = ast.parse((BENCH / "run.py").read_text())
    assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    found = assigned[name]
    # MNIST and the like are plain names; only the keys are asked for.
    return [key.value for key in found.keys] if isinstance(found, ast.Dict) else ast.literal_eval(found)


LISTED = value_of("BENCHES")


def test_every_file_is_in_the_list():
    there = {path.stem for path in BENCH.glob("*.py")} - value_of("SHARED")
    assert there == set(LISTED)


def test_each_can_be_run_at_tiny_sizes_and_is_in_the_readme():
    readme, wrong = (BENCH / "README.md").read_text(), []
    for name in LISTED:
        tree = ast.parse((BENCH / f"{name}.py").read_text())
        main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
        calls = [node.func for node in ast.walk(main) if isinstance(node, ast.Call)]
        if [a.arg for a in main.args.args] != ["argv"] or len(main.args.defaults) != 1:
            wrong.append(f"{name}: main(argv=None)")
        if not {"options", "parse"} <= {call.id for call in calls if isinstance(call, ast.Name)}:
            wrong.append(f"{name}: --smoke from bench/common.py")
        if f"bench/{name}." not in readme:
            wrong.append(f"{name}: a line in bench/README.md")
    assert not wrong


def test_the_list_is_read_without_torch():
    done = subprocess.run([sys.executable, BENCH / "run.py", "no-such"], capture_output=True, text=True)
    assert done.returncode == 2 and "no-such" in done.stderr
