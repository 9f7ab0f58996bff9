"""Gaussian mixtures fitted by expectation-maximization on torch, in float64 and blocks of rows."""

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from torch import Tensor

from genmem.data.arrays import matrix, require_shape, row_parts
from genmem.data.examples import Data
from genmem.errors import DataError, ModelError
from genmem.models.base import is_count, require, resolve_device
from genmem.seeding import stream

FloatArray = NDArray[np.float64]
_CHUNK = 2**22  # values processed at a time
_TINY = 10 * float(np.finfo(np.float64).eps)  # added to the size of a component, as in scikit-learn


@dataclass(frozen=True, eq=False)
class Mixture:
    """The parameters of a mixture, float64 tensors."""

    weights: Tensor  # (k,)
    means: Tensor  # (k, d)
    covariances: Tensor  # (k, d, d) or (k, d)
    precisions_cholesky: Tensor  # the same

    def arrays(self) -> list[FloatArray]:
        """Return weights, means, covariances and Cholesky factors of precisions as arrays."""
        values = (self.weights, self.means, self.covariances, self.precisions_cholesky)
        return [value.cpu().numpy() for value in values]


@dataclass(frozen=True, eq=False)
class EM:
    """The two steps, over blocks of rows; `kind` is "full" or "diag"."""

    X: NDArray[Any]
    kind: str
    reg_covar: float
    device: torch.device

    def blocks(self) -> Iterator[Tensor]:
        """Yield the rows in float64, some at a time."""
        return (torch.from_numpy(part).to(self.device) for part in row_parts(self.X, _CHUNK))

    def expect(self, mixture: Mixture) -> tuple[Tensor, Tensor]:
        """Return log p (n,) and log responsibilities (n, k)."""
        C = mixture.precisions_cholesky
        half_log_det = C.diagonal(dim1=1, dim2=2).log().sum(1) if self.kind == "full" else C.log().sum(1)
        constant = half_log_det + mixture.weights.log() - 0.5 * self.X.shape[1] * math.log(2 * math.pi)
        parts = []
        for x in self.blocks():
            joint = torch.empty(len(x), len(constant), dtype=torch.float64, device=self.device)
            for j, mean in enumerate(mixture.means):
                gap = x - mean
                gap = gap @ C[j] if self.kind == "full" else gap * C[j]
                joint[:, j] = gap.square_().sum(1).mul_(-0.5)
            parts.append(joint + constant)
        joint = torch.cat(parts)
        log_p = torch.logsumexp(joint, 1)
        return log_p, joint - log_p[:, None]

    def maximise(self, log_shares: Tensor) -> Mixture:
        """Return the mixture with the highest likelihood given these responsibilities."""
        shares = log_shares.exp()
        sizes = shares.sum(0) + _TINY
        means = torch.zeros(len(sizes), self.X.shape[1], dtype=torch.float64, device=self.device)
        start = 0
        for x in self.blocks():
            means += shares[start : start + len(x)].T @ x
            start += len(x)
        means /= sizes[:, None]
        covariances = self._covariances(shares, sizes, means)
        return Mixture(sizes / sizes.sum(), means, covariances, self.cholesky_of_inverse(covariances))

    def _covariances(self, shares: Tensor, sizes: Tensor, means: Tensor) -> Tensor:
        k, d = means.shape
        shape = (k, d, d) if self.kind == "full" else (k, d)
        sums, start = torch.zeros(shape, dtype=torch.float64, device=self.device), 0
        for x in self.blocks():
            some = shares[start : start + len(x)]
            start += len(x)
            for j in range(k):
                gap = x - means[j]
                sums[j] += (gap * some[:, j : j + 1]).T @ gap if self.kind == "full" else some[:, j] @ gap.square_()
        sums /= sizes.reshape(-1, *[1] * (len(shape) - 1))
        variances = sums.diagonal(dim1=1, dim2=2) if self.kind == "full" else sums
        variances += self.reg_covar
        return sums

    def cholesky_of_inverse(self, covariances: Tensor) -> Tensor:
        """Return C with C C^T the inverse of each covariance."""
        if self.kind == "diag":
            if not bool((covariances > 0).all()):
                raise _singular()
            return covariances.rsqrt()
        factor, info = torch.linalg.cholesky_ex(covariances)
        if bool((info != 0).any()):
            raise _singular()
        unit = torch.eye(covariances.shape[-1], dtype=torch.float64, device=self.device).expand_as(factor)
        inverse: Tensor = torch.linalg.solve_triangular(factor, unit, upper=False)
        return inverse.mT

    def from_labels(self, labels: NDArray[Any], k: int) -> Mixture:
        """Return the mixture for a hard assignment."""
        assigned = torch.from_numpy(np.eye(k)[labels]).to(self.device)
        return self.maximise(assigned.log())

    def replaced(
        self, start: Mixture | None, weights: ArrayLike | None, means: ArrayLike | None, precisions: ArrayLike | None
    ) -> Mixture:
        """Return the start with the given parameters replaced; a start is needed if any of them is None."""
        C = self._given(precisions, None if start is None else start.precisions_cholesky)
        if precisions is not None:
            C = self._cholesky(C)
        return Mixture(
            self._given(weights, None if start is None else start.weights),
            self._given(means, None if start is None else start.means),
            C if start is None else start.covariances,  # no step uses them
            C,
        )

    def _given(self, value: ArrayLike | None, other: Tensor | None) -> Tensor:
        if value is not None:
            return torch.tensor(np.asarray(value, np.float64), device=self.device)
        assert other is not None
        return other

    def _cholesky(self, precisions: Tensor) -> Tensor:
        """Return C, upper triangular, with C C^T the precision: a Cholesky factor in reversed order."""
        if self.kind == "diag":
            return precisions.sqrt()
        factor, info = torch.linalg.cholesky_ex(precisions.flip(1, 2))
        if bool((info != 0).any()):
            raise _singular()
        reversed_: Tensor = factor.flip(1, 2)
        return reversed_


def _singular() -> DataError:
    return DataError(
        expected="covariances that are not singular",
        got="a component with columns that are constant in it, or that depend on each other",
        do="Raise reg_covar, choose fewer components, or drop constant columns.",
    )


# --- the density


@dataclass(eq=False, repr=False)
class TorchGaussianMixture(BaseEstimator):  # type: ignore[misc]
    """A Gaussian mixture with the settings, the start and the steps of scikit-learn's `GaussianMixture`.

    With equal `random_state` both arrive at the same mixture. Everything is float64; memory beyond the data is a few
    blocks of rows and the covariances.

    Args:
        n_components: Gaussians.
        covariance_type: "full" or "diag".
        reg_covar: added to every variance, so that constant columns and components of one example stay regular; in
            units of the data squared.
        max_iter: steps of expectation-maximization, at most.
        tol: EM stops after a step that changes the mean log p by less (nats).
        n_init: starts (k-means from different seeds); the mixture with the highest likelihood is kept.
        weights_init: (n_components,) or None.
        means_init: (n_components, d) or None.
        precisions_init: inverse covariances to start from, (n_components, d, d) or (n_components, d), or None. With
            all three given, k-means is not run.
        device: "cpu", "cuda", "cuda:1"...; "auto" is CUDA if available.
        random_state: the seed of k-means and of `sample`.

    Attributes:
        weights_: (n_components,).
        means_: (n_components, d).
        covariances_: (n_components, d, d), or (n_components, d) if "diag".
        precisions_cholesky_: of the same shape, C with C C^T the inverse covariance.
        converged_: whether a step changed the mean log p by less than `tol`.
        n_iter_: steps of the best start.
        lower_bound_: mean log p of the examples, nats, before its last step.
    """

    example_kind: ClassVar[str] = "vector"

    n_components: int = 1
    _: KW_ONLY
    covariance_type: str = "full"
    reg_covar: float = 1e-6
    max_iter: int = 100
    tol: float = 1e-3
    n_init: int = 1
    weights_init: ArrayLike | None = None
    means_init: ArrayLike | None = None
    precisions_init: ArrayLike | None = None
    device: str = "auto"
    random_state: int = 0

    @classmethod
    def suited(cls, data: Data, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return a few Gaussians, regularized so that constant columns do not make them singular."""
        return {"n_components": 10, "covariance_type": "diag", "reg_covar": 1e-3}

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Fit to X, shape (n, d); `y` is ignored.

        Raises:
            DataError: X is not a matrix of finite numbers, has fewer rows than components or than 2, or a covariance
                is singular.
            ModelError: a setting is out of range.
        """
        array = matrix(X)
        self.check_settings()
        self._require_enough(len(array))
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
        require_shape(array.shape[1:], self.means_.shape[1:])
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

    def check_settings(self) -> None:
        """Raise a ModelError if a setting is out of range."""
        for name in ("n_components", "max_iter", "n_init"):
            require(name, getattr(self, name), is_count, "an integer >= 1")
        for name in ("reg_covar", "tol"):
            value = getattr(self, name)
            require(name, value, _is_finite, "a number >= 0")
        require("covariance_type", self.covariance_type, ("full", "diag").__contains__, '"full" or "diag"')
        resolve_device(self.device)

    def _require_enough(self, n: int) -> None:
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
                expected=f"a fitted {type(self).__name__}", got="an unfitted one", do="Call `fit(X)` first."
            )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf
