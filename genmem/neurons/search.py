"""How many units hold one example? A greedy search, always paired with the same search where it was left out.

Such a search always finds units: adding the best unit of hundreds lowers log p of any example. Only the difference to
the same search, with the same target, in a network that was not trained on the example tells about memorization.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.neurons.contrast import FloatArray, Rows
from genmem.neurons.drops import drops, joint_drop
from genmem.neurons.judge import Evidence
from genmem.neurons.repeats import Tested, over_repeats
from genmem.neurons.units import Unit

PART = 0.5  # of the memorization score, to be removed


def units_needed(drops_of_one: ArrayLike, damage: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """Return how many units it takes until log p has fallen by the target, if drops add up: one number per example.

    Units are added in the order of their drop minus the damage to held-out examples. An example that no number of units
    brings so far counts as one more than there are units.

    Args:
        drops_of_one: (n, units) drops of each example, nats.
        damage: (units,) mean drop of held-out examples.
        target: (n,) nats.

    >>> units_needed([[5.0, 1.0, 2.0]], [0.0, 0.0, 0.0], [6.0])
    array([2.])
    """
    values = np.asarray(drops_of_one, float)
    order = np.argsort(-(values - np.asarray(damage, float)), axis=1, kind="stable")
    fallen = np.cumsum(np.take_along_axis(values, order, axis=1), axis=1)
    there = fallen >= np.asarray(target, float)[:, None]
    return np.asarray(np.where(there.any(1), there.argmax(1) + 1, values.shape[1] + 1), np.float64)


@dataclass(frozen=True, eq=False)
class Paired:
    """Units needed for half of M, where an example was trained on and where it was left out.

    Attributes:
        inside, outside: (repeats,) mean number of units.
        median_inside, median_outside: of all examples.
        difference: the test of outside minus inside: above 0 if memorized examples need fewer units.
        examples: how many examples were searched twice.
    """

    inside: FloatArray
    outside: FloatArray
    median_inside: float
    median_outside: float
    difference: Tested
    examples: int


def paired_search(
    networks: Sequence[Evidence], positions: Sequence[Rows], score: ArrayLike, part: float = PART
) -> Paired:
    """Search in the networks of each repeat: every example where it was trained on, and where it was left out.

    Args:
        networks: the evidence of every network.
        positions: for each network the examples of the rows of its drops.
        score: (n,) memorization score of every example; those that are not above 0 are left out.
        part: of the score, the nats to remove: the same target in both networks.

    Raises:
        DataError: no example was trained on in one network of a repeat and held out in another.
    """
    targets, found = part * np.asarray(score, float), []
    repeats = np.array([network.repeat for network in networks])
    for repeat in np.unique(repeats):
        sides: list[dict[int, float]] = [{}, {}]
        for number in np.flatnonzero(repeats == repeat).tolist():
            for side, column in zip(sides, networks[number].pairs["out"].T, strict=True):
                side.update(_searched(networks[number], column, positions[number], targets))
        both = sorted(sides[0].keys() & sides[1].keys())
        found += [np.array([[side[i] for side in sides] for i in both])] if both else []
    if len(found) < 2:
        raise DataError(
            expected="memorized examples that one network of a repeat trained on and another held out, in two repeats",
            got=f"{len(found)} such repeats",
            do="Use networks on complementary halves, and examples with scores above 0.",
        )
    means, all_of_them = np.array([one.mean(0) for one in found]), np.concatenate(found)
    difference = over_repeats((means[:, 1] - means[:, 0])[:, None])
    medians = np.median(all_of_them, axis=0)
    return Paired(means[:, 0], means[:, 1], float(medians[0]), float(medians[1]), difference, len(all_of_them))


def _searched(network: Evidence, rows: Rows, positions: Rows, targets: FloatArray) -> dict[int, float]:
    damage = network.drops[network.damage[0]].mean(0)
    rows = rows[targets[positions[rows]] > 0]
    needed = units_needed(network.drops[rows], damage, targets[positions[rows]])
    return dict(zip(positions[rows].tolist(), needed.tolist(), strict=True))


def greedy(
    network: Any, x: NDArray[Any], target: float, damage: ArrayLike, *, most: int = 20, **how: Any
) -> tuple[list[Unit], FloatArray]:
    """Return units added one by one until log p of one example has really fallen by the target, and log p's falls.

    After each addition the drops of all other units are computed again with the chosen ones ablated.

    Args:
        network: a fitted density, or its network.
        x: (*event) the example.
        target: nats.
        damage: (units,) mean drop of held-out examples, in the order of `units_of`.
        most: units to add at most.
        how: settings of `drops`.

    Returns:
        The units, and (units,) how far log p has fallen with the first, the first two, and so on.

    References:
        Can Neural Network Memorization Be Localized? (Maini et al., 2023), https://arxiv.org/abs/2307.09542
    """
    one = np.asarray(x)[None]
    single = drops(network, one, **how)
    chosen: list[Unit] = []
    fallen: list[float] = []
    gains, harm = single.values[0], np.asarray(damage, float)
    while len(chosen) < min(most, len(single.units)) and (not fallen or fallen[-1] < target):
        left = [unit for unit in single.units if unit not in chosen]
        if chosen:
            joint = joint_drop(network, one, [[*chosen, unit] for unit in left], **how)[0]
            gains = np.full(len(single.units), -np.inf)
            gains[[single.units.index(unit) for unit in left]] = joint - fallen[-1]
        best = int(np.argmax(gains - harm))
        fallen.append((fallen[-1] if fallen else 0.0) + float(gains[best]))
        chosen.append(single.units[best])
    return chosen, np.array(fallen)
