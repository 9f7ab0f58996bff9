"""A density that is not a network, fitted again with arithmetic that is right for its log p.

It gets float64 whatever the data are stored as, trees of one leaf, and data near 0 if it is a Gaussian mixture; one
that still loses log p to rounding is refused.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import checked_examples
from genmem.errors import GenmemError
from genmem.models.inside import rebuild_in_one_leaf, set_one_leaf
from genmem.models.knn import KNNDensity
from genmem.models.moved import fitted_mixture, is_mixture, refuse_rounding
from genmem.models.torch_kde import TorchKernelDensity

_CONVERTS = (KNNDensity, TorchKernelDensity)  # take any dtype, in parts: a copy would only cost memory


def refitted(model: Any, X: NDArray[Any]) -> Any:
    """Return a fresh model fitted to X, (n, *event): itself, or a `Moved` mixture.

    Raises:
        ModelError: its log p is wrong by rounding.
        Exception: whatever the user's model raises.
    """
    set_one_leaf(model, len(X))
    fitted = fitted_mixture(model, X) if is_mixture(model) and X.ndim == 2 else model.fit(X)
    fitted = model if fitted is None else fitted  # some `fit` return nothing
    rebuild_in_one_leaf(fitted)
    refuse_rounding(getattr(fitted, "mixture", fitted))
    return fitted


def in_its_precision(model: Any, X: NDArray[Any]) -> NDArray[Any]:
    """Return X as float64, or unchanged for a density that converts parts of it itself; bytes become numbers."""
    if type(model) in _CONVERTS:
        return X.astype(np.float32) if X.dtype == np.uint8 else X
    return X.astype(np.float64)


def _is_about_dtypes(error: Exception) -> bool:
    return any(word in str(error).lower() for word in ("dtype", "float", "double")) or not str(error)


def log_probs_of_refit(make: Callable[[], Any], X: NDArray[Any], keep: NDArray[np.bool_]) -> Any:
    """Return log p of all examples, as `score_samples` gives it, under a fresh model fitted to those kept.

    A user's density that does not take float64, such as one around a float32 network, gets float32 unless this blurs X.
    """
    model = make()
    values = in_its_precision(model, X)
    try:
        return refitted(model, values[keep]).score_samples(values)
    except GenmemError:
        raise
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        if not _is_about_dtypes(error):
            raise
    single = checked_examples(X).astype(np.float32, copy=False)
    return refitted(make(), single[keep]).score_samples(single)
