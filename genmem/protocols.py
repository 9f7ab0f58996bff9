"""The interfaces that genmem expects: a density with scikit-learn's conventions, and a listener to progress."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from genmem.errors import ModelError


@runtime_checkable
class Density(Protocol):
    """A probabilistic model of data; `KernelDensity` and `GaussianMixture` of scikit-learn are examples.

    `clone(model).fit(X[keep])` is a leave-out refit, so constructor arguments must be stored verbatim.
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to `X`, an array of shape (n, *event), and return self."""

    def score_samples(self, X: Any) -> Any:
        """Return log p(x) of every example of `X`: shape (n,), nats."""

    def sample(self, n_samples: int = 1) -> Any:
        """Return `n_samples` samples of the model."""


def draw(model: Density, n: int, seed: int) -> NDArray[Any]:
    """Return `n` samples of a fitted model, shape (n, *event): always an array and always seeded.

    Raises:
        ModelError: the samples of the model cannot be seeded.
    """
    if "random_state" in inspect.signature(model.sample).parameters:
        return _array(model.sample(n, random_state=seed))  # type: ignore[call-arg]
    if not hasattr(model, "random_state"):
        raise ModelError(
            expected="a model whose samples can be seeded",
            got=f"{type(model).__name__}.sample without random_state",
            do="Give `sample` a `random_state` argument, or the model a `random_state` attribute.",
        )
    seeded = copy.copy(model)
    seeded.random_state = seed
    return _array(seeded.sample(n))


def _array(samples: Any) -> NDArray[Any]:
    # GaussianMixture returns (samples, components).
    return np.asarray(samples[0] if isinstance(samples, tuple) else samples)


# --- progress


@dataclass(frozen=True)
class Progress:
    """One report of progress: `done` of `total` units of `stage`, and the current work as `detail`."""

    stage: str
    done: float
    total: float
    detail: str = ""


Listener = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """Ignore all progress."""
