"""Columns that describe the examples of a run but are not part of them: scanner, site, age."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.data.files import kind_of, reading
from genmem.data.frames import arrow_table
from genmem.data.table_files import read_table
from genmem.errors import DataError

Metadata = str | os.PathLike[str] | Mapping[str, ArrayLike]
MISSING = "missing"
MOST_VALUES = 12  # a column of numbers with more distinct values is divided into quarters
MOST_NAMES = 100  # a column with more distinct texts describes single examples, not groups


def read_metadata(source: Any, index: NDArray[np.intp], columns: Sequence[str] = ()) -> dict[str, NDArray[np.str_]]:
    """Return the group of each example by each column.

    Numbers with more than 12 distinct values are divided into quarters; a gap is a group of its own.

    Args:
        source: a table (.csv, .tsv, .parquet), a data frame, or arrays by name, with one row per row of the source of
            the run's data.
        index: (n,) the row of each example in that source.
        columns: the columns to use; by default all that divide the examples into groups.

    Raises:
        DataError: the table cannot be read or has too few rows, or a column is missing or has one value or too many.

    >>> read_metadata({"site": ["a", "b", "a", "b"], "id": [1, 1, 1, 1]}, np.array([0, 3]))
    {'site': array(['a', 'b'], dtype='<U1')}
    """
    table = _table(source)
    if lacking := [name for name in columns if name not in table]:
        raise DataError(
            expected=f"one of the columns {', '.join(map(repr, table))}", got=repr(lacking[0]), do="Correct its name."
        )
    _check_rows(table, index)
    found = {name: _grouped(name, np.asarray(table[name])[index], name in columns) for name in columns or table}
    kept = {name: groups for name, groups in found.items() if groups is not None}
    if not kept:
        raise DataError(
            expected="a column of metadata that divides the examples into groups",
            got=f"none among {', '.join(map(repr, table))}",
            do="Pass columns with 2 to 100 different values, or numbers.",
        )
    return kept


def _table(source: Any) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, str | os.PathLike):
        table = arrow_table(source)
    elif kind_of(path := Path(source)) in ("csv", "parquet"):
        with reading(path):
            table = read_table(path)[0]
    else:
        table = None
    if table is None:
        raise DataError(
            expected="metadata as a table (.csv, .tsv, .parquet), a data frame or arrays by name",
            got=str(source) if isinstance(source, str | os.PathLike) else type(source).__name__,
            do="Save the metadata as a table with one row per example.",
        )
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _check_rows(table: Mapping[str, Any], index: NDArray[np.intp]) -> None:
    rows, needed = {len(np.asarray(values)) for values in table.values()}, int(index.max()) + 1
    if len(rows) != 1 or min(rows) < needed or (len(index) == needed and min(rows) != needed):
        counts = " and ".join(f"{count:,}" for count in sorted(rows))
        raise DataError(
            expected=f"one row of metadata for each row of the source of the data, at least {needed:,}",
            got=f"{counts or 'no'} rows",
            do="Pass the rows in the order of the source.",
        )


def _grouped(name: str, values: NDArray[Any], wanted: bool) -> NDArray[np.str_] | None:
    """Return the groups of a column, None if it has none and was not asked for."""
    if values.ndim != 1:
        raise DataError(
            expected=f"one value per example in column {name!r}",
            got=f"shape {values.shape}",
            do="Pass one column each.",
        )
    gaps = np.array([_is_gap(value) for value in values.tolist()], bool)
    groups = np.full(len(values), MISSING, dtype=object)
    there = values[~gaps]
    numeric = values.dtype.kind in "iuf" and bool(np.isfinite(there.astype(np.float64)).all())
    if numeric and len(np.unique(there)) > MOST_VALUES:
        groups[~gaps] = _quarters(there)
    else:
        groups[~gaps] = [_text(value) for value in there]
    distinct = np.unique(groups.astype(str))
    if 1 < len(distinct) <= MOST_NAMES:
        return groups.astype(str)
    if not wanted:
        return None
    got = f"one value, {str(distinct[0])!r}" if len(distinct) == 1 else f"{len(distinct):,} different ones"
    raise DataError(
        expected=f"column {name!r} to divide the examples into groups", got=got, do="Leave that column out."
    )


def _is_gap(value: Any) -> bool:
    """Whether a value is missing: None, NaN or NaT, or no text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _text(value: Any) -> str:
    """Return a value as text that tells it from others: whole numbers without decimals, others with all digits."""
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    return str(value)


def _quarters(values: NDArray[Any]) -> list[str]:
    edges = np.unique(np.quantile(values.astype(np.float64), (0, 0.25, 0.5, 0.75, 1)))
    if len(edges) < 3:
        return [_text(value) for value in values]
    part = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    digits = next(n for n in range(4, 18) if len({f"{edge:.{n}g}" for edge in edges}) == len(edges))
    return [f"{edges[at]:.{digits}g} to {edges[at + 1]:.{digits}g}" for at in part]
