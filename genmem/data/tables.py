"""Tables as columns of numbers, dates and categories, from memory or from files."""

import datetime
import numbers
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError

Columns: TypeAlias = dict[str, NDArray[Any]]
Table: TypeAlias = Any  # a mapping, a pyarrow table, a data frame, or an array with or without named fields

_SETS = ("train", "test", "samples")


def columns_of(table: Table, name: str) -> Columns:
    """Return the columns of a table, each (n,): numbers and dates unchanged, anything else as objects.

    Args:
        table: a mapping from names to columns, a pyarrow table, a data frame (pandas, polars), or an array, (n, p) or
            with named fields; columns of arrays without names are called "0", "1", ...
        name: of the set, for messages.

    Raises:
        DataError: it is none of these, or its columns are empty or of different lengths.
    """
    items = _items(table, name)
    columns = {str(key): _column(values) for key, values in items}
    if len(columns) < len(items):
        names = [str(key) for key, _ in items]
        raise DataError(
            expected=f"a different name for every column of {name}",
            got=f"repeated: {', '.join(sorted({key for key in names if names.count(key) > 1})[:8])}",
            do="Rename them.",
        )
    sizes = {values.shape for values in columns.values()}
    if len(sizes) != 1 or len(next(iter(sizes))) != 1 or not next(iter(sizes))[0]:
        raise DataError(
            expected=f"{name} as a table with columns of one length and one or more rows",
            got="columns of shapes " + ", ".join(str(size) for size in sorted(sizes, key=str)[:4]) if sizes else "none",
            do="Pass a mapping of columns, a pyarrow table, a data frame or an array (n, columns).",
        )
    return columns


def same_columns(tables: tuple[Columns, Columns, Columns]) -> tuple[Columns, Columns, Columns]:
    """Return the tables with their columns in the order of the first.

    Raises:
        DataError: a table lacks a column that another has.
    """
    first = set(tables[0])
    for name, table in zip(_SETS, tables, strict=True):
        lacks, more = sorted(first - set(table)), sorted(set(table) - first)
        if lacks or more:
            raise DataError(
                expected=f"the same columns in {name} as in train",
                got="; ".join(
                    f"{what} {', '.join(some[:8])}" for what, some in (("no", lacks), ("also", more)) if some
                ),
                do="Keep the columns that all three tables have, under the same names.",
            )
    train, test, samples = ({name: table[name] for name in tables[0]} for table in tables)
    return train, test, samples


def as_numbers_or_text(
    name: str, parts: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], categorical: Collection[str]
) -> tuple[list[NDArray[Any]], bool]:
    """Return one column of the three sets, and whether its values are categories.

    Numbers, booleans (0 and 1) and dates (in seconds) become float64, with NaN for missing values. Categories become
    text, with "" for missing values. A number that represents a category is written without a fraction if it is whole,
    so that 3, 3.0 and "3" are equal.

    Raises:
        DataError: values are of another kind, infinite, or of different kinds in the three sets.
    """
    if name in categorical:
        return [_text(values) for values in parts], True
    kinds = [_kind(values, name, where) for values, where in zip(parts, _SETS, strict=True)]
    known = {kind for kind in kinds if kind != "missing"}
    if known == {"text"}:
        return [_text(values) for values in parts], True
    if len(known) > 1:
        raise DataError(
            expected=f"values of one kind in column {name!r} of train, test and samples",
            got=", ".join(f"{kind} in {where}" for kind, where in zip(kinds, _SETS, strict=True)),
            do="Use one kind in all three sets, or add the column to `categorical` to compare its values as text.",
        )
    found = [_numbers(values, kind) for values, kind in zip(parts, kinds, strict=True)]
    return [_finite(values, name, where) for values, where in zip(found, _SETS, strict=True)], False


def _column(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind in "US" and not isinstance(values, np.ndarray):
        array = np.asarray(values, dtype=object)  # numpy turns numbers beside text into text
    is_plain = array.dtype.kind == "O" and array.ndim == 1 and len(array) and {*map(_kind_of, array)} == {"numbers"}
    return array.astype(np.float64) if is_plain else array


def _items(table: Table, name: str) -> list[tuple[Any, Any]]:
    if isinstance(table, Mapping):
        return list(table.items())
    if hasattr(table, "column_names"):  # pyarrow
        return [(key, _decoded(table.column(i))) for i, key in enumerate(table.column_names)]
    if hasattr(table, "columns"):  # pandas, polars
        return [(key, table[key].to_numpy()) for key in table.columns]
    array = np.asarray(table)
    if array.dtype.names:
        return [(key, array[key]) for key in array.dtype.names]
    if array.ndim == 2:
        return [(i, array[:, i]) for i in range(array.shape[1])]
    raise DataError(
        expected=f"{name} as a table: a mapping of columns, a pyarrow table, a data frame or an array (n, columns)",
        got=f"{type(table).__name__} of shape {array.shape}",
        do="Pass one of these, with one row per example.",
    )


def _decoded(column: Any) -> NDArray[Any]:
    """Return a column of Arrow as an array; a categorical one as text, whatever its categories are."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return np.array([None if value is None else _written(value) for value in column.to_pylist()], dtype=object)
    return np.asarray(column.to_numpy())


def _kind(values: NDArray[Any], name: str, where: str) -> str:
    """Return "numbers", "dates" or "text", or "missing" if all values are missing."""
    if values.dtype.kind in "biuf":
        missing = values.dtype.kind == "f" and np.isnan(values).all()
        return "missing" if missing else "numbers"
    if values.dtype.kind in "mM":
        return "missing" if np.isnat(values).all() else "dates"
    if values.dtype.kind in "US":
        return "text"
    found = {_kind_of(value) for value in values} - {"missing"}
    odd = sorted(found - {"numbers", "text", "dates"})
    if odd or len(found) > 1:
        raise DataError(
            expected=f"numbers, text or dates in column {name!r} of {where}",
            got=" and ".join(odd or sorted(found)),
            do=(
                "Use one kind of value, add the column to `categorical` to compare its values as text, or drop the "
                "column."
            ),
        )
    return found.pop() if found else "missing"


def _kind_of(value: Any) -> str:
    if _is_missing(value):
        return "missing"
    if isinstance(value, str | bytes):
        return "text"
    if isinstance(value, datetime.date | np.datetime64):
        return "dates"
    # Decimals are numbers, but are not registered as numbers.Real.
    is_number = isinstance(value, numbers.Real | np.bool_) or type(value).__name__ == "Decimal"
    return "numbers" if is_number else type(value).__name__


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _numbers(values: NDArray[Any], kind: str) -> NDArray[np.float64]:
    if kind == "dates":
        times = values if values.dtype.kind in "mM" else np.array([_time(value) for value in values], "datetime64[us]")
        unit = np.timedelta64(1, "s")
        seconds = times / unit if times.dtype.kind == "m" else (times - np.datetime64(0, "s")) / unit
        return np.asarray(seconds, np.float64)
    if values.dtype.kind == "O":
        return np.array([np.nan if _is_missing(value) else float(value) for value in values])
    if kind == "missing":
        return np.full(len(values), np.nan)
    if values.dtype.kind in "iu" and len(values) and max(abs(int(values.min())), int(values.max())) > 2**53:
        raise DataError(
            expected="whole numbers up to 2^53 in columns that are compared as numbers",
            got=f"{int(values.max())}, which float64 does not tell from its neighbours",
            do="If they are codes, name the column as categorical (--categorical), or leave it out (--drop).",
        )
    return values.astype(np.float64)


def _time(value: Any) -> np.datetime64:
    if _is_missing(value):
        return np.datetime64("NaT")
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return np.datetime64(value, "us")


def _finite(values: NDArray[np.float64], name: str, where: str) -> NDArray[np.float64]:
    if np.isinf(values).any():
        raise DataError(
            expected=f"finite numbers in column {name!r} of {where}",
            got=(
                f"{int(np.isinf(values).sum()):,} infinite, the first in row {int(np.isinf(values).argmax())} "
                "(counted from 0)"
            ),
            do="Replace them, or leave them empty: missing values are allowed.",
        )
    return values


def _text(values: NDArray[Any]) -> NDArray[Any]:
    return np.array([_written(value) for value in values.tolist()], dtype=object)


def _written(value: Any) -> str:
    if _is_missing(value):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, list | tuple | dict | set | np.ndarray):
        raise DataError(
            expected="single values in a column of categories",
            got=f"a {type(value).__name__} of {len(value)} values",
            do="Make each of its values a column, or drop the column.",
        )
    return str(value).strip()
