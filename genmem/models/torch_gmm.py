"""Gaussian mixtures fitted by expectation-maximisation on torch, in float64 and blocks of rows."""

import math
import warnings
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from genmem.errors import DataError, ModelError
from genmem.models.base import is_count, require, resolve_device
from genmem.models.em import EM, Mixture
from genmem.models.vectors import matrix, require_width
from genmem.seeding import stream

FloatArray = NDArray[np.float64]


class TorchGaussianMixture(BaseEstimator):  # type: ignore[misc]
    """A Gaussian mixture with the settings, the start and the steps of scikit-learn's `GaussianMixture`.

    From one `random_state` both find the same mixture. Everything is float64; memory beyond the data is a few blocks
    of rows and the covariances.

    Args:
        n_components: Gaussians.
        covariance_type: "full" or "diag".
        reg_covar: added to every variance, so that columns that never vary and components of one example stay
            regular; in units of the data squared.
        max_iter: steps of expectation-maximisation, at most.
        tol: a step that changes the mean log p by less (nats) is the last.
        n_init: starts (k-means from different seeds); the likeliest mixture is kept.
        weights_init: (n_components,) or None.
        means_init: (n_components, d) or None.
        precisions_init: inverse covariances to start from, (n_components, d, d) or (n_components, d), or None. With
            all three given, k-means is not run.
        device: "cpu", "cuda", "cuda:1"...; "auto" is CUDA where there is one.
        random_state: the seed of k-means and of `sample`.

    Attributes:
        weights_: (n_components,).
        means_: (n_components, d).
        covariances_: (n_components, d, d), or (n_components, d) of a "diag".
        precisions_cholesky_: of the same shape, C with C C^T the inverse covariance.
        converged_: whether a step changed less than `tol`.
        n_iter_: steps of the best start.
        lower_bound_: mean log p of the examples, nats, before its last step.
    """

    example_kind: ClassVar[str] = "vector"

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        tol: float = 1e-3,
        n_init: int = 1,
        weights_init: ArrayLike | None = None,
        means_init: ArrayLike | None = None,
        precisions_init: ArrayLike | None = None,
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.tol = tol
        self.n_init = n_init
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Fit to X, shape (n, d); `y` is ignored.

        Raises:
            DataError: X is no matrix of finite numbers, has fewer rows than components or than 2, or a covariance
                is singular.
            ModelError: a setting is out of range.
        """
        array = matrix(X)
        self._check_settings(len(array))
        em = EM(array, self.covariance_type, float(self.reg_covar), resolve_device(self.device))
        seeds = check_random_state(self.random_state)
        best: tuple[Mixture, float, int, bool] | None = None
        for _ in range(self.n_init):
            found = self._climb(em, self._start(em, array, seeds))
            if best is None or found[1] > best[1]:
                best = found
        assert best is not None
        self._keep(*best)
        return self

    def _climb(self, em: EM, mixture: Mixture) -> tuple[Mixture, float, int, bool]:
        """Return the mixture after the last step, its bound, the number of steps, and whether it converged."""
        bound, before = -math.inf, -math.inf
        for step in range(1, self.max_iter + 1):
            log_p, log_shares = em.expect(mixture)
            mixture = em.maximise(log_shares)
            bound, before = float(log_p.mean()), bound
            if abs(bound - before) < self.tol:
                return mixture, bound, step, True
        return mixture, bound, self.max_iter, False

    def _start(self, em: EM, X: NDArray[Any], seeds: np.random.RandomState) -> Mixture:
        given = {name: getattr(self, f"{name}_init") for name in ("weights", "means", "precisions")}
        self._check_shapes(given, X.shape[1])
        start = None
        if any(value is None for value in given.values()):
            start = em.from_labels(
                KMeans(self.n_components, n_init=1, random_state=seeds).fit(X).labels_, self.n_components
            )
        return em.replaced(start, **given)

    def _keep(self, mixture: Mixture, bound: float, steps: int, converged: bool) -> None:
        if not converged:
            warnings.warn(
                f"No start converged in {self.max_iter} steps to tol={self.tol}: raise max_iter.",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.weights_, self.means_, self.covariances_, self.precisions_cholesky_ = mixture.arrays()
        self.lower_bound_, self.n_iter_, self.converged_ = bound, steps, converged

    def score_samples(self, X: ArrayLike) -> FloatArray:
        """Return log p(x) of each row of X: shape (n,), nats."""
        self._check_fitted()
        array = matrix(X)
        require_width(array, self.means_.shape[1])
        device = resolve_device(self.device)
        em = EM(array, self.covariance_type, float(self.reg_covar), device)
        learned = (self.weights_, self.means_, self.covariances_, self.precisions_cholesky_)
        return em.expect(Mixture(*(torch.from_numpy(value).to(device) for value in learned)))[0].cpu().numpy()

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> FloatArray:
        """Return draws from the mixture: shape (n_samples, d)."""
        self._check_fitted()
        require("n_samples", n_samples, is_count, "an integer >= 1")
        rng = stream(self.random_state if random_state is None else random_state, "samples")
        chosen = rng.choice(len(self.weights_), size=n_samples, p=self.weights_ / self.weights_.sum())
        drawn = rng.standard_normal((n_samples, self.means_.shape[1]))
        if self.covariance_type == "diag":
            return self.means_[chosen] + drawn * np.sqrt(self.covariances_)[chosen]
        for component in np.unique(chosen):
            rows = chosen == component
            drawn[rows] = drawn[rows] @ np.linalg.cholesky(self.covariances_[component]).T
        return self.means_[chosen] + drawn

    @property
    def precisions_(self) -> FloatArray:
        """The inverse covariances, of the shape of `covariances_`."""
        C = self.precisions_cholesky_
        return np.square(C) if self.covariance_type == "diag" else C @ C.transpose(0, 2, 1)

    def _check_settings(self, n: int) -> None:
        for name in ("n_components", "max_iter", "n_init"):
            require(name, getattr(self, name), is_count, "an integer >= 1")
        for name in ("reg_covar", "tol"):
            value = getattr(self, name)
            require(name, value, _is_finite, "a number >= 0")
        require("covariance_type", self.covariance_type, ("full", "diag").__contains__, '"full" or "diag"')
        if n < max(2, self.n_components):
            raise DataError(
                expected=f"at least {max(2, self.n_components)} examples for {self.n_components} components",
                got=f"{n}",
                do="Add examples, or choose fewer components.",
            )

    def _check_shapes(self, given: dict[str, Any], d: int) -> None:
        k, full = self.n_components, self.covariance_type == "full"
        shapes = {"weights": (k,), "means": (k, d), "precisions": (k, d, d) if full else (k, d)}
        for name, shape in shapes.items():
            if given[name] is not None and np.shape(given[name]) != shape:
                raise ModelError(
                    expected=f"{name}_init of shape {shape}", got=f"{np.shape(given[name])}", do=f"Change {name}_init."
                )

    def _check_fitted(self) -> None:
        if not hasattr(self, "means_"):
            raise ModelError(
                expected=f"a fitted {type(self).__name__}", got="one before fit", do="Call `fit(X)` first."
            )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf
