"""Diffusion models of vectors and of images, with the variational bound as their log p."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from genmem.data.arrays import constants_of
from genmem.errors import DataError
from genmem.models.base import DeepDensity, are_counts, are_numbers, are_pairs, as_tensor, is_count, require
from genmem.models.diffusion_module import VARIANCES, DiffusionModule, make_betas, make_schedule, seen_by_network
from genmem.models.diffusion_networks import MLPDenoiser, PaddedUNet, check_answer, own_network
from genmem.models.factory import import_callable
from genmem.models.fresh import check_callable, check_fresh, check_network, check_precision
from genmem.training.ensemble import isolated_streams

PREDICTIONS = ("v_prediction", "epsilon", "sample")
OBJECTIVES = ("simple", "bound")
CHANNELS = (1, 3)
TIMESTEPS = {"vectors": 100, "images": 1000}
Numbers = float | Sequence[float]

CPU = torch.device("cpu")
REACH = 10.0  # of the farthest value, in units of the scale


@dataclass(kw_only=True, eq=False, repr=False)
class DiffusionModel(DeepDensity):
    """A denoising diffusion model in discrete time; `score_samples` is a lower bound of log p, in nats.

    Vectors (n, d) are denoised by a small residual network of genmem, images (n, h, w) or (n, h, w, 3) by diffusers'
    UNet2DModel (`pip install 'genmem[diffusion]'`), and both by the network of `network` if it is given.

    Args:
        network: a callable, or its name "package.module:name", that is called with the shape of an example ((d,), or
            (channels, h, w)) and returns an nn.Module. The module is called as net(x_t, t) with integer timesteps t
            (n,) from 0 and returns a tensor like x_t, or an object with such a `.sample`.
        width, depth: units of each layer, and residual layers, of the network for vectors.
        block_out_channels: channels of each resolution of the network for images, the finest first.
        layers_per_block: residual layers at each resolution of the network for images.
        attention: whether the coarsest resolution of the network for images has attention over the whole image.
        timesteps: steps of noise; None is 100 for vectors and 1,000 for images. With more, the bound is finer and
            samples take longer; training and scoring take equally long.
        beta_schedule: "linear", "scaled_linear", "squaredcos_cap_v2", or another name of diffusers' DDPMScheduler. None
            is "squaredcos_cap_v2", but "linear" if the noise is predicted: at the last timesteps of the former nothing
            of the example is left, and no example can be computed from predicted noise.
        prediction_type: what the network predicts: "v_prediction", "epsilon" (the noise) or "sample" (the example).
        variance: of the reverse process: "large" is beta_t, right for smooth data (dequantized pixels); "small" is that
            of q(x_{t-1} | x_t, x_0).
        objective: the training loss: "simple", the mean square error of the prediction at uniform timesteps; or
            "bound", minus the bound. log p does not depend on it otherwise.
        shift, scale: the network works on (x - shift) / scale: a number, or one for each column. None determines them
            from the data: for vectors the mean of each column, and its standard deviation or a tenth of its largest
            deviation; for images the numbers that map them to [-1, 1]. log p is in units of x.
        constants: (column, value) pairs of flattened columns with one value in all the data: they get no noise, and
            log p is that of the others. None determines them from the data, () keeps all columns.
        epochs, batch_size, learning_rate, checkpoint_every, device, random_state: see `DeepDensity`.

    References:
        Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel, 2020), https://arxiv.org/abs/2006.11239;
        Progressive Distillation for Fast Sampling of Diffusion Models (Salimans & Ho, 2022),
        https://arxiv.org/abs/2202.00512 (v_prediction).

    >>> DiffusionModel(timesteps=50).get_params()["timesteps"]
    50
    """

    example_kind: ClassVar[str] = "image or vector"

    network: Callable[[tuple[int, ...]], nn.Module] | str | None = None
    width: int = 256
    depth: int = 3
    block_out_channels: Sequence[int] = (32, 64)
    layers_per_block: int = 1
    attention: bool = False
    timesteps: int | None = None
    beta_schedule: str | None = None
    prediction_type: str = "v_prediction"
    variance: str = "large"
    objective: str = "simple"
    shift: Numbers | None = None
    scale: Numbers | None = None
    constants: Sequence[Sequence[float]] | None = None
    epochs: int = 200

    @property
    def runs_user_code(self) -> bool:
        """Whether networks run code that genmem's own tests do not cover: with a network of the user."""
        return self.network is not None or super().runs_user_code

    def make_module(self, event_shape: tuple[int, ...]) -> DiffusionModule:
        """Return a fresh network for examples of this shape.

        Raises:
            ModelError: the network or the schedule cannot be made, or diffusers is needed and not installed.
        """
        image = len(event_shape) > 1
        settled = self._settled(image)
        betas = make_betas(settled["beta_schedule"], settled["timesteps"], with_diffusers=image)
        return DiffusionModule(
            event_shape,
            self._make_network(seen_by_network(event_shape)),
            make_schedule(betas, self.variance),
            shift=0.0 if self.shift is None else self.shift,
            scale=1.0 if self.scale is None else self.scale,
            constants={int(column): float(value) for column, value in self.constants or ()},
            prediction_type=self.prediction_type,
            objective=self.objective,
        )

    def _make_network(self, shape: tuple[int, ...]) -> nn.Module:
        if self.network is not None:
            make = import_callable(self.network) if isinstance(self.network, str) else self.network
            return own_network(make, shape)
        if len(shape) == 1:
            return MLPDenoiser(shape[0], width=self.width, depth=self.depth)
        return PaddedUNet(
            shape,
            block_out_channels=self.block_out_channels,
            layers_per_block=self.layers_per_block,
            attention=self.attention,
        )

    def resolve(self, X: NDArray[Any]) -> Self:
        """Return an unfitted copy with `timesteps`, `beta_schedule`, `shift`, `scale` and `constants` determined.

        Raises:
            DataError: X is neither vectors nor images, or every column is constant.
            ModelError: a setting is out of range, the network cannot be made, or diffusers is not installed.
        """
        self.check_settings()
        as_tensor(X, torch.device("cpu"))
        if X.ndim > 4 or (X.ndim == 4 and X.shape[-1] not in CHANNELS):
            raise DataError(
                expected="vectors (n, d), or images: an array of shape (n, height, width) or (n, height, width, 3)",
                got=f"shape {X.shape}",
                do="Reshape them, with channels last (numpy.moveaxis(X, 1, -1)), or make vectors of them.",
            )
        resolved = self._copy()
        image = X.ndim > 2
        resolved.set_params(**self._settled(image))
        if self.constants is None:
            resolved.set_params(constants=constants_of(X))
        shift, scale = _range_of(X) if image else _columns_of(X)
        resolved.set_params(
            shift=shift if self.shift is None else self.shift, scale=scale if self.scale is None else self.scale
        )
        resolved._check_columns(X[0].size)
        resolved._try(X)
        return resolved

    def _try(self, X: NDArray[Any]) -> None:
        """Raise errors of the network before any refit."""
        shape, made = tuple(X.shape[1:]), []
        for seed in range(2 if self.network is not None else 1):
            with isolated_streams(CPU, seed):
                made.append(self.make_module(shape))
        if self.network is not None:  # before a network that is not ours is called, and put into evaluation mode
            check_fresh(made[0], made[1], "network")
        check_precision(made[0].network, "network")
        check_answer(made[0].network, seen_by_network(shape))
        if self.network is not None:
            check_network(made[0].network, "network")
        self.check_trained(made[0], as_tensor(X, CPU))

    def score_samples(self, X: ArrayLike, importance_samples: int = 64, return_std: bool = False) -> Any:
        """Return the bound of log p(x) of each row of X: shape (n,), nats, by `importance_samples` draws.

        With `return_std`, a pair: the bound and its standard error over noise and timesteps. Multiples of 16 draws are
        most efficient. Errors as in `DeepDensity.score_samples`.
        """
        found = self._log_probs(X, importance_samples)
        return (found.log_prob, np.sqrt(found.variance)) if return_std else found.log_prob

    def _settled(self, image: bool) -> dict[str, Any]:
        schedule = "linear" if self.prediction_type == "epsilon" else "squaredcos_cap_v2"
        return {
            "timesteps": self.timesteps or TIMESTEPS["images" if image else "vectors"],
            "beta_schedule": self.beta_schedule or schedule,
        }

    def _check_columns(self, size: int) -> None:
        columns = {int(column) for column, _ in self.constants or ()}
        some = f"some of the columns from 0 to {size - 1}, not all"
        require("constants", self.constants, lambda _: columns < set(range(size)), some)
        for name in ("shift", "scale"):
            value = np.asarray(getattr(self, name))
            require(name, value, lambda v: v.shape in ((), (size,)), f"a number, or {size} of them")

    def check_settings(self) -> None:
        """Raise a ModelError if a setting is out of range."""
        super().check_settings()
        require("block_out_channels", self.block_out_channels, are_counts, "a list of channels, such as [32, 64]")
        for name in ("width", "depth", "layers_per_block"):
            require(name, getattr(self, name), is_count, "an integer >= 1")
        require("attention", [self.attention], lambda v: isinstance(v[0], bool), "true or false")
        require("timesteps", self.timesteps, lambda t: t is None or (is_count(t) and t >= 2), "an integer >= 2")
        for name, known in (("prediction_type", PREDICTIONS), ("variance", VARIANCES), ("objective", OBJECTIVES)):
            require(name, getattr(self, name), known.__contains__, f"one of {', '.join(known)}")
        require("beta_schedule", self.beta_schedule, lambda v: v is None or isinstance(v, str), "None, or a name")
        require("shift", self.shift, are_numbers, "None, a number, or one for each column")
        require("scale", self.scale, lambda v: are_numbers(v, above=0.0), "None, or > 0")
        require("constants", self.constants, are_pairs, "None or a list of [column, value]")
        if not isinstance(self.network, str):
            check_callable("network", self.network, needed=False, makes_network=True)


def _range_of(X: NDArray[Any]) -> tuple[float, float]:
    """Return the shift and scale that map all values to [-1, 1]."""
    low, high = float(X.min()), float(X.max())
    return (low + high) / 2, (high - low) / 2 or 1.0


def _columns_of(X: NDArray[Any]) -> tuple[list[float], list[float]]:
    """Return the mean of each column, and its standard deviation or a tenth of the largest deviation; 1 if constant.

    A pixel that is dark in all images but one would otherwise dominate the network: it deviates by hundreds of standard
    deviations.
    """
    mean, deviation = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
    farthest = np.maximum(X.max(0) - mean, mean - X.min(0))
    return mean.tolist(), [float(value) or 1.0 for value in np.maximum(deviation, farthest / REACH)]
