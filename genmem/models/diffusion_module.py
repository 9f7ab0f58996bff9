"""The network of a diffusion model: its training loss, the variational bound with little noise, and samples.

The bound is a sum over all timesteps, and one draw evaluates a single one. Two measures keep the noise low:

- timesteps are drawn where errors are costly (`Schedule.proposal`) and evenly: the 16 draws of a stream are a lattice
  with one random shift, so that each draw is unbiased;
- only the *difference* to the error of a linear denoiser, sqrt(1 - alpha_bar_t) x_t, is drawn. That denoiser is optimal
  for data from N(0, I), to which scaling brings all data close, and its expected error is known.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.models.diffusion_networks import answer_of, import_diffusers
from genmem.models.evaluation import DRAWS

OWN = ("linear", "scaled_linear", "squaredcos_cap_v2")
VARIANCES = ("large", "small")
SHARE_UNIFORM = 0.1  # of the proposal for timesteps: no timestep has less than a tenth of its uniform probability

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """The numbers of each timestep, (timesteps,) each; index 0 is the first step of noise.

    The forward process is q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t), the reverse process
    p(x_{t-1} | x_t) = N(mean, variance_t). An error e of the predicted noise costs weight_t |e|^2 / 2 nats at timestep
    t; `constant` is the cost of each dimension without error. `proposal` is how often the bound evaluates timestep t.
    """

    beta: Values
    alpha_bar: Values
    variance: Values
    weight: Values
    constant: Values
    proposal: Values

    def __len__(self) -> int:
        return len(self.beta)


def make_schedule(beta: Values, variance: str) -> Schedule:
    """Return the schedule of `beta` with variance "large" (beta_t) or "small" (that of q(x_{t-1} | x_t, x_0)).

    The first is right if the data are smooth at the scale of the noise, the second if they are single points.
    At the first timestep, where "small" would be 0, both are beta_1: the resolution of the bound.

    Timesteps are proposed in proportion to weight_t alpha_bar_t, the cost of an error times its possible size, and a
    tenth uniformly.

    References:
        Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel, 2020), https://arxiv.org/abs/2006.11239;
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), https://arxiv.org/abs/2102.09672
        (a proposal for timesteps).
    """
    alpha_bar = np.cumprod(1 - beta, dtype=np.float64)
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    posterior = beta * (1 - before) / (1 - alpha_bar)
    used = beta if variance == "large" else np.concatenate([beta[:1], posterior[1:]])
    weight = beta**2 / ((1 - beta) * (1 - alpha_bar) * used)
    ratio = posterior[1:] / used[1:]
    constant = np.concatenate([[0.5 * math.log(2 * math.pi * beta[0])], 0.5 * (ratio - 1 - np.log(ratio))])
    share = weight * alpha_bar
    proposal = (1 - SHARE_UNIFORM) * share / share.sum() + SHARE_UNIFORM / len(beta)
    return Schedule(beta, alpha_bar, used, weight, constant, proposal)


def make_betas(name: str, timesteps: int, *, with_diffusers: bool) -> Values:
    """Return beta of each timestep under a name of diffusers' DDPMScheduler, from it or from the same formulas.

    If the scheduler takes a range, it is 0.1 to 20 per unit of time instead of 1e-4 to 0.02 per step: the same at 1,000
    steps, and with fewer the last step is still pure noise.

    Raises:
        ModelError: the schedule does not exist, or needs diffusers, which is not installed.
    """
    start, end = 0.1 / timesteps, min(20 / timesteps, 0.999)
    if with_diffusers or name not in OWN:
        return _betas_of_diffusers(name, timesteps, start, end)
    if name == "linear":
        return np.linspace(start, end, timesteps)
    if name == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, timesteps) ** 2
    cosine = np.cos((np.linspace(0, 1, timesteps + 1) + 0.008) / 1.008 * math.pi / 2) ** 2
    capped: Values = np.minimum(1 - cosine[1:] / cosine[:-1], 0.999)
    return capped


def _betas_of_diffusers(name: str, timesteps: int, start: float, end: float) -> Values:
    scheduler = import_diffusers(f"the schedule {name!r}").DDPMScheduler
    try:
        made = scheduler(num_train_timesteps=timesteps, beta_start=start, beta_end=end, beta_schedule=name)
    except NotImplementedError as error:
        raise ModelError(
            expected=f"beta_schedule to be {', '.join(OWN)}, or another name of diffusers' DDPMScheduler",
            got=repr(name),
            do="Change beta_schedule.",
        ) from error
    return np.asarray(made.betas, dtype=np.float64)


# --- the network: its loss, its bound, its samples


VALUES_AT_ONCE = 2**19  # of x_t in one call of the network
LATTICE = [int(f"{row:04b}"[::-1], 2) / DRAWS for row in range(DRAWS)]  # bits reversed


class DiffusionModule(nn.Module):
    """A diffusion model of flattened examples around a network that predicts noise; works on (x - shift) / scale.

    Columns in `constants` stay unchanged at every timestep: log p is that of the others.
    """

    estimate = "bound"
    network: nn.Module
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        network: nn.Module,
        schedule: Schedule,
        *,
        shift: Any,
        scale: Any,
        constants: Mapping[int, float],
        prediction_type: str,
        objective: str,
    ) -> None:
        super().__init__()
        size = math.prod(event_shape)
        self.event_shape, self.network = tuple(event_shape), network
        self.prediction_type, self.objective = prediction_type, objective
        self.noise_shape = (size + 1,)  # the noise of x_t, and the number that determines the timestep
        self.dimensions = size - len(constants)
        self.register_buffer("shift", torch.as_tensor(shift, dtype=torch.float32).expand(size).clone())
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32).expand(size).clone())
        # Plain attributes, not buffers: all lanes share them.
        varies = np.ones(size)
        varies[list(constants)] = 0
        values = np.zeros(size)
        values[list(constants)] = list(constants.values())
        shared = {"varies": varies, "values": values, **_numbers(schedule, prediction_type)}
        self.shared = {name: torch.from_numpy(numbers).float() for name, numbers in shared.items()}
        self.timesteps = len(schedule)
        self.linear = _linear_terms(schedule)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Tensors that lanes share move to another device or precision with the parameters.
        self.shared = {name: fn(tensor) for name, tensor in self.shared.items()}
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def forward(self, x: Tensor, draws: int = 1, noise: Tensor | None = None) -> Tensor:
        """Return the training loss of each example: (batch,).

        "simple": the mean square error of the prediction at uniform timesteps. "bound": minus the bound, nats.
        """
        noise = self._noise(x, draws, noise)
        if self.objective == "bound":
            return -self.log_weights(x, draws, noise=noise).mean(0)
        t = (positions(noise[..., -1]) * self.timesteps).long().clamp(max=self.timesteps - 1)
        return self._square_error(self._scaled(x), noise[..., :-1], t).mean(0) / self.dimensions

    def log_weights(self, x: Tensor, draws: int = 1, noise: Tensor | None = None) -> Tensor:
        """Return unbiased estimates of the bound: (draws, batch), nats; log p is at least their mean.

        References:
            Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel, 2020), https://arxiv.org/abs/2006.11239 (the
            bound, equation 5); Variational Diffusion Models (Kingma et al., 2021), https://arxiv.org/abs/2107.00630
            (evenly spread timesteps).
        """
        noise, y = self._noise(x, draws, noise), self._scaled(x)
        at_once = max(1, VALUES_AT_ONCE // max(1, y.numel()))
        t = self._propose(noise[..., -1])
        found = [
            self._excess(y, noise[first : first + at_once, ..., :-1], t[first : first + at_once])
            for first in range(0, draws, at_once)
        ]
        return self._known(y) - torch.cat(found)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Return n draws of x, from pure noise through every timestep: (n, *event)."""
        at_once = max(1, VALUES_AT_ONCE // self.shift.numel())
        return torch.cat([self._sample(min(at_once, n - first)) for first in range(0, n, at_once)])

    def reverse_mean(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the mean of p(x_{t-1} | x_t), scaled and flattened x_t (n, size) at timesteps t (n,)."""
        eps = self._noise_predicted(x, t)
        return (x - self._at("step", t) * eps) * self._at("widen", t)

    def _sample(self, n: int) -> Tensor:
        fixed = self._fixed_columns()
        x = self._keep(torch.randn(n, len(self.shift), device=fixed.device), fixed)
        for step in reversed(range(self.timesteps)):
            t = torch.full((n,), step, device=x.device)
            x = self.reverse_mean(x, t) + self._at("spread", t) * torch.randn_like(x)
            x = self._keep(x, fixed)
        return (x * self.scale + self.shift).view(n, *self.event_shape)

    def _known(self, y: Tensor) -> Tensor:
        """Return the bound with the linear denoiser, in units of x: (batch,)."""
        per_dimension, per_square = self.linear
        units = (self.scale.log() * self.shared["varies"]).sum()
        return -(self.dimensions * per_dimension + per_square * self._squares(y) + units)

    def _excess(self, y: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the cost of the network's error above that of the linear denoiser, nats: (draws, batch)."""
        signal, level = self._at("signal", t), self._at("level", t)
        linear = self._squares(signal**2 * eps - signal * level * y)
        ours = self._at("to_noise", t)[..., 0] ** 2 * self._square_error(y, eps, t)
        return self._at("cost", t)[..., 0] * (ours - linear)

    def _square_error(self, y: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the squared error of the prediction, summed over columns: (draws, batch)."""
        signal, level = self._at("signal", t), self._at("level", t)
        x = self._keep(signal * y + level * eps, self._fixed_columns())
        target = {"epsilon": eps, "sample": y, "v_prediction": signal * eps - level * y}[self.prediction_type]
        predicted = self._predict(x.flatten(0, 1), t.flatten()).view_as(x)
        return self._squares(target - predicted)

    def _noise_predicted(self, x: Tensor, t: Tensor) -> Tensor:
        signal, level, predicted = self._at("signal", t), self._at("level", t), self._predict(x, t)
        if self.prediction_type == "v_prediction":
            return signal * predicted + level * x
        return predicted if self.prediction_type == "epsilon" else (x - signal * predicted) / level

    def _predict(self, x: Tensor, t: Tensor) -> Tensor:
        """Call the network on flattened x (n, size), images channels first."""
        if len(self.event_shape) == 1:
            return answer_of(self.network(x, t))
        channels, height, width = seen_by_network(self.event_shape)
        images = x.view(len(x), height, width, channels).movedim(-1, 1)
        predicted = answer_of(self.network(images, t))
        return predicted.movedim(1, -1).flatten(1)

    def _propose(self, z: Tensor) -> Tensor:
        return torch.searchsorted(self.shared["cdf"], positions(z)).clamp(max=self.timesteps - 1)

    def _at(self, name: str, t: Tensor) -> Tensor:
        """Return a number of the schedule at timesteps t, with a last axis to multiply columns."""
        return self.shared[name][t].unsqueeze(-1)

    def _scaled(self, x: Tensor) -> Tensor:
        return (self._keep(x.flatten(1), self.shared["values"]) - self.shift) / self.scale

    def _fixed_columns(self) -> Tensor:
        return (self.shared["values"] - self.shift) / self.scale

    def _keep(self, x: Tensor, fixed: Tensor) -> Tensor:
        """Return x with constant columns replaced by those of `fixed`."""
        return x if self.dimensions == x.shape[-1] else torch.where(self.shared["varies"] > 0, x, fixed)

    def _squares(self, x: Tensor) -> Tensor:
        total: Tensor = (x.square() * self.shared["varies"]).sum(-1)
        return total

    def _noise(self, x: Tensor, draws: int, noise: Tensor | None) -> Tensor:
        return torch.randn(draws, len(x), *self.noise_shape, device=x.device) if noise is None else noise


def positions(z: Tensor) -> Tensor:
    """Return numbers in [0, 1) from standard normal z (draws, batch), each uniform, every 16 draws an even lattice.

    The first of 16 draws determines the shift of all; any first few of them are spread evenly too.
    """
    draws = len(z)
    rows = torch.arange(draws, device=z.device)
    places = torch.tensor(LATTICE, dtype=z.dtype, device=z.device)[rows % DRAWS]
    shift: Tensor = torch.special.ndtr(z[rows - rows % DRAWS])
    return (shift + places[:, None]) % 1.0


def seen_by_network(event_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an example as the network sees it: (d,), or (channels, height, width).

    >>> seen_by_network((64,)), seen_by_network((8, 9)), seen_by_network((8, 9, 3))
    ((64,), (1, 8, 9), (3, 8, 9))
    """
    if len(event_shape) == 1:
        return tuple(event_shape)
    height, width, *channels = event_shape
    return (channels[0] if channels else 1, height, width)


def _numbers(schedule: Schedule, prediction_type: str) -> dict[str, Values]:
    """Return the tables of values by timestep: (timesteps,) each."""
    signal, level = np.sqrt(schedule.alpha_bar), np.sqrt(1 - schedule.alpha_bar)
    return {
        "signal": signal,
        "level": level,
        # converts an error of the prediction to one of the noise
        "to_noise": {"epsilon": np.ones_like(signal), "v_prediction": signal, "sample": signal / level}[
            prediction_type
        ],
        "cost": 0.5 * schedule.weight / schedule.proposal,
        "cdf": np.cumsum(schedule.proposal),
        "step": schedule.beta / level,
        "widen": 1 / np.sqrt(1 - schedule.beta),
        "spread": np.sqrt(schedule.variance),
    }


def _linear_terms(schedule: Schedule) -> tuple[float, float]:
    """Return minus the bound with the linear denoiser: nats per dimension, and per square of a scaled example."""
    last, half = float(schedule.alpha_bar[-1]), 0.5 * schedule.weight * schedule.alpha_bar
    prior = -0.5 * (last + math.log1p(-last))
    per_dimension = prior + schedule.constant.sum() + (half * schedule.alpha_bar).sum()
    return float(per_dimension), float(0.5 * last + (half * (1 - schedule.alpha_bar)).sum())
