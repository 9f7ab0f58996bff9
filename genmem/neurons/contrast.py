"""Which units lower log p of some examples more than that of their controls? Arithmetic on `drops[example, unit]`.

The drop of a set of units is the sum of the drops of its units: on trained decoders joint drops are .96 to 1.04 of it
(`genmem.neurons.confirm` measures it for the chosen sets). So one matrix answers every question about sets.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError

EASE = 0.1  # nats added to the damage of a unit: a unit that does no damage is not infinitely good
SHARES = (0.005, 0.01, 0.02, 0.05)
COUNTS = (1, 2, 4)
SCORES = ("per_damage", "raw")

FloatArray = NDArray[np.float64]
Rows = NDArray[np.intp]


class Sets(NamedTuple):
    """Rows of a matrix of drops: the cases, their controls, and held-out examples for the damage, in none of these."""

    cases: ArrayLike
    controls: ArrayLike
    damage: ArrayLike


def contrast(drops: ArrayLike, sets: Sets, score: str = "per_damage") -> FloatArray:
    """Return for every unit how much more its ablation lowers log p of the cases than that of the controls: (units,).

    "raw" is the difference of the mean drops, nats. "per_damage" divides it by the mean drop of the examples for the
    damage, at least 0, plus .1 nats: of units with the same contrast, it prefers those that matter least to the rest.

    Raises:
        DataError: there is no such score, a set is empty, or drops have another shape.

    >>> contrast([[3.0, 1.0], [1.0, 1.0], [0.9, 0.9]], Sets([0], [1], [2]))
    array([2., 0.])
    """
    matrix = checked_drops(drops)
    if score not in SCORES:
        raise DataError(expected=f"one of {', '.join(SCORES)}", got=repr(score), do="Change the score.")
    means = [_mean(matrix, rows, name) for name, rows in zip(sets._fields, sets, strict=True)]
    return per_damage(means[0] - means[1], means[2]) if score == "per_damage" else means[0] - means[1]


def per_damage(contrasts: FloatArray, damage: FloatArray) -> FloatArray:
    """Return contrasts (..., units) divided by the damage of their units, (units,), as `contrast` does."""
    return np.asarray(contrasts / (np.maximum(damage, 0.0) + EASE))


def grid(units: int) -> tuple[int, ...]:
    """Return the sizes of sets that are judged: 1, 2 and 4 units; .5, 1, 2 and 5% of them; each once, below half.

    >>> grid(192), grid(1000)
    ((1, 2, 4, 10), (1, 2, 4, 5, 10, 20, 50))
    """
    asked = {*COUNTS, *(max(1, round(share * units)) for share in SHARES)}
    return tuple(sorted(size for size in asked if size == 1 or size <= units // 2))


def strongest(scores: FloatArray, size: int) -> NDArray[np.bool_]:
    """Return masks (..., units) of the `size` units with the highest scores; of equal ones the first."""
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :size]
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order, True, axis=-1)
    return mask


def per_layer(masks: NDArray[np.bool_], layers: Rows) -> Rows:
    """Return how many units of every layer a mask (..., units) holds: (..., layers)."""
    return np.stack([masks[..., layers == layer].sum(-1) for layer in range(int(layers.max()) + 1)], axis=-1)


def first_of_layers(order: Rows, counts: Rows, layers: Rows) -> NDArray[np.bool_]:
    """Return masks (..., units) of the first `counts` (..., layers) units of every layer in an order of all units.

    Args:
        order: (..., units) the units from first to last.
        counts: (..., layers) how many to take.
        layers: (units,) the number of the layer of each unit.
    """
    mask = np.zeros(order.shape, bool)
    for layer in range(counts.shape[-1]):
        here = layers[order] == layer
        np.put_along_axis(mask, order, np.take_along_axis(mask, order, -1) | _first(here, counts[..., layer]), -1)
    return mask


def _first(here: NDArray[np.bool_], count: Rows) -> NDArray[np.bool_]:
    return np.asarray(here & (np.cumsum(here, axis=-1) <= np.asarray(count)[..., None]))


def checked_drops(drops: ArrayLike) -> FloatArray:
    """Return drops as a matrix of finite numbers.

    Raises:
        DataError: they are none.
    """
    matrix = np.asarray(drops, np.float64)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        got = f"shape {matrix.shape}" if matrix.ndim != 2 or not matrix.size else "some that are NaN or infinite"
        raise DataError(
            expected="drops of log p as finite numbers, shape (examples, units)",
            got=got,
            do="Pass the values of `genmem.neurons.drops`; leave out examples whose log p is not finite.",
        )
    return matrix


def _mean(matrix: FloatArray, rows: ArrayLike, name: str) -> FloatArray:
    chosen = np.asarray(rows, np.intp)
    if not len(chosen):
        raise DataError(expected=f"one or more rows for the {name}", got="none", do="Choose larger sets of examples.")
    return np.asarray(matrix[chosen].mean(0))
