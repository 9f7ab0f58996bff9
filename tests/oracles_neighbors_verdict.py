"""The slow, obvious version of what the verdict rests on."""

import itertools
import math

import numpy as np


def pooled_by_loop(T, H, S, near=50):
    """Return labels of distinct pooled rows, the one nearest to each sample, its distance, and over the mean of 50."""
    rows = [tuple(row) for row in np.concatenate([T, H]).tolist()]
    distinct = list(dict.fromkeys(rows))
    labels = [np.mean([i < len(T) for i, row in enumerate(rows) if row == one]) for one in distinct]
    group, distance, free = [], [], []
    for sample in S:
        apart = np.array([np.sqrt(((np.array(row) - sample) ** 2).sum()) for row in rows])
        nearest = int(apart.argmin())
        group.append(distinct.index(rows[nearest]))
        distance.append(apart[nearest])
        mean = np.sort(apart)[:near].mean()
        free.append(apart[nearest] / mean if mean > 0 else 0.0)
    return np.array(labels), np.array(group), np.array(distance), np.array(free)


def largest_z_by_loop(labels, group, orders, sizes):
    """Return the largest Z over tails and orders, one tail at a time, with c_g counted."""
    mean = sum(labels) / len(labels)
    spread = sum((x - mean) ** 2 for x in labels) / (len(labels) - 1)
    largest = -np.inf
    for order in orders:
        for size in sizes:
            counts = [sum(group[i] == g for i in order[:size]) for g in range(len(labels))]
            excess = sum(c * (x - mean) for c, x in zip(counts, labels, strict=True))
            average = sum(counts) / len(counts)
            variance = spread * sum((c - average) ** 2 for c in counts)
            largest = max(largest, excess / np.sqrt(variance) if variance > 1e-12 else 0.0)
    return largest


def exact_p_by_loop(labels, group, orders, sizes):
    """Return the share of all ways to deal the labels whose largest Z reaches that at hand."""
    ones = int(sum(labels))
    at_hand = largest_z_by_loop(labels, group, orders, sizes)
    found = []
    for chosen in itertools.combinations(range(len(labels)), ones):
        dealt = np.isin(np.arange(len(labels)), chosen).astype(float)
        found.append(largest_z_by_loop(dealt, group, orders, sizes) >= at_hand - 1e-9)
    return np.mean(found)


def same_set_share_by_loop(pool, labels, k):
    """Return the share of the k nearest other rows that have a row's own label."""
    same = []
    for i, row in enumerate(pool):
        others = [j for j in range(len(pool)) if j != i]
        near = sorted(others, key=lambda j: ((pool[j] - row) ** 2).sum())[:k]
        same += [labels[j] == labels[i] for j in near]
    return np.mean(same)


def close_pairs_by_loop(T, last):
    """Return how many pairs of rows, one the other's nearest, are at most `last` apart, and the share of such rows."""
    rows = [tuple(row) for row in T.tolist()]
    pairs, near = set(), 0
    for i, row in enumerate(rows):
        apart = [float(np.linalg.norm(T[i] - T[j])) if j != i else np.inf for j in range(len(rows))]
        if min(apart) <= last:
            near += 1
            pairs.add(frozenset([row, rows[int(np.argmin(apart))]]))
    return len(pairs), near / len(rows)


def pairs_by_sum(count, share):
    """Return the largest probability over Poisson means of `count` or more pairs of one kind and none of another."""
    largest = 0.0
    for mean in np.linspace(0.05, 60, 1200):
        own, term = 0.0, math.exp(-mean)
        for k in range(200):
            own += term if k >= count else 0.0
            term *= mean * share / (k + 1)
        largest = max(largest, own)
    return largest


def linked_by_loop(identical, own):
    """Return groups of rows linked by either grouping, numbered by first appearance, by spreading labels."""
    label = list(range(len(identical)))
    for _ in label:
        for i in range(len(label)):
            for j in range(i):
                if identical[i] == identical[j] or (i < len(own) and own[i] == own[j]):
                    label[i] = label[j] = min(label[i], label[j])
    seen = list(dict.fromkeys(label))
    return [seen.index(one) for one in label]


def larger_by_loop(T, H, k):
    """Return how often a row of H is farther from its k nearest pooled rows than a row of T; ties count half."""
    rows = np.concatenate([T, H])
    apart = [[np.linalg.norm(a - b) for j, b in enumerate(rows) if j != i] for i, a in enumerate(rows)]
    mean = [np.sort(of)[:k].mean() for of in apart]
    train, test = mean[: len(T)], mean[len(T) :]
    return np.mean([float(h > t) + (h == t) / 2 for h in test for t in train])
