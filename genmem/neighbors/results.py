"""What a test of copying found: small frozen results, each with the value that fresh data would give beside it.

Rows that stand out are those whose distance ranks low among those of held-out rows, with control of false discoveries.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.stats import benjamini_hochberg, rank_p

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


# --- rows that stand out


FloatArray = NDArray[np.float64]


def flags_of(
    statistic: FloatArray,
    held_out: FloatArray,
    partner: NDArray[np.int64],
    *,
    level: float,
    rows: Literal["samples", "train"],
    closer: str,
    name: str,
    title: str,
    cannot_see: str,
    citation: str,
) -> Flags:
    """Return p = (1 + #{held-out <= statistic}) / (1 + #held-out) of every row, and which stand out at `level`.

    Equal values count against the row, so P(p <= a) <= a also where there are ties.

    Args:
        statistic: (n,) of the rows, smaller is nearer.
        held_out: (n_test,) the same of held-out rows.
        partner: (n,) the row of the other set that lies nearest.
        level: the false-discovery rate.
        rows: what a row is.
        closer: what a flagged row is said to be, for the sentence.
        name: of the test.
        title: of the test.
        cannot_see: what escapes the test.
        citation: where it is from.

    Raises:
        DataError: the level is not between 0 and 1.
    """
    check_level(level)
    p = rank_p(-statistic, -held_out)
    q = benjamini_hochberg(p)
    flagged = q <= level
    return Flags(
        name=name,
        title=title,
        rows=rows,
        statistic=statistic,
        p_value=p,
        q_value=q,
        flagged=flagged,
        level=level,
        resolution=1 / (len(held_out) + 1),
        partner=partner,
        sentence=_sentence(int(flagged.sum()), len(p), len(held_out), level, rows, closer),
        cannot_see=cannot_see,
        citation=citation,
    )


def rows_needed(n: int, n_held_out: int, level: float) -> int:
    """Return how many of `n` rows must reach the smallest p-value, 1 / (n_held_out + 1), before any can be flagged.

    >>> rows_needed(1000, 99, 0.1)
    100
    """
    return max(1, math.ceil(round(n / (level * (n_held_out + 1)), 9)))


def check_level(level: float) -> None:
    """Refuse a level that is no probability.

    Raises:
        DataError: it is not strictly between 0 and 1.
    """
    if not 0 < level < 1:
        raise DataError(expected="a level between 0 and 1", got=f"{level}", do="Pass 0.1 for one false flag in ten.")


def _sentence(count: int, n: int, n_held_out: int, level: float, rows: str, closer: str) -> str:
    kind = {"samples": "samples", "train": "training rows"}[rows]
    found = f"{count:,} of {n:,} {kind} {closer}, at a false-discovery rate of {level:g}; none expected of fresh data."
    needed = rows_needed(n, n_held_out, level)
    if needed > n:
        return f"{found} With {n_held_out:,} held-out rows none could be flagged: too few for this level."
    if needed > 1:
        return f"{found} With {n_held_out:,} held-out rows, fewer than {needed:,} rows cannot be flagged."
    return found
