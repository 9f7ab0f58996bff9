"""Conditions such as `copied_share_low > 0.01 or flagged_samples >= 5`: parsed and compared, never run as code."""

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from genmem.errors import DataError
from genmem.protocols import Brief

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_COMPARISON = re.compile(
    r"\s*([A-Za-z_]\w*)\s*(<=|>=|==|!=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", re.A
)
_JOINT = re.compile(r"\b(and|or)\b")
_GRAMMAR = "NAME OP NUMBER, joined by `and` or `or` (`and` binds tighter); OP is one of " + " ".join(OPERATORS)


@dataclass(frozen=True)
class Comparison:
    """A comparison of a named value with a number."""

    name: str
    operator: str
    number: float

    def holds(self, values: Mapping[str, float]) -> bool | None:
        """Return whether the comparison holds, or None if the value is undefined (NaN)."""
        value = values[self.name]
        return None if math.isnan(value) else OPERATORS[self.operator](value, self.number)


@dataclass(frozen=True)
class Condition(Brief):
    """A condition that holds if all comparisons of at least one of the `alternatives` hold."""

    text: str
    alternatives: tuple[tuple[Comparison, ...], ...]

    def headline(self) -> str:
        """Return the size and the main figures."""
        return self.text

    def holds(self, values: Mapping[str, float]) -> bool:
        """Return whether the condition holds.

        Raises:
            DataError: the answer depends on a value that is undefined (NaN).

        >>> parse_condition("a > 1 and b < 2 or a == 0", {"a", "b"}).holds({"a": 3.0, "b": 1.5})
        True
        """
        answers = [_all([part.holds(values) for part in parts]) for parts in self.alternatives]
        if any(answers):
            return True
        if None in answers:
            unknown = sorted({c.name for parts in self.alternatives for c in parts if math.isnan(values[c.name])})
            raise DataError(
                expected=f"defined values in the condition {self.text!r}",
                got=f"no value for {', '.join(unknown)}, which could not be computed from this input",
                do="Read the report for the reason, or use another condition.",
            )
        return False


def _all(answers: list[bool | None]) -> bool | None:
    return False if False in answers else None if None in answers else True


def parse_condition(text: str, names: Collection[str]) -> Condition:
    """Parse a condition that may use the given names.

    Raises:
        DataError: the condition is malformed or uses an unknown name.

    >>> parse_condition("copied_share_low > 1e-2", ["copied_share_low"]).alternatives
    ((Comparison(name='copied_share_low', operator='>', number=0.01),),)
    """
    pieces = _JOINT.split(text)
    alternatives: list[list[Comparison]] = [[]]
    for joint, piece in zip(["and", *pieces[1::2]], pieces[::2], strict=True):
        if joint == "or":
            alternatives.append([])
        alternatives[-1].append(_comparison(piece, text, names))
    return Condition(text, tuple(map(tuple, alternatives)))


def _comparison(piece: str, text: str, names: Collection[str]) -> Comparison:
    found = _COMPARISON.fullmatch(piece)
    if found is None:
        raise DataError(expected=f"a condition: {_GRAMMAR}", got=repr(text), do=f"Correct the part {piece.strip()!r}.")
    name, compare, number = found.groups()
    if math.isinf(float(number)):
        raise DataError(
            expected="a finite number in a condition", got=number, do=f"Correct the part {piece.strip()!r}."
        )
    if name not in names:
        near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise DataError(
            expected=f"a condition on known names: {', '.join(names)}",
            got=repr(name),
            do=f"{hint}Correct the name.",
        )
    return Comparison(name, compare, float(number))
