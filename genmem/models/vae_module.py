"""The network of a variational auto-encoder, and the scale of the data that it works on."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.data.arrays import blocks
from genmem.errors import DataError, ModelError
from genmem.models.likelihoods import Likelihood

REACH = 10.0  # a network uses values within this distance of 0 as they are
LEAST_SPAN = 0.1  # of the widest column: the standard deviation of a Gaussian likelihood is at least 0.03
MOST_UNEQUAL = 1000.0  # ratio of the widest to the narrowest column; pixels of 8 bits never exceed 255
SMALLEST = 1e-30  # of a scale: float32 represents it, and its reciprocal
PER_COLUMN = 1024  # up to so many columns, each has its own shift and scale
Numbers = float | Sequence[float]


def find_standards(X: NDArray[Any], left_out: Collection[int], *, per_column: bool = True) -> tuple[Numbers, Numbers]:
    """Return the shift and the scale of data; [] and [] if the data are used as they are.

    They are used as they are if all values, including those of columns left out, are in [-10, 10]; the widest column
    has a range (largest minus smallest value) of at least 0.1; and no varying column has a range below a thousandth of
    that. A standard deviation would not serve: that of a pixel which is black in all images but one is small, and the
    pixel needs no scale of its own.

    Otherwise a column's shift is its mean, and its scale the standard deviation or a tenth of the largest distance from
    the mean, whichever is larger, so that the values are in [-10, 10]; 1 for a constant column.

    Args:
        X: examples, (n, *event).
        left_out: flattened columns that get none.
        per_column: up to 1024 columns get a pair each, (columns,); without it, or with more, all share one pair.

    Raises:
        DataError: a value is NaN or infinite.
    """
    kept = np.setdiff1d(np.arange(X[0].size), list(left_out))
    apart = per_column and len(kept) <= PER_COLUMN

    def each() -> Iterator[NDArray[np.float64]]:
        for _, block in blocks(X):
            values = block[:, kept].astype(np.float64)
            yield values if apart else values.reshape(-1, 1)

    low = np.min([values.min(0) for values in each()], axis=0)
    high = np.max([values.max(0) for values in each()], axis=0)
    if not np.isfinite(high - low).all():
        raise DataError(expected="finite numbers", got="some that are NaN or infinite", do="Drop or fill them.")
    within = -REACH <= float(X.min()) and float(X.max()) <= REACH
    if within and _are_alike(high - low):
        return [], []
    count = sum(len(values) for values in each())
    mean = sum(values.sum(0) for values in each()) / count
    deviation = np.sqrt(sum(np.square(values - mean).sum(0) for values in each()) / count)
    scale = np.maximum(deviation, np.maximum(high - mean, mean - low) / REACH)
    scale = np.where(high > low, np.maximum(scale, SMALLEST), 1.0)
    shifts, scales = _rounded(mean, scale)
    return (shifts, scales) if apart else (shifts[0], scales[0])


def _are_alike(span: NDArray[np.float64]) -> bool:
    varying = span[span > 0]
    return len(varying) == 0 or bool(varying.max() >= LEAST_SPAN and varying.min() * MOST_UNEQUAL >= varying.max())


def _rounded(shift: NDArray[np.float64], scale: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Return both, rounded to a thousandth of the scale: accurate enough, and a plan stays readable."""
    digits = 3 - np.floor(np.log10(scale)).astype(int)
    return [round(float(m), int(d)) for m, d in zip(shift, digits, strict=True)], [float(f"{s:.4g}") for s in scale]


class Standards(nn.Module):
    """Shift and scale of flattened examples. Constant columns, which are not part of log p, become 0.

    Args:
        shift, scale: a number, one for each column that is kept, or none: 0 and 1.
        size: values of an example.
        constants: the columns that are not kept.

    Raises:
        ModelError: the number of values differs from that of columns that are kept.
    """

    def __init__(self, shift: Numbers, scale: Numbers, size: int, constants: Collection[int]) -> None:
        super().__init__()
        self.kept = torch.tensor([column for column in range(size) if column not in constants])
        self.shift: Tensor
        self.per_scale: Tensor
        for name in ("shift", "per_scale"):
            self.register_buffer(name, torch.zeros(size))
        self.shift[self.kept] = _for_columns("shift", shift, 0.0, len(self.kept)).float()
        self.per_scale[self.kept] = (1 / _for_columns("scale", scale, 1.0, len(self.kept))).float()

    def forward(self, flat: Tensor) -> Tensor:
        """Return examples, (batch, columns), standardized."""
        return (flat - self.shift) * self.per_scale

    def undo(self, standardised: Tensor) -> Tensor:
        """Return standardized values of the columns that are kept, (batch, kept), in units of the data."""
        return standardised / self._of_kept(self.per_scale) + self._of_kept(self.shift)

    def log_jacobian(self) -> Tensor:
        """Return log |det| of the derivative of the standardized values by the values, of the columns kept."""
        return self._of_kept(self.per_scale).log().sum()

    def _of_kept(self, values: Tensor) -> Tensor:
        return values.index_select(-1, self.kept.to(values.device))


def standards_of(
    shift: Numbers | None, scale: Numbers | None, size: int, constants: Collection[int]
) -> Standards | None:
    """Return the standards of two settings; None if data are used as they are."""
    given = [() if value is None else value for value in (shift, scale)]
    if all(isinstance(value, Sequence) and not value for value in given):
        return None
    return Standards(given[0], given[1], size, constants)


def _for_columns(name: str, value: Numbers, neutral: float, columns: int) -> Tensor:
    numbers = torch.as_tensor(value, dtype=torch.float64)
    if not numbers.numel():
        return torch.full((columns,), neutral, dtype=torch.float64)
    if numbers.ndim and len(numbers) != columns:
        raise ModelError(
            expected=f"{name} to be a number, or one for each of the {columns} columns that are kept",
            got=f"{len(numbers)} numbers",
            do=f"Leave {name} out: it is then determined from the data.",
        )
    return numbers.expand(columns).clone()


# --- the network


VALUES_AT_ONCE = {"cpu": 2**22, "cuda": 2**27}  # of the widest layer, while log p is computed
SAMPLED_AT_ONCE = 2**25


class VAEModule(nn.Module):
    """x <- z ~ N(0, I), with a diagonal Gaussian q(z | x).

    It takes its noise from outside, so that its numbers do not depend on lanes and batches.

    Args:
        event_shape: the shape of an example.
        encoder: flat examples (batch, columns) to mean and log variance of z, (batch, 2 * latent_dim).
        decoder: z (..., latent_dim) to the outputs of the likelihood for the columns that vary, (..., outputs).
        likelihood: the distribution of x given these outputs.
        latent_dim: the size of z.
        beta: the weight of KL in the training loss.
        constants: (column, value) pairs of flattened columns that are not part of log p.
        look: the scale on which the encoder sees an example.
        standards: shift and scale; encoder and likelihood see standardized values, and log p is that of x. None uses
            x as it is.
        narrow: whether the encoder sees only the columns that vary.
        width: values of one example in the widest layer, which determines how many draws are decoded at once.
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

        `posterior` is the mean and log variance of q; by default those of the encoder.
        """
        mean, log_variance = self.posterior(x) if posterior is None else posterior
        eps = self._noise(mean, draws, noise)
        z = mean + (0.5 * log_variance).exp() * eps
        prior_over_posterior = 0.5 * (log_variance + eps.square() - z.square()).sum(-1)
        return self._log_likelihood(x, z) + prior_over_posterior

    def sample(self, n: int) -> Tensor:
        """Return n draws of x: (n, *event)."""
        weight = next(self.decoder.parameters())
        return self.drawn(torch.randn(n, *self.noise_shape, device=weight.device, dtype=weight.dtype))

    def drawn(self, z: Tensor) -> Tensor:
        """Return a draw of x given each z, (n, latent): (n, *event)."""
        parts = torch.split(z, max(1, SAMPLED_AT_ONCE // self.width))
        x = torch.cat([self.likelihood.sample(self.decoder(part), self.shared_log_variance()) for part in parts])
        x = x if self.standards is None else self.standards.undo(x)
        return self._with_constants(x).view(len(z), *self.event_shape)

    def described(self, x: Tensor) -> Tensor:
        """Return the input of the likelihood: x without constant columns, on the likelihood's scale, (batch, kept)."""
        return self._without_constants(self._standardised(x))

    def _standardised(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return flat if self.standards is None else self.standards(flat)

    def _noise(self, mean: Tensor, draws: int, noise: Tensor | None) -> Tensor:
        return torch.randn(draws, *mean.shape, device=mean.device, dtype=mean.dtype) if noise is None else noise

    def shared_log_variance(self) -> Tensor | None:
        """Return the log variance that all values share, None if there is none."""
        return self.log_variance if self.likelihood.learns_variance else None

    def _log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x | z) for x (batch, *event) and z (draws, batch, latent): (draws, batch)."""
        flat = self.described(x)
        at_once = max(1, VALUES_AT_ONCE.get(x.device.type, 2**22) // (len(x) * self.width))
        shared = self.shared_log_variance()
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
    """Return the columns that are not constant; None if all vary.

    It is a plain tensor, not a buffer, because all lanes share it.
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
