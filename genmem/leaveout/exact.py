"""Leave-one-out scores without training n models: where mathematics gives them, or a refit is a few steps."""

import math
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem.data.arrays import matrix
from genmem.errors import ModelError
from genmem.leaveout.executors import refuse_fork, size_of, spread
from genmem.leaveout.scoring import MemorizationScores
from genmem.models.base import is_count, require
from genmem.models.kernel_shapes import check_kernel, log_normaliser
from genmem.models.kernels import log_kernel_sums_without_self
from genmem.models.knn import KNNDensity, knn_log_density, require_neighbours
from genmem.models.leave_one_out import log_probs_without, settled_mixture
from genmem.models.torch_gmm import TorchGaussianMixture
from genmem.models.torch_kde import TorchKernelDensity, bandwidth_for
from genmem.search.exact import nearest

FloatArray = NDArray[np.float64]
_EUCLIDEAN = ("euclidean", "l2", "minkowski", "p")  # of scikit-learn's names, with no further parameter
_PART = 64  # refits a job, at most


def leave_one_out(
    model: Any,
    X: ArrayLike,
    *,
    executor: Executor | None = None,
    device: str | None = None,
    block: int | None = None,
) -> MemorizationScores:
    """Return `M_i = log p(x_i | D) - log p(x_i | D without i)` of each example, with both terms.

    What n refits of `clone(model).fit(X[keep])` would give, at the cost of one or two evaluations:

    - scikit-learn's `KernelDensity` (every kernel, Euclidean distance, no sample weights) and `TorchKernelDensity`:
      with S_i the sum of kernels over the other examples, `M_i = log(1 + K(0) / S_i) + log((n-1) / n)`, in log space.
      With the Gaussian kernel always finite: an example whose nearest neighbour is r bandwidths away has about
      r^2 / 2. With a kernel of bounded support +inf where no other example reaches it. A bandwidth by "scott" or
      "silverman" depends on the number of examples, so it is taken for n in one term and for n - 1 in the other.
    - `KNNDensity`: `M_i = log((n-1) / n) + d log(R_k / R_(k-1))` over the distances R to the *other* examples, for
      x_i is its own first neighbour. +inf where k - 1 others, not k, coincide with x_i (with k = 1: unless one
      does); where k or more do, both densities are +inf and the ratio of the radii counts as 1. Never NaN.
    - scikit-learn's `GaussianMixture` and `TorchGaussianMixture`: no closed form. The mixture on all examples
      (`model`'s own where it is fitted) is continued until it settles, and n times more without one example. The
      scores follow this one local optimum: how a start from scratch without x_i might end elsewhere is not in them.
      `estimator` is then "warm_refit".

    Nothing here is random: standard errors are 0, intervals have no width, and there is nothing to test, so p and q
    values are NaN.

    Args:
        model: fitted or not; a fitted mixture must have been fitted to X.
        X: (n, d), used in float64 precision or that of its dtype, whichever is less.
        executor: where a mixture's refits run; in this process without. The numbers are the same.
        device: for kernels; the model's own, or "auto" for scikit-learn's.
        block: rows of a tile of kernels.

    Raises:
        DataError: X is no matrix of finite numbers, or has too few rows to leave one out.
        ModelError: there is no exact way for this model or its settings (use `refit`), or a mixture does not settle.
        RunError: the executor fails.

    References:
        On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021),
        https://arxiv.org/abs/2106.03216

    >>> from sklearn.neighbors import KernelDensity
    >>> leave_one_out(KernelDensity(), [[0.0], [0.0], [9.0]]).score.round(3)
    array([ 0.288,  0.288, 39.401])
    """
    way = _way_of(model)
    array = matrix(X, least=2)
    where = device if device is not None else getattr(model, "device", "auto")
    score, log_in, log_out = way.compute(model, array, _How(executor, where, block))
    return _as_scores(score, log_in, log_out, way.estimator)


class _How(NamedTuple):
    executor: Executor | None
    device: str
    block: int | None


Terms = tuple[FloatArray, FloatArray, FloatArray]  # score, log_prob_in, log_prob_out


class _Way(NamedTuple):
    compute: Callable[[Any, NDArray[Any], _How], Terms]
    estimator: str


def _kernels(model: Any, X: NDArray[Any], how: _How) -> Terms:
    _refuse_metric(model)
    n, d = X.shape
    widths = [bandwidth_for(model.bandwidth, size, d) for size in (n, n - 1)]
    check_kernel(model.kernel, widths[0])

    def others(width: float) -> FloatArray:
        return log_kernel_sums_without_self(X, width, kernel=model.kernel, device=how.device, block=how.block)

    def log_total(width: float, size: int) -> float:
        return log_normaliser(model.kernel, width, d) + math.log(size)

    with_all = others(widths[0])
    log_in = np.logaddexp(with_all, 0.0) - log_total(widths[0], n)
    if widths[0] == widths[1]:
        log_out = with_all - log_total(widths[0], n - 1)
        return np.logaddexp(0.0, -with_all) + math.log((n - 1) / n), log_in, log_out
    log_out = others(widths[1]) - log_total(widths[1], n - 1)
    return log_in - log_out, log_in, log_out


def _neighbours(model: KNNDensity, X: NDArray[Any], how: _How) -> Terms:
    require("k", model.k, is_count, "an integer >= 1")
    n, d = X.shape
    require_neighbours(model.k, n - 1, "examples beside the one left out")
    distances = nearest(X, X, model.k, exclude=np.arange(n))[0]
    outer = distances[:, -1]
    inner = distances[:, -2] if model.k > 1 else np.zeros(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.where(outer > 0, np.log(outer) - np.log(inner), 0.0)
    log_in, log_out = knn_log_density(inner, model.k, n, d), knn_log_density(outer, model.k, n - 1, d)
    return d * growth + math.log((n - 1) / n), log_in, log_out


def _mixture(model: Any, X: NDArray[Any], how: _How) -> Terms:
    values = X.astype(np.float64, copy=False)  # in float32 EM would not settle
    mixture = settled_mixture(model, values)
    parts = np.array_split(np.arange(len(X)), -(-len(X) // min(_PART, max(1, len(X) // (4 * size_of(how.executor))))))
    log_out, unsettled = np.empty(len(X)), 0
    for i, (log_p, short) in _refits(mixture, values, parts, how.executor):
        log_out[parts[i]] = log_p
        unsettled += short
    if unsettled:
        warnings.warn(f"EM did not settle in {unsettled} of {len(X)} refits without an example.", stacklevel=4)
    log_in = np.asarray(mixture.score_samples(values), dtype=np.float64)
    return log_in - log_out, log_in, log_out


def _refits(mixture: Any, X: FloatArray, parts: list[NDArray[np.intp]], executor: Executor | None) -> Any:
    if executor is None:
        return ((i, log_probs_without(mixture, X, rows)) for i, rows in enumerate(parts))
    refuse_fork(executor)
    return spread(executor, _without, range(len(parts)), lambda i, deaths: (mixture, parts[i]), X)


def _without(mixture: Any, rows: NDArray[np.intp], X: FloatArray | None = None) -> tuple[FloatArray, int] | None:
    return None if X is None else log_probs_without(mixture, X, rows)


# Exact types: a subclass may fit in another way.
_WAYS: dict[type, _Way] = {
    KernelDensity: _Way(_kernels, "exact"),
    TorchKernelDensity: _Way(_kernels, "exact"),
    KNNDensity: _Way(_neighbours, "exact"),
    GaussianMixture: _Way(_mixture, "warm_refit"),
    TorchGaussianMixture: _Way(_mixture, "warm_refit"),
}


def _way_of(model: Any) -> _Way:
    if type(model) not in _WAYS:
        raise ModelError(
            expected=f"a model that can leave one out exactly: {', '.join(kind.__name__ for kind in _WAYS)}",
            got="a class" if isinstance(model, type) else type(model).__name__,
            do="Pass an instance." if model in _WAYS else "Refit it: `audit(X, model)`, or `refit` on a run.",
        )
    return _WAYS[type(model)]


def _refuse_metric(model: Any) -> None:
    metric = getattr(model, "metric", "euclidean")
    if metric not in _EUCLIDEAN or getattr(model, "metric_params", None):
        raise ModelError(
            expected="a kernel density of Euclidean distances",
            got=f"metric={metric!r}, metric_params={model.metric_params!r}",
            do='Use metric="euclidean", or refit it: `audit(X, model)`.',
        )


def _as_scores(score: FloatArray, log_in: FloatArray, log_out: FloatArray, estimator: str) -> MemorizationScores:
    untested = np.full(len(score), np.nan)
    return MemorizationScores(
        score=score,
        log_prob_in=log_in,
        log_prob_out=log_out,
        standard_error=np.zeros(len(score)),
        p_value=untested,
        q_value=untested.copy(),
        estimator=estimator,
        per_repeat=score[None],
        placebo=np.empty((0, len(score))),
        moderated=False,
    )
