"""The variational auto-encoder with convolutional layers, for images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.data.examples import Data
from genmem.errors import DataError
from genmem.models.base import is_count, require
from genmem.models.likelihoods import Likelihood
from genmem.models.vae import SMALL, VAEDensity
from genmem.models.vae_module import Numbers, VAEModule, find_standards, varying_columns

NORMS = ("group", "batch")
GROUPS = 8
WIDEST = 8  # times `width`: channels double from stage to stage up to that


@dataclass(kw_only=True, eq=False, repr=False)
class ConvVAE(VAEDensity):
    """A convolutional variational auto-encoder (DCVAE) of images (h, w) or (h, w, 3).

    Each stage of the encoder halves height and width, with 4 x 4 kernels of stride 2, and doubles the channels, until
    about 2 x 2 are left: 4 stages at 32 x 32. The decoder mirrors it. Sizes that cannot be halved that often are padded
    with zeros, and the output of the decoder is cropped there. The encoder sees an image on the scale of its likelihood
    (logit_normal: logit(.05 + .9 x); discretized_logistic: from -1 to 1).

    Args:
        width: channels of the first stage.
        latent_dim: the size of z.
        norm: "group" (GroupNorm) or "batch" (BatchNorm, and no biases: the network of the paper below).
        shift, scale: of "gaussian", see `genmem.VAE`; one number each, for all pixels.
        likelihood, variance, levels, components, top, beta, constants: see `genmem.VAE`. Constant pixels are not part
            of log p, but the encoder sees them and the decoder returns them.
        epochs, batch_size, learning_rate, checkpoint_every, device, random_state: see `genmem.DeepDensity`.

    References:
        On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021),
        https://arxiv.org/abs/2106.03216; Group Normalization (Wu & He, 2018), https://arxiv.org/abs/1803.08494

    >>> ConvVAE(latent_dim=4).get_params()["norm"]
    'group'
    """

    example_kind: ClassVar[str] = "image"

    width: int = 32
    norm: str = "group"

    @classmethod
    def suited(cls, data: Data, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return the size of z for the size of an image, and a likelihood."""
        return {"latent_dim": 8 if data.X[0].size <= SMALL else 16, **super().suited(data, given, seed)}

    def resolve(self, X: NDArray[Any]) -> Self:
        """Return an unfitted copy with `constants`, `shift`, `scale`, `levels` and `top` determined from X.

        Raises:
            DataError: X are not images, do not suit the likelihood, or every pixel is constant.
            ModelError: a setting is out of range.
        """
        if not is_image(X.shape[1:]):
            raise DataError(
                expected="images: an array of shape (n, height, width) or (n, height, width, 3)",
                got=f"shape {X.shape}",
                do="Reshape them, with channels last (numpy.moveaxis(X, 1, -1)), or use genmem.VAE for vectors.",
            )
        return super().resolve(X)

    def make_module(self, event_shape: tuple[int, ...]) -> VAEModule:
        """Return a fresh network for images of this shape."""
        likelihood, constants = self.make_likelihood(event_shape), self.constants or ()
        shape = _Shape.of(event_shape, self.width)
        encoder = ConvEncoder(shape, self.latent_dim, self.norm)
        varying = varying_columns(math.prod(event_shape), [int(column) for column, _ in constants])
        decoder = ConvDecoder(shape, self.latent_dim, self.norm, likelihood, varying)
        return VAEModule(
            event_shape,
            encoder=encoder,
            decoder=decoder,
            likelihood=likelihood,
            latent_dim=self.latent_dim,
            beta=self.beta,
            constants=constants,
            standards=self.make_standards(event_shape),
            look=likelihood.centred,
            width=decoder.widest,
        )

    def _find_standards(self, X: NDArray[Any], left_out: list[int]) -> tuple[Numbers, Numbers]:
        return find_standards(X, left_out, per_column=False)

    def check_settings(self) -> None:
        """Raise a ModelError if a setting is out of range."""
        super().check_settings()
        for name in ("shift", "scale"):
            value = getattr(self, name)
            require(name, value, lambda v: np.ndim(v) == 0 or len(v) == 0, "None, one number, or []")
        require("width", self.width, is_count, "an integer >= 1")
        require("norm", self.norm, NORMS.__contains__, f"one of {', '.join(NORMS)}")


def is_image(event_shape: tuple[int, ...]) -> bool:
    """Return whether examples of this shape are images: (h, w) or (h, w, 3)."""
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[-1] == 3)


class _Shape:
    """How an image is halved: its size, the size it is padded to, and the channels of each stage."""

    def __init__(self, height: int, width: int, colours: int, channels: Sequence[int]) -> None:
        self.height, self.width, self.colours, self.channels = height, width, colours, tuple(channels)
        factor = 2 ** len(channels)
        self.rest = (-(-height // factor), -(-width // factor))  # the size after the last stage
        extra = (self.rest[0] * factor - height, self.rest[1] * factor - width)
        self.before = (extra[0] // 2, extra[1] // 2)
        self.after = (extra[0] - self.before[0], extra[1] - self.before[1])

    @classmethod
    def of(cls, event_shape: tuple[int, ...], width: int) -> Self:
        height, across, colours = (*event_shape, 1)[:3]
        stages = max(1, round(math.log2(max(2, min(height, across)) / 2)))
        return cls(height, across, colours, [width * min(WIDEST, 2**i) for i in range(stages)])

    def padded(self, x: Tensor) -> Tensor:
        """Return images (..., h, w) with zeros around them."""
        if not any(self.before + self.after):
            return x
        return F.pad(x, (self.before[1], self.after[1], self.before[0], self.after[0]))

    def cropped(self, x: Tensor) -> Tensor:
        """Return the part where the image was."""
        top, left = self.before
        return x[..., top : top + self.height, left : left + self.width]


class ConvEncoder(nn.Module):
    """Flat images (batch, h * w * colours), channels last, to mean and log variance of z."""

    def __init__(self, shape: _Shape, latent_dim: int, norm: str) -> None:
        super().__init__()
        self.shape = shape
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip((shape.colours, *shape.channels[:-1]), shape.channels, strict=True):
            layers += [nn.Conv2d(fan_in, fan_out, 4, 2, 1, bias=not layers and norm == "group")]
            layers += [*([_norm(norm, fan_out)] if len(layers) > 1 else []), nn.LeakyReLU(0.2)]
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(shape.channels[-1] * math.prod(shape.rest), 2 * latent_dim)

    def forward(self, flat: Tensor) -> Tensor:
        """Return (batch, 2 * latent_dim)."""
        shape = self.shape
        images = flat.view(-1, shape.height, shape.width, shape.colours).movedim(-1, -3)
        result: Tensor = self.head(self.stages(shape.padded(images)).flatten(1))
        return result


class ConvDecoder(nn.Module):
    """z (..., latent_dim) to the outputs of a likelihood, for the flat columns that vary: (..., outputs)."""

    def __init__(
        self, shape: _Shape, latent_dim: int, norm: str, likelihood: Likelihood, varying: Tensor | None
    ) -> None:
        super().__init__()
        self.shape, self.per_pixel, self.per_value = shape, likelihood.per_pixel, likelihood.per_value
        self.varying = varying  # a plain attribute, not a buffer: all lanes share it
        channels = (latent_dim, *reversed(shape.channels))
        outputs = self.per_pixel + self.per_value * shape.colours
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            kernel, stride, padding = (4, 2, 1) if i else (shape.rest, 1, 0)
            layers += [nn.ConvTranspose2d(fan_in, fan_out, kernel, stride, padding, bias=norm == "group" and not i)]
            # If normalized by itself, the first layer's output would not depend on the length of z.
            layers += [_norm(norm, fan_out), nn.ReLU()] if i or norm == "batch" else [nn.ReLU()]
        layers += [nn.ConvTranspose2d(channels[-1], outputs, 4, 2, 1, bias=norm == "group")]
        self.stages = nn.Sequential(*layers)
        area = math.prod(shape.rest) * 4 ** len(shape.channels)
        self.widest = max(area * outputs, *(area * c // 4 ** (i + 1) for i, c in enumerate(shape.channels)))

    def forward(self, z: Tensor) -> Tensor:
        """Return the outputs: for each pixel those its channels share, then those of each value; channels last."""
        grown = self.shape.cropped(self.stages(z.reshape(-1, z.shape[-1], 1, 1)))
        own = grown[:, self.per_pixel :].reshape(-1, self.per_value, self.shape.colours, *grown.shape[-2:])
        outputs = self._that_vary(own.movedim(2, -1).flatten(2), 1).flatten(1)
        if self.per_pixel:
            shared = self._that_vary(grown[:, : self.per_pixel].flatten(2), self.shape.colours)
            outputs = torch.cat([shared.flatten(1), outputs], -1)
        return outputs.view(*z.shape[:-1], -1)

    def _that_vary(self, x: Tensor, step: int) -> Tensor:
        """Return the columns (of every value, or of every `step`-th: the pixels) that vary."""
        if self.varying is None:
            return x
        return x.index_select(-1, self.varying[::step].to(x.device) // step)


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    # At least four channels per group: normalizing a single value leaves nothing of it.
    return nn.GroupNorm(math.gcd(GROUPS, channels // 4 or 1, channels), channels)
