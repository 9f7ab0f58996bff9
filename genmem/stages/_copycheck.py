"""Check the samples of any generator for copies of its training set: three sets in, a folder with a report out."""

import datetime
import json
import math
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from genmem.data.arrays import fingerprint
from genmem.data.three_sets import ThreeSets, load_three
from genmem.errors import DataError, RunError
from genmem.findings.conditions import Condition, parse_condition
from genmem.findings.copies import describe, names, numbers, one_for_each_row, stands_out, tables, write_table
from genmem.neighbors.copycheck import CopyCheck, copycheck
from genmem.protocols import Listener, Progress, ignore
from genmem.report.build import render_copies
from genmem.report.copies import CopyResults, spread_of
from genmem.report.pictures import Scale, scale_of
from genmem.run.plan import versions
from genmem.run.request import python_line
from genmem.run.storage import PARTIAL, write_atomically
from genmem.version import __version__

SCHEMA_VERSION = "1.0"
FILES = {
    "report": "report.html",
    "about": "copycheck.json",
    "pairs": "pairs.parquet",
    "samples": "samples.parquet",
    "rows": "rows.parquet",
}
LIBRARIES = ("python", "numpy", "scipy", "faiss")

Source = str | PathLike[str] | NDArray[Any]


@dataclass(frozen=True, eq=False)
class Checked:
    """A copy check and the folder it is in.

    `numbers` are those a condition can name. `failed`: whether the condition that was asked about holds.
    """

    path: Path
    check: CopyCheck
    numbers: dict[str, float]
    failed: bool


def check_copies(
    train: Source,
    test: Source,
    samples: Source,
    *,
    out: str | PathLike[str] | None = None,
    array: str | None = None,
    categorical: str | Sequence[str] | None = None,
    scale: Literal["range", "spread"] | None = None,
    id_column: str | None = None,
    image_shape: Sequence[int] | None = None,
    space: Any = "raw",
    level: float = 0.1,
    seed: int = 0,
    redact: bool = False,
    fail_if: str | None = None,
    command: str | None = None,
    progress: Listener = ignore,
) -> Checked:
    """Check samples of any generator for copies of its training set, and write what is found into a folder.

    Files: report.html (one offline page), copycheck.json (every number), pairs.parquet (the most suspicious samples,
    the training row and the held-out row nearest to each), samples.parquet and rows.parquet (p and q of each sample
    and each training row). Files of an earlier check in the folder are replaced.

    Args:
        train: what the model was trained on: an array, or a path as for `genmem.load`.
        test: examples of the same source that it never saw.
        samples: what it generated.
        out: the folder; `runs/<samples>-copycheck` without it.
        array: the array of .npz files that holds the rows.
        categorical: columns of tables whose numbers are codes, beside those that hold text.
        scale: of columns of numbers, "range" or "spread" of the training set: every column has the same say.
        id_column: a column of tables that is no part of the data and tells what rows are called.
        image_shape: (h, w) or (h, w, channels) of images that come as flat rows.
        space: in which distances are measured (see `genmem.copycheck`).
        level: the false-discovery rate of samples and rows that are named.
        seed: the root of all randomness.
        redact: show row numbers and distances only; no pictures, no values, no names of files or columns.
        fail_if: a condition such as "copied_share_low > 0.01" on `Checked.numbers`.
        command: the command line, for the report.
        progress: told what is going on.

    Raises:
        DataError: a set cannot be read or does not fit the others; training and held-out set are one; the condition
            cannot be read, or what it asks about is undefined (the files are there all the same).
        RunError: the folder is a run, holds files of others, or cannot be written.
    """
    asked = {name: value for name, value in locals().items() if name not in ("command", "progress")}
    condition = None if fail_if is None else parse_condition(fail_if, names())
    folder = _folder(out, samples)
    start = time.perf_counter()
    progress(Progress("copies", 0, 1))
    how = {name: asked[name] for name in ("array", "categorical", "scale", "id_column")}
    sets = _load((train, test, samples), image_shape, **how)
    _refuse_one_set_twice(sets)
    check = _check(sets, space=space, level=level, seed=seed)
    about = {
        "schema_version": SCHEMA_VERSION,
        "genmem_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "asked": {**_asked(asked), "command": command or "started from Python"},
        "data": _data(sets),
        **describe(check, space if isinstance(space, str) else "given", _words(check, sets, redact)),
        "versions": {name: version for name, version in versions().items() if name in LIBRARIES},
        "seconds": round(time.perf_counter() - start, 3),
        "files": FILES,
    }
    _write(folder, check, about, _results(check, about, sets, redact))
    progress(Progress("copies", 1, 1))
    return Checked(folder, check, numbers(check), _holds(condition, numbers(check)))


def _holds(condition: Condition | None, values: Mapping[str, float]) -> bool:
    return condition is not None and condition.holds(values)


def _folder(out: str | PathLike[str] | None, samples: Source) -> Path:
    """Return the folder to write to.

    Raises:
        RunError: it holds something else than an earlier check.
    """
    folder = Path(out) if out is not None else Path("runs") / f"{_stem(samples)}-copycheck"
    try:
        names = {file.name for file in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise RunError(
            expected=f"a folder at {folder}", got=error.strerror or str(error), do="Choose another --out."
        ) from error
    if names and FILES["about"] not in names and not _is_unfinished(names):
        what = "a run" if "run.json" in names else f"other files ({min(names)})"
        raise RunError(
            expected=f"a new or empty folder at {folder}, or that of an earlier check",
            got=f"one that holds {what}",
            do="Choose another --out.",
        )
    _refuse_unwritable(folder)
    return folder


def _is_unfinished(names: Collection[str]) -> bool:
    """Whether these are files of a check that was killed while it wrote them, the pairs first."""
    whole = {name for name in names if not name.endswith(PARTIAL)}
    begun = {name.split(".parquet.")[0] for name in set(names) - whole}
    return whole <= set(FILES.values()) and (FILES["pairs"] in whole or (not whole and begun == {"pairs"}))


def _refuse_unwritable(folder: Path) -> None:
    """Refuse a folder that can be neither made nor written to, before hours of work rather than after."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(parent))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise RunError(
            expected=f"a folder that can be written at {folder}",
            got=f"{there}, which is {'read-only' if there.is_dir() else 'no folder'}",
            do="Choose another --out, or change the permissions.",
        )


def _refuse_one_set_twice(sets: ThreeSets) -> None:
    train, test, _ = sets.arrays
    if len(train) == len(test) and fingerprint(train) == fingerprint(test):
        raise DataError(
            expected="held-out examples that the model was not trained on",
            got=f"the training set again: {sets.sources['train']} and {sets.sources['test']} hold the same rows",
            do="Hold examples out before training: without them nothing tells copies from rows that are alike.",
        )


def _stem(samples: Source) -> str:
    return Path(samples).name.split(".")[0] or "samples" if isinstance(samples, str | PathLike) else "samples"


def _named(source: Any) -> str:
    return fspath(source) if isinstance(source, str | PathLike) else "array"


def _asked(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was asked, arrays and functions by name only, with the line of Python that repeats it."""
    return {
        "python": python_line(check_copies, asked),
        **{name: _named(asked[name]) for name in ("train", "test", "samples")},
        "space": asked["space"] if isinstance(asked["space"], str) else "given",
        "level": asked["level"],
        "seed": asked["seed"],
        "redacted": asked["redact"],
        "fail_if": asked["fail_if"],
    }


def _load(sources: Sequence[Source], image_shape: Sequence[int] | None, **how: Any) -> ThreeSets:
    sets = load_three(*sources, **how)
    if image_shape is None:
        return sets
    shape, event = tuple(image_shape), sets.arrays[0].shape[1:]
    if len(shape) not in (2, 3) or math.prod(shape) != math.prod(event) or sets.arrays is not sets.values:
        raise DataError(
            expected=f"an image shape of {math.prod(event)} values, those of a row",
            got=f"{' x '.join(map(str, shape))} for {'encoded tables' if sets.arrays is not sets.values else event}",
            do="Correct --image-shape, or drop it.",
        )
    return replace(sets, image_shape=shape)


def _check(sets: ThreeSets, *, space: Any, level: float, seed: int) -> CopyCheck:
    return copycheck(*sets.arrays, space=space, level=level, seed=seed, image_shape=sets.image_shape)


def _words(check: CopyCheck, sets: ThreeSets, redact: bool) -> str:
    """Return where distances were taken: tables may have been encoded before."""
    words = sets.words.partition(":")[0] if redact else sets.words  # what follows may name a column
    if words == "values as given":
        return check.space
    return words if check.space == "raw values" else f"{check.space} of {words}"


def _data(sets: ThreeSets) -> dict[str, Any]:
    named = dict(zip(("train", "test", "samples"), sets.arrays, strict=True))
    return {
        **{f"n_{name}": len(rows) for name, rows in named.items()},
        "event_shape": list(named["train"].shape[1:]),
        "sets": {
            name: {"source": sets.sources[name], "n": len(rows), "sha256": fingerprint(rows)}
            for name, rows in named.items()
        },
    }


def _results(check: CopyCheck, about: Mapping[str, Any], sets: ThreeSets, redact: bool) -> CopyResults:
    pairs = {**check.pairs, "stands_out": stands_out(check.pairs)}
    shown = one_for_each_row(pairs)
    near = (check.samples.statistic, check.near_test)
    if redact:
        return CopyResults(about=about, pairs=pairs, shown=shown, near=near)
    train = sets.values[0]
    return CopyResults(
        about=about,
        pairs=pairs,
        shown=shown,
        examples={
            kind: rows[pairs[kind][shown]] for kind, rows in zip(("train", "test", "sample"), sets.values, strict=True)
        },
        near=near,
        image_shape=sets.image_shape,
        columns=sets.columns or (),
        scale=scale_of(train) if sets.image_shape else Scale(0.0, 1.0),
        spread=None if sets.image_shape else spread_of(train),
        names=sets.names,
    )


def _write(folder: Path, check: CopyCheck, about: Mapping[str, Any], results: CopyResults) -> None:
    """Write all files; copycheck.json, by which the folder is known, comes last."""
    page = render_copies(results).encode("utf-8", "replace")
    text = json.dumps(about, indent=2, allow_nan=False) + "\n"
    for name, columns in tables(check).items():
        write_table(folder / FILES[name], columns)
    write_atomically(folder / FILES["report"], lambda handle: handle.write(page))
    write_atomically(folder / FILES["about"], lambda handle: handle.write(text.encode()))
