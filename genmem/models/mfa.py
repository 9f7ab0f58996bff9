"""A Bayesian mixture of factor analysers: local linear-Gaussian models, fitted by stochastic variational inference."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from genmem.data import constant_columns
from genmem.errors import DataError
from genmem.models.base import as_tensor, is_count, require
from genmem.models.mfa_module import Columns, MixtureModule, model_and_guide
from genmem.models.pyro_density import CPU, PairDensity
from genmem.models.pyro_module import own_state
from genmem.models.pyro_sites import Program
from genmem.rows import blocks

LEAST_SCALE = 1e-30  # of a column that varies by less than float32 can tell


class MixtureOfFactorAnalysers(PairDensity):
    """A Bayesian mixture of factor analysers, p(x) = sum_k w_k N(x; m_k, L_k L_k' + diag(v_k)).

    Each component is a Gaussian whose covariance has a few directions ("factors", the columns of L_k) and a variance of
    its own for each column. Component and factors of an example are summed and integrated out exactly. What all
    examples share is latent, in units of each column's mean and standard deviation:

        w ~ Dirichlet(1, ..., 1)    m ~ N(0, 1)    L ~ N(0, 1 / factors)    v - 0.001 ~ LogNormal(log 0.3, 1)

    with a mean-field guide: independent normals, of the logarithm for v and after stick-breaking for w, all fitted
    together on `Trace_ELBO`. log p(x) is the log of the mean of p(x) over draws from it: the density of a new
    example under the fitted posterior.

    Means start at random, in standard units about 3 from the middle of the data (nearer in fewer than 9 columns), which
    divides the data among them. Nothing about the examples of a refit is known when its network is made; starting at
    means found in all the data, as k-means would, would tell it about the held-out ones.

    Args:
        components: Gaussians.
        factors: directions of each; as many as columns that vary at most.
        columns: a (mean, standard deviation) pair for each column of flattened examples. One of standard deviation 0
            takes one value in all the data and is left out. None finds them when data are at hand: all data, before
            any refit leaves examples out, so that every refit works in the same units.
        epochs: passes over the data.
        batch_size, learning_rate, checkpoint_every, device, random_state: see `DeepDensity`.

    References:
        The EM Algorithm for Mixtures of Factor Analyzers (Ghahramani & Hinton, 1996),
        https://www.cs.toronto.edu/~hinton/absps/tr-96-1.pdf; Variational Inference for Bayesian Mixtures of Factor
        Analysers (Ghahramani & Beal, 1999),
        https://proceedings.neurips.cc/paper_files/paper/1999/hash/2451041557a22145b3701b0184109cab-Abstract.html
    """

    def __init__(
        self,
        *,
        components: int = 20,
        factors: int = 6,
        columns: Sequence[Sequence[float]] | None = None,
        epochs: int = 100,
        batch_size: int = 64,
        learning_rate: float = 0.01,
        checkpoint_every: int | None = None,
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        super().__init__(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            checkpoint_every=checkpoint_every,
            device=device,
            random_state=random_state,
        )
        self.components = components
        self.factors = factors
        self.columns = columns

    def make_pair_for(self, event_shape: tuple[int, ...]) -> tuple[Program, Program]:
        """Return the model and its mean-field guide, with random starting values."""
        columns = self.columns or [(0.0, 1.0)] * math.prod(event_shape)
        return model_and_guide(Columns(columns), self.components, self.factors)

    def network(self, event_shape: tuple[int, ...], n_train: int) -> "MixtureModule":
        """Return a fresh network to be trained on `n_train` examples."""
        with own_state():
            model, guide = self.make_pair_for(event_shape)
        return MixtureModule(model, guide, event_shape, n_train)

    def resolve(self, X: NDArray[Any]) -> Self:
        """Return an unfitted copy with `columns` found in X.

        Raises:
            DataError: every column is constant, `columns` belong to other data, or X is no array of finite numbers.
            ModelError: a setting is out of range.
        """
        self._check_settings()
        as_tensor(X, CPU)  # a numeric array of finite values, or an error that says what it is
        resolved = self._copy()
        if self.columns is None:
            resolved.set_params(columns=find_columns(X))
        elif len(self.columns) != X[0].size:
            raise DataError(
                expected=f"columns for the {X[0].size} values of an example",
                got=f"{len(self.columns)}",
                do="Leave `columns` out: they are found in the data.",
            )
        return super(MixtureOfFactorAnalysers, resolved).resolve(X)

    def _check_settings(self) -> None:
        super()._check_settings()
        require("components", self.components, is_count, "an integer >= 1")
        require("factors", self.factors, is_count, "an integer >= 1")
        require("columns", self.columns, _are_columns, "None or a [mean, standard deviation] of each column")


def find_columns(X: NDArray[Any]) -> list[list[float]]:
    """Return the mean and the standard deviation of each column of flattened examples; 0 where it never varies.

    Raises:
        DataError: none varies.
    """
    size, n = X[0].size, len(X)
    mean, square = np.zeros(size), np.zeros(size)
    for _, block in blocks(X):
        mean += block.sum(0, dtype=np.float64) / n
    for _, block in blocks(X):
        square += np.square(block - mean).sum(0) / n
    scale = np.maximum(np.sqrt(square), LEAST_SCALE)
    constant = constant_columns(X)
    if len(constant) == size:
        raise DataError(
            expected="at least one column that varies",
            got="the same value in every example",
            do="Check that the right array was loaded.",
        )
    scale[constant], mean[constant] = 0.0, X[0].reshape(-1)[constant]
    return [[float(m), float(s)] for m, s in zip(mean, scale, strict=True)]


def _are_columns(value: Any) -> bool:
    """Return whether a setting is None, or (mean, standard deviation) pairs of which one is above 0."""
    if value is None:
        return True
    if not isinstance(value, Sequence) or isinstance(value, str) or any(np.shape(pair) != (2,) for pair in value):
        return False
    pairs = np.asarray(value, dtype=float)
    return bool(np.isfinite(pairs).all() and (pairs[:, 1] >= 0).all() and (pairs[:, 1] > 0).any())
