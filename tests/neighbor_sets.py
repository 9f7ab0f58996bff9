"""Three small sets of rows, with and without copies, for the tests of neighbours."""

import numpy as np


def normal_sets(seed, n_train=200, n_test=200, n_samples=200, width=4, *, copies=0, noise=0.0, scale=1.0):
    """Train, held out, samples: of one normal law, samples `scale` times as wide, the first `copies` of them copied."""
    rng = np.random.default_rng(seed)
    train, test = rng.normal(size=(n_train, width)), rng.normal(size=(n_test, width))
    samples = scale * rng.normal(size=(n_samples, width))
    samples[:copies] = train[rng.integers(n_train, size=copies)] + noise * rng.normal(size=(copies, width))
    return train, test, samples


def shuffled(sets, seed=0):
    """The same sets, each in another order, and the three orders."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(rows)) for rows in sets]
    return [rows[order] for rows, order in zip(sets, orders, strict=True)], orders


def lattice_sets(seed, n=60, width=3, levels=3):
    """Small whole numbers: identical rows within and across sets, and many ties."""
    rng = np.random.default_rng(seed)
    return [rng.integers(levels, size=(n, width)) for _ in range(3)]
