"""Distances, memberships and manifolds by looping over rows: what the fast versions are held against."""

import math


def distance(a, b):
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a.ravel(), b.ravel(), strict=True)))


def sorted_distances(row, others, skip=None):
    return sorted(distance(row, other) for j, other in enumerate(others) if j != skip)


def quantile(values, level):
    """Linear between order statistics, the first being level 0 and the last level 1."""
    values = sorted(values)
    at = level * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])


def closest(rows, train):
    return [sorted_distances(row, train)[0] for row in rows]


def neighbor_ratios(rows, train):
    pairs = [sorted_distances(row, train)[:2] for row in rows]
    return [0.0 if second == 0 else first / second for first, second in pairs]


def auc(members, others):
    """Share of (member, other) where the member is the smaller, ties counting half."""
    wins = sum((m < o) + 0.5 * (m == o) for m in members for o in others)
    return wins / (len(members) * len(others))


def one_nn_accuracy(real, made):
    """Share of pooled rows whose nearest other row is of their own set; no two distances may tie."""
    pool = [*real, *made]
    label = [0] * len(real) + [1] * len(made)
    right = 0
    for i, row in enumerate(pool):
        others = sorted((distance(row, other), j) for j, other in enumerate(pool) if j != i)
        assert len(others) == 1 or others[0][0] < others[1][0]
        right += label[others[0][1]] == label[i]
    return right / len(pool)


def manifolds(real, made, k):
    """Precision, recall, density, coverage by their definitions, all pairs."""
    reach_real = [sorted_distances(r, real, skip=i)[k - 1] for i, r in enumerate(real)]
    reach_made = [sorted_distances(m, made, skip=i)[k - 1] for i, m in enumerate(made)]
    over = [sum(distance(r, m) <= reach for r, reach in zip(real, reach_real, strict=True)) for m in made]
    back = [any(distance(r, m) <= reach for m, reach in zip(made, reach_made, strict=True)) for r in real]
    covered = [any(distance(r, m) <= reach for m in made) for r, reach in zip(real, reach_real, strict=True)]
    return {
        "precision": sum(count > 0 for count in over) / len(made),
        "recall": sum(back) / len(real),
        "density": sum(over) / (k * len(made)),
        "coverage": sum(covered) / len(real),
    }
