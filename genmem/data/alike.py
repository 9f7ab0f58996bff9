"""Held-out examples as the data of a run were read: the same columns in the same order, and bytes alike."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genmem.data.examples import Data, load
from genmem.data.files import kind_of, reading
from genmem.data.frames import arrow_table
from genmem.data.precision import Precision
from genmem.data.table_files import read_table
from genmem.errors import DataError


def load_alike(source: Any, columns: Sequence[str] | None, pixels: bool, precision: Precision) -> Data:
    """Load examples as earlier ones were.

    Args:
        source: as for `load`.
        columns: the columns of the earlier examples, if they are a table. Those of a table are matched by name, and
            others, such as labels, are left out.
        pixels: whether the bytes of the earlier examples were pixels; otherwise bytes are numbers.
        precision: as for `load`.

    Raises:
        DataError: as in `load`, or a table lacks a column.
    """
    names = None if columns is None else _names_of(source)
    if columns is None or names is None:
        return _with_bytes(source, pixels, precision)
    if lacking := [name for name in columns if name not in names]:
        raise DataError(
            expected=f"the columns of the run: {', '.join(columns[:8])}",
            got=f"no {', '.join(lacking[:8])}",
            do="Pass a table with the same columns.",
        )
    data = load(source, drop=[name for name in names if name not in columns], precision=precision)
    assert data.columns is not None
    return replace(data, X=data.X[:, [data.columns.index(name) for name in columns]], columns=tuple(columns))


def _with_bytes(source: Any, pixels: bool, precision: Precision) -> Data:
    """Load examples; what bytes are is as it was, whatever their range is now."""
    data = load(source, precision=precision)
    decided = any(note.startswith("Bytes up to") for note in data.notes)
    if decided and pixels or data.X.dtype == "uint8" and data.names is None and not pixels:
        return load(source, precision=precision, pixels=pixels)
    return data


def _names_of(source: Any) -> list[str] | None:
    """Return the columns of a table; None if the source is none."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path == Path("digits") or kind_of(path) not in ("csv", "parquet"):
            return None
        with reading(path):
            return list(read_table(path)[0].column_names)
    table = arrow_table(source)
    return None if table is None else list(table.column_names)
