"""Labels of images from a file that names the images, or in the order of the images, which is then told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.files import kind_of, reading
from genmem.data.folders import counted, some
from genmem.data.table_files import read_table
from genmem.errors import DataError

_NAMES = {"file", "filename", "file_name", "name", "image", "image_name", "image_id", "img", "id", "path", "filepath"}
_USUAL = {
    "label": {"label", "labels", "class", "class_id", "target", "y", "category"},
    "group": {"group", "groups", "group_id", "patient", "patient_id", "subject", "subject_id"},
}
_INDEX = ("", "Unnamed: 0")  # names of the index of a data frame


@dataclass(frozen=True)
class _Table:
    """Columns by name, and for each the image that each row names, or None."""

    path: Path
    columns: dict[str, list[Any]]
    images: dict[str, list[int | None]]

    def named(self, column: str) -> int:
        return len(set(self.images[column]) - {None})


def labels_by_name(
    path: Path, names: Sequence[str], what: str = "label", column: str | None = None
) -> tuple[NDArray[Any], tuple[str, ...]] | None:
    """Return the label, or group, of each image from a file that names the images, and notes; None if it names none.

    A row names an image by its path within the folder (or a longer path that ends so), its file name, either without
    the suffix, or its number. Rows that name no image are told.

    Args:
        path: a table with a column of names, or a .txt file with a name and a label on each line.
        names: of the images, paths within their folder.
        what: "label" or "group".
        column: of the labels; not needed if there is one beside the names, or one with a usual name.

    Raises:
        DataError: the table has several columns and none names the images, an image has no row or several, or it is not
            clear which column holds the labels.
    """
    is_text = path.suffix.lower() == ".txt" and path.is_file()
    if not is_text and kind_of(path) in ("npy", "npz", "idx", "cifar", "images"):
        return None
    with reading(path):
        columns = _fields(path) if is_text else _columns(path, names)
    if len(columns) < 2:
        return None
    table = _Table(path, columns, {name: _images_named(values, names) for name, values in columns.items()})
    by = max(columns, key=lambda name: (table.named(name), name.lower() in _NAMES))
    if 2 * table.named(by) < len(names):
        if is_text:
            return None
        raise _without_names(table, by, names)
    rows = _row_of_each(table, by, names, what)
    labels = columns[_column_of(table, by, what, column)]
    left = [str(columns[by][row]) for row in range(len(columns[by])) if table.images[by][row] is None]
    notes = (f"{counted(len(left), 'row')} of {path} name no image: {some(left)}.",) if left else ()
    return np.array([labels[row] for row in rows]), (f"{what.title()}s by name, column {by!r} of {path}.", *notes)


def order_in_words(labels: NDArray[Any], names: Sequence[str], what: str = "label") -> str:
    """Return the sentence that shows the first images with their labels, which were given in this order."""
    pairs = [f"{name} is {label}" for name, label in zip(names[:3], labels[:3].tolist(), strict=True)]
    by = " (numbers in names are compared as numbers)" if list(names) != sorted(names) else ""
    return f"{what.title()}s in the order of the images{by}: {', '.join(pairs)}{' and so on' * (len(names) > 3)}."


def _columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    table, _ = read_table(path)
    found = table.column_names
    if any(image is not None for image in _images_named(found, names)):
        raise DataError(
            expected=f"a first line of column names in {path}",
            got=f"the name of an image: {', '.join(found)[:80]}",
            do="Add a line of names at the top, such as file,label.",
        )
    return {name: table.column(i).to_pylist() for i, name in enumerate(found) if name not in _INDEX}


def _fields(path: Path) -> dict[str, list[Any]]:
    """Return the fields of the lines of a .txt file, separated by blanks or commas; none if their number varies."""
    rows = [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    if len({len(row) for row in rows}) != 1:
        return {}
    return {f"field {i + 1}": _whole(list(values)) for i, values in enumerate(zip(*rows, strict=True))}


def _whole(values: list[str]) -> list[Any]:
    try:
        return [int(value) for value in values]
    except ValueError:
        return values


# --- which row names which image


def _images_named(values: Sequence[Any], names: Sequence[str]) -> list[int | None]:
    """Return the image that each value names, in the way that names most of them."""
    paths = [PurePosixPath(name) for name in names]
    ways: tuple[Callable[[PurePosixPath], Any], ...] = (
        lambda path: path.as_posix(),
        lambda path: path.name,
        lambda path: path.with_suffix("").as_posix(),
        lambda path: path.stem,
        lambda path: int(path.stem) if path.stem.isdecimal() else None,
    )
    tried = [_looked_up(values, _only_once(list(map(way, paths)))) for way in ways]
    return max(tried, key=lambda images: len(set(images) - {None}))


def _only_once(keys: list[Any]) -> dict[Any, int]:
    """Return the position of each key; keys that several images share name none."""
    at: dict[Any, int] = {}
    twice = set()
    for i, key in enumerate(keys):
        if at.setdefault(key, i) != i:
            twice.add(key)
    return {key: i for key, i in at.items() if key is not None and key not in twice}


def _looked_up(values: Sequence[Any], at: dict[Any, int]) -> list[int | None]:
    return [next((at[end] for end in _ends(value) if end in at), None) for value in values]


def _ends(value: Any) -> list[Any]:
    """Return a number, or a path and what is left of it without its first folders."""
    if not isinstance(value, str):
        return [value, str(value)]
    parts = value.strip().replace("\\", "/").removeprefix("./").split("/")
    ends = ["/".join(parts[i:]) for i in range(len(parts))]
    return [*ends, int(ends[-1])] if ends[-1].isdecimal() else ends


def _row_of_each(table: _Table, by: str, names: Sequence[str], what: str) -> list[int]:
    rows: list[list[int]] = [[] for _ in names]
    for row, image in enumerate(table.images[by]):
        if image is not None:
            rows[image].append(row)
    for count, said in ((0, f"no {what} for"), (2, f"several {what}s for")):
        wrong = [name for name, found in zip(names, rows, strict=True) if min(len(found), 2) == count]
        if wrong:
            raise DataError(
                expected=f"one row for each of {len(names)} images in column {by!r} of {table.path}",
                got=f"{said} {counted(len(wrong), 'image')}: {some(wrong)}",
                do="Add the missing rows, or move these images out of the folder."
                if count == 0
                else "Keep one row for each image.",
            )
    return [row for (row,) in rows]


def _column_of(table: _Table, by: str, what: str, column: str | None) -> str:
    others = [name for name in table.columns if name != by]
    usual = [name for name in others if name.lower() in _USUAL[what]]
    chosen = [column] if column is not None else others if len(others) == 1 else usual
    if len(chosen) != 1 or chosen[0] not in others:
        raise DataError(
            expected=f"the name of the column of {what}s in {table.path}: {some(others, 8)}",
            got="none" if column is None else repr(column),
            do=f"Pass one of these as {what}_column (--{what}-column).",
        )
    return str(chosen[0])


def _without_names(table: _Table, by: str, names: Sequence[str]) -> DataError:
    return DataError(
        expected=f"a column of {table.path} that names the images, such as {some(names)}",
        got=f"columns {some(list(table.columns), 8)}; the best, {by!r}, names {table.named(by)} of {len(names)} images",
        do="Write the path of each image within its folder into one column, or keep only the column of labels.",
    )
