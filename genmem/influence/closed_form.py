"""Influence without gradients: the formula, or the refits, that belong to a model, and the strongest of the scores."""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem.data.arrays import groups_of, matrix, require_shape
from genmem.errors import ModelError
from genmem.influence.selection import TopInfluences, check_k, strongest
from genmem.influence.spherical import mixture_influence, mixture_self_influence
from genmem.models.base import is_count, require
from genmem.models.kernel_shapes import check_kernel
from genmem.models.knn import KNNDensity
from genmem.models.leave_one_out import kernel_influence, kernel_self_influence, knn_influence, knn_self_influence
from genmem.models.torch_gmm import TorchGaussianMixture
from genmem.models.torch_kde import TorchKernelDensity, bandwidth_for
from genmem.protocols import Listener, Progress

FloatArray = NDArray[np.float64]
MODELS = (KernelDensity, TorchKernelDensity, KNNDensity, GaussianMixture, TorchGaussianMixture)
AT_ONCE = 2**22  # scores
_EUCLIDEAN = ("euclidean", "l2", "minkowski", "p")  # scikit-learn's names of it, where without parameters


class Way(NamedTuple):
    """How a model's influence is computed, how many examples that takes, and what to say about it.

    `by_refits`: it takes as long for one query as for many.
    """

    of_each: Callable[[NDArray[Any], NDArray[Any]], FloatArray]
    on_itself: Callable[[NDArray[Any]], FloatArray]
    least: int
    by_refits: bool = False

    def note(self, n: int) -> str:
        """Say how the influence of n examples is computed."""
        if self.by_refits:
            return f"{n:,} refits, each without one example, from where the fit to all stood."
        return "In closed form, exact: what leaving out one example alone does."


def formula_scores(way: Way, X_train: ArrayLike, X_query: ArrayLike, groups: ArrayLike | None) -> FloatArray:
    """Return all scores, (n_train, queries or groups of them): see `influence_scores`."""
    X, Z, of = _flat(way, X_train, X_query, groups)
    return way.of_each(X, Z) if groups is None else _summed(way, X, Z, of, range(int(of.max()) + 1))


def formula_top(
    way: Way, X_train: ArrayLike, X_query: ArrayLike, groups: ArrayLike | None, k: int, progress: Listener
) -> TopInfluences:
    """Return the strongest, with the scores of a few queries at a time, of all where they come from refits."""
    X, Z, of = _flat(way, X_train, X_query, groups)
    check_k(k, len(X))
    count = int(of.max()) + 1
    step = count if way.by_refits else max(1, AT_ONCE // len(X))
    found = []
    for start in range(0, count, step):
        some = range(start, min(count, start + step))
        found.append(strongest(_summed(way, X, Z, of, some), k))
        progress(Progress("influence", some.stop, count))
    ahead, for_it, against, against_it = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return TopInfluences(
        ahead, for_it, against, against_it, coverage="", weights="", scale="dot", note=way.note(len(X))
    )


def _flat(
    way: Way, X_train: ArrayLike, X_query: ArrayLike, groups: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp]]:
    X, Z = matrix(X_train, "X_train", least=way.least, flatten=True), matrix(X_query, "X_query", flatten=True)
    require_shape(np.shape(X_query)[1:], np.shape(X_train)[1:], "queries", "as the training examples have")
    return X, Z, groups_of(groups, len(Z))


def _summed(way: Way, X: NDArray[Any], Z: NDArray[Any], groups: NDArray[np.intp], some: range) -> FloatArray:
    """Return the scores on some groups of queries, (n, groups), from those of a few queries at a time."""
    total = np.zeros((len(X), len(some)))
    rows = np.flatnonzero((groups >= some.start) & (groups < some.stop))
    step = len(rows) if way.by_refits else max(1, AT_ONCE // len(X))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        np.add.at(total.T, groups[part] - some.start, way.of_each(X, Z[part]).T)
    return total


def refuse_gradients(scale: str, loss: str) -> None:
    """Refuse what only gradients have: other scales, another loss."""
    if (scale, loss) != ("dot", "trained"):
        raise ModelError(
            expected='scale="dot" and loss="trained" for a model without gradients',
            got=f"scale={scale!r}, loss={loss!r}",
            do="Leave them out.",
        )


def way_for(model: Any, seed: int, executor: Executor | None) -> Way:
    """Return the way that fits a model.

    Raises:
        ModelError: there is none, or none for these settings.
    """
    kind = type(model)  # exactly: a subclass may fit in another way
    if kind is KNNDensity:
        require("k", model.k, is_count, "an integer >= 1")
        k = int(model.k)
        return Way(partial(knn_influence, k=k), partial(knn_self_influence, k=k), least=k + 1)
    if kind in (KernelDensity, TorchKernelDensity):
        return _kernel_way(model)
    if kind in (GaussianMixture, TorchGaussianMixture):
        require("n_components", model.n_components, is_count, "an integer >= 1")
        return Way(
            # scikit-learn squares integers as they are (200 * 200 is 64 in uint8), and EM stalls early in float32.
            lambda X, Z: mixture_influence(model, X.astype(np.float64), Z.astype(np.float64), seed, executor),
            lambda X: mixture_self_influence(model, X.astype(np.float64), seed, executor),
            least=max(3, model.n_components + 1),
            by_refits=True,
        )
    raise ModelError(
        expected=f"a DeepDensity, or one of {', '.join(known.__name__ for known in MODELS)}",
        got=f"a class, {model.__name__}" if isinstance(model, type) else kind.__name__,
        do="Pass one of these. For other models the memorization score says what leaving examples out does to them.",
    )


def _kernel_way(model: Any) -> Way:
    metric = getattr(model, "metric", "euclidean")
    if metric not in _EUCLIDEAN or getattr(model, "metric_params", None):
        raise ModelError(
            expected="a kernel of Euclidean distances", got=f"metric={metric!r}", do='Use metric="euclidean".'
        )
    check_kernel(model.kernel, bandwidth_for(model.bandwidth, 2, 1))
    device = getattr(model, "device", "auto")
    return Way(
        lambda X, Z: kernel_influence(X, Z, _bandwidth(model, X.shape[1]), model.kernel),
        lambda X: kernel_self_influence(X, _bandwidth(model, X.shape[1]), model.kernel, device),
        least=2,
    )


def _bandwidth(model: Any, d: int) -> Callable[[int], float]:
    """Return the bandwidth of a fit to n examples of d values, as a function of n."""
    return lambda n: bandwidth_for(model.bandwidth, n, d)
