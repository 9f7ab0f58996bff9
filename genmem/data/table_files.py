"""Files of tables, text or .parquet, read with pyarrow: which columns are data, labels, groups, or an index."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.column_types import typed
from genmem.data.csv_files import (
    TableOptions,
    TextTable,
    is_text_table,
    read_text_table,
    refuse_repeated,
    refuse_unnamed,
)
from genmem.data.doubts import look_of, separated_otherwise
from genmem.data.notes import Note
from genmem.data.parquet_shards import read_shards
from genmem.data.patterns import POINT
from genmem.errors import DataError

DETECT = TableOptions()
FEWEST_COUNTED = 10  # rows


def read_table(path: Path, options: TableOptions = DETECT) -> tuple[Any, tuple[str, ...]]:
    """Return a text table (see `csv_files`) or a .parquet file as an Arrow table, and what is to be said of it.

    Raises:
        DataError: a text table has no line of names, or an option does not apply. Damaged files raise errors of
            pyarrow.
    """
    text = read_untyped(path, options)
    if not isinstance(text, TextTable):
        return text, ()
    (table,), notes = typed([text])
    return table, (*text.notes, *notes)


def read_untyped(path: Path, options: TableOptions = DETECT) -> Any:
    """Return a `TextTable`, or the Arrow table of a .parquet file, whose columns have types.

    Raises:
        DataError: a text table has no line of names, or an option of text tables is given with a .parquet file.
    """
    if is_text_table(path):
        return read_text_table(path, options)
    for name, value in options.given.items():
        raise DataError(
            expected=f"{name} only with text tables (.csv, .tsv)",
            got=f"{name}={value!r} with {path}",
            do=f"Drop --{name}.",
        )
    if path.is_dir():
        return read_shards(path)
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return file.read()


# --- columns that are no data, and columns that are several


def only_data(table: Any, path: Path | str, drop: Collection[str] = ()) -> tuple[Any, tuple[str, ...]]:
    """Return a table without the index of a data frame and without columns to drop, lists of numbers as columns.

    Raises:
        DataError: a column to drop is not there; a column holds lists of unequal lengths, or structures.
    """
    names = table.column_names
    refuse_repeated(names, path)
    if lacking := [name for name in drop if name not in names]:
        raise DataError(expected=f"columns of {path} to drop: {_some(names)}", got=_some(lacking), do="Correct --drop.")
    index = [name for name in _index_of(table) if name not in drop]
    left = " is the index of a data frame and was left out."
    notes = [Note(f"Column {name!r}{left}", f"A column{left}") for name in index]
    notes += [Note(f"Columns left out: {_some(list(drop))}.", f"Columns left out: {len(drop)}.")] if drop else []
    table = table.select([name for name in names if name not in {*index, *drop}])
    doubt = " only counts the rows: an identifier should be left out (--drop)."
    notes += [
        Note(f"Column {name!r}{doubt}", f"A column{doubt}") for name in table.column_names if _counts(table[name])
    ]
    return _flat(table, path), tuple(notes)


def _index_of(table: Any) -> list[str]:
    """Return the columns that the file says, or that their names and values say, are the index of a data frame."""
    names = table.column_names
    stored = (table.schema.metadata or {}).get(b"pandas")
    said = json.loads(stored).get("index_columns", []) if stored else []
    found = [name for name in said if isinstance(name, str) and name in names]
    found += [name for name in names if name.startswith("__index_level_") and name not in found]
    if names and names[0] in ("", "Unnamed: 0") and names[0] not in found and _counts_rows(table.column(0)):
        found.append(names[0])
    return found


def _counts_rows(column: Any) -> bool:
    """Return whether a column holds different whole numbers or texts throughout, as an index does."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not is_text and not pa.types.is_integer(column.type) or len(pc.unique(column)) < len(column):
        return False
    return not (is_text and pc.any(pc.match_substring_regex(column, POINT)).as_py())


def _counts(column: Any) -> bool:
    """Return whether a column holds consecutive whole numbers, one more in each row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(column) < FEWEST_COUNTED or column.null_count:
        return False
    if pa.types.is_string(column.type) and pc.all(pc.match_substring_regex(column, r"^\d{1,18}$")).as_py():
        column = pc.cast(column, pa.int64())
    return bool(pa.types.is_integer(column.type) and (np.diff(column.to_numpy().astype(np.float64)) == 1).all())


def _flat(table: Any, path: Path | str) -> Any:
    """Return a table whose columns of lists of k numbers are k columns each."""
    import pyarrow as pa

    columns, names = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        kind = field.type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not lists and pa.types.is_nested(kind):
            raise DataError(
                expected=f"columns of single values in {path}",
                got=f"structures in {field.name!r} ({kind})",
                do=f"Write their parts as columns, or drop the column (--drop {field.name}).",
            )
        if pa.types.is_decimal(kind):
            # pyarrow's cast does not round to the closest float64, as the same number in a text table is.
            column = pa.array([None if value is None else float(value) for value in column.to_pylist()], pa.float64())
        parts = _parts(field.name, column, path) if lists else {field.name: column}
        names += list(parts)
        columns += list(parts.values())
    return pa.table(columns, names=names) if columns else table


def _parts(name: str, column: Any, path: Path | str) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = set(pc.list_value_length(column).to_pylist())
    flat = pc.list_flatten(column)
    plain = pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type) or pa.types.is_boolean(flat.type)
    if len(lengths) != 1 or None in lengths or not plain or lengths == {0}:
        what = f"lists of {flat.type}" if not plain else f"lists of {len(lengths)} different lengths or gaps"
        raise DataError(
            expected=f"lists of equally many numbers in column {name!r} of {path}",
            got=what,
            do=f"Pad or pool them to one length, or drop the column (--drop {name}).",
        )
    (length,) = lengths
    return {f"{name}[{i}]": flat.take(pa.array(np.arange(i, len(flat), length))) for i in range(length)}


def examples_of(
    table: Any, path: Path, **roles: str | None
) -> tuple[NDArray[Any], list[NDArray[Any] | None], tuple[str, ...]]:
    """Return the numbers of a table (n, columns), the values of the columns with a role, and the names of the others.

    Args:
        table: an Arrow table.
        path: the file, for errors.
        roles: for each role ("label", "group") the column that has it, or None.

    Raises:
        DataError: a column is unnamed, repeated, not numeric or has missing values, or one with a role does not exist.
    """
    names, found = checked_names(table.column_names, path, roles), []
    for column in roles.values():
        found.append(None if column is None else _values(table.column(names.index(column)), column, path))
    kept = [name for name in names if name not in roles.values()]
    table = table.select(kept)
    _refuse_text(table, path)
    values = [_values(table.column(i), name, path) for i, name in enumerate(kept)]
    matrix = np.column_stack(values)
    # Bytes of a table are small numbers, not pixels.
    small = matrix.dtype.kind in "iub" and matrix.dtype != np.uint64
    return matrix.astype(np.int64) if small else matrix, found, tuple(kept)


def only_column(table: Any, path: Path, what: str = "label") -> NDArray[Any]:
    """Return the values of a table with one column.

    Raises:
        DataError: there are more columns, or missing values.
    """
    if table.num_columns != 1:
        raise DataError(
            expected=f"one column of {what}s in {path}",
            got=f"{table.num_columns} columns: {_some(table.column_names)}",
            do=f"Keep only the column of {what}s.",
        )
    return _values(table.column(0), table.column_names[0], path)


def checked_names(names: list[str], path: Path, roles: Mapping[str, str | None]) -> list[str]:
    """Return the names of the columns of a table.

    Raises:
        DataError: a name is missing or repeated, a column with a role does not exist, or no other is left.
    """
    refuse_unnamed(names, path)
    refuse_repeated(names, path)
    given = {role: column for role, column in roles.items() if column is not None}
    for role, column in given.items():
        if column not in names:
            raise DataError(
                expected=f"the {role}s in a column of {path}: {_some(names)}",
                got=repr(column),
                do=f"Pass one of these as {role}_column (--{role}-column).",
            )
    if not set(names) - set(given.values()):
        only = " and ".join(f"the {role}s, {column!r}" for role, column in given.items())
        raise DataError(
            expected=f"a column of numbers in {path}",
            got=f"only {only}" if names else "no columns",
            do="Add the columns that the model learns.",
        )
    return names


def _refuse_text(table: Any, path: Path) -> None:
    from pyarrow import types

    numeric = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    odd = {f.name: _kind_of(table, f) for f in table.schema if not any(test(f.type) for test in numeric)}
    if odd:
        raise DataError(
            expected=f"columns of numbers in {path}, which is all that a density can take",
            got=f"{len(odd)} of another kind: {_some([f'{name} ({kind})' for name, kind in odd.items()])}",
            do=f"Leave these columns out (--drop {','.join(odd)}), or write categories as columns of 0 and 1 and dates "
            "as days: every model takes them as numbers then, and one of your own (package.module:factory) can give "
            "categories probabilities. One may hold labels (--label-column) or groups (--group-column). "
            "`genmem copycheck` compares text and dates.",
        )


def _kind_of(table: Any, field: Any) -> str:
    """Return the type of a column, and what its text looks like."""
    from pyarrow import types

    if not (types.is_string(field.type) or types.is_large_string(field.type)):
        return str(field.type)
    values = table[field.name].drop_null().to_pylist()
    if (mark := separated_otherwise(table.column_names, values)) is not None:
        return f"{field.type}: fields separated by {mark!r}, it seems; pass --sep {mark!r}"
    look = look_of(values)
    return str(field.type) if look is None else f"{field.type}: {look[0]}; {look[1]}"


def _values(column: Any, name: str, path: Path) -> NDArray[Any]:
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DataError(
            expected=f"a value in every row of column {name!r} of {path}",
            got=f"{column.null_count} missing, the first in row {row} (counted from 0)",
            do="Fill in these values, or drop their rows.",
        )
    return np.asarray(column.to_numpy()) if len(column) else np.zeros(0)


def _some(items: list[str], most: int = 8) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
