"""A positive control: a few known units of a network learn one example, and the method must find them.

Only the weights of the chosen units are trained, the outgoing ones where all readers are known and else the incoming,
on one example that the network has not seen, until it gains 40 nats. The units are then ranked by how much more their
ablation costs the example in this network than in the one before, which is the comparison with a network that was not
trained on it. Units that are inactive on the example learn nothing, and a small gain is lost among drops of other
units: such injections say nothing about the method. If few units cannot gain so much, more try, up to 5% of all.

References:
    Do Localization Methods Actually Localize Memorized Data in LLMs? (Chang et al., 2024),
    https://arxiv.org/abs/2311.09060
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genmem.models.evaluation import estimate_of
from genmem.neurons.contrast import FloatArray, per_damage, strongest
from genmem.neurons.drops import Drops, drops
from genmem.neurons.edits import as_examples
from genmem.neurons.interventions import record
from genmem.neurons.unit_weights import Shares, learning_weights
from genmem.neurons.units import Unit, module_of
from genmem.protocols import Brief, figure
from genmem.seeding import seed_for, stream
from genmem.training.ensemble import isolated_streams

PLANTED = 2
GAIN = 40.0
STEPS = 600
RATE = 0.02
DRAWS = 8
BOUND_RATE = 0.005  # of networks whose log p is a bound: one draw is of one timestep, so gradients are noisy
BOUND_DRAWS = 32
TOP = 0.05
ACTIVE = 4  # one in so many units


@dataclass(frozen=True, eq=False)
class Injected(Brief):
    """One example that known units have learned.

    Attributes:
        units: that were trained.
        gain: nats that the example gained; minus infinity if the copy's log p is no longer finite.
        score: (units,) of every unit, by which they are ranked.
        recall: share of the trained units among the 5% with the highest score; NaN if the gain is below 40 nats.
        network: the copy that learned.
        held: (trained units,) how far log p of the example falls if the weights of one unit alone are put back, nats:
            what it really holds. One of two units may learn nearly everything.
    """

    units: tuple[Unit, ...]
    gain: float
    score: FloatArray
    recall: float
    network: nn.Module
    held: FloatArray

    def headline(self) -> str:
        """Return the size and the main figures."""
        units = f"{len(self.units):,} of {len(self.score):,} units"
        return f"gain {figure(self.gain)} nats in {units}, recall {figure(self.recall)}"


def inject(
    network: Any,
    x: NDArray[Any],
    units: Sequence[Unit],
    damage: FloatArray,
    *,
    planted: int = PLANTED,
    gain: float = GAIN,
    seed: int = 0,
    reference: Any = None,
    **how: Any,
) -> Injected:
    """Let random active units of a copy of the network learn one example, and look for them.

    Args:
        network: a fitted density, or its network; it stays as it is.
        x: (*event) an example that it was not trained on.
        units: all units, the columns of drops.
        damage: (units,) mean drop of held-out examples.
        planted: how many units learn; twice as many, and so on up to 5% of all, if they do not gain enough.
        gain: nats to gain; training stops when the loss has fallen by so much.
        seed: of the choice of units and of training noise.
        reference: the training examples, see `drops`.
        how: further settings of `drops`.
    """
    module, one = module_of(network), np.asarray(x)[None]
    how = {**how, "reference": reference, "seed": seed_for(seed, "planted drops")}
    before = drops(module, one, units, **how)
    tried = [_injected(module, one, before, damage, planted, gain, seed, how)]
    while tried[-1].gain < gain and 2 * planted <= round(TOP * len(units)):
        planted *= 2
        tried.append(_injected(module, one, before, damage, planted, gain, seed, how))
    return max(tried, key=lambda done: done.gain)


def _injected(
    module: nn.Module,
    one: NDArray[Any],
    before: Drops,
    damage: FloatArray,
    planted: int,
    gain: float,
    seed: int,
    how: Mapping[str, Any],
) -> Injected:
    chosen = _active(module, one, before.units, planted, stream(seed, "planted units"), how["reference"])
    taught = copy.deepcopy(module)
    _teach(taught, as_examples(one), chosen, gain, seed)
    after = drops(taught, one, before.units, **how)
    gained = float(np.nan_to_num(after.log_prob[0] - before.log_prob[0], nan=-np.inf))
    score = per_damage(after.values[0] - before.values[0], damage)
    recall = recall_of(score, before.units, chosen) if gained >= gain else np.nan
    without = [drops(_put_back(taught, module, unit, one), one, [], **how).log_prob[0] for unit in chosen]
    return Injected(tuple(chosen), gained, score, recall, taught, after.log_prob[0] - np.array(without))


def _put_back(taught: nn.Module, module: nn.Module, unit: Unit, one: NDArray[Any]) -> nn.Module:
    """Return a copy of the network that learned, in which one unit has the weights of before."""
    network, old = copy.deepcopy(taught), dict(module.named_parameters())
    with torch.no_grad():
        for name, share in learning_weights(network, [unit], as_examples(one)).items():
            parameter = network.get_parameter(name)
            parameter.copy_(torch.where(share, old[name], parameter))
    return network


def recall_of(score: FloatArray, units: Sequence[Unit], planted: Sequence[Unit], share: float = TOP) -> float:
    """Return the share of the planted units among the `share` of all units with the highest score."""
    top = strongest(score, max(len(planted), round(share * len(units))))
    return float(np.mean([top[list(units).index(unit)] for unit in planted]))


def _active(
    module: nn.Module, one: NDArray[Any], units: Sequence[Unit], count: int, rng: np.random.Generator, reference: Any
) -> list[Unit]:
    """Return random units among the quarter whose values on an example differ most from 0 and from their means.

    A unit at 0 teaches its readers nothing. Ablation replaces a unit by its mean, so one at its mean could learn an
    example without being found.
    """
    layers = list(dict.fromkeys(layer for layer, _ in units))
    known = np.asarray(one if reference is None else reference)
    here, mean = (_values(module, layers, X, known) for X in (one, known))
    values = {layer: np.minimum(abs(here[layer]), abs(here[layer] - mean[layer])) for layer in layers}
    apart = np.array([values[layer][index] for layer, index in units])
    active = np.argsort(-apart, kind="stable")[: max(count, len(units) // ACTIVE)]
    return [units[i] for i in rng.choice(active, count, replace=False)]


def _values(module: nn.Module, layers: Sequence[str], X: NDArray[Any], known: NDArray[Any]) -> dict[str, FloatArray]:
    """Return the mean value of every unit over examples, draws and positions, by layer."""
    x = as_examples(X).to(next(module.parameters()).device)
    with torch.no_grad(), isolated_streams(x.device, 0), record(module, layers, reference=known) as values:
        module.log_weights(x, DRAWS)  # type: ignore[operator]
    return {
        layer: np.mean([value.mean((0, 2)).double().cpu().numpy() for value in values[layer]], axis=0)
        for layer in layers
    }


def _teach(module: nn.Module, x: Tensor, units: Sequence[Unit], gain: float, seed: int) -> None:
    """Train the weights of the units on one example, until the loss has fallen by the gain and a tenth more."""
    x = x.to(next(module.parameters()).device)
    shares = learning_weights(module, units, x)
    module.train(False)
    parameters = dict(module.named_parameters())
    trained = {name: parameter.requires_grad for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in shares)
    rate, draws = (BOUND_RATE, BOUND_DRAWS) if estimate_of(module) == "bound" else (RATE, DRAWS)
    optimizer = torch.optim.Adam([parameters[name] for name in shares], lr=rate)
    with isolated_streams(x.device, seed_for(seed, "teaching")):
        goal = _loss(module, x, 8 * draws).item() - 1.1 * gain
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = _loss(module, x, draws)
            loss.backward()  # type: ignore[no-untyped-call]
            with _others_kept(parameters, shares):
                optimizer.step()
            if step % 10 == 9 and _loss(module, x, 8 * draws).item() <= goal:
                break
    for name, parameter in parameters.items():
        parameter.requires_grad_(trained[name])
        parameter.grad = None


def _loss(module: nn.Module, x: Tensor, draws: int) -> Tensor:
    """Return the training loss, or minus the bound: the loss of a diffusion model is not in nats."""
    if estimate_of(module) == "bound":
        return -module.log_weights(x, draws).mean()  # type: ignore[operator,no-any-return]
    return module(x, draws).mean()  # type: ignore[no-any-return]


@contextmanager
def _others_kept(parameters: Mapping[str, Tensor], shares: Shares) -> Iterator[None]:
    """Undo inside the block's changes all that are not of the chosen units."""
    before = {name: parameters[name].detach().clone() for name in shares}
    yield
    with torch.no_grad():
        for name, share in shares.items():
            parameters[name].copy_(torch.where(share, parameters[name], before[name]))
