"""Errors if examples belong together (patients, films, augmentations): whole groups are drawn, not single examples."""

import heapq
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from genmem import stats
from genmem.stats import Correlation

FloatArray = NDArray[np.float64]
BLOCKS = 20  # of a jackknife, at most; smaller groups share one
Term = tuple[float, int]  # the variance of an estimate, and its degrees of freedom


def mean_variance(values: ArrayLike, groups: ArrayLike | None = None) -> Term:
    """Return the variance of the mean of values (n,), and its degrees of freedom; NaN for a single group.

    With S_g the sum and n_g the number of values of group g, m the mean and G the number of groups, the variance is
    G / (G - 1) sum_g (S_g - n_g m)^2 / n^2. Without groups each value is one, and that is s^2 / n.

    References:
        Sampling Techniques (Cochran, 1977), section 9A: cluster sampling with clusters of unequal sizes.

    >>> mean_variance([1.0, 1.0, 4.0, 4.0], ["a", "a", "b", "b"])
    (2.25, 1)
    """
    x = np.asarray(values, dtype=np.float64)
    member = np.arange(len(x)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(member.max(initial=-1)) + 1
    if count < 2:
        return np.nan, 1
    apart = np.bincount(member, weights=x - x.mean())
    return float(count / (count - 1) * (apart**2).sum() / len(x) ** 2), count - 1


def half_width(terms: Sequence[tuple[float, float]], tail: float = 0.025) -> float:
    """Return half of an interval from independent parts, each with its own Student quantile."""
    return float(np.hypot.reduce([np.sqrt(variance) * student_t.isf(tail, df) for variance, df in terms]))


def blocks(groups: ArrayLike, most: int = BLOCKS) -> list[NDArray[np.bool_]]:
    """Divide examples into at most so many blocks of whole groups, of similar sizes; return a mask (n,) of each.

    >>> [block.nonzero()[0].tolist() for block in blocks(["a", "b", "b", "c"], most=2)]
    [[1, 2], [0, 3]]
    """
    member = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes = np.bincount(member)
    filled = [(0, block) for block in range(min(most, len(sizes)))]
    block_of = np.empty(len(sizes), np.intp)
    for group in np.argsort(-sizes, kind="stable"):
        size, block_of[group] = heapq.heappop(filled)
        heapq.heappush(filled, (size + int(sizes[group]), int(block_of[group])))
    return [block_of[member] == block for block in range(len(filled))]


def jackknife(statistic: Callable[[NDArray[np.bool_]], ArrayLike], groups: ArrayLike) -> tuple[FloatArray, int]:
    """Return the variance of a statistic of the examples under a mask (n,) and its df, by leaving out blocks of groups.

    NaN if all examples are one group.
    """
    found = blocks(groups)
    if len(found) < 2:
        return np.full(np.shape(statistic(found[0])), np.nan), 1
    left = np.array([np.asarray(statistic(~block), dtype=np.float64) for block in found])
    return np.asarray((len(found) - 1) * left.var(axis=0)), len(found) - 1


def spearman(a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, level: float = 0.95) -> Correlation:
    """Return `stats.spearman`; given groups, its error and interval are those of a jackknife on Fisher's z scale."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    plain = stats.spearman(x, y, level)
    if groups is None or not np.isfinite(plain.rho) or abs(plain.rho) == 1:
        return plain
    variance, df = jackknife(lambda kept: _z(stats.spearman(x[kept], y[kept]).rho), groups)
    error = float(np.sqrt(variance))
    half = float(student_t.isf((1 - level) / 2, df)) * error
    low, high = np.tanh([_z(plain.rho) - half, _z(plain.rho) + half])
    return Correlation(plain.rho, (1 - plain.rho**2) * error, (float(low), float(high)))


def _z(rho: float) -> float:
    return float(np.arctanh(np.clip(rho, -1 + 1e-15, 1 - 1e-15)))
