"""Text tables: separator, encoding and decimal mark are detected and told, types are inferred over all sets at once.

Every field is read as the text that the file holds. A column is numbers, dates or true/false only if *all* of its
values are, in all tables that are compared; otherwise it stays the text it was, so that 02370 and 2370 remain
different and 253.30 beside V10 remains 253.30.
"""

import csv
import gzip
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmem.data.notes import Note
from genmem.errors import DataError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
GAPS = ("", "#N/A", "#N/A N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
SAMPLE = 1 << 18  # bytes that separator and encoding are detected from
INTEGER, NUMBER = r"^[+-]?\d+$", r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(inf|Inf|INF|infinity|Infinity)$"
CODE = r"^[+-]?0\d+(\.\d*)?$"  # 007: leading zeros are part of a code
COMMA = r"^[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?$"
POINT = r"^[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?$"
TRUTH = r"^(true|false|True|False|TRUE|FALSE)$"
DATE = r"^\d{4}-\d{2}-\d{2}$"
TIME = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?$"
FIRST = 100  # values that are looked at before all are
LONGEST = 18  # digits of an integer
TABBED = (".tsv", ".tab", ".tsv.gz", ".tab.gz")


@dataclass(frozen=True)
class TableOptions:
    """How tables are to be read: None is to detect it.

    Attributes:
        sep: separator of fields.
        decimal: decimal mark, "." or ",".
        na: words that mark a missing value, instead of the usual ones.
        drop: columns to leave out.
    """

    sep: str | None = None
    decimal: str | None = None
    na: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (("sep", self.sep, None), ("decimal", self.decimal, (".", ","))):
            if value is not None and (len(value) != 1 or known is not None and value not in known):
                raise DataError(
                    expected=f"{name} to be one character" + (" (. or ,)" if known else r" (\t is a tab)"),
                    got=repr(value),
                    do=f"Change --{name}.",
                )

    @property
    def given(self) -> dict[str, Any]:
        """Return the options of text files that were given."""
        options = {"sep": self.sep, "decimal": self.decimal, "na": self.na}
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True, eq=False)
class TextTable:
    """A table of text (an Arrow table, gaps null), and how it was read."""

    table: Any
    decimal: str
    notes: tuple[str, ...]


def is_text_table(path: Path) -> bool:
    """Return whether the name of a file is that of a text table: .csv, .tsv, .tab, also with .gz."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith((".csv", ".tsv", ".tab"))


def read_text_table(path: Path, options: TableOptions) -> TextTable:
    """Read a text table whose first line holds the names of the columns.

    Lines before it that begin with # and the line "sep=" of spreadsheets are skipped, space around fields is no part of
    them, and a column without name or values, as after a separator at the end of every line, is left out.

    Raises:
        DataError: there is no line of names. Damaged files raise errors of pyarrow.
    """
    from pyarrow import ArrowInvalid

    sample, encoding = _sample(path)
    sep, skipped = _heading(sample, options.sep, "\t" if path.name.lower().endswith(TABBED) else ",")
    names = [name.strip() for name in next(csv.reader(_lines(sample, skipped), delimiter=sep), [])]
    refuse_repeated([name for name in names if name], path)
    if names and all(re.match(NUMBER, name) for name in names) and names != [str(i) for i in range(len(names))]:
        raise DataError(
            expected=f"a first line of column names in {path}",
            got=f"numbers: {', '.join(names[:8])}",
            do="Add a line of names at the top; otherwise the first example would be read as names.",
        )
    try:
        table = _strings(path, sep, encoding, skipped, len(names))
    except ArrowInvalid as error:
        if encoding != "utf8" or "UTF8" not in str(error):
            raise
        encoding = "cp1252"  # of a byte beyond the sample
        table = _strings(path, sep, encoding, skipped, len(names))
    table = _tidy(table, names, GAPS if options.na is None else options.na, path)
    decimal = options.decimal or _decimal(table, sep)
    return TextTable(table, decimal, _told(path.name, sep, skipped, encoding, decimal))


def _strings(path: Path, sep: str, encoding: str, skipped: int, width: int) -> Any:
    """Return all fields as text, in columns called "0", "1", ..."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names = [str(i) for i in range(width)]
    return arrow_csv.read_csv(
        path,
        # One thread: only then does pyarrow report which row is ragged.
        read_options=arrow_csv.ReadOptions(
            use_threads=False, encoding=encoding, skip_rows=skipped, skip_rows_after_names=1, column_names=names
        )
        if names
        else arrow_csv.ReadOptions(use_threads=False, encoding=encoding),
        parse_options=arrow_csv.ParseOptions(delimiter=sep, newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )


def _tidy(table: Any, names: Sequence[str], gaps: Sequence[str], path: Path) -> Any:
    """Return a table of text with its names, without space around fields, gaps as null, and no empty last columns."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = []
    for column in table.columns:
        trimmed = pc.utf8_trim_whitespace(column)
        gap = pc.is_in(trimmed, value_set=pa.array(list(gaps), pa.string()))
        columns.append(pc.if_else(gap, pa.scalar(None, pa.string()), trimmed))
    kept = len(names)
    while kept > 1 and not names[kept - 1] and columns[kept - 1].null_count == len(columns[kept - 1]):
        kept -= 1
    refuse_unnamed([names[0] or "an index?", *names[1:kept]] if kept else [], path)  # the first may be an index
    return pa.table(columns[:kept], names=list(names[:kept])) if kept else table


def _told(name: str, sep: str, skipped: int, encoding: str, decimal: str) -> tuple[str, ...]:
    by, lines = f"separated by a {SEPARATORS.get(sep, repr(sep))}", f"{skipped} line{'s' * (skipped > 1)}"
    told = (
        (sep != ",", "The fields of {} are " + by + "."),
        (skipped, lines + " before the names of columns in {} skipped."),
        (encoding != "utf8", "{} is not UTF-8; it was read as " + encoding + "."),
        (decimal == ",", "Numbers in {} have a decimal comma."),
    )
    return tuple(Note(text.format(name), _capital(text.format("the file"))) for is_so, text in told if is_so)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def refuse_unnamed(names: Sequence[str], path: Path | str) -> None:
    """Raise a DataError if a column has no name."""
    if unnamed := [str(i + 1) for i, name in enumerate(names) if not name or name.startswith("__index_level_")]:
        raise DataError(
            expected=f"a name for every column of {path}",
            got=f"none for column {', '.join(unnamed[:8])} (the index of a data frame?)",
            do="Write the table without its index (index=False), or name the column.",
        )


def refuse_repeated(names: Sequence[str], path: Path | str) -> None:
    """Raise a DataError if two columns have one name."""
    if len(set(names)) < len(names):
        raise DataError(
            expected=f"a different name for every column of {path}",
            got=f"repeated: {', '.join([name for name in dict.fromkeys(names) if names.count(name) > 1][:8])}",
            do="Rename them.",
        )


def _sample(path: Path) -> tuple[str, str]:
    """Return the first whole lines of a file and its encoding."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        start = file.read(SAMPLE)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return _whole_lines(start.decode("utf-16", "ignore"), len(start)), "utf16"
    try:
        return _whole_lines(start[: _last_line(start)].decode("utf-8-sig"), len(start)), "utf8"
    except UnicodeDecodeError:
        return _whole_lines(start.decode("cp1252", "replace"), len(start)), "cp1252"


def _last_line(start: bytes) -> int:
    """Return where the last whole line of a sample ends, so that no character is cut."""
    return len(start) if len(start) < SAMPLE else max(start.rfind(b"\n"), start.rfind(b"\r")) + 1


def _whole_lines(text: str, size: int) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if size < SAMPLE else text[: text.rfind("\n") + 1]


def _lines(sample: str, skipped: int) -> io.StringIO:
    return io.StringIO("".join(sample.splitlines(keepends=True)[skipped:]))


def _heading(sample: str, sep: str | None, usual: str) -> tuple[str, int]:
    """Return the separator, and how many lines stand before the names of the columns."""
    lines = sample.splitlines()
    if lines and (said := re.fullmatch(r'"?sep=(.)"?', lines[0].strip())):
        return sep or said[1], 1
    comments = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    found = sep or _separator(_lines(sample, comments).getvalue(), usual)
    rows = [len(row) for row in csv.reader(lines[max(0, comments - 1) : comments + 1], delimiter=found)]
    names_begin_so = comments > 0 and len(rows) == 2 and rows[0] == rows[1]  # "#id,a"
    return found, comments - names_begin_so


def _separator(sample: str, usual: str) -> str:
    """Return the separator that divides the names and nearly all rows into the same number of fields, two or more."""
    best, found = (0.9, 1), usual
    for sep in sorted(SEPARATORS, key=lambda sep: sep != usual):
        rows = [len(row) for row in csv.reader(io.StringIO(sample), delimiter=sep) if row][:500]
        if len(rows) < 2 or rows[0] < 2:
            continue
        score = (sum(count == rows[0] for count in rows) / len(rows), rows[0])
        if score[0] > best[0] or score[0] == best[0] and score[1] > best[1]:
            best, found = score, sep
    return found


def _decimal(table: Any, sep: str) -> str:
    """Return "," if some column holds numbers with a comma, and no column has one with a point."""
    if sep == ",":
        return "."
    commas = any(_all(column, f"{COMMA}|{INTEGER}") and _any(column, COMMA) for column in table.columns)
    points = any(_all(column, NUMBER) and _any(column, POINT) for column in table.columns)
    return "," if commas and not points else "."


# --- types, over all tables at once


def typed(tables: Sequence[TextTable], keep: Collection[str] = ()) -> tuple[list[Any], tuple[str, ...]]:
    """Return Arrow tables with the types of their values, and what is to be said of columns of text.

    Args:
        tables: the tables that are compared; a column has one type in all of them.
        keep: columns that stay text.
    """
    names = list(dict.fromkeys(name for one in tables for name in one.table.column_names))
    kinds, notes = {}, []
    for name in names:
        columns = [_with_point(one.table[name], one.decimal) for one in tables if name in one.table.column_names]
        kinds[name] = "text" if name in keep else _kind(columns)
        if kinds[name] == "text" and name not in keep:
            notes += _doubts(name, columns)
    return [_as_typed(one, kinds) for one in tables], tuple(notes)


def _with_point(column: Any, decimal: str) -> Any:
    """Return a column with decimal points if its file has decimal commas and it holds numbers."""
    import pyarrow.compute as pc

    if decimal == "," and _all(column, f"{COMMA}|{INTEGER}"):
        return pc.replace_substring(column, ",", ".")
    return column


def _kind(columns: Sequence[Any]) -> str:
    """Return "missing", "integer", "number", "truth", "date", "time" or "text"."""
    columns = [column for column in columns if column.null_count < len(column)]
    if not columns:
        return "missing"
    if any(_any(column, CODE) for column in columns):
        return "text"
    for kind, pattern in (
        ("integer", INTEGER),
        ("number", NUMBER),
        ("truth", TRUTH),
        ("date", DATE),
        ("time", f"{TIME}|{DATE}"),
    ):
        if all(_all(column, pattern) for column in columns):
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


def _doubts(name: str, columns: Sequence[Any]) -> list[str]:
    """Return what is odd about a column of text: nearly a number, or nearly different in every row."""
    import pyarrow.compute as pc

    values = [value for column in columns for value in column.drop_null().to_pylist()]
    odd = [value for value in values if not re.match(NUMBER, value)]
    if values and not odd:
        said = " is text: its numbers have leading zeros or too many digits, as codes have."
        return [Note(f"Column {name!r}{said}", f"A column{said}")]
    if 2 * len(odd) <= len(values) and values:
        share = f"{1 - len(odd) / len(values):.0%} of its values are numbers."
        told = f"Column {name!r} is text because of values such as {odd[0]!r}; {share}"
        return [Note(told, f"A column is text though {share}")]
    counts = [(len(pc.unique(column.drop_null())), len(column) - column.null_count) for column in columns]
    if all(distinct > 0.9 * count and count >= 20 for distinct, count in counts):
        said = " is text that differs in nearly every row: an identifier should be left out (--drop)."
        return [Note(f"Column {name!r}{said}", f"A column{said}")]
    return []


def _all(column: Any, pattern: str) -> bool:
    import pyarrow.compute as pc

    def matches(part: Any) -> bool:
        return bool(pc.all(pc.match_substring_regex(part, pattern), min_count=0).as_py())

    # A column of another kind shows it at once, nearly always.
    return column.null_count < len(column) and matches(column.slice(0, FIRST)) and matches(column)


def _any(column: Any, pattern: str) -> bool:
    import pyarrow.compute as pc

    return bool(pc.any(pc.match_substring_regex(column, pattern)).as_py())


def _longest(columns: Sequence[Any]) -> int:
    import pyarrow.compute as pc

    return max(int(pc.max(pc.utf8_length(column)).as_py() or 0) for column in columns)
