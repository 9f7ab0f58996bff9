"""Results of tests of copying: small frozen objects, each with its value on fresh data beside it.

Flagged points are those whose distance ranks low among the distances of held-out examples, with control of the
false-discovery rate.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.protocols import Brief, figure
from genmem.stats import benjamini_hochberg, rank_p

Direction = Literal["higher", "lower", "either"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Result(Brief):
    """One number about three sets: training examples T, held-out examples H, samples S.

    Attributes:
        name: a short key, such as "c_t".
        title: a description for tables.
        value: on these sets.
        null: the expected value if samples are fresh draws from the data distribution.
        interval: 95%, for the value; NaN if there is none.
        p_value: one-sided in the direction of copying; NaN for numbers that are not tests.
        direction: the side of the null that indicates copying.
        n: the number of points that the value is computed from.
        sentence: the result in words, with its null.
        cannot_see: what the test cannot detect, or mistakes for copying.
        citation: its source.
        details: further values by name: arrays over points, other statistics.
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

    def headline(self) -> str:
        """Return the size and the main figures."""
        value = figure(self.value, self.interval)
        return f"{self.name} = {value}, null {figure(self.null)}, p {figure(self.p_value)}, n = {self.n:,}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Flags(Brief):
    """One p-value per point, and the points that are flagged at a false-discovery rate.

    Attributes:
        name: a short key, such as "conformal_samples".
        title: a description for tables.
        rows: the kind of points: "samples" or "train".
        statistic: (n,) what is compared with held-out examples; smaller is closer.
        p_value: (n,) rank among held-out examples.
        q_value: (n,) by Benjamini and Hochberg.
        flagged: (n,) whether q <= level.
        level: the false-discovery rate.
        resolution: the smallest possible p-value, 1 / (number of held-out examples + 1).
        partner: (n,) index of the closest point of the other set.
        sentence: how many are flagged, and how many could be.
        cannot_see: what the test cannot detect.
        citation: its source.
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

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{self.flagged.sum():,} of {len(self.flagged):,} {self.rows} flagged at {self.level:g}"


# --- flagged points


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
    """Return p = (1 + #{held-out <= statistic}) / (1 + #held-out) of every point, and which are flagged at `level`.

    Ties increase p, so P(p <= a) <= a holds with ties too.

    Args:
        statistic: (n,) of the points, smaller is closer.
        held_out: (n_test,) the same of held-out examples.
        partner: (n,) index of the closest point of the other set.
        level: the false-discovery rate.
        rows: the kind of points.
        closer: the predicate of the sentence about flagged points.
        name: of the test.
        title: of the test.
        cannot_see: what the test cannot detect.
        citation: its source.

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
    """Return how many of `n` points must reach the smallest p-value, 1 / (n_held_out + 1), before any can be flagged.

    >>> rows_needed(1000, 99, 0.1)
    100
    """
    return max(1, math.ceil(round(n / (level * (n_held_out + 1)), 9)))


def check_level(level: float) -> None:
    """Refuse a level that is not a probability.

    Raises:
        DataError: it is not strictly between 0 and 1.
    """
    if not 0 < level < 1:
        raise DataError(
            expected="a level between 0 and 1",
            got=f"{level}",
            do="Pass 0.1 for at most one false flag in ten on average.",
        )


def _sentence(count: int, n: int, n_held_out: int, level: float, rows: str, closer: str) -> str:
    kind = {"samples": "samples", "train": "training examples"}[rows]
    found = (
        f"{count:,} of {n:,} {kind} {closer}, at a false-discovery rate of {level:g}; none are expected with fresh "
        "data."
    )
    needed = rows_needed(n, n_held_out, level)
    if needed > n:
        return f"{found} With {n_held_out:,} held-out examples none can be flagged at this level."
    if needed > 1:
        return f"{found} With {n_held_out:,} held-out examples, fewer than {needed:,} cannot be flagged."
    return found
