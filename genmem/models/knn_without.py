"""log p of the k-nearest-neighbour density without any example, in closed form."""

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from genmem.models.base import is_count, require
from genmem.models.knn import KNNDensity, knn_log_density, require_neighbours
from genmem.search.exact import nearest

FloatArray = NDArray[np.float64]
Terms = tuple[FloatArray, FloatArray, FloatArray]


class Neighbours:
    """k-NN, p(z) = k / (n V_d R_k(z)^d), with R_k the distance to the k-th nearest example.

    Without one of the k nearest, R_{k+1} replaces R_k: the difference is `log((n-1)/n) + d log(R_{k+1}(z) / R_k(z))`.
    Without another example it is `log((n-1)/n)`. If several are at distance R_k, then R_{k+1} = R_k, and it does not
    matter which of them are among the k.
    """

    by_refits: ClassVar[bool] = False

    def __init__(self, model: KNNDensity, how: object) -> None:
        require("k", model.k, is_count, "an integer >= 1")
        self.k, self.least = int(model.k), int(model.k) + 1

    def terms(self, X: NDArray[Any]) -> Terms:
        """See `LeaveOneOut`: over distances to the *others*, because an example is its own first neighbour."""
        n, d = X.shape
        require_neighbours(self.k, n - 1, "examples beside the one left out")
        distances = nearest(X, X, self.k, exclude=np.arange(n))[0]
        inner, outer = distances[:, -2] if self.k > 1 else np.zeros(n), distances[:, -1]
        log_in, log_out = knn_log_density(inner, self.k, n, d), knn_log_density(outer, self.k, n - 1, d)
        return _log_growth(inner, outer, d) + log_one_less(n), log_in, log_out

    def influence(self, X: NDArray[Any], Z: NDArray[Any]) -> FloatArray:
        """See `LeaveOneOut`."""
        n, m = len(X), len(Z)
        scores = np.full((n, m), log_one_less(n))
        distances, neighbours = nearest(Z, X, self.k + 1)
        growth = _log_growth(distances[:, -2], distances[:, -1], X.shape[1])
        scores[neighbours[:, : self.k], np.arange(m)[:, None]] += growth[:, None]
        return scores


def _log_growth(inner: FloatArray, outer: FloatArray, d: int) -> FloatArray:
    """Return d log(outer / inner), +inf for inner radii of 0; 0 / 0 counts as 1, as for other equal radii."""
    with np.errstate(divide="ignore", invalid="ignore"):  # not the log of the quotient, which may overflow
        return np.asarray(d * np.where(outer > 0, np.log(outer) - np.log(inner), 0.0))


def log_one_less(n: int) -> float:
    """Return log((n-1) / n)."""
    return math.log((n - 1) / n)
