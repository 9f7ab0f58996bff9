"""The variational auto-encoder with fully connected layers."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.data import constant_columns
from genmem.errors import DataError
from genmem.models.base import DeepDensity, is_count, require

LIKELIHOODS = ("bernoulli", "gaussian", "logit_normal")
MIN_LOG_VARIANCE = -7.0
CACHE_LINE = 16  # float32 values
SQUEEZE = 0.05  # logit_normal works on logit(.05 + .9 x), finite on the closed unit interval


class VAE(DeepDensity):
    """A variational auto-encoder: x <- z ~ N(0, I), with a diagonal Gaussian encoder.

    Args:
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        latent_dim: the size of z.
        likelihood: "bernoulli" (data 0 or 1), "gaussian" (any real data; one learned log variance, at least
            -7) or "logit_normal" (data in [0, 1]; a Gaussian on logit(.05 + .9 x)).
        beta: the weight of KL in the training loss; log p does not depend on it.
        constants: (column, value) pairs of flattened columns that take one value in all the data and are left out: by
            a continuous likelihood because it would diverge on them, by "bernoulli" to save time (most of an MNIST
            image's margin). None finds them when data are at hand, () keeps all columns.
        epochs, batch_size, learning_rate, checkpoint_every, device, random_state: see `DeepDensity`.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    >>> VAE(latent_dim=2).get_params()["latent_dim"]
    2
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (512, 256),
        latent_dim: int = 16,
        likelihood: str = "gaussian",
        beta: float = 1.0,
        constants: Sequence[Sequence[float]] | None = None,
        epochs: int = 100,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
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
        self.hidden = hidden
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.beta = beta
        self.constants = constants

    def make_module(self, event_shape: tuple[int, ...]) -> "VAEModule":
        """Return a fresh network for examples of this shape."""
        return VAEModule(
            event_shape,
            hidden=self.hidden,
            latent_dim=self.latent_dim,
            likelihood=self.likelihood,
            beta=self.beta,
            constants=self.constants or (),
        )

    def resolve(self, X: NDArray[Any]) -> Self:
        """Return an unfitted copy with `constants` found in X.

        Raises:
            DataError: X does not suit the likelihood, or every column is constant.
            ModelError: a setting is out of range.
        """
        self._check_settings()
        _check_range(X, self.likelihood)
        resolved = self._copy()
        if self.constants is not None:
            return resolved
        found = _constants(X)
        if self.likelihood == "bernoulli":  # some may stay, so that what is left fills cache lines
            found = found[-(X[0].size - len(found)) % CACHE_LINE :]
        resolved.set_params(constants=found)
        return resolved

    def latent_mean(self, X: NDArray[Any]) -> NDArray[np.float32]:
        """Return the encoder's mean of z for each row of X: (n, latent_dim)."""
        self._check_fitted()
        return latent_mean(self.module_, X)

    def _check_settings(self) -> None:
        super()._check_settings()
        require("latent_dim", self.latent_dim, is_count, "an integer >= 1")
        require("hidden", self.hidden, _are_widths, "a list of layer widths, such as [128, 64]")
        require("likelihood", self.likelihood, LIKELIHOODS.__contains__, f"one of {', '.join(LIKELIHOODS)}")
        require("constants", self.constants, _are_pairs, "None or a list of [column, value]")
        require("beta", self.beta, lambda v: isinstance(v, int | float) and v >= 0, "a number >= 0")


class VAEModule(nn.Module):
    """The network of `VAE`; it takes its noise from outside, so that lanes and batches leave no mark on it."""

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        hidden: Sequence[int],
        latent_dim: int,
        likelihood: str,
        beta: float,
        constants: Sequence[Sequence[float]],
    ) -> None:
        super().__init__()
        size = math.prod(event_shape)
        self.event_shape, self.likelihood, self.beta = tuple(event_shape), likelihood, beta
        self.noise_shape = (latent_dim,)
        self.constants = {int(column): float(value) for column, value in constants}
        # Plain attributes, not buffers: all lanes share them.
        self.varying = None
        if self.constants:
            self.varying = torch.tensor([i for i in range(size) if i not in self.constants])
        kept = size - len(self.constants)
        self.encoder = _mlp([kept if likelihood == "bernoulli" else size, *hidden, 2 * latent_dim])
        self.decoder = _mlp([latent_dim, *reversed(hidden), kept])
        if likelihood != "bernoulli":
            self.log_variance = nn.Parameter(torch.tensor(-2.0))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoder's mean and log variance of z: (batch, latent) each."""
        flat = x.flatten(1)
        flat = self._without_constants(flat) if self.likelihood == "bernoulli" else flat
        mean, log_variance = self.encoder(flat).chunk(2, dim=-1)
        return mean, log_variance

    def forward(self, x: Tensor, draws: int = 1, noise: Tensor | None = None) -> Tensor:
        """Return -log p(x | z) + beta KL(q(z | x) || p(z)) of each example: (batch,), nats."""
        mean, log_variance = self.posterior(x)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        z = mean + (0.5 * log_variance).exp() * self._noise(x, draws, noise)
        return self.beta * kl - self._log_likelihood(x, z).mean(0)

    def log_weights(
        self,
        x: Tensor,
        draws: int = 1,
        noise: Tensor | None = None,
        posterior: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return log p(x | z) + log p(z) - log q(z | x) for z ~ q: (draws, batch), nats.

        `posterior` is the mean and log variance of q; the encoder's without it.
        """
        mean, log_variance = self.posterior(x) if posterior is None else posterior
        eps = self._noise(x, draws, noise)
        z = mean + (0.5 * log_variance).exp() * eps
        prior_over_posterior = 0.5 * (log_variance + eps.square() - z.square()).sum(-1)
        return self._log_likelihood(x, z) + prior_over_posterior

    def sample(self, n: int) -> Tensor:
        """Return n draws of x: (n, *event)."""
        weight = next(self.decoder.parameters())
        output = self.decoder(torch.randn(n, *self.noise_shape, device=weight.device))
        if self.likelihood == "bernoulli":
            x = torch.bernoulli(torch.sigmoid(output))
        else:
            x = output + (0.5 * self._log_variance()).exp() * torch.randn_like(output)
        if self.likelihood == "logit_normal":
            x = ((torch.sigmoid(x) - SQUEEZE) / (1 - 2 * SQUEEZE)).clamp(0, 1)
        return self._with_constants(x).view(n, *self.event_shape)

    def _noise(self, x: Tensor, draws: int, noise: Tensor | None) -> Tensor:
        return torch.randn(draws, len(x), *self.noise_shape, device=x.device) if noise is None else noise

    def _log_variance(self) -> Tensor:
        return self.log_variance.clamp(min=MIN_LOG_VARIANCE)

    def _log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x | z) for x (batch, *event) and z (draws, batch, latent): (draws, batch)."""
        flat, output = self._without_constants(x.flatten(1)), self.decoder(z)
        if self.likelihood == "bernoulli":
            # x l - softplus(l), from logits: never the log of a sigmoid.
            return torch.einsum("sbd,bd->sb", output, flat) - F.softplus(output).sum(-1)
        if self.likelihood == "gaussian":
            return self._log_normal(flat, output)
        squeezed = SQUEEZE + (1 - 2 * SQUEEZE) * flat
        jacobian = (math.log(1 - 2 * SQUEEZE) - squeezed.log() - (1 - squeezed).log()).sum(-1)
        return self._log_normal(torch.logit(squeezed), output) + jacobian

    def _log_normal(self, x: Tensor, mean: Tensor) -> Tensor:
        log_variance = self._log_variance()
        squares = (x - mean).square().sum(-1)
        return -0.5 * (squares * (-log_variance).exp() + mean.shape[-1] * (log_variance + math.log(2 * math.pi)))

    def _without_constants(self, flat: Tensor) -> Tensor:
        return flat if self.varying is None else flat.index_select(-1, self.varying.to(flat.device))

    def _with_constants(self, x: Tensor) -> Tensor:
        if self.varying is None:
            return x
        full = x.new_empty(len(x), math.prod(self.event_shape))
        full[:, self.varying] = x
        for column, value in self.constants.items():
            full[:, column] = value
        return full


def _are_widths(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(is_count(width) for width in value)


def _are_pairs(value: Any) -> bool:
    return value is None or (isinstance(value, Sequence) and all(np.shape(pair) == (2,) for pair in value))


@torch.no_grad()
def latent_mean(module: nn.Module, X: NDArray[Any]) -> NDArray[np.float32]:
    """Return the posterior mean of each row of X under a network with `posterior`: (n, latent)."""
    device = next(module.parameters()).device
    parts = [
        module.posterior(torch.as_tensor(np.asarray(X[i : i + 4096], dtype=np.float32), device=device))[0].cpu().numpy()  # type: ignore[operator]
        for i in range(0, len(X), 4096)
    ]
    return np.concatenate(parts)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _constants(X: NDArray[Any]) -> list[list[float]]:
    flat = X.reshape(len(X), -1)
    columns = constant_columns(X)
    if len(columns) == flat.shape[1]:
        raise DataError(
            expected="at least one column that varies",
            got="the same value in every example",
            do="Check that the right array was loaded.",
        )
    return [[int(column), float(flat[0, column])] for column in columns]


def _check_range(X: NDArray[Any], likelihood: str) -> None:
    low, high = float(X.min()), float(X.max())
    if likelihood == "bernoulli" and not np.isin(np.unique(X), (0, 1)).all():
        raise DataError(
            expected="data of 0 and 1 for a bernoulli likelihood",
            got=f"values in [{low:g}, {high:g}]",
            do='Binarise the data once, or use likelihood="gaussian".',
        )
    if likelihood == "logit_normal" and (low < 0 or high > 1):
        raise DataError(
            expected="data in [0, 1] for a logit_normal likelihood",
            got=f"values in [{low:g}, {high:g}]",
            do='Rescale the data, or use likelihood="gaussian".',
        )
