"""The types of the columns of text tables, inferred over all tables that are compared."""

from collections.abc import Collection, Sequence
from typing import Any

from genmem.data.csv_files import TextTable
from genmem.data.doubts import doubts_of_numbers, doubts_of_rows, doubts_of_text
from genmem.data.notes import Note
from genmem.data.patterns import (
    BELOW_THOUSAND,
    CODE,
    COMMA,
    DATE,
    INTEGER,
    LONGEST,
    NUMBER,
    POINT,
    THOUSANDS,
    TIME,
    TRUTH,
    all_match,
    any_match,
)


def typed(tables: Sequence[TextTable], keep: Collection[str] = ()) -> tuple[list[Any], tuple[str, ...]]:
    """Return Arrow tables with the types of their values, and what is to be said of columns of text.

    Args:
        tables: the tables that are compared; a column has one type in all of them.
        keep: columns that stay text.
    """
    names = list(dict.fromkeys(name for one in tables for name in one.table.column_names))
    kinds, notes = {}, [note for one in tables for note in doubts_of_rows(one.table)]
    for name in names:
        holders = [one for one in tables if name in one.table.column_names]
        columns = [_with_point(one.table[name], one.decimal) for one in holders]
        kinds[name] = "text" if name in keep or any(_has_points(name, one) for one in holders) else _kind(columns)
        if kinds[name] == "text" and name not in keep:
            notes += doubts_of_text(name, names, columns)
        if kinds[name] in ("integer", "number"):
            notes += doubts_of_numbers(name, [_converted(column, column, kinds[name]) for column in columns])
            notes += _thousands(name, [one for one in holders if one.sep == ";"])
    return [_as_typed(one, kinds) for one in tables], tuple(dict.fromkeys(notes))


def _has_points(name: str, one: TextTable) -> bool:
    """Return whether a column has numbers with points in a file of decimal commas: then they separate thousands."""
    return one.decimal == "," and any_match(one.table[name], POINT)


def _thousands(name: str, holders: Sequence[TextTable]) -> list[Note]:
    """Return a doubt about numbers of which each has a point and three digits."""
    columns = [one.table[name] for one in holders if one.decimal == "."]
    if not columns or not all(all_match(c, f"{THOUSANDS}|{BELOW_THOUSAND}") and any_match(c, POINT) for c in columns):
        return []
    said = "were taken as decimals, not as thousands, though each has a point and three digits."
    return [Note(f"The numbers of column {name!r} {said}", f"The numbers of a column {said}")]


def _with_point(column: Any, decimal: str) -> Any:
    """Return a column with decimal points if its file has decimal commas and it holds numbers."""
    import pyarrow.compute as pc

    if decimal == "," and all_match(column, f"{COMMA}|{INTEGER}"):
        return pc.replace_substring(column, ",", ".")
    return column


def _kind(columns: Sequence[Any]) -> str:
    """Return "missing", "integer", "number", "truth", "date", "time" or "text"."""
    columns = [column for column in columns if column.null_count < len(column)]
    if not columns:
        return "missing"
    if any(any_match(column, CODE) for column in columns):
        return "text"
    for kind, pattern in (
        ("integer", INTEGER),
        ("number", NUMBER),
        ("truth", TRUTH),
        ("date", DATE),
        ("time", f"{TIME}|{DATE}"),
    ):
        if all(all_match(column, pattern) for column in columns):
            return "text" if kind == "integer" and _longest(columns) > LONGEST else kind
    return "text"


def _as_typed(one: TextTable, kinds: dict[str, str]) -> Any:
    import pyarrow as pa

    columns = [
        _converted(_with_point(one.table[name], one.decimal), one.table[name], kinds[name])
        for name in one.table.column_names
    ]
    return pa.table(columns, names=one.table.column_names) if columns else one.table


def _converted(column: Any, original: Any, kind: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind == "text":
        return original
    if kind == "truth":
        return pc.equal(pc.utf8_lower(column), "true")
    if kind == "time":
        return pa.array([_instant(value) for value in column.to_pylist()], pa.timestamp("us"))
    types = {"missing": pa.null(), "integer": pa.int64(), "number": pa.float64(), "date": pa.date32()}
    if kind in ("integer", "number") and pc.any(pc.starts_with(column, "+")).as_py():
        column = pc.utf8_ltrim(column, "+")
    return pa.nulls(len(column)) if kind == "missing" else pc.cast(column, types[kind])


def _instant(text: str | None) -> Any:
    """Return a date with time as a datetime in UTC without a zone."""
    import datetime

    if text is None:
        return None
    time = datetime.datetime.fromisoformat(text)
    return time if time.tzinfo is None else time.astimezone(datetime.UTC).replace(tzinfo=None)


def _longest(columns: Sequence[Any]) -> int:
    import pyarrow.compute as pc

    return max(int(pc.max(pc.utf8_length(column)).as_py() or 0) for column in columns)
