"""Effects of several sizes in independent repeats: intervals, one p-value for all sizes, and what would be detected."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from genmem.errors import DataError
from genmem.neurons.contrast import FloatArray

ALL_FLIPS = 12  # repeats up to which every pattern of signs is tried
FLIPS = 4096
LEVEL = 0.05
POWER = 0.8


@dataclass(frozen=True, eq=False)
class Tested:
    """Effects over repeats, one for each size of the grid.

    Attributes:
        mean, standard_error: (sizes,).
        interval: (sizes, 2) Student t intervals at 95%, for each size alone.
        statistic: (sizes,) mean divided by its standard error.
        p_value: (sizes,) one-sided, by sign flips of whole repeats, corrected over sizes by the largest statistic.
        detectable: (sizes,) the smallest effect that this test finds with a power of 80%.
        repeats: how many.
    """

    mean: FloatArray
    standard_error: FloatArray
    interval: FloatArray
    statistic: FloatArray
    p_value: FloatArray
    detectable: FloatArray
    repeats: int

    @property
    def p_any(self) -> float:
        """The p-value of the hypothesis that no size has an effect."""
        return float(self.p_value.min())

    @property
    def best(self) -> int:
        """The position of the size with the largest statistic."""
        return int(np.argmax(self.statistic))


def over_repeats(effects: ArrayLike, seed: int = 0) -> Tested:
    """Test effects (repeats, sizes) against 0: the replicate is the repeat.

    Under the null hypothesis the effects of a repeat may all change their sign. Every pattern of signs is tried for up
    to 12 repeats, 4,096 random ones for more. p is the share of patterns whose largest statistic over sizes is at least
    the observed one, so it holds for all sizes together (max-T).

    Raises:
        DataError: there are fewer than two repeats.

    References:
        Resampling-Based Multiple Testing (Westfall & Young, 1993).
    """
    values = np.asarray(effects, np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise DataError(
            expected="effects of two repeats or more, shape (repeats, sizes)",
            got=f"shape {values.shape}",
            do="Train more networks: intervals come from independent repeats.",
        )
    mean, error, statistic = _statistics(values)
    largest = np.sort(_flipped(values, seed))
    p = 1 - np.searchsorted(largest, statistic - 1e-9 * np.abs(statistic)) / len(largest)
    df = len(values) - 1
    half = scipy_stats.t.ppf(0.975, df) * error
    critical = float(np.quantile(largest, 1 - LEVEL, method="higher"))
    detectable = (max(critical, float(scipy_stats.t.ppf(1 - LEVEL, df))) + scipy_stats.t.ppf(POWER, df)) * error
    interval = np.stack([mean - half, mean + half], axis=1)
    return Tested(mean, error, interval, statistic, p, np.asarray(detectable), len(values))


def _statistics(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    mean = values.mean(0)
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    # Repeats that agree to the last digit have no error: a tiny one keeps the sign and the order.
    floor = 1e-12 * np.maximum(np.abs(values).max(0), 1e-300)
    return mean, error, mean / np.maximum(error, floor)


def _flipped(values: FloatArray, seed: int) -> FloatArray:
    """Return the largest statistic over sizes under every pattern of signs; the observed one is among them."""
    count = len(values)
    if count <= ALL_FLIPS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=count)))
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), (FLIPS, count))
        signs[0] = 1.0
    mean = signs @ values / count
    variance = (np.square(values).mean(0) - np.square(mean)) * count / (count - 1)
    floor = 1e-12 * np.maximum(np.abs(values).max(0), 1e-300)
    error = np.maximum(np.sqrt(np.maximum(variance, 0) / count), floor)
    return np.asarray((mean / error).max(1))
