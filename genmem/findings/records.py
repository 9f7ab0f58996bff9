"""The dataclasses of findings and checks, and their conversion to JSON and back."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

from genmem.protocols import Brief, figure

Interval = tuple[float, float]
NO_INTERVAL = (math.nan, math.nan)
UNDEFINED: dict[Any, Any] = {float: math.nan, Interval: NO_INTERVAL}  # what null means, by type; None for other types

T = TypeVar("T")


@dataclass(frozen=True)
class Finding(Brief):
    """One finding of an audit; undefined numbers are NaN.

    Attributes:
        id: a stable name, such as "mean_score".
        question: the question it answers: memorized, regions, neighbors, influence or copies.
        title: a few words.
        value: the estimate.
        standard_error: standard error of the value.
        interval: 95% interval of the value.
        null: the value expected without any effect.
        p_value: probability of a value at least this far from the null by chance.
        n: number of examples (or groups) behind the value.
        unit: unit of value, standard error, interval and null.
        sentence: the finding in words.
        meaning: its interpretation, in a sentence or two.
        source: the paper of the claim or the method, or None.
        examples: positions of examples that show it, strongest first.
    """

    id: str
    question: str
    title: str
    value: float
    _: KW_ONLY
    standard_error: float = math.nan
    interval: Interval = NO_INTERVAL
    null: float = math.nan
    p_value: float = math.nan
    n: int
    unit: str = "nats"
    sentence: str
    meaning: str
    source: str | None = None
    examples: tuple[int, ...] = ()

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{self.id} {figure(self.value, self.interval)} {self.unit}, null {figure(self.null)}, n = {self.n:,}"


@dataclass(frozen=True)
class Check(Brief):
    """One validity check: its value, the reference value `null` (NaN if undefined), and whether it passed."""

    id: str
    title: str
    value: float
    unit: str
    null: float
    ok: bool
    sentence: str

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{self.id} {figure(self.value)} {self.unit}, {'passed' if self.ok else 'FAILED'}"


@dataclass(frozen=True)
class Correlation:
    """The rank correlation of self-influence with a quantity `of`, and of that quantity with the memorization score."""

    of: str
    rho: float
    standard_error: float
    interval: Interval
    n: int
    score_rho: float = math.nan
    score_interval: Interval = NO_INTERVAL


def to_json(value: Any) -> Any:
    """Convert a value to JSON types: dataclasses to objects, arrays and tuples to lists, NaN and infinity to null.

    A tuple is one quantity, such as an interval: it becomes null if one of its numbers is not finite.

    >>> to_json({"interval": (0.5, math.nan), "values": np.array([0.5, np.nan]), "n": np.int64(3)})
    {'interval': None, 'values': [0.5, None], 'n': 3}
    """
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: to_json(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, list | tuple):
        parts = [to_json(part) for part in value]
        return None if isinstance(value, tuple) and None in parts else parts
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(kind: type[T], found: Mapping[str, Any]) -> T:
    """Return the dataclass that `to_json` wrote. Null and missing keys become undefined; unknown keys are dropped.

    >>> found = from_json(Correlation, {"of": "the loss", "rho": None, "interval": [0.1, 0.9], "n": 9})
    >>> found.rho, found.interval, found.score_interval
    (nan, (0.1, 0.9), (nan, nan))
    """
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        value = found.get(field.name)
        value = UNDEFINED.get(field.type) if value is None else value
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
