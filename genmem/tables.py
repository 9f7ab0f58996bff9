"""Tables of numbers: .csv and .parquet files, by pyarrow."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError


def read_table(path: Path) -> Any:
    """Return a .csv file (comma-separated, its first line the names of the columns) or .parquet file.

    Raises:
        DataError: a .csv file has no line of names. Damage raises the errors of pyarrow.
    """
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return file.read()


def _read_csv(path: Path) -> Any:
    from pyarrow import csv

    # One thread: only then does pyarrow name the row that is ragged.
    table = csv.read_csv(path, read_options=csv.ReadOptions(use_threads=False))
    names = table.column_names
    if all(_is_number(name) for name in names) and names != [str(i) for i in range(len(names))]:
        raise DataError(
            expected=f"a first line of column names in {path}",
            got=f"numbers: {_some(names)}",
            do="Add a line of names at the top; without it the first example would be lost.",
        )
    return table


def examples_of(
    table: Any, label_column: str | None, path: Path
) -> tuple[NDArray[Any], NDArray[Any] | None, tuple[str, ...]]:
    """Return the numbers of a table (n, columns), the labels if a column holds them, and the columns' names.

    Raises:
        DataError: a column is unnamed, repeated, not numeric or has gaps, or there is no such label column.
    """
    names = checked_names(table.column_names, label_column, path)
    labels = None
    if label_column is not None:
        at = names.index(label_column)
        labels = _values(table.column(at), label_column, path)
        table, names = table.remove_column(at), [*names[:at], *names[at + 1 :]]
    _refuse_text(table, path)
    values = [_values(table.column(i), name, path) for i, name in enumerate(names)]
    return np.column_stack(values), labels, tuple(names)


def only_column(table: Any, path: Path) -> NDArray[Any]:
    """Return the values of a table of one column.

    Raises:
        DataError: there are more columns, or gaps.
    """
    if table.num_columns != 1:
        raise DataError(
            expected=f"one column of labels in {path}",
            got=f"{table.num_columns}: {_some(table.column_names)}",
            do="Keep only the column of labels.",
        )
    return _values(table.column(0), table.column_names[0], path)


def checked_names(names: list[str], label_column: str | None, path: Path) -> list[str]:
    """Return the names of the columns of a table.

    Raises:
        DataError: one is missing or repeated, there is no such label column, or nothing beside it.
    """
    unnamed = [str(i + 1) for i, name in enumerate(names) if not name or name.startswith("__index_level_")]
    if unnamed:
        raise DataError(
            expected=f"a name for every column of {path}",
            got=f"none for column {_some(unnamed)} (the index of a data frame?)",
            do="Write the table without its index (index=False), or name the column.",
        )
    if len(set(names)) < len(names):
        raise DataError(
            expected=f"a different name for every column of {path}",
            got=f"repeated: {_some([name for name in dict.fromkeys(names) if names.count(name) > 1])}",
            do="Rename them.",
        )
    if label_column is not None and label_column not in names:
        raise DataError(
            expected=f"the labels in a column of {path}: {_some(names)}",
            got=repr(label_column),
            do="Name one of these with label_column (--label-column).",
        )
    if not set(names) - {label_column}:
        raise DataError(
            expected=f"a column of numbers in {path}",
            got=f"only the labels, {label_column!r}" if names else "no columns",
            do="Add the columns the model is to learn.",
        )
    return names


def _refuse_text(table: Any, path: Path) -> None:
    from pyarrow import types

    numeric = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    text = [f"{f.name} ({f.type})" for f in table.schema if not any(test(f.type) for test in numeric)]
    if text:
        raise DataError(
            expected=f"columns of numbers in {path}",
            got=f"{len(text)} of another kind: {_some(text)}",
            do="Encode them as numbers, drop them, or name one as label_column (--label-column).",
        )


def _values(column: Any, name: str, path: Path) -> NDArray[Any]:
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DataError(
            expected=f"a value in every row of column {name!r} of {path}",
            got=f"{column.null_count} missing, the first in row {row} counted from 0",
            do="Fill them in, or drop these rows.",
        )
    return np.asarray(column.to_numpy()) if len(column) else np.zeros(0)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _some(items: list[str], most: int = 8) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
