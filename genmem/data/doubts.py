"""What is odd about a column: text that looks like numbers or dates, identifiers, marks for gaps among numbers."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from genmem.data.folders import counted
from genmem.data.notes import Note
from genmem.data.patterns import DATE, NUMBER

_NEARLY = 0.9  # of the values differ
_FEWEST = 20  # values of which that can be said
_MARK = r"[$€£¥]|USD|EUR|GBP|CHF"
_LOOKS = (  # what values look like, a pattern of all of them that are no plain numbers, and what to do
    ("numbers with a decimal comma", r"[+-]?(\d+,\d{1,2}|\d+,\d{4,})", "pass --decimal , or write points"),
    ("numbers with thousands separators", r"[+-]?\d{1,3}([.,' ’\u00a0\u202f]\d{3})*([.,]\d+)?", "write them without"),
    ("percentages", r"[+-]?\d+([.,]\d+)? ?%", "write plain numbers"),
    ("amounts of money", rf"({_MARK}) ?[+-]?\d[\d.,' ]*|[+-]?\d[\d.,' ]* ?({_MARK})", "write plain numbers"),
    ("negative numbers in brackets", r"\(\d[\d.,]*\)", "write -1"),
    ("numbers with another sign than -", r"[\u2212\u2013]\d+([.,]\d+)?", "write -1"),
    ("numbers in quotes", r"'[+-]?\d+([.,]\d+)?'", "write them without"),
    ("lists of numbers", r"[\[(][-+\d., e]+[\])]", "write each of their values as a column"),
    (
        "dates in another form than 2020-12-31",
        r"(\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{4}[./-]\d{1,2}[./-]\d{1,2}|\d{1,2}[ .-]+[A-Za-z]{3,9}[ .,-]+\d{2,4})"
        r"([ T]\d{1,2}:\d{2}.*)?",
        "write them as 2020-12-31",
    ),
    ("times of day", r"\d{1,2}:\d{2}(:\d{2})?", "write them as minutes or seconds"),
)
_OTHERS = (" ", ":", "~", "^", "/")
_CODES = (-9, -99, -999, -9999, -99999)  # for missing values
_TOTALS = re.compile(r"(grand )?total|sum|summe|gesamt|mean|average|mittelwert|all", re.IGNORECASE)
_FIRST_DAY, _LAST_DAY = 1900_01_01, 2100_12_31


def look_of(values: Sequence[str]) -> tuple[str, str] | None:
    """Return what texts look like with an example, if all do that are no plain numbers; and what to do.

    Else return what keeps them from being numbers, if half of them are; and None if they are ordinary text.

    >>> look_of(["12%", "7", "3.5%"]), look_of(["12%", "x"])
    (("percentages such as '12%'", 'write plain numbers'), None)
    """
    odd = [value for value in values if not re.match(NUMBER, value)]
    for what, pattern, do in _LOOKS:
        if odd and all(re.fullmatch(pattern, value) for value in odd):
            example = next((value for value in odd if not re.match(DATE, value)), odd[0])
            return f"{what} such as {example!r}", do
    if values and not odd:
        codes = f"numbers with leading zeros, too many digits or points, as codes have, such as {values[0]!r}"
        return codes, "write plain numbers"
    if odd and 2 * len(odd) <= len(values):
        return f"no numbers in {len(odd):,} of {len(values):,} rows, such as {odd[0]!r}", "correct them or pass --na"
    return None


def separated_otherwise(names: Sequence[str], values: Sequence[str]) -> str | None:
    """Return the character that seems to separate the fields of a table read as one column of text; None if none does.

    >>> separated_otherwise(["a b"], ["1 2", "3 4"]), separated_otherwise(["a b"], ["1 2", "3"])
    (' ', None)
    """
    if len(names) != 1:
        return None
    counts = {mark: {text.strip().count(mark) for text in (names[0], *values)} for mark in _OTHERS}
    return next((mark for mark in _OTHERS if len(counts[mark]) == 1 and 0 not in counts[mark]), None)


def doubts_of_text(name: str, names: Sequence[str], columns: Sequence[Any]) -> list[Note]:
    """Return what is odd about a column of text of several tables: nearly numbers, dates, or nearly all different.

    Args:
        name: of the column.
        names: of all columns.
        columns: its values in each table, arrays of Arrow.
    """
    import pyarrow.compute as pc

    values = [value for column in columns for value in column.drop_null().to_pylist()]
    odd = [value for value in values if not re.match(NUMBER, value)]
    if values and not odd:
        return _note(name, " is text: its numbers have leading zeros, too many digits or points, as codes have.")
    if (mark := separated_otherwise(names, values)) is not None:
        said = f"The only column seems to hold fields separated by {mark!r}: pass --sep {mark!r}."
        return [Note(said)]
    if (look := look_of(values)) is not None and " rows, such as " not in look[0]:
        what = look[0].partition(" such as ")
        said, more = f" is text: its values are {what[0]}", f"; {look[1]}."
        return [Note(f"Column {name!r}{said}{what[1]}{what[2]}{more}", f"A column{said}{more}")]
    if 2 * len(odd) <= len(values) and values:
        share = f"{1 - len(odd) / len(values):.0%} of its values are numbers."
        told = f"Column {name!r} is text because of values such as {odd[0]!r}; {share} If these are gaps, pass --na."
        return [Note(told, f"A column is text though {share}")]
    counts = [(len(pc.unique(column.drop_null())), len(column) - column.null_count) for column in columns]
    if all(distinct > _NEARLY * count and count >= _FEWEST for distinct, count in counts):
        return _note(name, " is text that differs in nearly every row: an identifier should be left out (--drop).")
    return []


def doubts_of_numbers(name: str, columns: Sequence[Any]) -> list[Note]:
    """Return what is odd about a column of numbers of several tables: codes for gaps, dates without marks."""
    import pyarrow.compute as pc

    known = [np.unique(pc.cast(c.drop_null(), "float64", safe=False).to_numpy()) for c in columns]
    values = np.unique(np.concatenate(known))
    below = values[values < 0]
    if len(below) == 1 and below[0] in _CODES and len(values) > 1:
        code = f"{below[0]:g}"
        count = sum(int(pc.sum(pc.equal(c, int(below[0]))).as_py() or 0) for c in columns)
        said = f"has {counted(count, 'value')} of {code} and none else below 0: if they mark gaps, "
        return [Note(f"Column {name!r} {said}pass --na {code}.", f"A column {said}pass --na.".replace(code, "a code"))]
    if len(values) > 1 and _are_days(values):
        return _note(name, " holds numbers that look like dates, as 20201231 does: write them as 2020-12-31.")
    return []


def doubts_of_rows(table: Any) -> list[Note]:
    """Return whether the last row of a table of text looks like a total, and the names of its columns like values."""
    last = [column[-1].as_py() for column in table.columns] if len(table) > 2 else []
    found = [value for value in last if value and _TOTALS.fullmatch(value)]
    said = "The last row looks like a total"
    notes = [Note(f"{said}: {found[0]!r}.", f"{said}.")] if found else []
    names = [name for name in table.column_names if re.match(NUMBER, name) and not re.match(r"(19|20)\d\d$", name)]
    if names and not all(re.match(r"\d+$", name) for name in table.column_names):
        said = "Numbers among the names of columns: is the line of names missing?"
        notes.append(Note(f"{said[:-1]} ({', '.join(table.column_names[:8])})?", said))
    return notes


def _note(name: str, said: str) -> list[Note]:
    return [Note(f"Column {name!r}{said}", f"A column{said}")]


def _are_days(values: Any) -> bool:
    if not (_FIRST_DAY <= values[0] and values[-1] <= _LAST_DAY and (values == np.floor(values)).all()):
        return False
    months, days = values // 100 % 100, values % 100
    return bool(((months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)).all())
