"""Kernel densities in blocks on torch: the numbers of scikit-learn's, at 60,000 x 784 or on a GPU."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator
from torch import Tensor

from genmem.data.arrays import identical_groups, matrix, require_shape
from genmem.data.examples import Data, prepare
from genmem.errors import DataError, ModelError
from genmem.models.base import is_count, require, resolve_device
from genmem.models.kernel_shapes import check_kernel, kernel_draws, log_normaliser
from genmem.models.kernels import check_block, log_kernel_sums, squared_distances
from genmem.seeding import stream

RULES = ("scott", "silverman")
_COARSE = 24  # number of bandwidths on the first grid
_PAIRS = 2**26  # float32 distances held while a bandwidth is chosen


@dataclass(kw_only=True, eq=False, repr=False)
class TorchKernelDensity(BaseEstimator):  # type: ignore[misc]
    """A kernel density estimate with the settings and the numbers of scikit-learn's `KernelDensity`.

    log p is computed in float64 from the data as given, by matrix products, in memory that does not grow with the
    number of pairs. It is accurate to rounding. scikit-learn's trees add and subtract bounds, with errors of up to
    about 1e-9 nats (`leaf_size=len(X)` avoids them), and its cosine kernel does not integrate to 1 in even dimensions
    (as of 1.9). In few dimensions and with a small bandwidth, its trees may be faster.

    Args:
        bandwidth: a number > 0, or "scott" or "silverman", which depend only on the number of examples and their
            dimension and are meant for standardized data (`choose_bandwidth` uses the data).
        kernel: "gaussian", "tophat", "epanechnikov", "exponential", "linear" or "cosine". Only the Gaussian uses
            matrix products.
        device: "cpu", "cuda", "cuda:1"...; "auto" is CUDA if available.
        block: rows of a tile of pairs; None suits the device. Results do not depend on it, up to rounding.
        random_state: the seed of `sample`.

    Attributes:
        X_: a copy of the examples fitted to.
        bandwidth_: the bandwidth as a number.
    """

    example_kind: ClassVar[str] = "vector"

    bandwidth: float | str = 1.0
    kernel: str = "gaussian"
    device: str = "auto"
    block: int | None = None
    random_state: int = 0

    @classmethod
    def suited(cls, data: Data, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return the bandwidth of a Gaussian kernel, unless one is given: chosen on all the data, prepared by `seed`.

        It is chosen once, so that every refit has the same.
        """
        if "bandwidth" in given or given.get("kernel", "gaussian") != "gaussian":
            return {}
        return {"bandwidth": choose_bandwidth(prepare(data, None, seed).X)}

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Store X, shape (n, d); `y` is ignored.

        Raises:
            DataError: X is not a matrix of finite numbers.
            ModelError: a setting is out of range.
        """
        array = matrix(X)
        self.check_settings()
        self.bandwidth_ = bandwidth_for(self.bandwidth, *array.shape)
        self.X_ = array.copy()
        return self

    def check_settings(self) -> None:
        """Raise a ModelError if a setting is out of range."""
        resolve_device(self.device)
        check_block(self.block)
        check_kernel(self.kernel, bandwidth_for(self.bandwidth, 2, 1))

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return log p(x) of each row of X: shape (n,), nats; -inf outside a kernel of bounded support."""
        self._check_fitted()
        array, (n, d) = matrix(X), self.X_.shape
        require_shape(array.shape[1:], (d,))
        sums = log_kernel_sums(
            array, self.X_, self.bandwidth_, kernel=self.kernel, device=self.device, block=self.block
        )
        sums -= log_normaliser(self.kernel, self.bandwidth_, d) + math.log(n)
        return sums

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> NDArray[np.float64]:
        """Return exact draws from the density: shape (n_samples, d)."""
        self._check_fitted()
        require("n_samples", n_samples, is_count, "an integer >= 1")
        rng = stream(self.random_state if random_state is None else random_state, "samples")
        chosen = rng.integers(len(self.X_), size=n_samples)
        offsets = kernel_draws(self.kernel, n_samples, self.X_.shape[1], rng)
        return self.X_[chosen].astype(np.float64) + self.bandwidth_ * offsets

    def _check_fitted(self) -> None:
        if not hasattr(self, "X_"):
            raise ModelError(
                expected=f"a fitted {type(self).__name__}", got="an unfitted one", do="Call `fit(X)` first."
            )


def bandwidth_for(bandwidth: Any, n: int, d: int) -> float:
    """Return a bandwidth as a number: "scott" and "silverman" by scikit-learn's formulas for n rows of d values.

    Raises:
        ModelError: it is neither of them nor a number above 0.

    >>> bandwidth_for("scott", 1000, 2)
    0.31622776601683794
    """
    if isinstance(bandwidth, str):
        require("bandwidth", bandwidth, RULES.__contains__, f"a number > 0, or one of {', '.join(RULES)}")
        return float((n if bandwidth == "scott" else n * (d + 2) / 4) ** (-1 / (d + 4)))
    check_kernel("gaussian", bandwidth)
    return float(bandwidth)


def choose_bandwidth(X: ArrayLike, *, rows: int = 4096, seed: int = 0) -> float:
    """Return the Gaussian bandwidth with the highest leave-one-out log likelihood of the examples.

    The likelihood is that of up to `rows` examples drawn with `seed` (fewer if there are very many in all), each under
    the density of all others. Copies of an example count as one example: otherwise the best bandwidth would be 0.

    Args:
        X: (n, *event); flattened.
        rows: number of examples whose likelihood is computed.
        seed: of the choice of these.

    Raises:
        DataError: the values are not numbers, or there are fewer than two different examples.

    References:
        The estimation of the probability density by kernels: choice by cross-validated likelihood (Habbema, Hermans &
        van den Broek, 1974; Duin, 1976, IEEE Transactions on Computers C-25).

    >>> X = np.random.default_rng(0).normal(size=(500, 1))
    >>> 0.1 < choose_bandwidth(X) < 0.5
    True
    """
    array = matrix(X, flatten=True)
    _, first = np.unique(identical_groups(array), return_index=True)
    if len(first) < 2:
        raise DataError(
            expected="two or more different examples, to choose a bandwidth",
            got=f"{len(array)} examples, {len(first)} different",
            do="Set the bandwidth yourself.",
        )
    array = array if len(first) == len(array) else array[first]
    unit = _unit(array)
    array = array if unit == 1 else array / unit
    count = max(1, min(rows, len(array), _PAIRS // len(array)))
    some = np.sort(stream(seed, "bandwidth rows").choice(len(array), count, replace=False))
    squared = squared_distances(array[some], array)
    squared[torch.arange(count), torch.from_numpy(some)] = math.inf
    return unit * _best_bandwidth(squared, array.shape[1])


def _unit(array: NDArray[Any]) -> float:
    """Return 1, or the power of two at the widest column if its square is beyond float32, in which distances are."""
    wide = float((array.max(axis=0).astype(np.float64) - array.min(axis=0)).max())
    return 1.0 if 1e-15 < wide < 1e15 else 2.0 ** math.frexp(wide)[1]


def _best_bandwidth(squared: Tensor, d: int) -> float:
    """Return the bandwidth with the highest mean log likelihood, from squared distances (rows, others)."""
    nearest = squared.amin(1)
    squared.sub_(nearest[:, None])

    def loss(log_h: float) -> float:
        scale = -0.5 * math.exp(-2 * log_h)
        blocks = (squared[start : start + 64] for start in range(0, len(squared), 64))
        parts = [block.mul(scale).clamp_(min=-80).exp_().sum(1, dtype=torch.float64) for block in blocks]
        return -float((torch.cat(parts).log() + scale * nearest).mean()) + d * log_h

    # At a maximum, h^2 d is a weighted mean of squared distances.
    farthest = torch.where(squared < math.inf, squared, 0.0).amax(1) + nearest
    low, high = (0.5 * math.log(float(end) / d) for end in (nearest.min(), farthest.max()))
    grid = np.linspace(low, high, _COARSE)
    best = int(np.argmin([loss(log_h) for log_h in grid]))
    around = (grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)])
    if around[0] == around[1]:
        return math.exp(grid[best])
    return math.exp(minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-3}).x)
