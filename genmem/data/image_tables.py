"""Tables of encoded images, as Hugging Face data sets store them: a column of {bytes, path}, or of bytes."""

import io
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.folders import counted, some
from genmem.data.image_files import Pictures, read_pictures
from genmem.data.notes import Note
from genmem.data.parquet_shards import shards_in
from genmem.errors import DataError

_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")  # of encoded images


def holds_images(path: Path) -> bool:
    """Return whether a .parquet file, or folder of them, has a column of encoded images.

    Raises:
        DataError: names of files in a folder differ in more than numbers. Damaged files raise errors of pyarrow.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(shards_in(path)[0] if path.is_dir() else path) as file:
        first = next(file.iter_batches(batch_size=1, columns=_binary(file.schema_arrow)), None)
        return first is not None and bool(_image_columns(first))


def without_columns(table: Any, path: Path, drop: Collection[str]) -> Any:
    """Return a table without some columns.

    Raises:
        DataError: one of them is not there.
    """
    names = table.column_names
    if lacking := [name for name in drop if name not in names]:
        raise DataError(
            expected=f"columns of {path} to drop: {some(names, 8)}", got=some(lacking, 8), do="Correct --drop."
        )
    return table.select([name for name in names if name not in drop])


def images_of(
    table: Any, path: Path, **roles: str | None
) -> tuple[Pictures, list[NDArray[Any] | None], NDArray[np.str_] | None, tuple[str, ...]]:
    """Return the images of a table, the values of the columns with a role, the names of the images, and notes.

    Args:
        table: an Arrow table with one column of encoded images.
        path: the file or folder, for messages.
        roles: for each role ("label", "group") the column that has it, or None.

    Raises:
        DataError: there are several columns of images, an image is missing or cannot be read, or a column with a role
            does not exist.
    """
    of_images = _image_columns(table)
    if len(of_images) != 1:
        raise DataError(
            expected=f"one column of images in {path}",
            got=some(of_images, 8),
            do="Keep one of these columns: leave out the others with drop (--drop).",
        )
    others = [name for name in table.column_names if name != of_images[0]]
    found = [_values(table, column, role, others, path) for role, column in roles.items()]
    contents, files = _contents(table.column(of_images[0]), of_images[0], path)
    rows = [f"row {i}" for i in range(len(contents))]
    pictures = read_pictures(rows, os.fspath(path), lambda name: io.BytesIO(contents[int(name.split()[1])]))
    left = [name for name in others if name not in roles.values()]
    count = f"{counted(len(left), 'column')} beside the images left out"
    notes = (Note(f"{count}: {some(left, 8)}.", f"{count}."),) if left else ()
    is_named = all(isinstance(file, str) and file for file in files) and len(set(files)) == len(files)
    return pictures, found, np.array(files) if is_named else None, (*notes, *pictures.notes())


def _binary(schema: Any) -> list[str]:
    from pyarrow import types

    def is_binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def can_be_image(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(part.name == "bytes" and is_binary(part.type) for part in kind)
        return is_binary(kind)

    return [field.name for field in schema if can_be_image(field.type)]


def _image_columns(table: Any) -> list[str]:
    """Return the columns of {bytes, path}, and those of bytes that start like an image."""
    found = []
    for name in _binary(table.schema):
        first = table.slice(0, 1).to_pydict()[name]
        if first and (isinstance(first[0], Mapping) or (first[0] or b"").startswith(_STARTS)):
            found.append(name)
    return found


def _values(table: Any, column: str | None, role: str, others: list[str], path: Path) -> NDArray[Any] | None:
    if column is None:
        return None
    if column not in others:
        raise DataError(
            expected=f"the {role}s in a column of {path}: {some(others, 8)}",
            got=repr(column),
            do=f"Pass one of these as {role}_column (--{role}-column).",
        )
    return np.array(table.column(column).to_pylist())


def _contents(column: Any, name: str, path: Path) -> tuple[list[bytes], list[str | None]]:
    pairs = [value if isinstance(value, Mapping) else {"bytes": value} for value in column.to_pylist()]
    missing = [i for i, pair in enumerate(pairs) if not pair["bytes"]]
    if missing:
        where = pairs[missing[0]].get("path")
        raise DataError(
            expected=f"the bytes of an image in every row of column {name!r} of {path}",
            got=f"none in {counted(len(missing), 'row')}, the first {missing[0]} (counted from 0)"
            + (f", which only names the file {where}" if where else ""),
            do="Pass the folder that holds these files." if where else "Drop these rows.",
        )
    return [pair["bytes"] for pair in pairs], [pair.get("path") for pair in pairs]
