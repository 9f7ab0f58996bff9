"""Influence without a refit: k-NN and kernel densities, where leaving one out is arithmetic.

The influence of training example x_i on z is `IF(x_i, z) = l(z; without x_i) - l(z; all)`, l = -log p, in nats.

References:
    Understanding Instance-based Interpretability of Variational Auto-Encoders (Kong & Chaudhuri, 2021),
    https://arxiv.org/abs/2105.14203
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from genmem.models.kernel_shapes import KERNELS
from genmem.models.kernels import log_kernel_sums_without_self
from genmem.search import nearest

FloatArray = NDArray[np.float64]
_BLOCK = 2**21  # values handled at a time


def knn_influence(X: NDArray[Any], Z: NDArray[Any], k: int) -> FloatArray:
    """Return the influence of each row of X on the k-NN density of each row of Z: (n, m).

    With p(z) = k / (n V_d R_k(z)^d): `log((n-1)/n) + d log(R_{k+1}(z) / R_k(z))` for the k nearest to z, else
    `log((n-1)/n)`. Where several are at distance R_k, then R_{k+1} = R_k and it matters not which are among the k.
    """
    n, m = len(X), len(Z)
    scores = np.full((n, m), math.log((n - 1) / n))
    distances, neighbours = nearest(Z, X, k + 1)
    scores[neighbours[:, :k], np.arange(m)[:, None]] += _log_growth(distances, X.shape[1])[:, None]
    return scores


def knn_self_influence(X: NDArray[Any], k: int) -> FloatArray:
    """Return the influence of each row of X on its own k-NN density, (n,): it is its own first neighbour."""
    n = len(X)
    # Where k others or more coincide with it, it may miss its own list; the radii are 0 both, and their ratio 1.
    return math.log((n - 1) / n) + _log_growth(nearest(X, X, k + 1)[0], X.shape[1])


def _log_growth(distances: FloatArray, d: int) -> FloatArray:
    """Return d log(R_{k+1} / R_k) of (m, k + 1) distances; 0 / 0 is 1, as for any other equal radii."""
    inner, outer = distances[:, -2], distances[:, -1]
    growth = np.zeros(len(distances))
    growth[(inner == 0) & (outer > 0)] = np.inf
    found = inner > 0
    # Not the logarithm of the quotient, which may overflow.
    growth[found] = d * (np.log(outer[found]) - np.log(inner[found]))
    return growth


def kernel_influence(
    X: NDArray[Any], Z: NDArray[Any], bandwidth: Callable[[int], float], kernel: str = "gaussian"
) -> FloatArray:
    """Return the influence of each row of X on the kernel density of each row of Z: (n, m).

    `log((n-1)/n) - log(1 - K(z - x_i) / (n p(z)))`, in log space throughout: where x_i makes up more than half of
    p(z), what the others make up is summed without it. Where a kernel of bounded support reaches z from x_i alone,
    +inf; where from no example, x_i has no share and log((n-1)/n) is left.

    Args:
        X: (n, d) training examples.
        Z: (m, d) queries.
        bandwidth: of a fit to so many examples, as rules of thumb depend on their number.
        kernel: one of `genmem.models.kernels.KERNELS`.
    """
    n, d = X.shape
    with_all, without = bandwidth(n), bandwidth(n - 1)
    scores = np.empty((n, len(Z)))
    for at, block in _parts(Z, n + d):
        distances = cdist(block, X)
        exponents = _log_kernel(distances, without, kernel)
        change: Any = 0.0
        if with_all != without:
            change = _difference(logsumexp(_log_kernel(distances, with_all, kernel), 1), logsumexp(exponents, 1))
        scores[:, at] = (change - _log_share_of_others(exponents).T) + _constant(n, d, with_all, without)
    return scores


def kernel_self_influence(
    X: NDArray[Any], bandwidth: Callable[[int], float], kernel: str = "gaussian", device: str = "auto"
) -> FloatArray:
    """Return the influence of each row of X on its own kernel density, (n,), in tiles and log space.

    log(1 + S) - log S + log((n-1)/n) with S the sum of the other examples' kernels, K(0) = 1; +inf where no other
    example is within reach of a kernel of bounded support.
    """
    n, d = X.shape
    with_all, without = bandwidth(n), bandwidth(n - 1)
    others = log_kernel_sums_without_self(X, without, kernel=kernel, device=device)
    everyone = others
    if with_all != without:
        everyone = log_kernel_sums_without_self(X, with_all, kernel=kernel, device=device)
    return np.asarray(np.logaddexp(0, everyone) - others + _constant(n, d, with_all, without))


def _log_kernel(distances: FloatArray, bandwidth: float, kernel: str) -> FloatArray:
    return np.asarray(KERNELS[kernel](torch.from_numpy(distances / bandwidth)).numpy())


def _log_share_of_others(exponents: FloatArray) -> FloatArray:
    """Return, for each entry of a row, the log of the share of the row's sum(exp) that the *other* entries make up."""
    rows = np.arange(len(exponents))
    top = exponents.argmax(axis=1)
    highest = np.maximum(exponents[rows, top], -1e300)[:, None]  # a row may be -inf throughout
    share = np.exp(exponents - highest)
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
    half = np.flatnonzero(share[rows, top] > 0.5)  # at most one entry of a row
    share[half, top[half]] = 0
    out: FloatArray = np.log1p(-share)
    rest = exponents[half] - highest[half]
    rest[np.arange(len(half)), top[half]] = -np.inf
    log_rest = logsumexp(rest, axis=1)
    out[half, top[half]] = log_rest - np.logaddexp(0, log_rest)
    return out


def _difference(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return a - b, 0 where both are -inf."""
    nothing = np.isneginf(a) & np.isneginf(b)
    return np.where(nothing, 0.0, a) - np.where(nothing, 0.0, b)


def _constant(n: int, d: int, with_all: float, without: float) -> float:
    """Return what log p(all) - log p(without) has beside the log sums of kernels."""
    return math.log((n - 1) / n) + d * math.log(without / with_all)


def _parts(Z: NDArray[Any], width: int) -> Iterator[tuple[slice, FloatArray]]:
    step = max(1, _BLOCK // width)
    for start in range(0, len(Z), step):
        yield slice(start, start + step), Z[start : start + step].astype(np.float64)
