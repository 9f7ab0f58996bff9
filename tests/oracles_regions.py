"""Regions, the slow and obvious way: clusters as sets, counts by loops, one permutation at a time."""

import math

import numpy as np
from scipy.cluster.hierarchy import linkage


def clusters(points):
    """Every cluster of Ward's hierarchy but single points, as frozen sets of positions."""
    members = [frozenset([i]) for i in range(len(points))]
    for left, right, _, _ in linkage(points, "ward"):
        members.append(members[int(left)] | members[int(right)])
    return members[len(points) :]


def counted(cluster, scores, n_held_out):
    """Number of training and held-out examples, mean and its variance, of one cluster."""
    n = len(scores)
    train = [i for i in cluster if i < n]
    held_out = len(cluster) - len(train)
    if not train:
        return 0, held_out, np.mean(scores), np.var(scores)
    values = [scores[i] for i in train]
    mean = sum(values) / len(values)
    squares = sum((v - mean) ** 2 for v in values)
    return len(train), held_out, mean, (squares + 2 * np.var(scores)) / (len(train) + 1) / len(train)


def rank(cluster, scores, n_held_out, bound, least):
    """The number by which clusters are ranked."""
    _, _, mean, variance = counted(cluster, scores, n_held_out)
    overall, n = float(np.mean(scores)), len(scores)
    ratio = math.log(max(mean / overall, least)) if overall > 0 else 0.0
    if n_held_out:
        return ratio + evidence(cluster, n, [0] * n + [1] * n_held_out)
    return ratio - bound * math.sqrt(variance) / max(mean, least * overall) if overall > 0 else 0.0


def evidence(cluster, n, is_held_out):
    """The log likelihood ratio of a larger share of held-out examples inside than outside."""
    inside = [is_held_out[i] for i in cluster]
    outside = [is_held_out[i] for i in range(len(is_held_out)) if i not in cluster]
    if not outside or np.mean(inside) <= np.mean(outside):
        return 0.0
    return _loglik(inside) + _loglik(outside) - _loglik(inside + outside)


def _loglik(flags):
    rate = sum(flags) / len(flags)
    return sum(math.log(rate if flag else 1 - rate) for flag in flags)


def z_score(cluster, scores):
    """The mean of a cluster, standardized as a draw without replacement from all scores."""
    n = len(scores)
    values = [scores[i] for i in cluster if i < n]
    t = len(values)
    if not 0 < t < n:
        return -math.inf
    return (sum(values) / t - np.mean(scores)) * math.sqrt(t) / (np.std(scores) * math.sqrt(1 - t / n))


def p_against_largest(statistic, dealt):
    """p of each observed statistic against the largest of each deal: lists of statistics, the first as observed."""
    observed, others = statistic, [max(one) for one in dealt]
    return [(1 + sum(o >= s - 1e-9 for o in others)) / (1 + len(others)) for s in observed]
