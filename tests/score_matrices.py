"""Matrices of log p as refits give them, from known distributions."""

import numpy as np


def noise(rng, shape, shape_parameter=None):
    """Standard normal noise, or left-skewed noise of variance 1 (minus a centred gamma variable)."""
    if shape_parameter is None:
        return rng.standard_normal(shape)
    return (shape_parameter - rng.gamma(shape_parameter, 1, shape)) / np.sqrt(shape_parameter)


def refits(splits, seed, *, skew=None, shared=0.0, effect=0.0):
    """Log p of refits that differ by noise: own noise of every example, a shared part, spreads that vary by example."""
    rng = np.random.default_rng(seed)
    spread = np.sqrt(4 / rng.chisquare(4, splits.n))
    own = noise(rng, splits.held_out.shape, skew) * spread
    together = noise(rng, (splits.n_splits, 1), skew)
    ell = -50 + np.sqrt(1 - shared) * own + np.sqrt(shared) * together
    return ell - effect * splits.held_out
