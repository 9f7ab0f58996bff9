"""A Bayesian mixture of factor analysers: local linear-Gaussian models, fitted by stochastic variational inference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import vmap

from genmem.data.arrays import blocks, constants_of
from genmem.errors import DataError
from genmem.models.base import as_tensor, is_count, require
from genmem.models.evaluation import DRAWS
from genmem.models.pyro_density import CPU, PairDensity
from genmem.models.pyro_module import PairModule, own_state
from genmem.models.pyro_sites import Program, value_of

LEAST_SCALE = 1e-30  # of a column whose variation is below the resolution of float32


@dataclass(kw_only=True, eq=False, repr=False)
class MixtureOfFactorAnalysers(PairDensity):
    """A Bayesian mixture of factor analysers, p(x) = sum_k w_k N(x; m_k, L_k L_k' + diag(v_k)).

    Each component is a Gaussian whose covariance has a few directions ("factors", the columns of L_k) and a separate
    variance for each column. The component and the factors of an example are summed and integrated out exactly. The
    parameters that all examples share are latent, in units of each column's mean and standard deviation:

        w ~ Dirichlet(1, ..., 1)    m ~ N(0, 1)    L ~ N(0, 1 / factors)    v - 0.001 ~ LogNormal(log 0.3, 1)

    with a mean-field guide: independent normals, of the logarithm for v and after stick-breaking for w, all fitted
    together on `Trace_ELBO`. log p(x) is the log of the mean of p(x) over draws from it: the density of a new
    example under the fitted posterior.

    Means start at random, in standard units about 3 from the mean of the data (closer in fewer than 9 columns), which
    divides the data among them. A network is made without any information about the examples of its refit: a start at
    k-means of all the data would depend on the held-out examples.

    Args:
        components: Gaussians.
        factors: directions of each; at most the number of columns that vary.
        columns: a (mean, standard deviation) pair for each column of flattened examples. A column of standard deviation
            0 has one value in all the data and is left out. None determines them from all the data, before any refit
            leaves examples out, so that every refit uses the same units.
        epochs: passes over the data.
        batch_size, learning_rate, checkpoint_every, device, random_state: see `DeepDensity`.

    References:
        The EM Algorithm for Mixtures of Factor Analyzers (Ghahramani & Hinton, 1996),
        https://www.cs.toronto.edu/~hinton/absps/tr-96-1.pdf; Variational Inference for Bayesian Mixtures of Factor
        Analysers (Ghahramani & Beal, 1999),
        https://proceedings.neurips.cc/paper_files/paper/1999/hash/2451041557a22145b3701b0184109cab-Abstract.html
    """

    components: int = 20
    factors: int = 6
    columns: Sequence[Sequence[float]] | None = None
    learning_rate: float = 0.01

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
        """Return an unfitted copy with `columns` determined from X.

        Raises:
            DataError: every column is constant, `columns` belong to other data, or X is not an array of finite numbers.
            ModelError: a setting is out of range.
        """
        self.check_settings()
        as_tensor(X, CPU)  # raises an error unless it is a numeric array of finite values
        resolved = self._copy()
        if self.columns is None:
            resolved.set_params(columns=find_columns(X))
        elif len(self.columns) != X[0].size:
            raise DataError(
                expected=f"columns for the {X[0].size} values of an example",
                got=f"{len(self.columns)}",
                do="Leave `columns` out: they are determined from the data.",
            )
        return super(MixtureOfFactorAnalysers, resolved).resolve(X)

    def check_settings(self) -> None:
        """Raise a ModelError if a setting is out of range."""
        super().check_settings()
        require("components", self.components, is_count, "an integer >= 1")
        require("factors", self.factors, is_count, "an integer >= 1")
        require("columns", self.columns, _are_columns, "None or a [mean, standard deviation] of each column")


def find_columns(X: NDArray[Any]) -> list[list[float]]:
    """Return the mean and the standard deviation of each column of flattened examples; 0 for a constant column.

    Raises:
        DataError: all are constant.
    """
    size, n = X[0].size, len(X)
    mean, square = np.zeros(size), np.zeros(size)
    for _, block in blocks(X):
        mean += block.sum(0, dtype=np.float64) / n
    for _, block in blocks(X):
        square += np.square(block - mean).sum(0) / n
    scale = np.maximum(np.sqrt(square), LEAST_SCALE)
    for column, value in constants_of(X):
        scale[int(column)], mean[int(column)] = 0.0, value
    return [[float(m), float(s)] for m, s in zip(mean, scale, strict=True)]


def _are_columns(value: Any) -> bool:
    """Return whether a setting is None, or (mean, standard deviation) pairs with one standard deviation above 0."""
    if value is None:
        return True
    if not isinstance(value, Sequence) or isinstance(value, str) or any(np.shape(pair) != (2,) for pair in value):
        return False
    pairs = np.asarray(value, dtype=float)
    return bool(np.isfinite(pairs).all() and (pairs[:, 1] >= 0).all() and (pairs[:, 1] > 0).any())


# --- the model, the guide and the network


SHARED = ("weights", "means", "loadings", "noise")
NOISE_FLOOR = 1e-3  # of a column's variance: columns that repeat a value would have an unbounded density
NOISE_GUESS = 0.3  # of a column's variance: the median of its prior
APART = 3.0  # standard deviations between the mean of the data and that of a component, before training
AT_ONCE = 2**22  # values of one intermediate result


class Columns(nn.Module):
    """The map of flattened examples to units in which every column has mean 0 and variance 1, and its inverse.

    Args:
        columns: a (mean, standard deviation) pair for each column; one of standard deviation 0 is left out.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, columns: Sequence[Sequence[float]]) -> None:
        super().__init__()
        mean, scale = torch.tensor(columns, dtype=torch.float32).unbind(1)
        self.varying = torch.nonzero(scale > 0)[:, 0]  # a plain attribute: all lanes share it
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale[self.varying])

    def standardise(self, x: Tensor) -> Tensor:
        """Return x, (..., columns), in units of the columns that vary: (..., varying)."""
        return (x - self.mean).index_select(-1, self.varying.to(x.device)) / self.scale

    def restore(self, z: Tensor) -> Tensor:
        """Return whole examples, (..., columns), from columns in standard units."""
        x = self.mean.expand(*z.shape[:-1], len(self.mean)).clone()
        x[..., self.varying.to(z.device)] += z * self.scale
        return x

    def log_volume(self) -> Tensor:
        """Return the log of the ratio of a volume in units of the data to one in standard units."""
        return self.scale.log().sum()


class InColumns(TorchDistribution):
    """A distribution in standard units as a distribution of whole flattened examples."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, base: Any, columns: Columns) -> None:
        self.base, self.columns = base, columns
        super().__init__(base.batch_shape, torch.Size([len(columns.mean)]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p, nats."""
        density: Tensor = self.base.log_prob(self.columns.standardise(value))
        return density - self.columns.log_volume()

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return draws, constant columns included."""
        return self.columns.restore(self.base.sample(sample_shape))


class FactorAnalysers(dist.LowRankMultivariateNormal):
    """Gaussians N(m_k, L_k L_k' + diag(v_k)), k = 1..K: `LowRankMultivariateNormal` with its density in fewer steps.

    By the Woodbury identity, with M = I + L' V^-1 L = C C' and d = x - m,

        d' (L L' + V)^-1 d = d' V^-1 d - |C^-1 L' V^-1 d|^2        log det = log det V + log det M

    The base class copies L for every example; here one product serves the batch.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log N of value (..., K or 1, d) under each Gaussian: (..., K)."""
        difference = value - self.loc
        variance, root = self._unbroadcasted_cov_diag, self._capacitance_tril
        scaled = difference / variance
        flat = scaled.reshape(-1, *self.loc.shape)
        projected = torch.einsum("bkd,kdq->kqb", flat, self._unbroadcasted_cov_factor)
        explained = torch.linalg.solve_triangular(root, projected, upper=False).square().sum(1).mT
        distance = (scaled * difference).sum(-1) - explained.reshape(scaled.shape[:-1])
        log_det = variance.log().sum(-1) + 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        density: Tensor = -0.5 * (distance + log_det + self.loc.shape[-1] * math.log(2 * math.pi))
        return density


class MixtureModel(nn.Module):
    """The generative model; parameters that all examples share have priors in standard units."""

    def __init__(self, columns: Columns, components: int, factors: int) -> None:
        super().__init__()
        self.columns, self.components = columns, components
        self.shape = (components, len(columns.varying))
        self.factors = min(factors, self.shape[1])

    def forward(self, x: Tensor) -> None:
        """Run the model on x (batch, *event)."""
        zeros, ones = x.new_zeros(self.shape), x.new_ones(self.shape)
        weights = pyro.sample("weights", dist.Dirichlet(x.new_ones(self.components)))
        means = pyro.sample("means", dist.Normal(zeros, ones).to_event(2))
        directions = x.new_zeros(*self.shape, self.factors)
        loadings = pyro.sample("loadings", dist.Normal(directions, self.factors**-0.5).to_event(3))
        noise = pyro.sample("noise", dist.LogNormal(zeros + math.log(NOISE_GUESS), ones).to_event(2))
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.given(weights, means, loadings, noise), obs=x.flatten(1))

    def given(self, weights: Tensor, means: Tensor, loadings: Tensor, noise: Tensor) -> InColumns:
        """Return p(x | shared parameters) as a distribution; component and factors are marginalized."""
        gaussians = FactorAnalysers(means, loadings, noise + NOISE_FLOOR, validate_args=False)
        mixing = dist.Categorical(logits=weights.log(), validate_args=False)
        return InColumns(dist.MixtureSameFamily(mixing, gaussians, validate_args=False), self.columns)

    def start(self) -> dict[str, Tensor]:
        """Return random starting values."""
        apart = min(1.0, APART / math.sqrt(self.shape[1]))
        return {
            "weights": torch.full((self.components,), 1 / self.components),
            "means": apart * torch.randn(self.shape),
            "loadings": 0.1 * torch.randn(*self.shape, self.factors),
            "noise": torch.full(self.shape, 0.5),
        }


def model_and_guide(columns: Columns, components: int, factors: int) -> tuple[Program, Program]:
    """Return the model and its mean-field guide."""
    model = MixtureModel(columns, components, factors)
    return model, AutoNormal(model, init_loc_fn=init_to_value(values=model.start()), init_scale=0.02)


class MixtureModule(PairModule):
    """The network: like `PairModule`, with many draws of the shared parameters evaluated at once."""

    def log_weights(self, x: Tensor, draws: int = 1) -> Tensor:
        """Return log p(x | theta) for theta ~ q(theta): (draws, batch), nats."""
        model, flat, parts = self._mixture(), x.flatten(1), []
        at_once = max(1, AT_ONCE // (len(x) * math.prod(model.shape)))
        density = vmap(lambda *theta: model.given(*theta).log_prob(flat), chunk_size=at_once)
        for first in range(0, draws, DRAWS):
            parts.append(density(*self._shared(x, min(DRAWS, draws - first))))
        return torch.cat(parts)

    def sample(self, n: int) -> Tensor:
        """Return n draws of x, each with its own draw of the shared parameters: (n, *event)."""
        x = self.n_train.new_zeros(1, *self.event_shape)
        parts = [self._drawn_each(x, min(DRAWS, n - first)) for first in range(0, n, DRAWS)]
        return torch.cat(parts).view(n, *self.event_shape)

    def _drawn_each(self, x: Tensor, n: int) -> Tensor:
        weights, *others = self._shared(x, n)
        component = torch.multinomial(weights, 1)[:, 0]
        mean, loadings, noise = (values[torch.arange(n, device=x.device), component] for values in others)
        factors = torch.randn_like(loadings[:, 0])
        spread = (noise + NOISE_FLOOR).sqrt() * torch.randn_like(mean)
        return self._mixture().columns.restore(mean + torch.einsum("ndq,nq->nd", loadings, factors) + spread)

    def _mixture(self) -> MixtureModel:
        model = self.owners[0]
        assert isinstance(model, MixtureModel)
        return model

    def _shared(self, x: Tensor, draws: int) -> list[Tensor]:
        """Return draws of the shared parameters from the guide, side by side in a plate: (draws, *shape) each."""
        with self.running() as (_, guide), pyro.plate("draws", draws):
            drawn = poutine.trace(guide).get_trace(x)
        return [value_of(drawn, name) for name in SHARED]
