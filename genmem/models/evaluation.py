"""log p(x) of a network by importance sampling, the same whatever the batch size.

The noise of example i, draw s derives from (seed, keys, block of i, s): a block is 128 consecutive examples and 16
draws, so a stream serves many and the first draws of 4N are those of N. A network without `noise_shape` draws its own,
from a stream seeded for each block. CPU and CUDA draw different numbers.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.seeding import seed_for
from genmem.training.ensemble import isolated_streams, noise_shape

BLOCK = 128
DRAWS = 16
STREAMS_AT_ONCE = {"cpu": 1, "cuda": 32}  # what is in flight stays in a core's cache, or fills a card


@dataclass(frozen=True)
class LogProbs:
    """log p of each example and how far the draws can be trusted; all of shape (n,).

    `log_prob` in nats. `effective_draws` is (sum w)^2 / sum w^2. `variance` is that of `log_prob` over draws, nats^2,
    from the difference of two halves of them: noisy for one example, to be averaged over many; 0 for exact models.
    (The delta method, 1 / effective draws - 1 / draws, is never above 1 and misses most of it when tails are heavy.)
    """

    log_prob: NDArray[np.float64]
    effective_draws: NDArray[np.float64]
    variance: NDArray[np.float64]


@torch.no_grad()
def log_prob(module: nn.Module, X: Tensor, *, draws: int, seed: int, keys: tuple[int, ...] = ()) -> LogProbs:
    """Estimate log p(x) = logmeanexp over draws of log w, with w = p(x, z) / q(z | x).

    Args:
        module: keeps the contract of `DeepDensity`.
        X: examples, shape (n, *event); row i always gets the noise of row i.
        draws: importance samples of each example.
        seed: root of the noise.
        keys: sets one use of the noise apart from another (the repeat of a refit).

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016), https://arxiv.org/abs/1509.00519
    """
    was_training = module.training
    module.eval()
    try:
        blocks = [
            summarise(_log_weights(module, X[start : start + BLOCK], draws, seed, (*keys, start // BLOCK)))
            for start in range(0, len(X), BLOCK)
        ]
    finally:
        module.train(was_training)
    log_p, effective, variance = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return LogProbs(log_p, effective, variance)


def _log_weights(module: nn.Module, x: Tensor, draws: int, seed: int, keys: tuple[int, ...]) -> Tensor:
    """Return the log weights of one block: (draws, block), a bounded number of rows at a time."""
    x = x.to(torch.float32)
    shape, streams = noise_shape(module), range(-(-draws // DRAWS))
    at_once = 1 if shape is None else STREAMS_AT_ONCE.get(x.device.type, 1)
    parts: list[Tensor] = []
    for first in range(0, len(streams), at_once):
        some = [seed_for(seed, "evaluation noise", *keys, stream) for stream in streams[first : first + at_once]]
        count = min(draws - first * DRAWS, len(some) * DRAWS)
        if shape is None:
            with isolated_streams(x.device, some[0]):
                parts.append(module.log_weights(x, count))  # type: ignore[operator]
        else:
            noise = torch.cat([stream_noise(shape, stream, x.device) for stream in some])[:count, : len(x)]
            parts.append(module.log_weights(x, count, noise=noise))  # type: ignore[operator]
        if len(parts[-1]) < count:  # an exact model: one row is all there is
            return parts[-1]
    return torch.cat(parts)


def stream_noise(shape: tuple[int, ...], seed: int, device: torch.device) -> Tensor:
    """Return the noise of one stream, whole blocks: row i has one value, however many rows and draws are asked."""
    full = (DRAWS, BLOCK, *shape)
    if device.type == "cuda":
        return torch.randn(full, generator=torch.Generator(device).manual_seed(seed), device=device)
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(full, dtype=np.float32))


def summarise(log_weights: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return what `LogProbs` holds, from log weights (draws, n)."""
    weights = log_weights.to(torch.float64)
    draws = len(weights)
    total = torch.logsumexp(weights, 0)
    effective = torch.exp(2 * total - torch.logsumexp(2 * weights, 0))
    halves = [torch.logsumexp(half, 0) - math.log(max(1, len(half))) for half in (weights[::2], weights[1::2])]
    variance = (halves[0] - halves[1]).square() / 4 if draws > 1 else torch.zeros_like(total)
    result = (total - math.log(draws), effective, variance)
    return result[0].cpu().numpy(), result[1].cpu().numpy(), result[2].cpu().numpy()
