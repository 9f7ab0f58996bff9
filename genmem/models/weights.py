"""Shares of examples in sums of kernels, and sample weights: exact without an example, refused by refits."""

import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity

from genmem.errors import DataError, ModelError
from genmem.models.inside import inside

FloatArray = NDArray[np.float64]
_STORED = ("sample_weight", "sample_weight_", "sample_weights", "sample_weights_", "_sample_weight", "_sample_weights")


def weights_of(model: Any) -> FloatArray | None:
    """Return the sample weights that a `KernelDensity` was fitted with, (n,); None if all are equal, or there are none.

    >>> weights_of(KernelDensity().fit([[0.0], [1.0]], sample_weight=[1, 3]))
    array([1., 3.])
    """
    tree = getattr(model, "tree_", None)
    found = None if tree is None else tree.sample_weight
    return None if found is None or len(np.unique(found)) < 2 else np.array(found, np.float64)


def check_weighted(model: Any, X: NDArray[Any], weights: FloatArray) -> None:
    """Check that X are the examples that the weights belong to, and that no single one has all the weight.

    Raises:
        DataError: they are not, or one has.
    """
    rows = np.asarray(model.tree_.data)
    if rows.shape != X.shape or not np.array_equal(rows, X.astype(np.float64)):
        raise DataError(
            expected=f"the {len(rows)} examples that the weighted {type(model).__name__} was fitted to, in their order",
            got=f"{len(X)} examples" if rows.shape != X.shape else "other values",
            do="Pass the same examples, or an unfitted model to give all examples the same weight.",
        )
    if np.count_nonzero(weights) < 2:
        raise DataError(
            expected="two or more examples with a weight above 0, so that one can be left out",
            got="one",
            do="Change the sample weights.",
        )


def log_shrunk(weights: FloatArray) -> FloatArray:
    """Return log((W - w_i) / W) of each example, with W the sum of the weights: (n,)."""
    share = weights / weights.sum()
    shrunk: FloatArray = np.log1p(-np.minimum(share, 0.5))
    for i in np.flatnonzero(share > 0.5):  # the sum of the others, not a difference of sums
        shrunk[i] = np.log(np.delete(weights, i).sum() / weights.sum())
    return shrunk


def log_share_of_others(exponents: FloatArray) -> FloatArray:
    """Return, for each entry of a row, the log of the share of the *other* entries in the row's sum(exp)."""
    rows = np.arange(len(exponents))
    top = exponents.argmax(axis=1)
    highest = np.maximum(exponents[rows, top], -1e300)[:, None]  # all of a row may be -inf
    share = np.exp(exponents - highest)
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
    half = np.flatnonzero(share[rows, top] > 0.5)  # at most one entry per row
    share[half, top[half]] = 0
    out: FloatArray = np.log1p(-share)
    rest = exponents[half] - highest[half]
    rest[np.arange(len(half)), top[half]] = -np.inf
    log_rest = logsumexp(rest, axis=1)
    out[half, top[half]] = log_rest - np.logaddexp(0, log_rest)
    return out


def difference(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return a - b, 0 if both are -inf."""
    nothing = np.isneginf(a) & np.isneginf(b)
    return np.where(nothing, 0.0, a) - np.where(nothing, 0.0, b)


def refuse_weights(model: Any) -> None:
    """Refuse a model that was fitted with sample weights from outside: a refit would not have them.

    Weights that a wrapper's own `fit` computes are no obstacle, because refits compute them too.

    Raises:
        ModelError: it was.
    """
    if not hasattr(model, "fit") or not _takes_weights(model):
        return
    stored = [value for name, value in getattr(model, "__dict__", {}).items() if name in _STORED]
    inner = () if stored else (weights_of(kde) for kde in inside(model, KernelDensity))
    if any(_vary(value) for value in (*stored, *inner)):
        raise ModelError(
            expected="a model without sample weights, because it is fitted anew with examples left out",
            got=f"{type(model).__name__} fitted with sample weights, which the refits would lose",
            do="Pass an unfitted one; or compute exact scores of a weighted KernelDensity: leave_one_out(model, X).",
        )


def _takes_weights(model: Any) -> bool:
    try:
        parameters = inspect.signature(model.fit).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.kind is p.VAR_KEYWORD or "weight" in p.name for p in parameters)


def _vary(value: Any) -> bool:
    return isinstance(value, np.ndarray | list | tuple) and len(np.unique(np.asarray(value))) > 1
