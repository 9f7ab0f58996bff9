"""The network of a variational auto-encoder, whatever its layers and its likelihood are."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.models.likelihoods import Likelihood
from genmem.models.scaling import Standards

VALUES_AT_ONCE = {"cpu": 2**22, "cuda": 2**27}  # of the widest layer, while log p is computed
SAMPLED_AT_ONCE = 2**25


class VAEModule(nn.Module):
    """x <- z ~ N(0, I), with a diagonal Gaussian q(z | x).

    It takes its noise from outside, so that lanes and batches leave no mark on it.

    Args:
        event_shape: the shape of an example.
        encoder: flat examples (batch, columns) to mean and log variance of z, (batch, 2 * latent_dim).
        decoder: z (..., latent_dim) to the outputs of the likelihood for the columns that vary, (..., outputs).
        likelihood: what these outputs say.
        latent_dim: the size of z.
        beta: the weight of KL in the training loss.
        constants: (column, value) pairs of flattened columns that are no part of log p.
        look: how the encoder sees an example.
        standards: shift and scale; encoder and likelihood see standardised values, and log p is that of x. None takes
            x as it is.
        narrow: the encoder sees the columns that vary only.
        width: values of one example in the widest layer; how many draws are decoded at once follows from it.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        latent_dim: int,
        beta: float = 1.0,
        constants: Sequence[Sequence[float]] = (),
        look: Callable[[Tensor], Tensor] | None = None,
        standards: Standards | None = None,
        narrow: bool = False,
        width: int = 1,
    ) -> None:
        super().__init__()
        self.event_shape, self.likelihood, self.beta = tuple(event_shape), likelihood, beta
        self.noise_shape = (latent_dim,)
        self.constants = {int(column): float(value) for column, value in constants}
        self.varying = varying_columns(math.prod(event_shape), self.constants)
        self.encoder, self.decoder = encoder, decoder
        self.standards = standards
        self.look, self.narrow, self.width = look, narrow, width
        if likelihood.learns_variance:
            self.log_variance = nn.Parameter(torch.tensor(-2.0))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoder's mean and log variance of z: (batch, latent) each."""
        flat = self._standardised(x)
        flat = self._without_constants(flat) if self.narrow else flat
        mean, log_variance = self.encoder(flat if self.look is None else self.look(flat)).chunk(2, dim=-1)
        return mean, log_variance

    def forward(self, x: Tensor, draws: int = 1, noise: Tensor | None = None) -> Tensor:
        """Return -log p(x | z) + beta KL(q(z | x) || p(z)) of each example: (batch,), nats."""
        mean, log_variance = self.posterior(x)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        z = mean + (0.5 * log_variance).exp() * self._noise(mean, draws, noise)
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
        eps = self._noise(mean, draws, noise)
        z = mean + (0.5 * log_variance).exp() * eps
        prior_over_posterior = 0.5 * (log_variance + eps.square() - z.square()).sum(-1)
        return self._log_likelihood(x, z) + prior_over_posterior

    def sample(self, n: int) -> Tensor:
        """Return n draws of x: (n, *event)."""
        weight = next(self.decoder.parameters())
        z = torch.randn(n, *self.noise_shape, device=weight.device, dtype=weight.dtype)
        parts = torch.split(z, max(1, SAMPLED_AT_ONCE // self.width))
        x = torch.cat([self.likelihood.sample(self.decoder(part), self._log_variance()) for part in parts])
        x = x if self.standards is None else self.standards.undo(x)
        return self._with_constants(x).view(n, *self.event_shape)

    def described(self, x: Tensor) -> Tensor:
        """Return what the likelihood describes: x without constant columns, on the scale it works on, (batch, kept)."""
        return self._without_constants(self._standardised(x))

    def _standardised(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return flat if self.standards is None else self.standards(flat)

    def _noise(self, mean: Tensor, draws: int, noise: Tensor | None) -> Tensor:
        return torch.randn(draws, *mean.shape, device=mean.device, dtype=mean.dtype) if noise is None else noise

    def _log_variance(self) -> Tensor | None:
        return self.log_variance if self.likelihood.learns_variance else None

    def _log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x | z) for x (batch, *event) and z (draws, batch, latent): (draws, batch)."""
        flat = self.described(x)
        at_once = max(1, VALUES_AT_ONCE.get(x.device.type, 2**22) // (len(x) * self.width))
        shared = self._log_variance()
        parts = [self.likelihood.log_prob(flat, self.decoder(part), shared) for part in torch.split(z, at_once)]
        log_likelihood = parts[0] if len(parts) == 1 else torch.cat(parts)
        return log_likelihood if self.standards is None else log_likelihood + self.standards.log_jacobian()

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


def varying_columns(size: int, constants: Sequence[int] | dict[int, float]) -> Tensor | None:
    """Return the columns that are not constant; None where all vary.

    It is a plain tensor, not a buffer, for all lanes share it.
    """
    return torch.tensor([i for i in range(size) if i not in constants]) if constants else None


@torch.no_grad()
def latent_mean(module: nn.Module, X: NDArray[Any]) -> NDArray[np.float32]:
    """Return the posterior mean of each row of X under a network with `posterior`: (n, latent)."""
    device = next(module.parameters()).device
    parts = [
        module.posterior(torch.as_tensor(np.asarray(X[i : i + 4096], dtype=np.float32), device=device))[0].cpu().numpy()  # type: ignore[operator]
        for i in range(0, len(X), 4096)
    ]
    return np.concatenate(parts)
