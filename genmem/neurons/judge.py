"""Do chosen units matter more to some examples than to their controls? Discovered on one half, judged on the other.

The effect of k units is the contrast, on pairs that did not choose them, of the k units with the highest score, minus
that of other units: random ones, those of largest weights, and random ones that do as much damage to held-out examples.
All have as many units in every layer. Effects are averaged over random splits of the pairs into halves, then over the
networks of a repeat.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError
from genmem.neurons.contrast import (
    FloatArray,
    Rows,
    checked_drops,
    first_of_layers,
    grid,
    per_damage,
    per_layer,
    strongest,
)
from genmem.neurons.matching import matched_sets
from genmem.neurons.repeats import Tested, over_repeats
from genmem.protocols import Brief, figure
from genmem.seeding import stream

SPLITS = 40
MATCHES = 5  # damage-matched sets for every chosen one
BASELINES = ("none", "random", "magnitude", "damage")
LEAST_PAIRS = 4


@dataclass(frozen=True, eq=False)
class Evidence(Brief):
    """What one network contributes to the test.

    Attributes:
        drops: (m, units) fall of log p of m examples if a unit is ablated, nats.
        layers: (units,) the number of the layer of each unit, from 0.
        magnitude: (units,) norm of the weights of each unit.
        pairs: for each comparison the rows (pairs, 2) of its cases and their controls; NaN-free, maybe empty.
        damage: two sets of rows, (a,) each, of held-out examples in no pair: for the score of a unit, and for matching.
        repeat: the repeat of the network; complementary networks share one.
    """

    drops: FloatArray
    layers: Rows
    magnitude: FloatArray
    pairs: Mapping[str, Rows]
    damage: tuple[Rows, Rows]
    repeat: int

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"drops of {len(self.drops):,} examples for {len(self.layers):,} units, repeat {self.repeat}"


@dataclass(frozen=True, eq=False)
class Judgement(Brief):
    """The effect of chosen units in one comparison.

    Attributes:
        sizes: (k,) sizes of the sets of units.
        effects: for each baseline (repeats, sizes), nats for each example; "none" is the contrast of the chosen units.
        matched: (sizes,) share of damage-matched sets whose damage is within 10%.
        pairs: mean number of pairs in a network.
        split_half: mean correlation of the contrast of units between the halves.
        seed: of the sign flips.
    """

    sizes: tuple[int, ...]
    effects: Mapping[str, FloatArray]
    matched: FloatArray
    pairs: float
    split_half: float
    seed: int = 0

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{len(self.sizes)} sizes, {figure(self.pairs)} pairs, split-half correlation {figure(self.split_half)}"

    def against(self, baseline: str = "damage") -> Tested:
        """Return the test of the effects against one baseline."""
        return over_repeats(self.effects[baseline], self.seed)


def judge(
    networks: Sequence[Evidence],
    comparison: str,
    *,
    splits: int = SPLITS,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    swap: bool = False,
) -> Judgement:
    """Judge one comparison in all networks; see the module.

    Args:
        networks: the evidence of every network, all with the same units.
        comparison: the name of its pairs. Networks with fewer than 4 of them are left out.
        splits: number of random halves.
        sizes: numbers of units; by default `grid`.
        seed: of halves and sets.
        swap: exchange case and control in a random half of the pairs: then nothing is there to be found.

    Raises:
        DataError: networks differ in their units, drops are not finite, or all networks have too few pairs.
    """
    _check(networks, comparison)
    chosen = tuple(sizes) if sizes is not None else grid(networks[0].drops.shape[1])
    parts, repeats = [], []
    for number, network in enumerate(networks):
        if len(network.pairs[comparison]) >= LEAST_PAIRS:
            rng = stream(seed, f"neurons {comparison}", number)
            parts.append(_of_network(network, comparison, splits, chosen, rng, swap))
            repeats.append(network.repeat)
    effects = {name: by_repeat([part.effects[name] for part in parts], repeats) for name in BASELINES}
    matched = np.mean([part.matched for part in parts], axis=0)
    pairs, agreement = (float(np.mean([getattr(part, name) for part in parts])) for name in ("pairs", "split_half"))
    return Judgement(chosen, effects, matched, pairs, agreement, seed)


@dataclass(frozen=True, eq=False)
class _Part:
    effects: dict[str, FloatArray]
    matched: FloatArray
    pairs: int
    split_half: float


def _of_network(
    network: Evidence, comparison: str, splits: int, sizes: Sequence[int], rng: np.random.Generator, swap: bool
) -> _Part:
    cases, controls = np.asarray(network.pairs[comparison]).T
    difference = network.drops[cases] - network.drops[controls]
    if swap:
        difference = difference * rng.choice((1.0, -1.0), (len(difference), 1))
    discovery, judgement = halves(difference, splits, rng)
    scores = per_damage(discovery, network.drops[network.damage[0]].mean(0))
    damage = network.drops[network.damage[1]].mean(0)
    effects: dict[str, list[float]] = {name: [] for name in BASELINES}
    matched = []
    for size in sizes:
        chosen = strongest(scores, size)
        found, within = matched_sets(np.repeat(chosen, MATCHES, axis=0), damage, network.layers, rng)
        raw = (chosen * judgement).sum(1)
        effects["none"].append(float(raw.mean()))
        effects["random"].append(float((raw - _expected(chosen, judgement, network.layers)).mean()))
        largest = _largest(chosen, network)
        effects["magnitude"].append(float((raw - (largest * judgement).sum(1)).mean()))
        others = (found * np.repeat(judgement, MATCHES, axis=0)).sum(1)
        effects["damage"].append(float(raw.mean() - others.mean()))
        matched.append(float(within.mean()))
    means = {name: np.asarray(values) for name, values in effects.items()}
    return _Part(means, np.asarray(matched), len(difference), _agreement(discovery, judgement))


def halves(difference: FloatArray, splits: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return mean differences (splits, units) of a random half of the pairs, and of the other half."""
    count = len(difference)
    first = np.argsort(rng.random((splits, count)), axis=1) < count // 2
    weights = first / (count // 2), ~first / (count - count // 2)
    return weights[0] @ difference, weights[1] @ difference


def _expected(chosen: NDArray[np.bool_], contrasts: FloatArray, layers: Rows) -> FloatArray:
    """Return the mean contrast of all sets with as many units in every layer: (splits,)."""
    counts = per_layer(chosen, layers)
    means = np.stack([contrasts[:, layers == layer].mean(1) for layer in range(counts.shape[1])], axis=1)
    return np.asarray((counts * means).sum(1))


def _largest(chosen: NDArray[np.bool_], network: Evidence) -> NDArray[np.bool_]:
    order = np.argsort(-network.magnitude, kind="stable")
    order = np.broadcast_to(order, chosen.shape)
    return first_of_layers(order, per_layer(chosen, network.layers), network.layers)


def _agreement(first: FloatArray, second: FloatArray) -> float:
    a, b = first - first.mean(1, keepdims=True), second - second.mean(1, keepdims=True)
    scale = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
    return float(np.mean((a * b).sum(1) / np.where(scale > 0, scale, np.inf)))


def by_repeat(values: Sequence[FloatArray], repeats: Sequence[int]) -> FloatArray:
    """Return the mean of the networks of each repeat: (repeats, ...)."""
    stacked, of = np.stack([np.asarray(value, float) for value in values]), np.asarray(repeats)
    return np.stack([stacked[of == repeat].mean(0) for repeat in np.unique(of)])


def permutation_p(
    networks: Sequence[Evidence],
    comparison: str,
    *,
    permutations: int = 99,
    splits: int = SPLITS,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the p-value of a comparison under exchange within pairs, and how often exchanged labels are "local".

    The statistic is the largest over sizes of the effect against damage-matched sets, divided by its standard error
    over repeats. If training on an example changes nothing about its drops, case and control of a pair of examples
    that were assigned to halves at random may be exchanged. The second number is the share of permutations in which
    `over_repeats` finds an effect at 5%: far above that, the procedure finds what is not there.
    """
    how = {"splits": splits, "sizes": sizes}
    observed = judge(networks, comparison, seed=seed, **how).against()  # type: ignore[arg-type]
    null = [
        judge(networks, comparison, seed=seed + 1 + number, swap=True, **how).against()  # type: ignore[arg-type]
        for number in range(permutations)
    ]
    above = sum(one.statistic.max() >= observed.statistic.max() for one in null)
    return (1 + above) / (1 + permutations), float(np.mean([one.p_any <= 0.05 for one in null]))


def _check(networks: Sequence[Evidence], comparison: str) -> None:
    if not networks or any(comparison not in network.pairs for network in networks):
        raise DataError(
            expected=f"networks with the comparison {comparison!r}",
            got=f"{sorted(networks[0].pairs) if networks else 'no network'}",
            do="Choose one of the comparisons that were prepared.",
        )
    shapes = {checked_drops(network.drops).shape[1] for network in networks}
    if len(shapes) > 1:
        raise DataError(
            expected="the same units in all networks",
            got=f"{sorted(shapes)} units",
            do="Pass networks of one architecture, and the same layers of each.",
        )
    most = max(len(network.pairs[comparison]) for network in networks)
    if most < LEAST_PAIRS:
        raise DataError(
            expected=f"{LEAST_PAIRS} or more pairs of examples in a network, to discover and to judge",
            got=f"at most {most}",
            do="Choose a larger share of the examples as memorized, or use more data.",
        )
