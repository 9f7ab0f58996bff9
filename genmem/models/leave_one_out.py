"""log p of any z without any example: kernels and neighbours in closed form, Gaussian mixtures by continuing EM.

    family = leave_one_out_of(model)
    score, log_in, log_out = family.terms(X)  # of each example with and without itself, (n,) each
    scores = family.influence(X, Z)           # of each z with and without each example, (n, m)

Both are differences log p(z; all) - log p(z; without x_i), in nats: the influence of x_i on z, and its memorization
score if z is x_i. Models need not be fitted. `FAMILIES` lists the densities that support this.

References:
    Understanding Instance-based Interpretability of Variational Auto-Encoders (Kong & Chaudhuri, 2021),
    https://arxiv.org/abs/2105.14203
    On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021),
    https://arxiv.org/abs/2106.03216
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem.errors import DataError, ModelError
from genmem.models.base import is_count, require
from genmem.models.inside import as_plain, plain_class
from genmem.models.kernel_shapes import KERNELS, check_kernel, log_normaliser
from genmem.models.kernels import log_kernel_sums_without_self
from genmem.models.knn import KNNDensity
from genmem.models.knn_without import Neighbours, log_one_less
from genmem.models.moved import NEGLIGIBLE, centre_of, is_far, moved, refuse_rounding, rounding_of
from genmem.models.torch_gmm import TorchGaussianMixture
from genmem.models.torch_kde import TorchKernelDensity, bandwidth_for
from genmem.models.weights import check_weighted, difference, log_share_of_others, log_shrunk, weights_of
from genmem.seeding import seed32

FloatArray = NDArray[np.float64]
Terms = tuple[FloatArray, FloatArray, FloatArray]  # score, log_prob_in, log_prob_out
Refits = list[tuple[FloatArray, int]]  # what `log_probs_without` returns for each part of the rows
Spread = Callable[[Any, FloatArray, list[NDArray[np.intp]], FloatArray | None], Refits]  # of (mixture, X, parts, Z)
_BLOCK = 2**21  # values processed at a time
_EUCLIDEAN = ("euclidean", "l2", "minkowski", "p")  # scikit-learn's names of it, if it has no parameters


class How(NamedTuple):
    """The seed of a mixture's fit, the device of sums of kernels, and a function that runs refits elsewhere.

    Without a `device`, the model's own is used, or "auto". Only the seed changes the numbers, beyond rounding.
    """

    seed: int = 0
    device: str | None = None
    block: int | None = None
    refits: Spread | None = None


class LeaveOneOut(Protocol):
    """How a family of densities computes log p without an example.

    `by_refits`: each example costs a refit, whatever is asked about it. `least`: the minimum number of examples.

    Raises:
        ModelError: on construction, if the settings allow no exact way.
    """

    by_refits: ClassVar[bool]
    least: int

    def __init__(self, model: Any, how: How) -> None: ...

    def terms(self, X: NDArray[Any]) -> Terms:
        """Return score, log p with and log p without each example at that example: (n,) each, from X (n, d)."""

    def influence(self, X: NDArray[Any], Z: NDArray[Any]) -> FloatArray:
        """Return log p(z; all) - log p(z; without x_i): (n, m), from X (n, d) and Z (m, d)."""


def has_closed_form(model: Any) -> bool:
    """Return whether leave-one-out is in closed form for this model."""
    kind = plain_class(model, FAMILIES)
    return kind is not None and not FAMILIES[kind].by_refits


def leave_one_out_of(model: Any, how: How | None = None, also: str = "") -> LeaveOneOut:
    """Return how a model computes log p without an example.

    Args:
        model: fitted or not.
        how: see `How`.
        also: other models that the caller accepts, for the message.

    Raises:
        ModelError: there is no exact way for this model or its settings.
    """
    kind = plain_class(model, FAMILIES)
    if kind is None:
        is_class = isinstance(model, type)
        raise ModelError(
            expected=f"{also}a model that can leave one out exactly: {', '.join(kind.__name__ for kind in FAMILIES)}",
            got=f"a class, {model.__name__}" if is_class else type(model).__name__,
            do="Pass an instance." if is_class else "Refit it: `audit(X, model)`, or `refit` on a run.",
        )
    return FAMILIES[kind](as_plain(model, kind), how or How())


class Kernels:
    """Kernel densities of Euclidean distances, p(z) = sum_j K(z - x_j) / n with kernels that integrate to 1.

    `log((n-1)/n) - log(1 - K(z - x_i) / (n p(z)))`, in log space throughout: if x_i contributes more than half of p(z),
    the contribution of the others is summed without it. If a kernel of bounded support reaches z from x_i alone, the
    difference is +inf; if from no example, it is log((n-1)/n). Bandwidths by a rule of thumb depend on the number of
    examples: they are those of n in one term and of n - 1 in the other.
    """

    by_refits: ClassVar[bool] = False
    least = 2

    def __init__(self, model: Any, how: How) -> None:
        metric, more = getattr(model, "metric", "euclidean"), getattr(model, "metric_params", None)
        if metric not in _EUCLIDEAN or more:
            raise ModelError(
                expected="a kernel density of Euclidean distances",
                got=f"metric={metric!r}, metric_params={more!r}",
                do='Use metric="euclidean", or refit it: `audit(X, model)`.',
            )
        check_kernel(model.kernel, bandwidth_for(model.bandwidth, 2, 1))
        self.kernel, self.bandwidth, self.block = model.kernel, model.bandwidth, how.block
        self.device = getattr(model, "device", "auto") if how.device is None else how.device
        self.model, self.weights = model, weights_of(model)

    def terms(self, X: NDArray[Any]) -> Terms:
        """See `LeaveOneOut`: with S the sum of the others' kernels, K(0) = 1, `log(1 + 1 / S) + log((n-1)/n)`."""
        n, d = X.shape
        if self.weights is not None:
            return self._weighted_terms(X, self.weights)
        with_all, without = self._bandwidths(n, d)
        others = self._log_sums_of_others(X, with_all)
        log_in = np.logaddexp(others, 0.0) - self._log_total(with_all, n, d)
        if with_all == without:
            return np.logaddexp(0.0, -others) + log_one_less(n), log_in, others - self._log_total(without, n - 1, d)
        log_out = self._log_sums_of_others(X, without) - self._log_total(without, n - 1, d)
        return log_in - log_out, log_in, log_out

    def influence(self, X: NDArray[Any], Z: NDArray[Any]) -> FloatArray:
        """See `LeaveOneOut`."""
        n, d = X.shape
        with_all, without = self._bandwidths(n, d)
        log_weights, log_shrunk = self._log_weights(X)
        scores = np.empty((n, len(Z)))
        for at, block in _parts(Z, n + d):
            distances = cdist(block, X)
            exponents = self._log_kernel(distances, without) + log_weights
            change: Any = 0.0
            if with_all != without:
                before = logsumexp(self._log_kernel(distances, with_all) + log_weights, 1)
                change = difference(before, logsumexp(exponents, 1))
            shrunk = log_shrunk + d * math.log(without / with_all)
            scores[:, at] = (change - log_share_of_others(exponents).T) + shrunk[:, None]
        return scores

    def _log_weights(self, X: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Return the log weight of each example and the log of the share of the others in the sum of weights."""
        if self.weights is None:
            return np.zeros(len(X)), np.full(len(X), log_one_less(len(X)))
        check_weighted(self.model, X, self.weights)
        with np.errstate(divide="ignore"):
            return np.log(self.weights), log_shrunk(self.weights)

    def _weighted_terms(self, X: NDArray[Any], weights: FloatArray) -> Terms:
        n, d = X.shape
        log_weights, shrunk = self._log_weights(X)
        log_in, log_out = np.empty(n), np.empty(n)
        with_all, without = self._bandwidths(n, d)
        for at, block in _parts(X, n + d):
            distances, rows = cdist(block, X.astype(np.float64)), np.arange(len(block))
            log_in[at] = logsumexp(self._log_kernel(distances, with_all) + log_weights, 1)
            others = self._log_kernel(distances, without) + log_weights
            others[rows, rows + at.start] = -np.inf
            log_out[at] = logsumexp(others, 1)
        log_total = math.log(weights.sum())
        log_in -= log_normaliser(self.kernel, with_all, d) + log_total
        log_out -= log_normaliser(self.kernel, without, d) + log_total + shrunk
        return difference(log_in, log_out), log_in, log_out

    def _bandwidths(self, n: int, d: int) -> tuple[float, float]:
        return bandwidth_for(self.bandwidth, n, d), bandwidth_for(self.bandwidth, n - 1, d)

    def _log_sums_of_others(self, X: NDArray[Any], bandwidth: float) -> FloatArray:
        return log_kernel_sums_without_self(X, bandwidth, kernel=self.kernel, device=self.device, block=self.block)

    def _log_total(self, bandwidth: float, n: int, d: int) -> float:
        return log_normaliser(self.kernel, bandwidth, d) + math.log(n)

    def _log_kernel(self, distances: FloatArray, bandwidth: float) -> FloatArray:
        return np.asarray(KERNELS[self.kernel](torch.from_numpy(distances / bandwidth)).numpy())


def _parts(Z: NDArray[Any], width: int) -> Iterator[tuple[slice, FloatArray]]:
    step = max(1, _BLOCK // width)
    for start in range(0, len(Z), step):
        yield slice(start, start + step), Z[start : start + step].astype(np.float64)


# Change of the mean log p at which EM stops, nats. It is quadratic in the distance to the optimum, so parameters are
# accurate to about a millionth. Rounding alone changes the mean by the second, relatively.
TOLERANCE, ROUNDING = 1e-12, 1e-14
STEPS, STAGES = 500, 10  # of EM, at most, in stages
_PART = 64  # refits per job, at most


class Mixtures:
    """Gaussian mixtures: no closed form, so EM continues without each example from the converged fit to all examples.

    The scores are those of this local optimum: they ignore that a fit from scratch without x_i might reach another.
    """

    by_refits: ClassVar[bool] = True

    def __init__(self, model: Any, how: How) -> None:
        require("n_components", model.n_components, is_count, "an integer >= 1")
        self.model, self.how, self.least = model, how, max(3, model.n_components + 1)

    def terms(self, X: NDArray[Any]) -> Terms:
        """See `LeaveOneOut`."""
        log_in, log_out = self._with_and_without(X, None)
        return log_in - log_out, log_in, log_out

    def influence(self, X: NDArray[Any], Z: NDArray[Any]) -> FloatArray:
        """See `LeaveOneOut`."""
        log_in, log_out = self._with_and_without(X, Z.astype(np.float64, copy=False))
        return log_in - log_out

    def _with_and_without(self, X: NDArray[Any], Z: FloatArray | None) -> tuple[FloatArray, FloatArray]:
        # scikit-learn squares integers in their own dtype (200 * 200 is 64 in uint8), and EM stalls early in float32.
        X = X.astype(np.float64, copy=False)
        mixture = None if is_far(self.model, X) else settled_mixture(self.model, X, self.how.seed)
        if mixture is None or rounding_of(mixture) > NEGLIGIBLE:
            centre = centre_of(X)
            X, Z = X - centre, None if Z is None else Z - centre
            mixture = settled_mixture(moved(self.model, -centre), X, self.how.seed)
            refuse_rounding(mixture)
        parts = np.array_split(np.arange(len(X)), max(min(_PART, len(X)), -(-len(X) // _PART)))
        found = (self.how.refits or _refits_here)(mixture, X, parts, Z)
        if unsettled := sum(count for _, count in found):
            warnings.warn(f"EM did not converge in {unsettled} of {len(X)} refits without an example.", stacklevel=5)
        log_in = np.asarray(mixture.score_samples(X if Z is None else Z), dtype=np.float64)
        return log_in, np.concatenate([log_p for log_p, _ in found])


def settled_mixture(model: Any, X: FloatArray, seed: int = 0) -> Any:
    """Return the mixture of all examples after convergence: `model` continued if it is fitted, otherwise a new fit.

    `seed` is for an unfitted mixture without a seed (`random_state=None`).

    Raises:
        ModelError: EM does not converge, or scikit-learn refuses the data.
        DataError: a covariance is singular.
    """
    start = model
    if not hasattr(model, "means_") or model.means_.shape[1] != X.shape[1]:
        start = _fitted(seeded(model, seed), X)
    fit, settled = _continued(start, X)
    if not settled:
        raise ModelError(
            expected=f"EM on all examples to converge within {STEPS * STAGES} steps",
            got=f"a mean log p that still changes by more than {TOLERANCE:g} nats per step",
            do="Use fewer components or a larger reg_covar: this drift would hide the effect of one example.",
        )
    return fit


def seeded(model: Any, seed: int) -> Any:
    """Return an unfitted copy with a deterministic fit: with a `random_state`, if one can be set."""
    copy = clone(model)
    if getattr(copy, "random_state", 0) is None:
        copy.set_params(random_state=seed32(seed, "mixture"))
    return copy


def _refits_here(mixture: Any, X: FloatArray, parts: list[NDArray[np.intp]], Z: FloatArray | None) -> Refits:
    return [log_probs_without(mixture, X, rows, Z) for rows in parts]


def log_probs_without(
    mixture: Any, X: FloatArray, rows: NDArray[np.intp], Z: FloatArray | None = None
) -> tuple[FloatArray, int]:
    """Return log p without each of `rows`, at that row (rows,) or at Z (rows, m), and how many did not converge."""
    log_p, unsettled = [], 0
    for row in rows:
        fit, settled = _continued(mixture, np.delete(X, row, axis=0))
        log_p.append(fit.score_samples(X[row : row + 1])[0] if Z is None else fit.score_samples(Z))
        unsettled += not settled
    return np.array(log_p), unsettled


def _continued(start: Any, X: FloatArray) -> tuple[Any, bool]:
    """Return a fit to X that starts from the parameters of another, and whether it converged."""
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
            warnings.simplefilter("ignore", ConvergenceWarning)  # the caller checks convergence
            return unfitted.fit(X)
    except (DataError, ModelError):
        raise
    except ValueError as error:
        raise ModelError(
            expected=f"a mixture that fits {len(X)} examples of {X.shape[1]} values",
            got=f"{type(error).__name__}: {error}",
            do="Use fewer components or a larger reg_covar.",
        ) from error


# Of these classes, and of subclasses that do not fit or score in another way.
FAMILIES: dict[type, type[LeaveOneOut]] = {
    KernelDensity: Kernels,
    TorchKernelDensity: Kernels,
    KNNDensity: Neighbours,
    GaussianMixture: Mixtures,
    TorchGaussianMixture: Mixtures,
}
