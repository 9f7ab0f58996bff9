"""log p(x) without the amortization gap: q(z | x) is fitted to each example by itself, with the network unchanged.

An encoder fits the examples it was trained on better than others, and importance sampling corrects this only with
astronomically many draws. Here q starts at the encoder's mean and log variance, and all networks take the same number
of steps for every example, whether they trained on it or not.

A step is a natural gradient step on the lower bound E_q[log w], w = p(x, z) / q(z). With z = mean + sd eps and
r = d log w / d eps, which is 0 wherever q equals the exact posterior, so that noise vanishes as the fit improves,

    mean += rate sd E[r]         log variance += rate E[eps r]

It is in units of sd and so needs no scale of its own; a pair of draws (eps, -eps) estimates each expectation. Networks
are processed one after another, a few hundred examples at a time: these fill the matrix products, and stacking networks
as lanes gains nothing more.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.models.evaluation import LogProbs, noise_of_rows, summarise
from genmem.training.ensemble import noise_shape

STEPS = 50
IMPORTANCE_SAMPLES = 16
RATE = 0.8
MOMENTUM = 0.5
EXAMPLES_AT_ONCE = {"cpu": 256, "cuda": 8192}
FITTING, EVALUATION = "posterior noise", "evaluation noise"

Posterior = tuple[Tensor, Tensor]
Keys = tuple[int, ...]


@dataclass(frozen=True)
class RefittedPosteriors(LogProbs):
    """log p by draws from fitted posteriors, and these posteriors: `mean` and `log_variance`, (n, latent) each."""

    mean: NDArray[np.floating]
    log_variance: NDArray[np.floating]


def refit_posterior(
    module: nn.Module,
    X: Tensor,
    *,
    steps: int = STEPS,
    draws: int = IMPORTANCE_SAMPLES,
    seed: int,
    keys: Keys = (),
    rows: NDArray[np.intp] | None = None,
) -> RefittedPosteriors:
    """Fit a Gaussian posterior to each example, then estimate log p(x) by importance draws from it.

    Noise derives from (seed, keys, row): the result does not depend on which other examples are fitted, nor on how
    they are batched, up to rounding. The draws are those of `log_prob`, so 0 steps give its result.

    Args:
        module: a network with `posterior` and a `noise_shape`; it computes in the precision of its parameters.
        X: examples, shape (n, *event).
        steps: natural gradient steps; the same for all results that are compared.
        draws: importance samples of each example, independent of the draws of the steps.
        seed: of the noise.
        keys: distinguish one use of the noise from another (the repeat of a refit).
        rows: (n,) the position of each example in the data; 0, 1, 2, ... by default.

    Raises:
        ModelError: the network has no posterior to fit.

    References:
        Inference Suboptimality in Variational Autoencoders (Cremer, Li & Duvenaud, 2018),
        https://arxiv.org/abs/1801.03558; Sticking the Landing (Roeder, Wu & Duvenaud, 2017),
        https://arxiv.org/abs/1703.09194
    """
    if not has_posterior(module):
        raise ModelError(
            expected="a network with `posterior(x)`, `noise_shape` and `log_weights(x, draws, noise=, posterior=)`",
            got=type(module).__name__,
            do='Use posterior="amortised", or give the network all three (see genmem.VAE).',
        )
    rows = np.arange(len(X)) if rows is None else np.asarray(rows)
    size, was_training = EXAMPLES_AT_ONCE.get(X.device.type, 256), module.training
    module.eval()
    try:
        parts = [
            _refit_some(_Some(module, X[i : i + size], rows[i : i + size], seed, keys), steps, draws)
            for i in range(0, len(X), size)
        ]
    finally:
        module.train(was_training)
    joined = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return RefittedPosteriors(*joined)


def has_posterior(module: nn.Module) -> bool:
    """Return whether the posterior of a network can be fitted to single examples."""
    return callable(getattr(module, "posterior", None)) and noise_shape(module) is not None


class _Some:
    """Some examples under one network, and their noise."""

    def __init__(self, module: nn.Module, X: Tensor, rows: NDArray[np.intp], seed: int, keys: Keys) -> None:
        self.module, self.rows, self.seed, self.keys = module, rows, seed, keys
        self.x = X.to(next(module.parameters()).dtype)
        self.shape: tuple[int, ...] = noise_shape(module) or ()

    @torch.no_grad()
    def encoded(self) -> Posterior:
        mean, log_variance = self.module.posterior(self.x)  # type: ignore[operator]
        return mean, log_variance

    def log_weights(self, noise: Tensor, posterior: Posterior) -> Tensor:
        """Return log w for noise (draws, n, latent): (draws, n)."""
        found: Tensor = self.module.log_weights(self.x, len(noise), noise=noise, posterior=posterior)  # type: ignore[operator]
        return found

    def noise(self, purpose: str, count: int) -> Iterator[Tensor]:
        """Return `count` draws of noise, `DRAWS` at a time: (<= DRAWS, n, latent), the same for a row in any batch."""
        return noise_of_rows(self.shape, self.rows, count, seed=self.seed, purpose=purpose, keys=self.keys, like=self.x)


def _refit_some(some: _Some, steps: int, draws: int) -> tuple[NDArray[np.floating], ...]:
    posterior = _fit(some, steps)
    with torch.no_grad():
        weights = [_in_blocks(some, noise, posterior) for noise in some.noise(EVALUATION, draws)]
    mean, log_variance = (part.cpu().numpy() for part in posterior)
    return *summarise(torch.cat(weights)), mean, log_variance


def _in_blocks(some: _Some, noise: Tensor, posterior: Posterior) -> Tensor:
    """Return log weights, in batches of the size of a step's: intermediate results then fit into a core's cache."""
    at_once = max(1, len(noise) // 8)
    return torch.cat([some.log_weights(noise[i : i + at_once], posterior) for i in range(0, len(noise), at_once)])


def _fit(some: _Some, steps: int) -> Posterior:
    mean, log_variance = some.encoded()
    shift, widen = torch.zeros_like(mean), torch.zeros_like(mean)
    for step, eps in enumerate(draw for drawn in some.noise(FITTING, steps) for draw in drawn):
        rate = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        towards, wider = _slopes(some, eps, (mean, log_variance))
        shift = MOMENTUM * shift + (1 - MOMENTUM) * towards
        widen = MOMENTUM * widen + (1 - MOMENTUM) * wider
        # Far from the optimum, steps are bounded: by one standard deviation, and by a factor of e of the variance.
        mean = mean + rate * (0.5 * log_variance).exp() * shift.clamp(-1, 1)
        log_variance = log_variance + rate * widen.clamp(-1, 1)
    return mean, log_variance


def _slopes(some: _Some, eps: Tensor, posterior: Posterior) -> Posterior:
    """Return E[r] and E[eps r], r = d log w / d eps, from the pair eps and -eps: (n, latent) each."""
    pair = torch.stack([eps, -eps]).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(some.log_weights(pair, posterior).sum(), pair)  # not of the weights' parameters
    return slope.mean(0), (slope * pair.detach()).mean(0)
