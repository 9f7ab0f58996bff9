"""The kernels of scikit-learn's KernelDensity: their logs, their integrals, and draws from them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from genmem.errors import ModelError
from genmem.models.base import require


def _gaussian(r: Tensor) -> Tensor:
    return r.square_().mul_(-0.5)


def _tophat(r: Tensor) -> Tensor:
    return torch.where(r < 1, 0.0, -math.inf).to(r.dtype)


def _epanechnikov(r: Tensor) -> Tensor:
    return torch.log1p(-r.clamp_(max=1).square_())


def _exponential(r: Tensor) -> Tensor:
    return r.neg_()


def _linear(r: Tensor) -> Tensor:
    return torch.log1p(-r.clamp_(max=1))


def _cosine(r: Tensor) -> Tensor:
    inside = r < 1
    return torch.where(inside, torch.cos(r.mul_(math.pi / 2)).log(), -math.inf)


# log K(r) of distances in bandwidths, decreasing from log K(0) = 0; may overwrite them.
KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "gaussian": _gaussian,
    "tophat": _tophat,
    "epanechnikov": _epanechnikov,
    "exponential": _exponential,
    "linear": _linear,
    "cosine": _cosine,
}


def log_volume(d: int) -> float:
    """Return the log volume of the unit ball in d dimensions.

    >>> round(math.exp(log_volume(2)), 6)
    3.141593
    """
    return float(0.5 * d * math.log(math.pi) - special.gammaln(0.5 * d + 1))


def log_normaliser(kernel: str, bandwidth: float, d: int) -> float:
    """Return the log of the integral of K(|x| / h) over d dimensions.

    >>> round(math.exp(log_normaliser("linear", 2.0, 1)), 6)  # a triangle of height 1 and base 4
    2.0
    """
    check_kernel(kernel, bandwidth)
    scale = d * math.log(bandwidth)
    if kernel == "gaussian":
        return scale + 0.5 * d * math.log(2 * math.pi)
    # d V_d times the integral of K(r) r^(d-1) over r.
    moments = {
        "tophat": -math.log(d),
        "epanechnikov": math.log(2 / (d * (d + 2))),
        "exponential": float(special.gammaln(d)),
        "linear": -math.log(d * (d + 1)),
        "cosine": _log_cosine_moment(d),
    }
    return scale + log_volume(d) + math.log(d) + moments[kernel]


def _log_cosine_moment(d: int) -> float:
    k = np.arange(20)
    terms = (-1.0) ** k * np.exp(2 * k * math.log(math.pi / 2) - special.gammaln(2 * k + 1)) / (d + 2 * k)
    return math.log(math.fsum(terms))


def kernel_draws(kernel: str, n: int, d: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return draws from the density proportional to K(|x|): (n, d), a uniform direction times a radius."""
    directions = rng.standard_normal((n, d))
    if kernel == "gaussian":
        return directions
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * _radii(kernel, n, d, rng)[:, None]


def _radii(kernel: str, n: int, d: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return draws from the density proportional to K(r) r^(d-1)."""
    if kernel == "exponential":
        return rng.gamma(d, size=n)
    if kernel == "linear":
        return rng.beta(d, 2, size=n)
    if kernel == "tophat":
        return np.asarray(rng.random(n) ** (1 / d))
    radii = np.sqrt(rng.beta(d / 2, 2, size=n))
    if kernel == "cosine":  # cos(pi r / 2) <= 1 - r^2: at least three in four Epanechnikov draws are kept
        kept = radii[rng.random(n) * (1 - radii**2) <= np.cos(radii * math.pi / 2)]
        return kept if len(kept) == n else np.concatenate([kept, _radii(kernel, n - len(kept), d, rng)])
    return np.asarray(radii)


def check_kernel(kernel: str, bandwidth: Any) -> None:
    """Check the settings of a kernel.

    Raises:
        ModelError: the kernel is unknown, or the bandwidth is not a number above 0.
    """
    if kernel not in KERNELS:
        raise ModelError(expected=f"a kernel among {', '.join(KERNELS)}", got=repr(kernel), do="Change kernel.")
    finite = isinstance(bandwidth, int | float | np.number) and 0 < bandwidth < math.inf
    require("bandwidth", bandwidth, lambda _: bool(finite), "a number > 0")
