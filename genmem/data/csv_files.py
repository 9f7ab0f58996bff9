"""Text tables: separator, encoding and decimal mark are detected and told, types are inferred over all sets at once.

Every field is read as the text that the file holds. A column is numbers, dates or true/false only if *all* of its
values are, in all tables that are compared; otherwise it stays the text it was, so that 02370 and 2370 remain
different and 253.30 beside V10 remains 253.30.
"""

import csv
import gzip
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmem.data.notes import Note
from genmem.data.other_kinds import no_table_of_text
from genmem.data.patterns import (
    BELOW_THOUSAND,
    COMMA,
    GROUPED,
    INTEGER,
    NUMBER,
    POINT,
    THOUSANDS,
    all_match,
    any_match,
)
from genmem.errors import DataError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
GAPS = ("", "#N/A", "#N/A N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
SAMPLE = 1 << 18  # bytes that separator and encoding are detected from
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
    sep: str = ","


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
        _refuse_ragged(str(error), path, sep, skipped)
        if encoding != "utf8" or "UTF8" not in str(error):
            raise
        encoding = "cp1252"  # of a byte beyond the sample
        table = _strings(path, sep, encoding, skipped, len(names))
    table = _tidy(table, names, GAPS if options.na is None else options.na, path)
    decimal = options.decimal or _decimal(table, sep, path)
    return TextTable(table, decimal, _told(path.name, sep, skipped, encoding, decimal), sep)


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


def _refuse_ragged(reason: str, path: Path, sep: str, skipped: int) -> None:
    """Raise a DataError if pyarrow found a row with more or fewer fields than there are names."""
    found = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+): ?(.*)", reason, re.DOTALL)
    if found is None:
        return
    row, names, fields = (int(number) for number in found.groups()[:3])
    by = SEPARATORS.get(sep, repr(sep))
    do = f"Correct this row, or the separator (--sep; it is a {by} now), or leave out lines of title and notes."
    if 1 < names == fields - 1 and row == 2 + skipped:
        do = "Write the table without names of rows (row.names = FALSE in R), or add a name for their column."
    raise DataError(
        expected=f"{names} field{'s' * (names > 1)} in every row of {path}, one for each name",
        got=f"{fields} in row {row}: {' '.join(found[4].split())[:60]}",
        do=do,
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
    if (other := no_table_of_text(start[:64])) is not None:
        raise DataError(expected=f"a table of text in {path}", got=f"a file that is {other[0]}", do=other[1])
    if start[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        raise DataError(expected=f"text in UTF-8 in {path}", got="UTF-32", do="Save the file in UTF-8.")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return _whole_lines(start.decode("utf-16", "ignore"), len(start)), "utf16"
    if (zeros := [start[i : 1 << 12 : 2].count(0) for i in (0, 1)]) and 5 * max(zeros) > 2 * len(start[: 1 << 12]):
        name = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
        return _whole_lines(start.decode(name, "ignore"), len(start)), name
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


def _decimal(table: Any, sep: str, path: Path) -> str:
    """Return "," if some column holds numbers with a comma, and no column has one with a point.

    Raises:
        DataError: each of them has three digits behind the comma: a comma may separate thousands.
    """
    if sep == ",":
        return "."
    commas = [c for c in table.columns if all_match(c, f"{COMMA}|{INTEGER}") and any_match(c, COMMA)]
    small, grouped = f"{THOUSANDS}|{BELOW_THOUSAND}", f"{GROUPED}|{THOUSANDS}|{BELOW_THOUSAND}"
    points = any(all_match(c, NUMBER) and any_match(c, POINT) and not all_match(c, small) for c in table.columns)
    if not commas or points or any(all_match(c, grouped) and any_match(c, GROUPED) for c in table.columns):
        return "."
    if all(all_match(c, small) for c in commas):
        example = next(value for value in commas[0].to_pylist() if value and "," in value)
        raise DataError(
            expected=f"numbers whose decimal mark can be told in {path}",
            got=f"numbers such as {example}, each with three digits behind the comma",
            do="Pass --decimal , if it is a decimal comma; if it separates thousands, write the numbers without it.",
        )
    return ","
