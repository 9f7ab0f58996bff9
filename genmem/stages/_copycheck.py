"""Check the samples of any generator for copies of its training set: from three sets to a folder with a report."""

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
from genmem.data.as_read_sets import as_read_sets, notes_on
from genmem.data.examples import table_options
from genmem.data.notes import without_names
from genmem.data.set_groups import groups_of_folders
from genmem.data.three_sets import ThreeSets, load_three
from genmem.errors import DataError, RunError
from genmem.findings.conditions import Condition, parse_condition
from genmem.findings.copies import describe, names, numbers, one_for_each_row, stands_out, tables, write_table
from genmem.neighbors.copycheck import CopyCheck, copycheck
from genmem.protocols import Brief, Listener, Progress, ignore
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
class Checked(Brief):
    """A copy check and its folder.

    `numbers`: the numbers that a condition can name. `failed`: whether the condition `fail_if` holds. `as_read`: how
    the sets were read, sentences. `notes`: those of them on what was left out or changed.
    """

    path: Path
    check: CopyCheck
    numbers: dict[str, float]
    failed: bool
    as_read: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{self.path}, {self.check.headline()}"


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
    groups: Any = None,
    group_column: str | None = None,
    sep: str | None = None,
    decimal: str | None = None,
    na: str | Sequence[str] | None = None,
    drop: str | Sequence[str] = (),
    image_shape: Sequence[int] | None = None,
    space: Any = "raw",
    level: float = 0.1,
    seed: int = 0,
    redact: bool = False,
    fail_if: str | None = None,
    command: str | None = None,
    progress: Listener = ignore,
) -> Checked:
    """Check samples of any generator for copies of its training set, and write the results into a folder.

    Files: report.html (one offline page), copycheck.json (every number), pairs.parquet (the most suspicious samples,
    each with its closest training and held-out example), samples.parquet and rows.parquet (p and q of each sample and
    each training example). Files of an earlier check in the folder are replaced.

    Args:
        train: the training set of the model: an array, or a path as for `genmem.load`.
        test: held-out examples: from the same source, never seen by the model.
        samples: samples of the model, unselected.
        out: the folder; by default `runs/<samples>-copycheck`.
        array: name of the array in .npz files.
        categorical: columns of tables whose numbers are codes; columns of text are always categorical.
        scale: scale numeric columns by their "range" or "spread" in the training set, for equal weights of columns.
        id_column: a column of tables that only identifies rows.
        groups: which rows belong together: (train_groups, test_groups) or (train_groups, test_groups, sample_groups),
            see `genmem.copycheck`; "folders" for the subfolders of folders of images.
        group_column: a column of tables that says which rows belong together.
        sep: separator of the fields of text tables; detected by default.
        decimal: decimal mark of text tables; detected by default.
        na: words of text tables that mark a missing value (see `genmem.load`).
        drop: columns of tables to leave out.
        image_shape: (h, w) or (h, w, channels) of images that are given as flat rows.
        space: feature space in which distances are measured (see `genmem.copycheck`).
        level: false-discovery rate of the listed samples and training examples.
        seed: seed of all randomness.
        redact: omit pictures, values, and names of rows and columns; row numbers and distances stay.
        fail_if: a condition on `Checked.numbers`, such as "copied_share_low > 0.01".
        command: the command line, for the report.
        progress: called with each report of progress.

    Raises:
        DataError: a set cannot be read or does not match the others; training and held-out set are the same; the
            condition is malformed, or depends on an undefined number (the files are written nevertheless).
        RunError: the folder is a run, contains other files, or cannot be written.
    """
    asked = {name: value for name, value in locals().items() if name not in ("command", "progress")}
    condition = None if fail_if is None else parse_condition(fail_if, names())
    folder = _folder(out, samples)
    start = time.perf_counter()
    progress(Progress("copies", 0, 1))
    how = {name: asked[name] for name in ("array", "categorical", "scale", "id_column", "group_column")}
    sets = _load((train, test, samples), image_shape, options=table_options(sep, decimal, na, drop), **how)
    _refuse_one_set_twice(sets)
    belong = _groups(groups, sets)
    check = _check(sets, space=space, level=level, seed=seed, groups=belong)
    about = {
        "schema_version": SCHEMA_VERSION,
        "genmem_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "asked": {**_asked(asked), "command": command or "started from Python"},
        "data": _data(sets, redact),
        **describe(check, space if isinstance(space, str) else "given", _words(check, sets, redact)),
        "versions": {name: version for name, version in versions().items() if name in LIBRARIES},
        "seconds": round(time.perf_counter() - start, 3),
        "files": FILES,
    }
    _write(folder, check, about, _results(check, about, sets, redact))
    progress(Progress("copies", 1, 1))
    told = (tuple(about["data"][name]) for name in ("as_read", "notes"))
    return Checked(folder, check, numbers(check), _holds(condition, numbers(check)), *told)


def _holds(condition: Condition | None, values: Mapping[str, float]) -> bool:
    return condition is not None and condition.holds(values)


def _folder(out: str | PathLike[str] | None, samples: Source) -> Path:
    """Return the folder to write to.

    Raises:
        RunError: it contains something other than an earlier check.
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
            expected=f"a new or empty folder at {folder}, or the folder of an earlier check",
            got=f"one that contains {what}",
            do="Choose another --out.",
        )
    refuse_unwritable(folder)
    return folder


def _is_unfinished(names: Collection[str]) -> bool:
    """Return whether these are files of a check that was killed while writing; pairs are written first."""
    whole = {name for name in names if not name.endswith(PARTIAL)}
    begun = {name.split(".parquet.")[0] for name in set(names) - whole}
    return whole <= set(FILES.values()) and (FILES["pairs"] in whole or (not whole and begun == {"pairs"}))


def refuse_unwritable(folder: Path) -> None:
    """Raise an error before the work if the folder cannot be created or written to."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(parent))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise RunError(
            expected=f"a writable folder at {folder}",
            got=f"{there}, which is {'read-only' if there.is_dir() else 'not a folder'}",
            do="Choose another --out, or change the permissions.",
        )


def _refuse_one_set_twice(sets: ThreeSets) -> None:
    train, test, _ = sets.arrays
    if len(train) == len(test) and fingerprint(train) == fingerprint(test):
        raise DataError(
            expected="held-out examples that the model was not trained on",
            got=f"the training set itself: {sets.sources['train']} and {sets.sources['test']} contain the same rows",
            do="Hold examples out before training: without them, copies cannot be told from similar examples.",
        )


def _stem(samples: Source) -> str:
    return Path(samples).name.split(".")[0] or "samples" if isinstance(samples, str | PathLike) else "samples"


def _named(source: Any) -> str:
    return fspath(source) if isinstance(source, str | PathLike) else "array"


def _asked(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments, with arrays and functions by name only, and the line of Python that repeats the check."""
    return {
        "python": python_line(check_copies, asked),
        **{name: _named(asked[name]) for name in ("train", "test", "samples")},
        "groups": _groups_named(asked),
        "space": asked["space"] if isinstance(asked["space"], str) else "given",
        "level": asked["level"],
        "seed": asked["seed"],
        "redacted": asked["redact"],
        "fail_if": asked["fail_if"],
    }


def _groups_named(asked: Mapping[str, Any]) -> str | None:
    """Return where groups are from; names of columns are not told."""
    if asked["group_column"] is not None:
        return "column"
    return asked["groups"] if isinstance(asked["groups"], str | None) else "given"


def _load(sources: Sequence[Source], image_shape: Sequence[int] | None, **how: Any) -> ThreeSets:
    sets = load_three(*sources, **how)
    if image_shape is None:
        return sets
    shape, event = tuple(image_shape), sets.arrays[0].shape[1:]
    if len(shape) not in (2, 3) or math.prod(shape) != math.prod(event) or sets.arrays is not sets.values:
        raise DataError(
            expected=f"an image shape of {math.prod(event)} values, the number in a row",
            got=f"{' x '.join(map(str, shape))} for {'encoded tables' if sets.arrays is not sets.values else event}",
            do="Correct --image-shape, or omit it.",
        )
    return replace(sets, image_shape=shape)


def _groups(given: Any, sets: ThreeSets) -> Any:
    """Return the groups of rows: as given, of the subfolders, or of the column."""
    if given is not None and sets.groups is not None:
        raise DataError(
            expected="groups from one source",
            got="groups and group_column",
            do="Pass only one of --groups, --group-column.",
        )
    if isinstance(given, str) and given == "folders":
        return groups_of_folders(sets.names)
    return sets.groups if given is None else given


def _check(sets: ThreeSets, *, space: Any, level: float, seed: int, groups: Any) -> CopyCheck:
    return copycheck(*sets.arrays, groups=groups, space=space, level=level, seed=seed, image_shape=sets.image_shape)


def _words(check: CopyCheck, sets: ThreeSets, redact: bool) -> str:
    """Describe the feature space, including the encoding of tables."""
    words = sets.words.partition(":")[0] if redact else sets.words  # the rest may name a column
    if words == "values as given":
        return check.space
    return words if check.space == "raw values" else f"{check.space} of {words}"


def _data(sets: ThreeSets, redact: bool) -> dict[str, Any]:
    named = dict(zip(("train", "test", "samples"), sets.arrays, strict=True))
    return {
        **{f"n_{name}": len(rows) for name, rows in named.items()},
        "event_shape": list(named["train"].shape[1:]),
        "sets": {
            name: {"source": sets.sources[name], "n": len(rows), "sha256": fingerprint(rows)}
            for name, rows in named.items()
        },
        "as_read": without_names(as_read_sets(sets)) if redact else as_read_sets(sets),
        "notes": without_names(notes_on(sets)) if redact else notes_on(sets),
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
    """Write all files; copycheck.json, which marks the folder as a check, comes last."""
    page = render_copies(results).encode("utf-8", "replace")
    text = json.dumps(about, indent=2, allow_nan=False) + "\n"
    for name, columns in tables(check).items():
        write_table(folder / FILES[name], columns)
    write_atomically(folder / FILES["report"], lambda handle: handle.write(page))
    write_atomically(folder / FILES["about"], lambda handle: handle.write(text.encode()))
