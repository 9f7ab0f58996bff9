"""What do the guesses of an attacker say about differential privacy? A lower bound on epsilon from single runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from genmem.seeding import stream

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
CONFIDENCE = 0.95
SHARES = np.geomspace(5e-4, 0.5, 25)  # of the examples an attacker guesses about
# Folds are not independent draws: in placebo studies the number of false positives varied 1.8 to 2.8 times as much as
# that of independent guesses. Every guess counts as 1 / 2.8 of one.
DISPERSION = 2.8


def epsilon_bound(statistic: Sequence[FloatArray], member: Sequence[BoolArray], *, seed: int = 0) -> float:
    """Return a lower bound on epsilon, at 95% confidence; 0 if there is no evidence.

    One refit of each repeat is attacked. The attacker guesses "member" for the highest values of the statistic, or
    "held out" for the lowest; the number of guesses is chosen on the other repeats. Under epsilon-differential privacy,
    with inclusion odds q, a guess "member" is right with probability q e^epsilon / (1 + q e^epsilon) at most, and a
    guess "held out" with e^epsilon / (q + e^epsilon). The larger of both bounds is returned, each at 97.5%.

    Args:
        statistic: one array (refits, n) for each repeat, higher for members; NaN where it is not known.
        member: of the same shapes, whether the refit trained on the example.
        seed: chooses the refits.

    References:
        Privacy Auditing with One (1) Training Run (Steinke, Nasr & Jagielski, 2023), https://arxiv.org/abs/2305.08846
    """
    known = [m[~np.isnan(z)] for z, m in zip(statistic, member, strict=True)]
    share = float(np.concatenate(known).mean())
    rng = stream(seed, "audited refits")
    audited = [int(rng.integers(len(z))) for z in statistic]
    members = _guesses(statistic, member, audited, share / (1 - share))
    others = _guesses([-z for z in statistic], [~m for m in member], audited, (1 - share) / share)
    return max(0.0, members, others)


class _Guesses(NamedTuple):
    right: float
    made: float

    def __add__(self, other: "_Guesses") -> "_Guesses":  # type: ignore[override]
        return _Guesses(self.right + other.right, self.made + other.made)


def _guesses(values: Sequence[FloatArray], truth: Sequence[BoolArray], audited: list[int], odds: float) -> float:
    """Return the bound from guessing `truth` where values are highest, in one refit of each repeat."""
    total = _Guesses(0, 0)
    for i, split in enumerate(audited):
        rest = [j for j in range(len(values)) if j != i]
        others = np.concatenate([values[j].ravel() for j in rest])
        right = np.concatenate([truth[j].ravel() for j in rest])[~np.isnan(others)]
        threshold = _best_threshold(others[~np.isnan(others)], right, sum(map(len, values)) / len(values), odds)
        total += _counted(values[i][split] > threshold, truth[i][split])
    return _bound(total, odds)


def _best_threshold(values: FloatArray, right: BoolArray, refits: float, odds: float) -> float:
    """Return the threshold whose guesses would give the largest bound, if one refit of each repeat is attacked."""
    thresholds = np.quantile(values, 1 - SHARES, method="higher")
    guesses = [_counted(values > at, right) for at in thresholds]
    bounds = [_bound(_Guesses(g.right / refits, g.made / refits), odds) for g in guesses]
    return float(thresholds[int(np.argmax(bounds))])


def _counted(guessed: BoolArray, right: BoolArray) -> _Guesses:
    return _Guesses(int((guessed & right).sum()), int(guessed.sum()))


def _bound(guesses: _Guesses, odds: float) -> float:
    """Return the Clopper-Pearson lower bound of the share of right guesses, as the epsilon it would take."""
    right, made = guesses.right / DISPERSION, guesses.made / DISPERSION
    if right <= 0:
        return -np.inf
    share = float(beta.ppf((1 - CONFIDENCE) / 2, right, made - right + 1))
    return float(np.log(share) - np.log1p(-share) - np.log(odds)) if share < 1 else np.inf
