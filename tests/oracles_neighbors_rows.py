"""Tests of single rows by their definitions, one row at a time. Slow and obvious."""

import math
from itertools import combinations

import numpy as np


def distances(queries, base):
    """All distances in float64, (m, n)."""
    Q = np.asarray(queries, np.float64).reshape(len(queries), -1)
    B = np.asarray(base, np.float64).reshape(len(base), -1)
    return np.array([[math.sqrt(float(((q - b) ** 2).sum())) for b in B] for q in Q])


# --- lists with false-discovery control


def rank_p_by_loop(statistic, held_out):
    return np.array([(1 + sum(h <= s for h in held_out)) / (1 + len(held_out)) for s in statistic])


def flagged_by_loop(p, level):
    """Benjamini and Hochberg: the largest k with k p-values of at most k level / n, and those p-values."""
    n, limit = len(p), -1.0
    for k in range(1, n + 1):
        if sum(x <= k * level / n + 1e-12 for x in p) >= k:
            limit = k * level / n + 1e-12
    return np.array([x <= limit for x in p])


def local_ratio_by_loop(queries, train, k):
    """d_1 / mean(d_1 ... d_k) over distinct training rows."""
    distinct = [row for i, row in enumerate(train) if not any((row == other).all() for other in train[:i])]
    ratios = []
    for row in distances(queries, np.array(distinct)):
        near = sorted(row)[:k]
        ratios.append(0.0 if sum(near) == 0 else near[0] / (sum(near) / len(near)))
    return np.array(ratios)


# --- ratios


def ratio_by_loop(train, held_out, samples):
    rho = []
    for over, under in zip(distances(train, held_out), distances(train, samples), strict=True):
        over, under = min(over), min(under)
        rho.append(over / under if under > 0 else (math.inf if over > 0 else 1.0))
    return np.array(rho)


def ratio_of_first_rows(train, held_out, samples, block=256):
    """The ratio as released code computes it: in blocks, and the nearest column is looked up in the block's row 0."""

    def nearest(base):
        found = []
        for start in range(0, len(train), block):
            dd = distances(train[start : start + block], base)
            found.append(dd[0, dd.argmin(axis=1)])
        return np.concatenate(found)

    return nearest(held_out) / nearest(samples)


def auc_by_pairs(positive, negative):
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in positive for b in negative]))


# --- authenticity


def authentic_by_loop(queries, train):
    within, authentic = distances(train, train), []
    for row in distances(queries, train):
        t = int(np.argmin(row))
        authentic.append(min(d for j, d in enumerate(within[t]) if j != t) < row[t])
    return np.array(authentic)


def fisher_by_counting(few, m, other, n):
    """P(at most `few` of m) among all ways to place few + other marks on m + n rows."""
    marks = few + other
    ways = [sum(i < m for i in way) for way in combinations(range(m + n), marks)]
    return float(np.mean([count <= few for count in ways]))


# --- shares of copies


def chance_before(b, n_train, n_other, most):
    """P(at most b of the first k rows hit are held out), k = 0 .. most, from all orders of labels."""
    total = n_train + n_other
    orders = list(combinations(range(total), n_other))
    return [float(np.mean([sum(i < k for i in way) <= b for way in orders])) for k in range(most + 1)]


def ranks_before(j, n, m):
    """P(a or more of m fresh rows come before the j-th of n held-out ones), a = 0 .. m, from all orders."""
    counts = []
    for way in combinations(range(n + m), n):
        counts.append(way[j - 1] - (j - 1))
    return [float(np.mean([count >= a for count in counts])) for a in range(m + 1)]
