"""The variational auto-encoder with fully connected layers."""

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from torch import nn

from genmem.models.base import is_count, require
from genmem.models.scaling import Numbers
from genmem.models.vae_density import VAEDensity
from genmem.models.vae_module import VAEModule, latent_mean

__all__ = ["VAE", "VAEModule", "latent_mean"]

CACHE_LINE = 16  # float32 values


class VAE(VAEDensity):
    """A variational auto-encoder: x <- z ~ N(0, I), with a diagonal Gaussian encoder.

    Args:
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        latent_dim: the size of z.
        likelihood: "bernoulli" (data 0 or 1), "gaussian" (any real data), "logit_normal" (data in [0, 1]; a Gaussian
            on logit(.05 + .9 x)) or "discretized_logistic" (whole levels: uint8 as they are, or floats
            k / (levels - 1); a mixture of logistics cut into bins).
        variance: of "gaussian" and "logit_normal": "scalar" (one log variance, learned) or "pixel" (the decoder
            returns one for each value). A log variance is at least -7.
        levels: of "gaussian" and "logit_normal": data in [0, 1] are dequantised, (level + u) / levels with u uniform,
            and log p is that of the level (256: of an 8-bit pixel; a lower bound on average over u); None is the
            density of x. Of "discretized_logistic": the number of levels; None finds it when data are at hand.
        components: of "discretized_logistic": logistics of a pixel; the channels of a colour pixel share the choice.
        top: of "discretized_logistic": the value of the highest level; None finds it (levels - 1 for uint8, else 1).
        beta: the weight of KL in the training loss; log p does not depend on it.
        shift, scale: of "gaussian": encoder and decoder work on (x - shift) / scale, and log p is that of x; a number,
            or one for each column that varies. None finds them when data are at hand, [] takes data as they are. Data
            are taken as they are ([] is found) if all values lie in [-10, 10], the widest column spans (largest less
            smallest value) at least 0.1, and none that varies spans less than a thousandth of that. Else a column is
            shifted by its mean and scaled by its standard deviation, or by a tenth of the largest distance from the
            mean if that is more; with more than 1024 columns all are taken as one. Variances, and their floor, are
            those of the standardised values, and the encoder sees constant columns as 0.
        constants: (column, value) pairs of flattened columns that take one value in all the data and are left out: by
            a continuous likelihood because it would diverge on them, by the others to save time (most of an MNIST
            image's margin). None finds them when data are at hand, () keeps all columns.
        epochs, batch_size, learning_rate, checkpoint_every, device, random_state: see `DeepDensity`.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114; beta-VAE
        (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl; PixelCNN++ (Salimans et al., 2017),
        https://arxiv.org/abs/1701.05517

    >>> VAE(latent_dim=2).get_params()["latent_dim"]
    2
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (512, 256),
        latent_dim: int = 16,
        likelihood: str = "gaussian",
        variance: str = "scalar",
        levels: int | None = None,
        components: int = 5,
        top: float | None = None,
        beta: float = 1.0,
        shift: Numbers | None = None,
        scale: Numbers | None = None,
        constants: Sequence[Sequence[float]] | None = None,
        epochs: int = 100,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        checkpoint_every: int | None = None,
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        super().__init__(
            latent_dim=latent_dim,
            likelihood=likelihood,
            variance=variance,
            levels=levels,
            components=components,
            top=top,
            beta=beta,
            shift=shift,
            scale=scale,
            constants=constants,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            checkpoint_every=checkpoint_every,
            device=device,
            random_state=random_state,
        )
        self.hidden = hidden

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
        if self.likelihood == "bernoulli":  # some may stay, so that what is left fills cache lines
            found = found[-(X[0].size - len(found)) % CACHE_LINE :]
        return found

    def _check_settings(self) -> None:
        super()._check_settings()
        require("hidden", self.hidden, _are_widths, "a list of layer widths, such as [128, 64]")


def _are_widths(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(is_count(width) for width in value)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
