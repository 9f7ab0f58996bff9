"""What was read, in sentences: size, type, range, columns, labels, and what was done or left out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import blocks, constant_columns
from genmem.data.examples import Data
from genmem.data.folders import some
from genmem.data.notes import in_digits

MOST = 12  # columns or labels that are named
FEW = 10  # different values of a column, in ten times as many examples or more


def as_read(data: Data) -> list[str]:
    """Return sentences about examples as they were read and prepared, the most important first.

    >>> from genmem.data.examples import load
    >>> as_read(load("digits"))[0]
    '1,797 examples of 64 values (images of 8 x 8 pixels), float32, from 0 to 1.'
    """
    low, high = range_of(data.X)
    image = f" (images of {by(data.image_shape)} pixels)" if data.image_shape else ""
    shape = by(data.X.shape[1:]) if data.X.ndim > 1 else "1"
    found = [
        f"{len(data.X):,} examples of {shape} values{image}, {data.X.dtype}, "
        f"from {in_digits(low)} to {in_digits(high)}."
    ]
    if data.preparation != "as given":
        found.append(f"Values were {data.preparation}.")
    found += _columns(data) + _constant(data) + _beside("labels", data.labels) + _beside("groups", data.groups)
    return found + list(data.notes)


def of_columns(names: Sequence[str], X: NDArray[np.generic]) -> list[str]:
    """Return the range of each column, by name: "age 18 to 90"."""
    shown = [f"{name} {in_digits(X[:, i].min())} to {in_digits(X[:, i].max())}" for i, name in enumerate(names[:MOST])]
    return shown + ([f"{len(names) - MOST} more"] if len(names) > MOST else [])


def _columns(data: Data) -> list[str]:
    if data.columns is None or data.X.ndim != 2:
        return []
    found = [f"Columns of numbers: {'; '.join(of_columns(data.columns, data.X))}."]
    counts = {name: len(np.unique(data.X[:, i])) for i, name in enumerate(data.columns)}
    if few := [f"{name} ({n})" for name, n in counts.items() if 1 < n <= FEW and FEW * n <= len(data.X)]:
        found.append(
            f"Columns of few values: {some(few, MOST)}. A continuous density can grow without bound at such values; a "
            "Bernoulli likelihood (all data 0 or 1) or a model of your own gives them probabilities."
        )
    return found


def _constant(data: Data) -> list[str]:
    at = constant_columns(data.X)
    if not len(at):
        return []
    if data.columns is not None and data.X.ndim == 2:
        flat = [f"{data.columns[i]} ({in_digits(data.X[0, i])})" for i in at]
        return [f"Columns with one value in all examples: {some(flat, MOST)}."]
    return [f"{len(at):,} of {data.X[0].size:,} values are the same in all examples."]


def _beside(what: str, values: NDArray[np.generic] | None) -> list[str]:
    if values is None:
        return []
    names, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable") if len(names) > MOST else np.arange(len(names))
    named = [f"{names[i]} ({counts[i]:,})" for i in order[:MOST]]
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return [f"{len(names):,} {what if len(names) > 1 else what[:-1]}: {', '.join(named)}{more}."]


def range_of(X: NDArray[np.generic]) -> tuple[float, float]:
    """Return the least and the largest value."""
    parts = [(float(block.min()), float(block.max())) for _, block in blocks(X)]
    return min(low for low, _ in parts), max(high for _, high in parts)


def by(shape: Sequence[int]) -> str:
    """Return sizes as text: "8 x 8"."""
    return " x ".join(str(size) for size in shape)
