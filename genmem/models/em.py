"""Expectation-maximisation for Gaussian mixtures on torch, in float64 and blocks of rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from genmem.errors import DataError
from genmem.models.vectors import row_parts

FloatArray = NDArray[np.float64]
_CHUNK = 2**22  # values handled at a time
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
        """Return the mixture of the highest likelihood at these responsibilities."""
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
        """Return the mixture of a hard assignment."""
        assigned = torch.from_numpy(np.eye(k)[labels]).to(self.device)
        return self.maximise(assigned.log())

    def replaced(
        self, start: Mixture | None, weights: ArrayLike | None, means: ArrayLike | None, precisions: ArrayLike | None
    ) -> Mixture:
        """Return the start, needed where something is None, with what is given in its place."""
        C = self._given(precisions, None if start is None else start.precisions_cholesky)
        if precisions is not None:
            C = self._cholesky(C)
        return Mixture(
            self._given(weights, None if start is None else start.weights),
            self._given(means, None if start is None else start.means),
            C if start is None else start.covariances,  # no step looks at them
            C,
        )

    def _given(self, value: ArrayLike | None, other: Tensor | None) -> Tensor:
        if value is not None:
            return torch.tensor(np.asarray(value, np.float64), device=self.device)
        assert other is not None
        return other

    def _cholesky(self, precisions: Tensor) -> Tensor:
        """Return C, upper triangular, with C C^T a precision: the Cholesky factor of all reversed, reversed."""
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
        got="a component with columns that do not vary in it, or that depend on each other",
        do="Raise reg_covar, choose fewer components, or drop columns that never vary.",
    )
