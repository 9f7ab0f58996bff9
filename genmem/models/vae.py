"""The variational auto-encoder with fully connected layers, and what all variational auto-encoders share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from genmem.data.arrays import constants_of
from genmem.data.examples import Data
from genmem.errors import ModelError
from genmem.models.base import DeepDensity, are_counts, are_numbers, are_pairs, is_count, require
from genmem.models.likelihoods import (
    LIKELIHOODS,
    MOST_LEVELS,
    VARIANCES,
    Likelihood,
    check_values,
    find_levels,
    make_likelihood,
)
from genmem.models.vae_module import (
    Numbers,
    Standards,
    VAEModule,
    find_standards,
    latent_mean,
    standards_of,
)

CONTINUOUS = ("gaussian", "logit_normal")
SMALL = 128  # the small network is used up to this number of values per example


@dataclass(kw_only=True, eq=False, repr=False)
class VAEDensity(DeepDensity):
    """A variational auto-encoder x <- z ~ N(0, I), with a diagonal Gaussian encoder.

    Args:
        latent_dim: the size of z.
        likelihood, variance, levels, components, top: see `genmem.VAE`.
        beta: the weight of KL in the training loss; log p does not depend on it.
        shift, scale, constants: see `genmem.VAE`.
        epochs, batch_size, learning_rate, checkpoint_every, device, random_state: see `DeepDensity`.
    """

    latent_dim: int = 16
    likelihood: str = "gaussian"
    variance: str = "scalar"
    levels: int | None = None
    components: int = 5
    top: float | None = None
    beta: float = 1.0
    shift: Numbers | None = None
    scale: Numbers | None = None
    constants: Sequence[Sequence[float]] | None = None

    @classmethod
    def suited(cls, data: Data, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return a likelihood for grey or colour pixels (uint8), or real numbers, unless one is given."""
        if "likelihood" in given:
            return {}
        if data.X.dtype != np.uint8:
            return {"likelihood": "gaussian"}
        if data.image_shape is None or len(data.image_shape) < 3:
            return {"likelihood": "bernoulli"}
        return {"likelihood": "logit_normal", "levels": 2 if data.X.max() <= 1 else 256}

    def resolve(self, X: NDArray[Any]) -> Self:
        """Return an unfitted copy with `constants`, `shift`, `scale`, `levels` and `top` determined from X.

        Raises:
            DataError: X does not suit the likelihood, or every column is constant.
            ModelError: a setting is out of range.
        """
        self.check_settings()
        check_values(X, self.likelihood, self.levels)
        resolved = self._copy()
        if self.likelihood == "discretized_logistic":
            levels, top = find_levels(X, self.levels, self.top)
            resolved.set_params(levels=levels, top=top)
        if self.constants is None:
            resolved.set_params(constants=self._constants(X))
        if self.likelihood == "gaussian" and (self.shift is None or self.scale is None):
            shift, scale = self._find_standards(X, [int(column) for column, _ in resolved.constants or ()])
            resolved.set_params(
                shift=shift if self.shift is None else self.shift, scale=scale if self.scale is None else self.scale
            )
        return resolved

    def latent_mean(self, X: NDArray[Any]) -> NDArray[np.float32]:
        """Return the encoder's mean of z for each row of X: (n, latent_dim)."""
        self._check_fitted()
        return latent_mean(self.module_, X)

    def make_likelihood(self, event_shape: tuple[int, ...]) -> Likelihood:
        """Return p(x | z) for examples of this shape."""
        return make_likelihood(
            self.likelihood,
            variance=self.variance,
            levels=self.levels,
            components=self.components,
            top=self.top,
            channels=self._channels(event_shape),
        )

    def make_standards(self, event_shape: tuple[int, ...]) -> Standards | None:
        """Return shift and scale of examples of this shape; None if they are used as they are."""
        left_out = {int(column) for column, _ in self.constants or ()}
        return standards_of(self.shift, self.scale, math.prod(event_shape), left_out)

    def _find_standards(self, X: NDArray[Any], left_out: list[int]) -> tuple[Numbers, Numbers]:
        return find_standards(X, left_out)

    def _constants(self, X: NDArray[Any]) -> list[list[float]]:
        channels = self._channels(X.shape[1:])
        return constants_of(X, whole_pixels_of=channels)

    def _channels(self, event_shape: tuple[int, ...]) -> int:
        """Return how many values share a component of a mixture: the channels of a colour image's pixel."""
        colour = len(event_shape) == 3 and event_shape[-1] == 3
        return 3 if colour and self.likelihood == "discretized_logistic" else 1

    def check_settings(self) -> None:
        """Raise a ModelError if a setting is out of range."""
        super().check_settings()
        require("latent_dim", self.latent_dim, is_count, "an integer >= 1")
        require("likelihood", self.likelihood, LIKELIHOODS.__contains__, f"one of {', '.join(LIKELIHOODS)}")
        require("variance", self.variance, VARIANCES.__contains__, f"one of {', '.join(VARIANCES)}")
        require("components", self.components, is_count, "an integer >= 1")
        require("constants", self.constants, are_pairs, "None or a list of [column, value]")
        require("beta", self.beta, lambda v: isinstance(v, int | float) and v >= 0, "a number >= 0")
        require("levels", self.levels, _are_levels, f"None or an integer from 2 to {MOST_LEVELS}")
        require("top", self.top, _is_top, "None or a number > 0")
        require("shift", self.shift, are_numbers, "None, a number or a list of numbers")
        positive = "None, a number > 0 or a list of them"
        require("scale", self.scale, lambda value: are_numbers(value, above=0.0), positive)
        if self.likelihood != "gaussian":
            _refuse("shift", self.shift, None, self.likelihood)
            _refuse("scale", self.scale, None, self.likelihood)
        if self.likelihood == "bernoulli":
            _refuse("levels", self.levels, None, self.likelihood)
        if self.likelihood not in CONTINUOUS:
            _refuse("variance", self.variance, "scalar", self.likelihood)


def _refuse(name: str, value: Any, neutral: Any, likelihood: str) -> None:
    if value != neutral:
        raise ModelError(
            expected=f"{name} only with a likelihood that has any",
            got=f"{name}={value!r} with {likelihood}",
            do=f"Drop {name}, or choose another likelihood.",
        )


def _are_levels(value: Any) -> bool:
    return value is None or (is_count(value) and 2 <= value <= MOST_LEVELS)


def _is_top(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and 0 < value < math.inf)


# --- fully connected layers


CACHE_LINE = 16  # float32 values


@dataclass(kw_only=True, eq=False, repr=False)
class VAE(VAEDensity):
    """A variational auto-encoder: x <- z ~ N(0, I), with a diagonal Gaussian encoder.

    Args:
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        latent_dim: the size of z.
        likelihood: "bernoulli" (data 0 or 1), "gaussian" (any real data), "logit_normal" (data in [0, 1]; a Gaussian
            on logit(.05 + .9 x)) or "discretized_logistic" (integer levels: uint8 as it is, or floats
            k / (levels - 1); a mixture of logistics cut into bins).
        variance: of "gaussian" and "logit_normal": "scalar" (one log variance, learned) or "pixel" (the decoder
            returns one for each value). A log variance is at least -7.
        levels: of "gaussian" and "logit_normal": data in [0, 1] are dequantized, (level + u) / levels with u uniform,
            and log p is that of the level (256: of an 8-bit pixel; a lower bound on average over u); None is the
            density of x. Of "discretized_logistic": the number of levels; None determines it from the data.
        components: of "discretized_logistic": logistics per pixel; the channels of a colour pixel share the choice.
        top: of "discretized_logistic": the value of the highest level; None determines it (levels - 1 for uint8,
            otherwise 1).
        beta: the weight of KL in the training loss; log p does not depend on it.
        shift, scale: of "gaussian": encoder and decoder work on (x - shift) / scale, and log p is that of x; a number,
            or one for each column that varies. None determines them from the data, [] uses the data as they are. None
            yields [] if all values are in [-10, 10], the widest column has a range (largest minus smallest value) of at
            least 0.1, and no varying column has a range below a thousandth of that. Otherwise a column is shifted by
            its mean and scaled by its standard deviation, or by a tenth of the largest distance from the mean if that
            is more; with more than 1024 columns all share one shift and scale. Variances, and their floor, are those of
            the standardized values, and the encoder sees constant columns as 0.
        constants: (column, value) pairs of flattened columns that have one value in all the data and are left out: by
            a continuous likelihood because it would diverge on them, by the others to save time (most of an MNIST
            image's margin). None determines them from the data, () keeps all columns.
        epochs, batch_size, learning_rate, checkpoint_every, device, random_state: see `DeepDensity`.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114; beta-VAE
        (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl; PixelCNN++ (Salimans et al., 2017),
        https://arxiv.org/abs/1701.05517

    >>> VAE(latent_dim=2).get_params()["latent_dim"]
    2
    """

    hidden: Sequence[int] = (512, 256)

    @classmethod
    def suited(cls, data: Data, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return widths that suit the size of an example, a small z and more epochs if it is small, a likelihood."""
        small = {"hidden": [128, 64], "latent_dim": 8, "epochs": 200}
        size = small if data.X[0].size <= SMALL else {"hidden": [512, 256]}
        return {**size, **super().suited(data, given, seed)}

    def make_module(self, event_shape: tuple[int, ...]) -> VAEModule:
        """Return a fresh network for examples of this shape."""
        likelihood, constants = self.make_likelihood(event_shape), self.constants or ()
        size, narrow = math.prod(event_shape), self.likelihood == "bernoulli"
        kept = size - len({int(column) for column, _ in constants})
        outputs = likelihood.per_value * kept + likelihood.per_pixel * (kept // self._channels(event_shape))
        return VAEModule(
            event_shape,
            encoder=_mlp([kept if narrow else size, *self.hidden, 2 * self.latent_dim]),
            decoder=_mlp([self.latent_dim, *reversed(self.hidden), outputs]),
            likelihood=likelihood,
            latent_dim=self.latent_dim,
            beta=self.beta,
            constants=constants,
            look=likelihood.centred if self.likelihood == "discretized_logistic" else None,
            standards=self.make_standards(event_shape),
            narrow=narrow,
            width=max(*self.hidden, outputs) if self.hidden else outputs,
        )

    def _constants(self, X: NDArray[Any]) -> list[list[float]]:
        found = super()._constants(X)
        if self.likelihood == "bernoulli":  # some may stay, so that the others fill cache lines
            found = found[-(X[0].size - len(found)) % CACHE_LINE :]
        return found

    def check_settings(self) -> None:
        """Raise a ModelError if a setting is out of range."""
        super().check_settings()
        require("hidden", self.hidden, lambda v: are_counts(v, 0), "a list of layer widths, such as [128, 64]")


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
