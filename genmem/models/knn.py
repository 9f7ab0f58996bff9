"""The k-nearest-neighbour density."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from genmem.data.arrays import matrix, require_shape
from genmem.errors import DataError, ModelError
from genmem.models.base import is_count, require
from genmem.models.kernel_shapes import kernel_draws, log_volume
from genmem.search.exact import nearest
from genmem.seeding import stream


@dataclass(kw_only=True, eq=False, repr=False)
class KNNDensity(BaseEstimator):  # type: ignore[misc]
    """p(x) = k / (n V_d R_k(x)^d): k examples of n in the smallest ball around x that holds k, of volume V_d R_k^d.

    Distances are Euclidean and exact to float64 (`genmem.nearest`, on FAISS). The estimate is not a normalized density:
    far from the data it falls as |x|^-d, so that its integral is infinite. Differences of log p, such as a
    memorization score, do not depend on that. If k examples or more coincide with x, the density is +inf, never NaN; a
    training example is its own first neighbour, so k = 1 gives +inf at all of them.

    Args:
        k: neighbours.
        random_state: the seed of `sample`.

    Attributes:
        X_: a copy of the examples fitted to.

    References:
        A nonparametric estimate of a multivariate density function (Loftsgaarden & Quesenberry, 1965),
        https://doi.org/10.1214/aoms/1177700079

    >>> KNNDensity(k=2).fit([[0.0], [1.0], [3.0], [7.0]]).score_samples([[0.0]]).round(4)  # log(2 / (4 * 2 * 1))
    array([-1.3863])
    """

    example_kind: ClassVar[str] = "vector"

    k: int = 10
    random_state: int = 0

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Store X, shape (n, d) with n >= k; `y` is ignored.

        Raises:
            DataError: X is not a matrix of finite numbers, or has fewer than k rows.
            ModelError: k is out of range.
        """
        array = matrix(X)
        self.check_settings()
        require_neighbours(self.k, len(array))
        self.X_ = array.copy()
        return self

    def check_settings(self) -> None:
        """Raise a ModelError if k is out of range."""
        require("k", self.k, is_count, "an integer >= 1")

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return log p(x) of each row of X: shape (n,), nats; +inf where k examples or more coincide with it."""
        self._check_fitted()
        array = matrix(X)
        require_shape(array.shape[1:], self.X_.shape[1:])
        return knn_log_density(nearest(array, self.X_, self.k)[0][:, -1], self.k, *self.X_.shape)

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> NDArray[np.float64]:
        """Return points distributed like the examples: shape (n_samples, d). p itself is improper and has no draws.

        Each is uniform in a ball around a random example that reaches to that example's k-th neighbour (itself the
        first): exact draws from the proper density (1/n) sum_i 1[|x - x_i| <= R_k(x_i)] / (V_d R_k(x_i)^d), which
        adapts to the data as p does. If k copies of an example coincide, the example itself is returned.
        """
        self._check_fitted()
        require("n_samples", n_samples, is_count, "an integer >= 1")
        n, d = self.X_.shape
        rng = stream(self.random_state if random_state is None else random_state, "samples")
        chosen = rng.integers(n, size=n_samples)
        some, which = np.unique(chosen, return_inverse=True)
        radii = nearest(self.X_[some], self.X_, self.k)[0][:, -1][which]
        return self.X_[chosen].astype(np.float64) + radii[:, None] * kernel_draws("tophat", n_samples, d, rng)

    def _check_fitted(self) -> None:
        if not hasattr(self, "X_"):
            raise ModelError(expected="a fitted KNNDensity", got="an unfitted one", do="Call `fit(X)` first.")


def knn_log_density(radius: NDArray[np.float64], k: int, n: int, d: int) -> NDArray[np.float64]:
    """Return log(k / (n V_d radius^d)); +inf at radius 0."""
    with np.errstate(divide="ignore"):
        log_radius = np.log(radius)
    return math.log(k) - math.log(n) - log_volume(d) - d * log_radius


def require_neighbours(k: int, available: int, of: str = "examples") -> None:
    """Check that there are k neighbours.

    Raises:
        DataError: there are fewer.
    """
    if available < k:
        raise DataError(expected=f"at least k={k} {of}", got=f"{available}", do="Add examples, or choose a smaller k.")
