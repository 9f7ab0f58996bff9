"""p(x | z): the distribution of an example given the outputs of a decoder.

An example is flattened: d values of d / channels pixels. A decoder returns one row of numbers for it: first
`per_pixel` numbers of every pixel (shared by its channels), then `per_value` numbers of every value.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from genmem.data.arrays import blocks
from genmem.errors import DataError

LIKELIHOODS = ("bernoulli", "gaussian", "logit_normal", "discretized_logistic")
VARIANCES = ("scalar", "pixel")
MIN_LOG_VARIANCE = -7.0
SQUEEZE = 0.05  # logit_normal works on logit(.05 + .9 x), finite on the closed unit interval
NARROWEST = 2.0  # a logistic may be e^2 times narrower than half a bin: one level then has .999 of its mass
WIDEST = 7.0  # log scale; the data span 2


class Likelihood(Protocol):
    """p(x | z) of flat examples; it has no parameters but may use a log variance that the network learns."""

    @property
    def name(self) -> str:
        """The name that models use for it."""

    @property
    def per_pixel(self) -> int:
        """The number of outputs that the channels of a pixel share."""

    @property
    def per_value(self) -> int:
        """The number of outputs of each value."""

    @property
    def learns_variance(self) -> bool:
        """Whether `log_variance` is one number that the network learns."""

    def log_prob(self, x: Tensor, output: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Return log p(x | z), nats: x (batch, d), output (draws, batch, outputs) -> (draws, batch)."""

    def sample(self, output: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Return a draw of x for each row of outputs: (n, outputs) -> (n, d)."""

    def centred(self, x: Tensor) -> Tensor:
        """Return x on the scale that the likelihood uses, which suits the encoder."""


def make_likelihood(
    name: str, *, variance: str, levels: int | None, components: int, top: float | None, channels: int
) -> Likelihood:
    """Return the likelihood of that name; see `VAE` for the settings."""
    if name == "bernoulli":
        return Bernoulli()
    if name == "gaussian":
        return Gaussian(variance, levels)
    if name == "logit_normal":
        return LogitNormal(variance, levels)
    levels = 256 if levels is None else levels
    return DiscretizedLogistic(levels, components, channels, 1.0 if top is None else top)


@dataclass(frozen=True)
class Bernoulli:
    """Values 0 and 1, independent given z; the outputs are logits."""

    name = "bernoulli"
    per_pixel, per_value = 0, 1
    learns_variance = False

    def log_prob(self, x: Tensor, output: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Return sum x l - softplus(l), from logits l: never the log of a sigmoid."""
        return torch.einsum("sbd,bd->sb", output, x) - F.softplus(output).sum(-1)

    def sample(self, output: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Return zeros and ones."""
        return torch.bernoulli(torch.sigmoid(output))

    def centred(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


@dataclass(frozen=True)
class Gaussian:
    """Real values, independent given z.

    Args:
        variance: "scalar" (one log variance for all values, learned by the network) or "pixel" (the decoder returns
            one for each value in addition to the means). A log variance is at least -7.
        levels: x is (level + u) / levels with u uniform on [0, 1): log p is that of the level.
    """

    variance: str = "scalar"
    levels: int | None = None
    name = "gaussian"
    per_pixel = 0

    @property
    def per_value(self) -> int:
        """A mean, and a log variance unless it is shared."""
        return 1 if self.learns_variance else 2

    @property
    def learns_variance(self) -> bool:
        """Whether all values share one log variance."""
        return self.variance == "scalar"

    def log_prob(self, x: Tensor, output: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Return log N(x; mean, variance), minus d log(levels) if x has levels."""
        return self._of_level(x, log_normal(x, *self._settled(output, log_variance)))

    def sample(self, output: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Return normal draws."""
        mean, settled = self._settled(output, log_variance)
        return mean + (0.5 * settled).exp() * torch.randn_like(mean)

    def centred(self, x: Tensor) -> Tensor:
        """Return x."""
        return x

    def _settled(self, output: Tensor, log_variance: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, own = (output, log_variance) if log_variance is not None else output.chunk(2, dim=-1)
        return mean, own.clamp(min=MIN_LOG_VARIANCE)

    def _of_level(self, x: Tensor, log_density: Tensor) -> Tensor:
        # A level is 1 / levels wide: density times width is its probability, or a lower bound on average over u.
        return log_density if self.levels is None else log_density - x.shape[-1] * math.log(self.levels)


@dataclass(frozen=True)
class LogitNormal(Gaussian):
    """Values in [0, 1]: y = logit(.05 + .9 x) is Gaussian given z.

    The small probability of y beyond logit(.05) and logit(.95) is outside the range of the data and lost to log p.
    """

    name = "logit_normal"

    def log_prob(self, x: Tensor, output: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Return log N(y; mean, variance) + sum log |dy/dx|, minus d log(levels) if x has levels."""
        squeezed = SQUEEZE + (1 - 2 * SQUEEZE) * x
        jacobian = (math.log(1 - 2 * SQUEEZE) - squeezed.log() - (1 - squeezed).log()).sum(-1)
        log_density = log_normal(torch.logit(squeezed), *self._settled(output, log_variance)) + jacobian
        return self._of_level(x, log_density)

    def sample(self, output: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Return draws in [0, 1]."""
        y = super().sample(output, log_variance)
        return ((torch.sigmoid(y) - SQUEEZE) / (1 - 2 * SQUEEZE)).clamp(0, 1)

    def centred(self, x: Tensor) -> Tensor:
        """Return y = logit(.05 + .9 x)."""
        return torch.logit(SQUEEZE + (1 - 2 * SQUEEZE) * x)


@dataclass(frozen=True)
class DiscretizedLogistic:
    """Integer levels: each pixel has a mixture of logistics cut into bins, and its channels share the component.

    On the scale from -1 to 1, level k is at c = 2 k / (levels - 1) - 1 in a bin of half width h = 1 / (levels - 1);
    the first and the last bin are open. With F the distribution function of a logistic,

        log p(pixel) = log sum over components of w prod over channels of F(c + h) - F(c - h),

    and log p(x | z) is the sum of that over pixels.

    Args:
        levels: number of levels.
        components: logistics per pixel.
        channels: values per pixel.
        top: the value of the highest level; the lowest is 0.

    References:
        PixelCNN++ (Salimans, Karpathy, Chen & Kingma, 2017), https://arxiv.org/abs/1701.05517
    """

    levels: int
    components: int = 5
    channels: int = 1
    top: float = 1.0
    name = "discretized_logistic"
    learns_variance = False

    @property
    def per_pixel(self) -> int:
        """The weights of the components."""
        return self.components

    @property
    def per_value(self) -> int:
        """The mean and the log scale of each component."""
        return 2 * self.components

    def log_prob(self, x: Tensor, output: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Return the log probability of the levels."""
        logits, mean, log_scale = self._settled(output)
        level = self.centred(x).reshape(len(x), 1, -1, self.channels)  # (batch, 1, pixels, channels)
        of_component = log_bin(level, mean, log_scale, 1 / (self.levels - 1)).sum(-1)
        return torch.logsumexp(F.log_softmax(logits, -2) + of_component, -2).sum(-1)

    def sample(self, output: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Return draws on the grid of the data."""
        logits, mean, log_scale = self._settled(output)
        gumbel = -torch.empty_like(logits).exponential_().log()
        drawn = (logits + gumbel).argmax(-2)  # (n, pixels)
        at = drawn[..., None, :, None].expand(*drawn.shape[:-1], 1, -1, self.channels)
        mean, log_scale = mean.gather(-3, at).squeeze(-3), log_scale.gather(-3, at).squeeze(-3)
        value = mean + log_scale.exp() * torch.logit(torch.rand_like(mean))
        level = ((value + 1) / 2 * (self.levels - 1)).round().clamp(0, self.levels - 1)
        return (level * self.top / (self.levels - 1)).flatten(-2)

    def centred(self, x: Tensor) -> Tensor:
        """Return x from -1 to 1."""
        return x * (2 / self.top) - 1

    def _settled(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (..., components, pixels), means and log scales (..., components, pixels, channels)."""
        k = self.components
        pixels = output.shape[-1] // (k * (1 + 2 * self.channels))
        logits, rest = output[..., : k * pixels], output[..., k * pixels :]
        mean, log_scale = rest.reshape(*output.shape[:-1], 2, k, pixels, self.channels).unbind(-4)
        # An untrained decoder returns about 0: its components are spread out, or all would learn the same.
        spread = (2 * torch.arange(k, device=output.device, dtype=output.dtype) + 1 - k) / k
        narrowest = -math.log(self.levels - 1) - NARROWEST
        logits = logits.reshape(*output.shape[:-1], k, pixels)
        return logits, mean + spread[:, None, None], log_scale.clamp(narrowest, WIDEST)


def log_normal(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return log N(x; mean, variance) summed over values: (draws, batch); one log variance, or one per value."""
    if log_variance.ndim:
        each = (x - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)
        return -0.5 * each.sum(-1)
    squares = (x - mean).square().sum(-1)
    return -0.5 * (squares * (-log_variance).exp() + mean.shape[-1] * (log_variance + math.log(2 * math.pi)))


def log_bin(level: Tensor, mean: Tensor, log_scale: Tensor, half: float) -> Tensor:
    """Return log [F(level + half) - F(level - half)] of a logistic, from -1 to 1, with open bins at both ends.

    With a and b the standardized edges, s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)) for the sigmoid s. Each factor has
    a log that is accurate however far out the bin is, and a - b is known without a difference of large numbers.
    """
    per_scale = (-log_scale).exp()
    up_to = F.logsigmoid((level + half - mean) * per_scale)
    beyond = F.logsigmoid((mean - level + half) * per_scale)
    inside = up_to + beyond + torch.log(-torch.expm1(-2 * half * per_scale))
    return torch.where(level < half - 1, up_to, torch.where(level > 1 - half, beyond, inside))


# --- values that suit a likelihood, and their integer levels


MOST_LEVELS = 2**16
LOOKED_FOR = 256  # a grid of floats is detected up to this number of levels
ROUNDING = 4 * float(np.finfo(np.float32).eps)


def check_values(X: NDArray[Any], likelihood: str, levels: int | None) -> None:
    """Check that a likelihood can describe the data.

    Raises:
        DataError: they are not 0 and 1 (bernoulli), not in [0, 1] (logit_normal, and gaussian with levels), or on a
            grid although `levels` says they were dequantized.
    """
    low, high = float(X.min()), float(X.max())
    if likelihood == "bernoulli" and not np.isin(np.unique(X), (0, 1)).all():
        raise DataError(
            expected="data of 0 and 1 for a bernoulli likelihood",
            got=f"values in [{low:g}, {high:g}]",
            do='Binarize the data once, or use likelihood="gaussian".',
        )
    continuous = likelihood in ("gaussian", "logit_normal")
    if (likelihood == "logit_normal" or (continuous and levels)) and (low < 0 or high > 1):
        raise DataError(
            expected=f"data in [0, 1] for a {likelihood} likelihood{' with levels' if levels else ''}",
            got=f"values in [{low:g}, {high:g}]",
            do='Rescale the data, or use likelihood="gaussian".',
        )
    if continuous and levels and (on_grid(X, levels, 1.0) or on_grid(X, levels + 1, 1.0)):
        raise DataError(
            expected=f"dequantized data, (level + u) / {levels} with u uniform on [0, 1)",
            got=f"data with at most {levels} different values",
            do='Dequantize them once, or use likelihood="discretized_logistic" on the levels themselves.',
        )


def find_levels(X: NDArray[Any], levels: int | None, top: float | None) -> tuple[int, float]:
    """Return the number of levels of the data, and the value of the highest: uint8 as it is, floats k / (levels - 1).

    Raises:
        DataError: the data are on no such grid.

    >>> find_levels(np.array([[0.0, 0.25], [1.0, 0.5]]), None, None)
    (5, 1.0)
    >>> find_levels(np.array([[0, 255]], np.uint8), None, None)
    (256, 255.0)
    """
    whole = X.dtype.kind in "bu"
    if levels is None:
        levels = (256 if X.max() > 1 else 2) if whole else _fewest_levels(X)
    if top is None:
        top = levels - 1.0 if whole and levels else 1.0
    if levels is None or not on_grid(X, levels, top):
        grid = f"0 to {top:g} in {levels - 1} steps" if levels else f"k / (levels - 1), up to {LOOKED_FOR} levels"
        raise DataError(
            expected=f"whole levels for a discretized_logistic likelihood: uint8, or floats on the grid {grid}",
            got=f"other values, from {float(X.min()):g} to {float(X.max()):g}",
            do="Save integers from 0 to 255 as uint8, set levels, or choose another likelihood.",
        )
    return levels, float(top)


def on_grid(X: NDArray[Any], levels: int, top: float) -> bool:
    """Return whether every value is one of k top / (levels - 1), k from 0 to levels - 1."""
    return all(_near(block, levels, top) for _, block in blocks(X))


def _near(values: NDArray[Any], levels: int, top: float) -> bool:
    level = values * np.float64((levels - 1) / top)
    whole = np.rint(level)
    return bool(((np.abs(level - whole) < max(1e-3, levels * ROUNDING)) & (whole >= 0) & (whole < levels)).all())


def _fewest_levels(X: NDArray[Any]) -> int | None:
    """Return the coarsest grid in [0, 1] that contains all values; None if there is none."""
    seen: NDArray[Any] = np.empty(0, X.dtype)
    for _, block in blocks(X):
        seen = np.union1d(seen, block)
        if len(seen) > LOOKED_FOR:
            return None
    return next((levels for levels in range(2, LOOKED_FOR + 1) if _near(seen, levels, 1.0)), None)
