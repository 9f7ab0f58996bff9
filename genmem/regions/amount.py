"""How many more examples does a region need?"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from genmem.protocols import Brief, figure

LEVEL = 0.05
LARGEST = 1e4  # times its present number: no region is known to need more
NO_AMOUNT = (math.nan, math.nan)


@dataclass(frozen=True)
class Amount(Brief):
    """A number of examples to collect.

    Attributes:
        more: the number; NaN if it cannot be told.
        interval: 95% interval; an upper end of infinity means that no number is known to suffice.
        why: the reasoning, one sentence.
    """

    more: float
    interval: tuple[float, float]
    why: str

    def headline(self) -> str:
        """Return the number with its interval."""
        return f"{figure(self.more, self.interval)} more examples"


def by_share(n: int, n_train: int, held_out: int, n_held_out: int, searched: int = 1) -> Amount:
    """Return how many more examples restore the share that a region has among held-out examples.

    With share s of held-out examples, (n + m) / (n_train + m) = s gives m = (s n_train - n) / (1 - s). The interval is
    that of s by Jeffreys, at 5% / `searched`.

    Args:
        n: training examples in the region.
        n_train: all training examples.
        held_out: held-out examples in the region.
        n_held_out: all held-out examples.
        searched: the number of regions that were searched for this one.

    >>> by_share(9, 900, 20, 200).more
    90.0
    """
    tail = LEVEL / 2 / searched
    ends = [_quantile(q, held_out, n_held_out) for q in (tail, 1 - tail)]
    value, low, high = (_to_restore(share, n, n_train) for share in (held_out / n_held_out, *ends))
    why = (
        f"{held_out:,} of {n_held_out:,} held-out examples are in the region, but {n:,} of {n_train:,} training "
        "examples; that many restore its share."
    )
    return Amount(value, (low, high), why)


def _quantile(q: float, count: int, n: int) -> float:
    return float(beta.ppf(q, count + 0.5, n - count + 0.5))


def _to_restore(share: float, n: int, n_train: int) -> float:
    return math.inf if share >= 1 else float(max(0, math.ceil(round((share * n_train - n) / (1 - share), 6))))


@dataclass(frozen=True)
class Decline(Brief):
    """How the mean memorization score of a region falls with its number of examples: as n to the power -b.

    Attributes:
        exponent: b.
        interval: of b, over experiments.
    """

    exponent: float
    interval: tuple[float, float]

    def headline(self) -> str:
        """Return the power."""
        return f"scores fall as n to the power -{figure(self.exponent, self.interval)}"


def by_score(n: int, mean: float, interval: tuple[float, float], target: float, decline: Decline) -> Amount:
    """Return how many more examples lower the mean score of a region to a target.

    With a mean of M proportional to n to the power -b, m = n ((M / target)^(1 / b) - 1).

    Args:
        n: training examples in the region.
        mean: their mean score, nats.
        interval: of the mean.
        target: the mean to reach, nats.
        decline: how the mean falls.

    >>> by_score(10, 8.0, (6.0, 10.0), 2.0, Decline(0.5, (0.4, 0.6))).more
    150.0
    """
    if not target > 0 or not math.isfinite(mean):
        return Amount(math.nan, NO_AMOUNT, "The mean score of the rest is not above 0: there is no mean to reach.")
    low, high = interval
    slow, fast = decline.interval
    value = _to_reach(n, mean / target, decline.exponent)
    ends = (_to_reach(n, low / target, fast), _to_reach(n, high / target, slow)) if math.isfinite(low) else NO_AMOUNT
    why = (
        f"Its mean score of {mean:.1f} nats falls to the {target:.1f} of the rest with that many, if it falls as n to "
        f"the power -{decline.exponent:.2g} (-{slow:.2g} to -{fast:.2g})."
    )
    return Amount(value, ends, why)


def _to_reach(n: int, ratio: float, exponent: float) -> float:
    if ratio <= 1:
        return 0.0
    if np.log(ratio) / exponent > np.log(LARGEST):
        return math.inf
    return float(np.ceil(np.round(n * (np.float64(ratio) ** (1 / exponent) - 1), 6)))
