"""A finding and a check as they are passed around, and the one way from dataclasses to JSON and back."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

Interval = tuple[float, float]
NO_INTERVAL = (math.nan, math.nan)
UNDEFINED: dict[Any, Any] = {float: math.nan, Interval: NO_INTERVAL}  # what null stands for, by type; None elsewhere

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One thing an audit found; numbers that are undefined are NaN.

    Attributes:
        id: a stable name, such as "mean_score".
        question: which it bears on: memorized, regions, neighbors, influence or copies.
        title: a few words.
        value: the estimate.
        standard_error: of the value.
        interval: 95%, of the value.
        null: the value expected with no effect.
        p_value: probability of a value this far from the null by chance.
        n: examples (or groups) behind the value.
        unit: of value, error, interval and null.
        sentence: the finding in words.
        meaning: what it means, in a sentence or two.
        source: the paper of the claim or the method, if there is one.
        examples: positions of examples that show it, the strongest first.
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


@dataclass(frozen=True)
class Check:
    """One validity check: its value, what that is compared with (both NaN where undefined), and whether it passed."""

    id: str
    title: str
    value: float
    unit: str
    null: float
    ok: bool
    sentence: str


@dataclass(frozen=True)
class Correlation:
    """A rank correlation of self-influence with something else (`of`), and of that with the memorization score."""

    of: str
    rho: float
    standard_error: float
    interval: Interval
    n: int
    score_rho: float = math.nan
    score_interval: Interval = NO_INTERVAL


def to_json(value: Any) -> Any:
    """Return a value as JSON can hold it: dataclasses as objects, arrays and tuples as lists, NaN and infinity as null.

    A tuple is one thing, such as an interval: null as a whole where one of its numbers is not finite.

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
    """Return the dataclass that `to_json` wrote; null and missing keys are undefined, keys it has no field for dropped.

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
