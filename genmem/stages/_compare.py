"""Compare finished runs of the same data: from their paths to a folder with compare.json and compare.html."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from genmem.compare import Comparison
from genmem.compare import compare as compare_audits
from genmem.compare.comparison import CONDITIONS, LEVEL, TOP
from genmem.errors import RunError
from genmem.findings.conditions import Condition, parse_condition
from genmem.report.comparison import render_comparison
from genmem.run.request import python_line
from genmem.run.storage import PARTIAL, write_atomically
from genmem.stages._copycheck import refuse_unwritable
from genmem.version import __version__

SCHEMA_VERSION = "1.0"
FILES = {"report": "compare.html", "about": "compare.json"}


@dataclass(frozen=True, eq=False)
class Compared:
    """A comparison and its folder. `failed`: the audits for which the condition `fail_if` holds against the first."""

    path: Path
    comparison: Comparison
    failed: tuple[str, ...]


def compare(
    runs: Sequence[Any],
    out: str | PathLike[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    above: float = 0.0,
    top: float = TOP,
    level: float = LEVEL,
    fail_if: str | None = None,
    command: str | None = None,
) -> Compared:
    """Compare audits of the same data, and write compare.html (one offline page) and compare.json (every number).

    Args:
        runs: two or more (see `genmem.compare.compare`); the first is what others are compared with.
        out: the folder; by default `runs/compare-<first>-<last>`. Files of an earlier comparison are replaced.
        names: how to call them; by default the last part of their paths.
        above: nats above which a score counts as memorized.
        top: the share of examples in the top of each audit.
        level: false-discovery rate of the lists of examples.
        fail_if: a condition on `Pair.numbers` of the first run and each other one, such as "mean_difference_low > 0".
        command: the command line, for the page.

    Raises:
        DataError: the runs are of different data, or a setting is out of its range; the condition is malformed, or
            depends on an undefined number (the files are written nevertheless).
        IncompleteRunError: a run has no scores.
        RunError: a path is no run, a file is damaged, or the folder contains other files or cannot be written.
    """
    asked = {name: value for name, value in locals().items() if name != "command"}
    condition = None if fail_if is None else parse_condition(fail_if, CONDITIONS)
    found = compare_audits(*runs, names=names, above=above, top=top, level=level)
    folder = _folder(out, found)
    about = {
        "schema_version": SCHEMA_VERSION,
        "genmem_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "asked": {
            "command": command or "started from Python",
            "python": python_line(compare, {**asked, "runs": [_named(one) for one in runs]}),
            "fail_if": fail_if,
        },
        **found.to_dict(),
        "files": FILES,
    }
    _write(folder, found, about)
    return Compared(folder, found, _failed(condition, found))


def _failed(condition: Condition | None, found: Comparison) -> tuple[str, ...]:
    if condition is None:
        return ()
    return tuple(name for name, pair in found.against_first().items() if condition.holds(pair.numbers()))


def _named(one: Any) -> str:
    return fspath(one) if isinstance(one, str | PathLike) else fspath(getattr(one, "path", "scores"))


def _folder(out: str | PathLike[str] | None, found: Comparison) -> Path:
    """Return the folder to write to; RunError if it contains something other than an earlier comparison."""
    first, *_, last = (Path(name).name or "run" for name in found.names)
    folder = Path(out) if out is not None else Path("runs") / f"compare-{first}-{last}"
    refuse_unwritable(folder)
    there = {file.name for file in folder.iterdir()} if folder.exists() else set()
    there = {name for name in there if not name.endswith(PARTIAL)} - set(FILES.values())
    if there:
        raise RunError(
            expected=f"a new or empty folder at {folder}, or the folder of an earlier comparison",
            got="one that contains a run" if "run.json" in there else f"one with other files ({min(there)})",
            do="Choose another --out.",
        )
    return folder


def _write(folder: Path, found: Comparison, about: dict[str, Any]) -> None:
    page = render_comparison(found, about).encode("utf-8", "replace")
    text = json.dumps(about, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / FILES["report"], lambda handle: handle.write(page))
    write_atomically(folder / FILES["about"], lambda handle: handle.write(text.encode("utf-8", "replace")))
