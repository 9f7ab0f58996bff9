"""How noise grows with the timestep, and what follows from it for the bound: numbers of the schedule alone."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genmem.errors import ModelError
from genmem.models.diffusion_networks import import_diffusers

OWN = ("linear", "scaled_linear", "squaredcos_cap_v2")
VARIANCES = ("large", "small")
SHARE_UNIFORM = 0.1  # of the proposal for timesteps: no timestep is rarer than a tenth of its fair share

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """The numbers of each timestep, (timesteps,) each; index 0 is the first step of noise.

    The forward process is q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t), the reverse process
    p(x_{t-1} | x_t) = N(mean, variance_t). An error e of the predicted noise costs weight_t |e|^2 / 2 nats at timestep
    t; `constant` is what each dimension costs without any error. `proposal` is how often the bound looks at t.
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
    """Return what follows from `beta` with the variance "large" (beta_t) or "small" (that of q(x_{t-1} | x_t, x_0)).

    The first is right where the data are smooth at the scale of the noise, the second where they are single points.
    At the first timestep, where "small" would be 0, both are beta_1: the resolution of the bound.

    Timesteps are proposed in proportion to weight_t alpha_bar_t, what an error costs times how large it can be, and
    a tenth uniformly.

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
    """Return beta of each timestep under a name of diffusers' DDPMScheduler, from it or from the same few lines.

    Where the scheduler takes a range, it is 0.1 to 20 a unit of time in place of 1e-4 to 0.02 a step: the same at 1,000
    steps, and at fewer the last step still is pure noise.

    Raises:
        ModelError: no such schedule, or it needs diffusers and that is not installed.
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
