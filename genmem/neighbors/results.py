"""What a test of copying found: small frozen results, each with the value that fresh data would give beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Direction = Literal["higher", "lower", "either"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """One number about three sets: training examples T, held-out examples H, samples S.

    Attributes:
        name: a short key, such as "c_t".
        title: what it is, for a table.
        value: on these sets.
        null: what it is expected to be where samples are fresh draws of the data's distribution.
        interval: 95%, of the value; NaN where there is none.
        p_value: one-sided in the direction of copying; NaN for numbers that are no test.
        direction: on which side of the null copying lies.
        n: rows the number rests on.
        sentence: the finding in words, with its null.
        cannot_see: what escapes it, or what it mistakes for copying.
        citation: where it is from.
        details: more, by name: arrays over rows, other statistics.
    """

    name: str
    title: str
    value: float
    null: float
    interval: tuple[float, float] = (np.nan, np.nan)
    p_value: float = np.nan
    direction: Direction
    n: int
    sentence: str
    cannot_see: str
    citation: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Flags:
    """One p-value a row, with those that stand out at a false-discovery rate.

    Attributes:
        name: a short key, such as "conformal_samples".
        title: what it is, for a table.
        rows: what a row is: "samples" or "train".
        statistic: (n,) what is compared with held-out rows, smaller is nearer.
        p_value: (n,) rank among held-out rows.
        q_value: (n,) by Benjamini and Hochberg.
        flagged: (n,) whether q <= level.
        level: the false-discovery rate.
        resolution: the smallest p-value there can be, 1 / (number of held-out rows + 1).
        partner: (n,) the row of the other set that lies nearest.
        sentence: how many stand out, and how many could.
        cannot_see: what escapes it.
        citation: where it is from.
    """

    name: str
    title: str
    rows: Literal["samples", "train"]
    statistic: NDArray[np.float64]
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    level: float
    resolution: float
    partner: NDArray[np.int64]
    sentence: str
    cannot_see: str
    citation: str
