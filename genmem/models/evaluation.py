"""log p(x) of a network by importance sampling, the same whatever the batch size.

The noise of example i, draw s derives from (seed, keys, block of i, s). A block is 128 consecutive examples and 16
draws, so a stream serves many, and N draws are the first of 4N draws. A network without `noise_shape` draws its own
noise, from a stream seeded for each block. It always gets whole blocks, the last one filled up with copies of its last
row, so that its noise for a row does not depend on how many rows follow. CPU and CUDA draw different numbers.

The attribute `estimate` of a network gives the meaning of its log weights: "importance" (log p is the log of their mean
weight; the default), "exact" (one row, log p itself) or "bound" (log p is at least their mean).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.protocols import Brief, mean
from genmem.seeding import seed_for
from genmem.training.ensemble import isolated_streams, noise_shape

BLOCK = 128
DRAWS = 16
STREAMS_AT_ONCE = {"cpu": 1, "cuda": 32}  # intermediate results fit into a core's cache, or fill a GPU


@dataclass(frozen=True)
class LogProbs(Brief):
    """log p of each example, or a lower bound of it, and how reliable the draws are; all of shape (n,).

    `log_prob` is in nats. `effective_draws` is the effective sample size, (sum w)^2 / sum w^2. `variance` is that of
    `log_prob` over draws, nats^2, from the difference between two halves of them: noisy for one example, meant to be
    averaged over many; 0 for exact models. (The delta method, 1 / ESS - 1 / draws, is never above 1 and misses most of
    the variance if tails are heavy.) A bound weights all draws equally: its effective sample size is their number. Its
    variance is from the means of streams of 16 draws, which are independent, as draws within one need not be.
    """

    log_prob: NDArray[np.float64]
    effective_draws: NDArray[np.float64]
    variance: NDArray[np.float64]

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{len(self.log_prob):,} examples, mean log p {mean(self.log_prob)} nats"


@torch.no_grad()
def log_prob(module: nn.Module, X: Tensor, *, draws: int, seed: int, keys: tuple[int, ...] = ()) -> LogProbs:
    """Estimate log p(x) = logmeanexp over draws of log w, with w = p(x, z) / q(z | x); a bound is their mean.

    Args:
        module: obeys the contract of `DeepDensity`.
        X: examples, shape (n, *event); row i always gets the noise of row i.
        draws: importance samples of each example.
        seed: of the noise.
        keys: distinguish one use of the noise from another (the repeat of a refit).

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016), https://arxiv.org/abs/1509.00519
    """
    was_training, bound = module.training, estimate_of(module) == "bound"
    module.eval()
    try:
        blocks = [
            summarise(block_log_weights(module, X[start : start + BLOCK], draws, seed, (*keys, start // BLOCK)), bound)
            for start in range(0, len(X), BLOCK)
        ]
    finally:
        module.train(was_training)
    log_p, effective, variance = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return LogProbs(log_p, effective, variance)


def block_log_weights(module: nn.Module, x: Tensor, draws: int, seed: int, keys: tuple[int, ...]) -> Tensor:
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
                parts.append(module.log_weights(_whole(x), count)[:, : len(x)])  # type: ignore[operator]
        else:
            noise = torch.cat([stream_noise(shape, stream, x.device) for stream in some])[:count, : len(x)]
            parts.append(module.log_weights(x, count, noise=noise))  # type: ignore[operator]
        if len(parts[-1]) < count:  # an exact model returns one row
            return parts[-1]
    return torch.cat(parts)


def stream_noise(shape: tuple[int, ...], seed: int, device: torch.device) -> Tensor:
    """Return the noise of one stream for whole blocks: row i has one value, whatever the number of rows and draws."""
    full = (DRAWS, BLOCK, *shape)
    if device.type == "cuda":
        return torch.randn(full, generator=torch.Generator(device).manual_seed(seed), device=device)
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(full, dtype=np.float32))


def noise_of_rows(
    shape: tuple[int, ...],
    rows: NDArray[np.intp],
    count: int,
    *,
    seed: int,
    purpose: str,
    keys: tuple[int, ...],
    like: Tensor,
) -> Iterator[Tensor]:
    """Yield `count` draws of noise, `DRAWS` at a time: (<= DRAWS, n, *shape), the same for a row in any batch.

    Args:
        shape: of one draw.
        rows: (n,) the position of each example in the data.
        count: draws.
        seed: with `purpose` and `keys`, the source of the noise.
        purpose: what it is for; "evaluation noise" is that of `log_prob`.
        keys: see `log_prob`.
        like: gives device and dtype.
    """
    blocks, offsets = np.divmod(rows, BLOCK)
    for stream, first in enumerate(range(0, count, DRAWS)):
        drawn = like.new_empty((DRAWS, len(rows), *shape))
        for block in np.unique(blocks):
            here = np.flatnonzero(blocks == block)
            own = seed_for(seed, purpose, *keys, int(block), stream)
            drawn[:, here] = stream_noise(shape, own, like.device)[:, offsets[here]].to(drawn.dtype)
        yield drawn[: count - first]


def _whole(x: Tensor) -> Tensor:
    """Return a block filled up with copies of its last row."""
    return x if len(x) == BLOCK else torch.cat([x, x[-1:].expand(BLOCK - len(x), *x.shape[1:])])


def estimate_of(module: nn.Module) -> str:
    """Return the meaning of the mean of a network's log weights: "importance", "exact" or "bound"."""
    return str(getattr(module, "estimate", "importance"))


def summarise(
    log_weights: Tensor, bound: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the `LogProbs` of log weights (draws, n)."""
    weights = log_weights.to(torch.float64)
    draws = len(weights)
    average = _mean if bound else _log_mean
    effective = torch.exp(2 * torch.logsumexp(weights, 0) - torch.logsumexp(2 * weights, 0))
    effective = torch.full_like(effective, draws) if bound else effective
    variance = torch.zeros_like(effective)
    if draws > 1:
        halves = average(weights[::2]), average(weights[1::2])
        variance = _variance_of_mean(weights) if bound else (halves[0] - halves[1]).square() / 4
    result = (average(weights), effective, variance)
    return result[0].cpu().numpy(), result[1].cpu().numpy(), result[2].cpu().numpy()


def _variance_of_mean(weights: Tensor) -> Tensor:
    """Return the variance of the mean of draws, where streams are independent, but not the draws of one stream.

    It is computed from the means of whole streams; with fewer than two of them, from the two halves.
    """
    streams = len(weights) // DRAWS
    if streams < 2:
        half = len(weights) // 2
        parts = torch.stack([weights[:half].mean(0), weights[half:].mean(0)])
    else:
        parts = weights[: streams * DRAWS].view(streams, DRAWS, -1).mean(1)
    return parts.var(0) / len(parts)


def _mean(weights: Tensor) -> Tensor:
    return weights.mean(0)


def _log_mean(weights: Tensor) -> Tensor:
    return torch.logsumexp(weights, 0) - math.log(len(weights))
