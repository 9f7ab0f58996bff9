"""Principal components of the training set, as a space to compare rows in."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.rows import blocks
from genmem.seeding import seed32

COMPONENTS = 32
_WIDE = 4096  # columns from which the covariance is too large to decompose

Projection = Callable[[NDArray[Any]], NDArray[np.float64]]


def principal_components(train: NDArray[Any], count: int | None, seed: int) -> tuple[Projection, str]:
    """Return the projection on the first principal components of `train`, unscaled, and what it is in words.

    Up to 4,096 columns they come from the covariance, exact and the same in any order of the rows; beyond from a
    randomised decomposition, so that the last ones are approximate.

    Args:
        train: (n, d).
        count: how many; None for 32, or fewer where there are no more.
        seed: of the randomised decomposition.

    Raises:
        DataError: there are not that many.

    References:
        Finding structure with randomness (Halko, Martinsson & Tropp, 2011), https://arxiv.org/abs/0909.4061
    """
    most = max(1, min(train.shape[1], len(train) - 1))
    count = _checked(count, most, train.shape)
    mean = sum(block.sum(axis=0, dtype=np.float64) for _, block in blocks(train)) / len(train)
    unit = max(float(np.abs(block - mean).max()) for _, block in blocks(train)) or 1.0  # squares shall not overflow
    decompose = _from_covariance if train.shape[1] <= _WIDE else _by_random_projection
    axes, share = decompose(train, mean, unit, count, seed)

    def project(rows: NDArray[Any]) -> NDArray[np.float64]:
        points: NDArray[np.float64] = (rows - mean) @ axes
        return points

    explained = f"{share:.1%} of its variance" if share < 0.9995 else "all of its variance"
    return project, f"{count} principal component{'s' * (count > 1)} of the training set ({explained})"


def _from_covariance(
    train: NDArray[Any], mean: NDArray[np.float64], unit: float, count: int, _: int
) -> tuple[NDArray[np.float64], float]:
    # Summed over blocks: scikit-learn's PCA needs the whole of a large training set in float64.
    from scipy.linalg import eigh

    width = train.shape[1]
    covariance = np.zeros((width, width))
    for _start, block in blocks(train):
        centred = (block - mean) / unit
        covariance += centred.T @ centred
    values, axes = eigh(covariance, subset_by_index=(width - count, width - 1))
    total = float(np.trace(covariance))
    return axes[:, ::-1], float(values.sum()) / total if total > 0 else 1.0


def _by_random_projection(
    train: NDArray[Any], mean: NDArray[np.float64], unit: float, count: int, seed: int
) -> tuple[NDArray[np.float64], float]:
    from sklearn.utils.extmath import randomized_svd

    centred = np.empty(train.shape, np.float32)
    start = 0
    for start, block in blocks(train):
        centred[start : start + len(block)] = (block - mean) / unit
    # Never transposed: noise would then belong to rows, and the result to their order.
    _, values, axes = randomized_svd(centred, count, random_state=seed32(seed, "pca"), transpose=False)
    total = float(np.square(centred, dtype=np.float64).sum())
    return axes.T.astype(np.float64), float(np.square(values, dtype=np.float64).sum()) / total if total > 0 else 1.0


def _checked(count: int | None, most: int, shape: tuple[int, ...]) -> int:
    if count is None:
        return min(COMPONENTS, most)
    if count > most:
        raise DataError(
            expected=f"1 to {most} principal components of {shape[0]:,} training examples of {shape[1]:,} values",
            got=str(count),
            do=f"Ask for no more than pca:{most}.",
        )
    return count
