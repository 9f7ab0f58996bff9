"""The tests of copying as they are defined, without a shortcut: every distance, every pair, every arrangement."""

import itertools

import numpy as np
from scipy import stats


def distances(A, B):
    """Return all Euclidean distances, (len(A), len(B))."""
    A, B = (np.asarray(X, float).reshape(len(X), -1) for X in (A, B))
    return np.sqrt(np.square(A[:, None] - B[None]).sum(axis=2))


def z_u(of_samples, of_test):
    """Return the Mann-Whitney Z by counting pairs."""
    u = sum((q > p) + 0.5 * (q == p) for q in of_samples for p in of_test)
    m, n = len(of_samples), len(of_test)
    return (u - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12)


def c_t(train, test, samples, cells, fewest=20):
    """Return C_T of given cells {"train": (n,), ...}, its cells' Z (NaN where none) and which are used."""
    numbers = range(1 + max(of.max() for of in cells.values()))
    z, used, weight = [], [], []
    for cell in numbers:
        T, P, Q = (X[cells[k] == cell] for X, k in ((train, "train"), (test, "test"), (samples, "samples")))
        there = len(T) and len(P) and len(Q)
        z.append(z_u(distances(Q, T).min(axis=1), distances(P, T).min(axis=1)) if there else np.nan)
        used.append(bool(there) and len(Q) / len(samples) > fewest / len(samples))
        weight.append(len(P) / len(test))
    z, used, weight = np.array(z), np.array(used), np.array(weight)
    return (weight[used] @ z[used]) / weight[used].sum(), z, used


def z_law(of_samples, of_test):
    """Return mean and variance of Z over all ways to say which distances are the samples'."""
    pool, m = np.concatenate([of_samples, of_test]), len(of_samples)
    every = set(range(len(pool)))
    ways = [set(way) for way in itertools.combinations(range(len(pool)), m)]
    found = [z_u([pool[i] for i in way], [pool[i] for i in every - way]) for way in ways]
    return np.mean(found), np.var(found)


def nearest_groups(train, test, samples):
    """Return the group of each row of train and test, and the set of groups at the least distance of each sample."""
    rows = np.concatenate([train, test])
    keys = [row.tobytes() for row in np.ascontiguousarray(rows)]
    group = np.array([keys.index(key) for key in keys])
    far = distances(samples, rows)
    return group, [set(group[row == row.min()]) for row in far], far.min(axis=1)


def share(group, n_train, nearest):
    """Return the mean label of the groups `nearest` (one a sample)."""
    return np.mean([label_of(group, n_train)[g] for g in nearest])


def label_of(group, n_train):
    """Return {group: share of its rows that are training examples}."""
    return {g: float((np.flatnonzero(group == g) < n_train).mean()) for g in np.unique(group)}


def share_law(group, n_train, nearest):
    """Return the shares under every assignment of the groups' labels to the groups."""
    labels = label_of(group, n_train)
    names = list(labels)
    return np.array(
        [
            np.mean([dict(zip(names, way, strict=True))[g] for g in nearest])
            for way in itertools.permutations(labels.values())
        ]
    )


def exceedance_law(n, m, r):
    """Return P(a samples come before the r-th held-out row), a = 0..m, by listing all orders."""
    count = np.zeros(m + 1)
    for held_out in itertools.combinations(range(n + m), n):
        count[held_out[r - 1] - (r - 1)] += 1
    return count / count.sum()


def mann_whitney(of_samples, of_test):
    """Return U as scipy counts it."""
    return stats.mannwhitneyu(of_samples, of_test).statistic
