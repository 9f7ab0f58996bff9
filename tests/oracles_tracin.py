"""TracIn by its definition: loops of autograd over checkpoints, examples and draws. Slow and obvious."""

import copy
from functools import lru_cache

import numpy as np
import torch
from oracles_gradients import gradients_by_loop, self_influence_by_definition

from genmem.seeding import seed_for
from genmem.training.ensemble import isolated_streams

PURPOSE = {"train": "influence: training examples", "query": "influence: queries"}


def noise_of(shape, seed, side, step, row, draw):
    """The noise of one draw of one row."""
    block = _block(tuple(shape), seed_for(seed, PURPOSE[side], step, row // 128, draw // 16))
    return torch.tensor(block[draw % 16, row % 128])


@lru_cache
def _block(shape, seed):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((16, 128, *shape), dtype=np.float32)


def network_at(module, checkpoint):
    network = copy.deepcopy(module).eval()
    network.load_state_dict(checkpoint.state_dict())
    return network


def diagonal(network, following):
    """What Adam multiplied gradients by, flat."""
    v = following.second_moments()
    return torch.cat([1 / (v[name].flatten().double().sqrt() + 1e-8) for name, _ in network.named_parameters()])


def mean_gradients(network, x, *, draws, seed, side, step, each=True):
    """The gradient of each row's loss averaged over draws, (n, P), float64; each: draw by draw, else in one call."""
    dtype = next(network.parameters()).dtype
    losses = []
    for i in range(len(x)):
        noise = torch.stack([noise_of(network.noise_shape, seed, side, step, i, s) for s in range(draws)])
        noise, row = noise[:, None].to(dtype), x[i : i + 1].to(dtype)
        if each:
            losses.append(sum(network(row, 1, noise[s : s + 1])[0] for s in range(draws)) / draws)
        else:
            losses.append(network(row, draws, noise)[0])
    return gradients_by_loop(network, losses).double()


def gradients_by_draw(network, x, i, *, draws, seed, step):
    """The gradient of each draw of row i, as a training example: (draws, P), float64."""
    row, dtype = x[i : i + 1], next(network.parameters()).dtype
    noise = [noise_of(network.noise_shape, seed, "train", step, i, s)[None, None].to(dtype) for s in range(draws)]
    return gradients_by_loop(network, [network(row.to(dtype), 1, some)[0] for some in noise]).double()


def own_noise_gradients(network, x, *, draws, seed, side, step, draw=None):
    """The same for a network that draws for itself: blocks of 128 rows, the last filled up with its last row.

    All draws of a block are one call on copies of its rows. With `draw`, the gradient of one draw alone.
    """
    rows = []
    for block in range(-(-len(x) // 128)):
        some = x[128 * block : 128 * (block + 1)]
        full = [*some, *[some[-1]] * (128 - len(some))]
        copies = (
            [row for _ in range(draws) for row in full] if draw is None else [row for row in full for _ in range(draws)]
        )
        with isolated_streams(x.device, seed_for(seed, PURPOSE[side], step, block)):
            losses = network(torch.stack(copies))
        if draw is None:
            chosen = [sum(losses[i + 128 * s] for s in range(draws)) / draws for i in range(len(some))]
        else:
            chosen = [losses[i * draws + draw] for i in range(len(some))]
        rows.append(gradients_by_loop(network, chosen))
    return torch.cat(rows).double()


def tracin(module, trajectory, weights, x, z, gradients, *, adam=False):
    """(products, |x|^2, |z|^2) summed over checkpoints; `gradients(network, x, side, step)`, float64."""
    total = 0.0, 0.0, 0.0
    for i, (checkpoint, weight) in enumerate(zip(trajectory, weights, strict=True)):
        if weight == 0:
            continue
        network = network_at(module, checkpoint)
        p = diagonal(network, trajectory[i + 1]) if adam else 1.0
        gx = gradients(network, x, side="train", step=checkpoint.step)
        gz = gradients(network, z, side="query", step=checkpoint.step)
        added = (gx * p) @ gz.T, (gx * gx * p).sum(1), (gz * gz * p).sum(1)
        total = tuple(old + weight * new for old, new in zip(total, added, strict=True))
    return tuple(part.numpy() for part in total)


def self_influence(module, trajectory, weights, x, by_draw, *, adam=False):
    """(estimate, standard error) of each row: U-statistics of the draws' gradients at all checkpoints side by side."""
    found = []
    for i in range(len(x)):
        side_by_side = []
        for c, (checkpoint, weight) in enumerate(zip(trajectory, weights, strict=True)):
            if weight:
                network = network_at(module, checkpoint)
                p = diagonal(network, trajectory[c + 1]) if adam else torch.ones(())
                side_by_side.append(weight**0.5 * by_draw(network, x, i, step=checkpoint.step) * p.sqrt())
        estimate, error = self_influence_by_definition(torch.cat(side_by_side, 1))
        found.append((float(estimate), float(error)))
    return np.array(found).T
