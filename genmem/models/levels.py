"""Do the data suit the likelihood, and which whole levels do they have?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.rows import blocks

MOST_LEVELS = 2**16
LOOKED_FOR = 256  # a grid of floats is found up to so many levels
ROUNDING = 4 * float(np.finfo(np.float32).eps)


def check_values(X: NDArray[Any], likelihood: str, levels: int | None) -> None:
    """Check that data are what a likelihood describes.

    Raises:
        DataError: they are not 0 and 1 (bernoulli), not in [0, 1] (logit_normal, and gaussian with levels), or on a
            grid where `levels` says they were dequantised.
    """
    low, high = float(X.min()), float(X.max())
    if likelihood == "bernoulli" and not np.isin(np.unique(X), (0, 1)).all():
        raise DataError(
            expected="data of 0 and 1 for a bernoulli likelihood",
            got=f"values in [{low:g}, {high:g}]",
            do='Binarise the data once, or use likelihood="gaussian".',
        )
    continuous = likelihood in ("gaussian", "logit_normal")
    if (likelihood == "logit_normal" or (continuous and levels)) and (low < 0 or high > 1):
        raise DataError(
            expected=f"data in [0, 1] for a {likelihood} likelihood{' with levels' if levels else ''}",
            got=f"values in [{low:g}, {high:g}]",
            do='Rescale the data, or use likelihood="gaussian".',
        )
    if continuous and levels and (on_grid(X, levels, 1.0) or on_grid(X, levels + 1, 1.0)):
        raise DataError(
            expected=f"dequantised data, (level + u) / {levels} with u uniform on [0, 1)",
            got=f"data that take {levels} values at most",
            do='Dequantise them once, or use likelihood="discretized_logistic" on the levels themselves.',
        )


def find_levels(X: NDArray[Any], levels: int | None, top: float | None) -> tuple[int, float]:
    """Return how many levels data have, and the value of the highest: uint8 as they are, floats k / (levels - 1).

    Raises:
        DataError: the data are on no such grid.

    >>> find_levels(np.array([[0.0, 0.25], [1.0, 0.5]]), None, None)
    (5, 1.0)
    >>> find_levels(np.array([[0, 255]], np.uint8), None, None)
    (256, 255.0)
    """
    whole = X.dtype.kind in "bu"
    if levels is None:
        levels = (256 if X.max() > 1 else 2) if whole else _fewest_levels(X)
    if top is None:
        top = levels - 1.0 if whole and levels else 1.0
    if levels is None or not on_grid(X, levels, top):
        grid = f"0 to {top:g} in {levels - 1} steps" if levels else f"k / (levels - 1), up to {LOOKED_FOR} levels"
        raise DataError(
            expected=f"whole levels for a discretized_logistic likelihood: uint8, or floats on the grid {grid}",
            got=f"other values, from {float(X.min()):g} to {float(X.max()):g}",
            do="Save whole numbers from 0 to 255 as uint8, set levels, or choose another likelihood.",
        )
    return levels, float(top)


def on_grid(X: NDArray[Any], levels: int, top: float) -> bool:
    """Return whether every value is one of k top / (levels - 1), k from 0 to levels - 1."""
    return all(_near(block, levels, top) for _, block in blocks(X))


def _near(values: NDArray[Any], levels: int, top: float) -> bool:
    level = values * np.float64((levels - 1) / top)
    whole = np.rint(level)
    return bool(((np.abs(level - whole) < max(1e-3, levels * ROUNDING)) & (whole >= 0) & (whole < levels)).all())


def _fewest_levels(X: NDArray[Any]) -> int | None:
    """Return the coarsest grid in [0, 1] that holds all values; None where there is none."""
    seen: NDArray[Any] = np.empty(0, X.dtype)
    for _, block in blocks(X):
        seen = np.union1d(seen, block)
        if len(seen) > LOOKED_FOR:
            return None
    return next((levels for levels in range(2, LOOKED_FOR + 1) if _near(seen, levels, 1.0)), None)
