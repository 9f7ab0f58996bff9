"""Influence on Gaussian mixtures: refits from the solution found, and formulas for components far apart.

A mixture fitted by expectation-maximisation has no closed form: each example is left out in turn and the fit is
continued from where it stood. Where components are spherical and so far apart that assignments never change, one
step of arithmetic gives what the refit would.

References:
    Understanding Instance-based Interpretability of Variational Auto-Encoders (Kong & Chaudhuri, 2021),
    https://arxiv.org/abs/2105.14203
"""

import math
import warnings
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from genmem.data.arrays import matrix, require_shape
from genmem.errors import DataError
from genmem.models.leave_one_out import log_probs_without, settled_mixture

FloatArray = NDArray[np.float64]
_PARTS = 64  # jobs an executor is given
_NO_SPREAD = 1e-12  # share of a variance that is but rounding,
_ROUNDING = 1e-28  # and of a squared mean

# --- refits


def mixture_influence(
    model: Any, X: FloatArray, Z: FloatArray, seed: int = 0, executor: Executor | None = None
) -> FloatArray:
    """Return the influence of each row of X on a Gaussian mixture at each row of Z, (n, m), by n refits."""
    return _by_refits(model, X, Z, seed, executor)


def mixture_self_influence(model: Any, X: FloatArray, seed: int = 0, executor: Executor | None = None) -> FloatArray:
    """Return the influence of each row of X on a Gaussian mixture at that row, (n,), by n refits."""
    return _by_refits(model, X, None, seed, executor)


def _by_refits(model: Any, X: FloatArray, Z: FloatArray | None, seed: int, executor: Executor | None) -> FloatArray:
    start = settled_mixture(model, X, seed)
    before = start.score_samples(X if Z is None else Z)
    parts = np.array_split(np.arange(len(X)), min(_PARTS, len(X)))
    arguments = [(start, X, part, Z) for part in parts]
    if executor is None:
        found = [log_probs_without(*some) for some in arguments]
    else:
        found = [future.result() for future in [executor.submit(log_probs_without, *some) for some in arguments]]
    if unsettled := sum(count for _, count in found):
        warnings.warn(f"EM did not settle in {unsettled} of {len(X)} refits without an example.", stacklevel=5)
    return np.asarray(before - np.concatenate([after for after, _ in found]))


# --- closed form


@dataclass(frozen=True)
class _Components:
    """Sizes, means (c, d) and variances (c,) of spherical components."""

    size: NDArray[np.int64]
    mean: FloatArray
    variance: FloatArray


def spherical_mixture_influence(
    X_train: ArrayLike, components: ArrayLike, X_query: ArrayLike, query_components: ArrayLike | None = None
) -> FloatArray:
    """Return the influence on a mixture of spherical Gaussians so far apart that assignments are fixed: (n, m), nats.

    A component of n examples has weight n / N, their mean mu, and variance s^2 = sum |x - mu|^2 / (n d). With
    u = z - mu, v = x_i - mu, `rho = n/(n-1) - n |v|^2 / ((n-1)^2 d s^2)` (what s^2 is multiplied by) and
    `m2 = |u|^2 + 2 u.v/(n-1) + |v|^2/(n-1)^2` (|u|^2 afterwards), the influence within a component is
    `log((N-1)/N) - log((n-1)/n) + (d/2) log rho + m2 / (2 s^2 rho) - |u|^2 / (2 s^2)`, across components
    `log((N-1)/N)`. Exact for fixed assignments; what a fitted mixture adds is in `influence_scores`.

    Args:
        X_train: (n, *event).
        components: (n,) the component of each training example, integers from 0 without gaps.
        X_query: (m, *event).
        query_components: (m,) the component of each query; without it, the one of highest weighted density.

    Raises:
        DataError: the arrays do not fit each other, or the examples of a component do not differ any more once
            one of them is left out.
    """
    X, Z, own, query, fitted = _assigned(X_train, components, X_query, query_components)
    total, d = X.shape
    scores = np.full((len(X), len(Z)), math.log((total - 1) / total))
    for c, n in enumerate(fitted.size):
        mine, asked = np.flatnonzero(own == c), np.flatnonzero(query == c)
        v, u = X[mine] - fitted.mean[c], Z[asked] - fitted.mean[c]
        rho = _variance_ratio(v, n, d, fitted.variance[c])[:, None]
        moved = cdist(-v / (n - 1), u, "sqeuclidean")
        exponent = (moved / rho - np.square(u).sum(axis=1)) / (2 * fitted.variance[c])
        scores[np.ix_(mine, asked)] += exponent + d / 2 * np.log(rho) - math.log((n - 1) / n)
    return scores


def spherical_mixture_first_order(
    X_train: ArrayLike, components: ArrayLike, X_query: ArrayLike, query_components: ArrayLike | None = None
) -> FloatArray:
    """Return `spherical_mixture_influence` to first order in 1/n, as published: (n, m), nats.

    `(d+2)/(2n) - 1/N + (|v|^2 |u|^2 / (d s^2) - |z - x_i|^2) / (2 n s^2)` within a component, -1/N across; see
    there for the arguments and errors.
    """
    X, Z, own, query, fitted = _assigned(X_train, components, X_query, query_components)
    total, d = X.shape
    scores = np.full((len(X), len(Z)), -1 / total)
    for c, n in enumerate(fitted.size):
        mine, asked = np.flatnonzero(own == c), np.flatnonzero(query == c)
        v, u = (np.square(part - fitted.mean[c]).sum(axis=1) for part in (X[mine], Z[asked]))
        spread = d * fitted.variance[c]
        away = np.outer(v, u) / spread - cdist(X[mine], Z[asked], "sqeuclidean")
        scores[np.ix_(mine, asked)] += (d + 2) / (2 * n) + away * d / (2 * n * spread)
    return scores


def _assigned(
    X_train: ArrayLike, components: ArrayLike, X_query: ArrayLike, query_components: ArrayLike | None
) -> tuple[FloatArray, FloatArray, NDArray[np.intp], NDArray[np.intp], _Components]:
    X = matrix(X_train, "X_train", flatten=True, float64=True)
    Z = matrix(X_query, "X_query", flatten=True, float64=True)
    require_shape(np.shape(X_query)[1:], np.shape(X_train)[1:], "queries", "as the training examples have")
    own = _labels(components, len(X), "components")
    fitted = _components(X, own)
    query = _likeliest(Z, fitted) if query_components is None else _labels(query_components, len(Z), "query_components")
    if query.max() > own.max():
        raise DataError(
            expected=f"query_components from 0 to {own.max()}",
            got=f"{query.max()}",
            do="Give each query a component of the training examples.",
        )
    return X, Z, own, query, fitted


def _components(X: FloatArray, own: NDArray[np.intp]) -> _Components:
    size = np.bincount(own)
    for c in np.flatnonzero(size < 3):
        raise DataError(
            expected="components, numbered from 0 without gaps, of 3 or more examples",
            got=f"{size[c]} in component {c}",
            do="Merge small components: the variance of a single example is 0.",
        )
    mean = np.stack([X[own == c].mean(axis=0) for c in range(len(size))])
    squares = np.bincount(own, np.square(X - mean[own]).sum(axis=1))
    variance = squares / (size * X.shape[1])
    _require_spread(variance > _ROUNDING * np.square(mean).mean(axis=1))
    return _Components(size, mean, variance)


def _variance_ratio(v: FloatArray, n: int, d: int, variance: float) -> FloatArray:
    """Return rho of each example: the component's variance without it, over the variance with it."""
    squares = np.square(v).sum(axis=1)
    rho: FloatArray = n / (n - 1) - n * squares / ((n - 1) ** 2 * d * variance)
    _require_spread(rho > _NO_SPREAD)
    return rho


def _require_spread(enough: NDArray[np.bool_]) -> None:
    if not enough.all():
        raise DataError(
            expected="components whose examples differ, also when any one of them is left out",
            got="one of variance 0",
            do="Drop exact duplicates, or merge that component with another.",
        )


def _likeliest(Z: FloatArray, fitted: _Components) -> NDArray[np.intp]:
    d = Z.shape[1]
    squares = cdist(Z, fitted.mean, "sqeuclidean")
    log_p = np.log(fitted.size) - d / 2 * np.log(fitted.variance) - squares / (2 * fitted.variance)
    likeliest: NDArray[np.intp] = log_p.argmax(axis=1)
    return likeliest


def _labels(values: ArrayLike, n: int, name: str) -> NDArray[np.intp]:
    labels = np.asarray(values)
    if labels.shape != (n,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(
            expected=f"{name} of shape ({n},): integers from 0",
            got=f"shape {labels.shape}, dtype {labels.dtype}{f', the least {labels.min()}' if labels.size else ''}",
            do="Give one component for each row, such as GaussianMixture.predict returns.",
        )
    return labels.astype(np.intp)
