"""How much of the model is spent on single examples, whatever the number of folds?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from genmem import stats
from genmem.errors import DataError
from genmem.leaveout.estimators import FloatArray
from genmem.protocols import Brief, figure
from genmem.stats import Rate

MOST_APART = 0.1  # of two designs, for a result


@dataclass(frozen=True)
class Effective(Brief):
    """The effective number of parameters, and the mean score at the scale of leaving out one example.

    Attributes:
        parameters: mean score x number of training examples of a refit, with its interval over repeats. NaN if two
            designs disagree by more than 10%.
        leave_one_out: the mean score to expect if one example is left out alone, nats, with its interval.
        each: the number of parameters by each design, in the order given.
    """

    parameters: Rate
    leave_one_out: Rate
    each: tuple[float, ...]

    def headline(self) -> str:
        """Return the size and the main figures."""
        alone = f"{figure(*self.leave_one_out)} nats if one example is left out"
        return f"{figure(*self.parameters)} parameters, {alone}, {len(self.each)} designs"


def effective_parameters(designs: Sequence[tuple[ArrayLike, float]]) -> Effective:
    """Return how many parameters' worth the model spends on single examples.

    A parametric model of p parameters that maximizes the likelihood of n examples has a mean leave-one-out score of
    about p / n. A refit on m < n examples has p / m, so the mean score of K folds is too large for leaving out one
    example, by n / m = K / (K - 1), while mean score x m estimates p for every K, if refits take equally many steps.
    This holds for the *mean* of models whose scores fall as 1 / n: not for single examples, nor for the highest scores,
    nor for kernel densities and k-NN, which have exact leave-one-out scores. Two designs show whether it holds.

    Args:
        designs: for each number of folds, (scores within each repeat (L, n), training examples of a refit). The result
            is that of the design with the most training examples.

    Raises:
        DataError: there is no design, or one is not (scores (L, n), a number of at most n).

    >>> effective_parameters([([[3.0, 4.0, 5.0], [2.0, 3.0, 4.0]], 2)]).each
    (7.0,)
    """
    checked = [_checked(*design) for design in designs]
    if len({scores.shape[1] for scores, _ in checked}) != 1:
        raise DataError(
            expected="one or more designs of the same examples",
            got=f"{len(checked)} designs of {sorted({scores.shape[1] for scores, _ in checked})} examples",
            do="Pass (per_repeat, training examples of a refit) for each number of folds.",
        )
    rates = [_scaled(*design) for design in checked]
    each = tuple(rate.value for rate in rates)
    found = rates[int(np.argmax([size for _, size in checked]))]
    if max(each) - min(each) > MOST_APART * abs(found.value):
        found = Rate(np.nan, (np.nan, np.nan))
    n = checked[0][0].shape[1]
    return Effective(found, Rate(found.value / n, (found.interval[0] / n, found.interval[1] / n)), each)


def _checked(per_repeat: ArrayLike, size: float) -> tuple[FloatArray, float]:
    scores = np.asarray(per_repeat, dtype=np.float64)
    if scores.ndim != 2 or np.ndim(size) != 0 or not 0 < float(size) <= scores.shape[1]:
        raise DataError(
            expected="scores (L, n) within each repeat, and how many of the n examples a refit trains on",
            got=f"shape {scores.shape}, {size!r}"[:200],
            do="Pass `MemorizationScores.per_repeat` and `(~splits.held_out).sum(axis=1).mean()`.",
        )
    return scores, float(size)


def _scaled(scores: FloatArray, size: float) -> Rate:
    """Return the mean score over repeats times a number of examples, with its t interval."""
    means = size * stats.repeat_means(scores)
    value, _, interval = stats.mean_interval(means[np.isfinite(means)])
    return Rate(value, interval)
