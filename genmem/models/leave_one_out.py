"""log p of any example without any other: k-NN and kernel densities by arithmetic, Gaussian mixtures by continuing EM.

The influence of training example x_i on z is `IF(x_i, z) = l(z; without x_i) - l(z; all)`, l = -log p, in nats.

References:
    Understanding Instance-based Interpretability of Variational Auto-Encoders (Kong & Chaudhuri, 2021),
    https://arxiv.org/abs/2105.14203
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from genmem.errors import DataError, ModelError
from genmem.models.kernel_shapes import KERNELS
from genmem.models.kernels import log_kernel_sums_without_self
from genmem.search.exact import nearest
from genmem.seeding import seed32

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


# --- Gaussian mixtures: EM continued without one example


# Change of the mean log p at which EM stops, nats. It goes with the square of what is left of the way, so a parameter
# is right to about a millionth. Rounding alone changes the mean by the second, relatively.
TOLERANCE, ROUNDING = 1e-12, 1e-14
STEPS, STAGES = 500, 10  # of EM, at most, in stages


def settled_mixture(model: Any, X: FloatArray, seed: int = 0) -> Any:
    """Return the mixture on all examples, settled: `model` continued where it is fitted, else fitted and continued.

    `seed` is for an unfitted one that has none of its own (`random_state=None`).

    Raises:
        ModelError: EM does not settle, or scikit-learn refuses the data.
        DataError: a covariance is singular.
    """
    start = model
    if not hasattr(model, "means_") or model.means_.shape[1] != X.shape[1]:
        start = clone(model)
        if start.random_state is None:
            start.set_params(random_state=seed32(seed, "mixture"))
        start = _fitted(start, X)
    fit, settled = _continued(start, X)
    if not settled:
        raise ModelError(
            expected=f"EM on all examples to settle within {STEPS * STAGES} steps",
            got=f"a mean log p that still changes by more than {TOLERANCE:g} nats a step",
            do="Use fewer components or a larger reg_covar: what one example changes would drown in this drift.",
        )
    return fit


def log_probs_without(
    mixture: Any, X: FloatArray, rows: NDArray[np.intp], Z: FloatArray | None = None
) -> tuple[FloatArray, int]:
    """Return log p without each of `rows`, at that row (rows,) or at Z (rows, m), and how many did not settle."""
    log_p, unsettled = [], 0
    for row in rows:
        fit, settled = _continued(mixture, np.delete(X, row, axis=0))
        log_p.append(fit.score_samples(X[row : row + 1])[0] if Z is None else fit.score_samples(Z))
        unsettled += not settled
    return np.array(log_p), unsettled


def _continued(start: Any, X: FloatArray) -> tuple[Any, bool]:
    """Return a fit to X that starts from the parameters of another, and whether it settled."""
    for _ in range(STAGES):
        tolerance = max(TOLERANCE, ROUNDING * abs(start.lower_bound_))
        unfitted = clone(start).set_params(
            weights_init=start.weights_,
            means_init=start.means_,
            precisions_init=start.precisions_,
            tol=tolerance,
            max_iter=STEPS,
            n_init=1,
        )
        fit = _fitted(unfitted, X)
        # Rounding of a nearly singular covariance can exceed the tolerance in one step, but not on average.
        if fit.converged_ or abs(fit.lower_bound_ - start.lower_bound_) < STEPS * tolerance:
            return fit, True
        start = fit
    return start, False


def _fitted(unfitted: Any, X: FloatArray) -> Any:
    if getattr(unfitted, "warm_start", False):
        unfitted.set_params(warm_start=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # told apart by the caller
            return unfitted.fit(X)
    except (DataError, ModelError):
        raise
    except ValueError as error:
        raise ModelError(
            expected=f"a mixture that fits {len(X)} examples of {X.shape[1]} values",
            got=f"{type(error).__name__}: {error}",
            do="Use fewer components or a larger reg_covar.",
        ) from error
