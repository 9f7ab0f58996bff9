"""How the values of a column of text are written: patterns of numbers, dates and codes, and what matches them."""

from typing import Any

INTEGER, NUMBER = r"^[+-]?\d+$", r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(inf|Inf|INF|infinity|Infinity)$"
CODE = r"^[+-]?0\d+(\.\d*)?$"  # 007: leading zeros are part of a code
COMMA = r"^[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?$"
POINT = r"^[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?$"
TRUTH = r"^(true|false|True|False|TRUE|FALSE)$"
DATE = r"^\d{4}-\d{2}-\d{2}$"
TIME = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?$"
BELOW_THOUSAND = r"^[+-]?\d{1,3}$"
THOUSANDS = r"^[+-]?[1-9]\d{0,2}[.,]\d{3}$"  # 1,234: a thousand or a decimal mark
GROUPED = r"^[+-]?[1-9]\d{0,2}(,\d{3}){2,}(\.\d+)?$|^[+-]?[1-9]\d{0,2}(,\d{3})+\.\d+$"  # surely thousands
FIRST = 100  # values that are looked at before all are
LONGEST = 18  # digits of an integer


def all_match(column: Any, pattern: str) -> bool:
    """Return whether a column of Arrow has values and all match a pattern."""
    import pyarrow.compute as pc

    def matches(part: Any) -> bool:
        return bool(pc.all(pc.match_substring_regex(part, pattern), min_count=0).as_py())

    # A column of another kind shows it at once, nearly always.
    return column.null_count < len(column) and matches(column.slice(0, FIRST)) and matches(column)


def any_match(column: Any, pattern: str) -> bool:
    """Return whether a value of a column of Arrow matches a pattern."""
    import pyarrow.compute as pc

    return bool(pc.any(pc.match_substring_regex(column, pattern)).as_py())
