"""Slow and obvious: what comparisons of audits should find."""

from itertools import combinations
from math import comb

import numpy as np
from scipy.stats import rankdata


def rank_correlation(x, y, times):
    """Correlate the ranks of a sample in which each example stands so many times."""
    x, y = np.repeat(x, times), np.repeat(y, times)
    return np.corrcoef(rankdata(x), rankdata(y))[0, 1]


def top(score, k, times):
    """Return how many copies of each example are among the k highest, where each stands so many times."""
    kept, inside = k, np.zeros(len(score), int)
    for at in np.argsort(-np.asarray(score), kind="stable"):
        if kept > 0 and times[at]:
            inside[at], kept = times[at], kept - times[at]
    return inside


def shared_by_chance(n, k, count):
    """Return the probability that two choices of k among n share `count` or more, by looking at all of them."""
    first = set(range(k))
    return sum(len(first & set(second)) >= count for second in combinations(range(n), k)) / comb(n, k)


def welch(a, b):
    """Return the difference of two means, b less a, its standard error and degrees of freedom."""
    v, w = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    df = (v + w) ** 2 / (v**2 / (len(a) - 1) + w**2 / (len(b) - 1))
    return np.mean(b) - np.mean(a), np.sqrt(v + w), df
