"""What each column of the tables that are compared is: numbers, categories, dates, text or names of rows; in words."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import Triple
from genmem.data.folders import counted
from genmem.data.notes import Note, in_digits
from genmem.data.tables import Columns, as_numbers_or_text

MOST = 12  # columns that are described
SHOWN = 3  # categories that are counted
_NEARLY = 0.9  # of the values differ, in text that is no category
_FEWEST = 20  # values of which that can be said
_FAR = 10.0  # how much wider or narrower than that of train the range of another set is when it is told
_SETS = ("train", "test", "samples")
_KINDS = {
    "number": "of numbers",
    "truth": "of true or false",
    "date": "of dates",
    "category": "of categories",
    "text": "of text that differs in nearly every row",
    "empty": "without values",
    "name": "of names of rows, not compared",
    "group": "of groups of rows that belong together, not compared",
}


@dataclass(frozen=True)
class Role:
    """What one column is.

    Attributes:
        name: of the column.
        kind: a key of `_KINDS`.
        values: its range, or its most frequent categories in `train`, in words.
        gaps: missing values in train, test and samples.
    """

    name: str
    kind: str
    values: str = ""
    gaps: tuple[int, ...] = (0, 0, 0)

    @property
    def in_words(self) -> str:
        """The column in a few words, such as "age number 18 to 90, 3 gaps in train"."""
        gaps = [f"{n:,} gap{'' if n == 1 else 's'} in {where}" for n, where in zip(self.gaps, _SETS, strict=True) if n]
        kind = {
            "name": "names the rows, not compared",
            "text": "text, different in nearly every row",
            "truth": "true or false",
        }
        return ", ".join([" ".join(filter(None, (self.name, kind.get(self.kind, self.kind), self.values))), *gaps])


def roles_of(tables: tuple[Columns, Columns, Columns], categorical: Collection[str]) -> tuple[Role, ...]:
    """Return what each column of train, test and samples is; columns are those of `same_columns`.

    Raises:
        DataError: values of a column are of several kinds (see `as_numbers_or_text`).
    """
    return tuple(_role(name, (tables[0][name], tables[1][name], tables[2][name]), categorical) for name in tables[0])


def in_words(roles: Sequence[Role]) -> Note:
    """Return the sentence on the columns: what each is; or, without names, how many are what."""
    counts = Counter(role.kind for role in roles)
    gaps = [sum(role.gaps) for role in roles if any(role.gaps)]
    kinds = ", ".join(f"{counts[kind]:,} {_KINDS[kind]}" for kind in _KINDS if counts[kind])
    missing = f"; {sum(gaps):,} gaps in {len(gaps):,} of them" if gaps else ""
    more = [f"{len(roles) - MOST:,} more"] if len(roles) > MOST else []
    named = "; ".join([*(role.in_words for role in roles[:MOST]), *more])
    return Note(f"Columns: {named}.", f"Columns: {kinds}{missing}.")


def _role(name: str, parts: Triple, categorical: Collection[str]) -> Role:
    found, is_text = as_numbers_or_text(name, parts, categorical)
    if is_text:
        gaps = tuple(int((values == "").sum()) for values in found)
        return Role(name, *_categories([values[values != ""] for values in found], name in categorical), gaps)
    known = [values[~np.isnan(values)] for values in found]
    gaps = tuple(len(values) - len(rest) for values, rest in zip(found, known, strict=True))
    kind = _kind_of_numbers(parts, known)
    return Role(name, kind, "" if kind in ("truth", "empty") else _ranges(known, kind == "date"), gaps)


def _kind_of_numbers(parts: Triple, known: Sequence[NDArray[np.float64]]) -> str:
    if not any(map(len, known)):
        return "empty"
    if all(map(_are_truths, parts)):
        return "truth"
    return "date" if any(map(_are_dates, parts)) else "number"


def _are_dates(values: NDArray[Any]) -> bool:
    if values.dtype.kind != "O":
        return values.dtype.kind == "M"
    return any(hasattr(value, "isoformat") for value in values.tolist())


def _are_truths(values: NDArray[Any]) -> bool:
    if values.dtype.kind != "O":
        return values.dtype.kind == "b"
    return all(value is None or isinstance(value, bool) for value in values.tolist())


def _categories(parts: Sequence[NDArray[Any]], is_asked: bool) -> tuple[str, str]:
    counts = [Counter(values.tolist()) for values in parts]
    if not is_asked and all(len(count) > _NEARLY * sum(count.values()) >= _NEARLY * _FEWEST for count in counts):
        return "text", ""
    levels = len(set().union(*counts))
    often = ", ".join(f"{level} ({count:,})" for level, count in counts[0].most_common(SHOWN))
    more = " ..." if levels > min(SHOWN, len(counts[0])) else ""
    return "category", f"of {counted(levels, 'value')}: {often}{more}"


def _ranges(known: Sequence[NDArray[np.float64]], dates: bool) -> str:
    """Return the range of train, and those of other sets that are much wider, narrower or elsewhere."""
    ends = [(float(values.min()), float(values.max())) if len(values) else None for values in known]
    shown = [ends[0] and _written(ends[0], dates)]
    shown += [
        f"({where} {_written(end, dates)})"
        for where, end in zip(_SETS[1:], ends[1:], strict=True)
        if end is not None and (ends[0] is None or _is_apart(ends[0], end))
    ]
    return " ".join(filter(None, shown))


def _is_apart(train: tuple[float, float], other: tuple[float, float]) -> bool:
    width, own = train[1] - train[0], other[1] - other[0]
    return own > _FAR * width or width > _FAR * own or other[0] > train[1] or other[1] < train[0]


def _written(ends: tuple[float, float], dates: bool) -> str:
    if dates:
        first, last = (np.datetime64(0, "s") + np.timedelta64(round(end), "s") for end in ends)
        return f"{str(first).replace('T00:00:00', '')} to {str(last).replace('T00:00:00', '')}"
    return " to ".join(map(in_digits, ends))
