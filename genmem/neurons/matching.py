"""Random sets of units that do as much damage as given sets: as many units of every layer, the same held-out drop."""

import numpy as np
from numpy.typing import NDArray

from genmem.neurons.contrast import EASE, FloatArray, Rows, first_of_layers, per_layer

TOLERANCE = 0.1  # of the damage of the chosen set, or of EASE if that is larger
MOST_SWAPS = 80
TRIES = 2


def matched_sets(
    chosen: NDArray[np.bool_], damage: FloatArray, layers: Rows, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for every chosen set a random one of other units with the same damage, and whether it was found.

    Each begins as a random set with as many units of every layer. Then random members are exchanged for units of
    their layer, at random among those that bring the damage within 10%, or else for the one that brings it closest.

    Args:
        chosen: (sets, units) the sets to match; repeat a row for several matches.
        damage: (units,) mean drop of held-out examples, nats; that of a set is the sum.
        layers: (units,) the number of the layer of each unit.
        rng: of all choices.

    Returns:
        (sets, units) the matches, without chosen units as long as a layer has others; (sets,) whether the damage is
        within 10% of that of the chosen set, or within .01 nats.
    """
    goal = chosen @ damage
    allowed = TOLERANCE * np.maximum(np.abs(goal), EASE)
    keys = rng.random(chosen.shape) + chosen  # chosen units come last
    found = first_of_layers(np.argsort(keys, axis=-1), per_layer(chosen, layers), layers)
    left = TRIES * chosen.sum(1)  # attempts without progress, after which a set is given up
    for _ in range(MOST_SWAPS):
        off = np.flatnonzero((np.abs(goal - found @ damage) > allowed) & (left > 0))
        if not len(off):
            break
        swapped = _swapped(found[off], chosen[off], goal[off], allowed[off], damage, layers, rng)
        left[off] -= (swapped == found[off]).all(1)
        found[off] = swapped
    return found, np.abs(goal - found @ damage) <= allowed


def _swapped(
    sets: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
    goal: FloatArray,
    allowed: FloatArray,
    damage: FloatArray,
    layers: Rows,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Return the sets with a random member of each exchanged, where that brings the damage closer."""
    rows = np.arange(len(sets))
    out = np.argmax(rng.random(sets.shape) * sets, axis=1)
    gap = goal - sets @ damage
    after = np.abs(gap[:, None] - (damage[None, :] - damage[out][:, None]))
    after = np.where(after <= allowed[:, None], -rng.random(after.shape), after)
    after[sets | chosen | (layers[out][:, None] != layers)] = np.inf
    into = np.argmin(after, axis=1)
    better = np.flatnonzero(after[rows, into] < np.abs(gap))
    swapped = sets.copy()
    swapped[better, out[better]] = False
    swapped[better, into[better]] = True
    return swapped
