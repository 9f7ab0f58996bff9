"""Do the samples nearest to any row lie nearer to training than to held-out rows, at any depth?"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from genmem.neighbors.pooled import Closest, standardised
from genmem.neighbors.results import Result
from genmem.neighbors.sets import Sets, of_three_sets
from genmem.seeding import stream
from genmem.stats import arrangements

FloatArray = NDArray[np.float64]
DRAWS = 1999
ORDERS = ("their distance", "their distance for how dense the data are there")

_BLOCK = 2**23  # labels drawn at a time
_TIE = 1e-9
_CANNOT_SEE = (
    "Copies of fewer rows than chance could have put on one side: a single row repeated five hundred times is one "
    "label. Copies that this space moves away (shifted, flipped, re-coloured). It takes for copying whatever else "
    "makes training and held-out rows differ: another source, another time, cleaning of one but not the other."
)
_CITATION = (
    "Label permutation (Multivariate Two-Sample Tests Based on Nearest Neighbors, Schilling, 1986, "
    "https://doi.org/10.1080/01621459.1986.10478337), largest of several statistics (Resampling-Based Multiple "
    "Testing, Westfall & Young, 1993)"
)


@of_three_sets
def scan_share_test(sets: Sets, *, draws: int = DRAWS, seed: int = 0) -> Result:
    """Test whether samples owe their nearest rows to the training set, whatever share of them does.

    Training and held-out rows are pooled, and every sample has its nearest pooled row. Of the nearest .5, 1, 2, 5,
    10, 20, 50 and 100% of the samples, by distance and again by distance over the mean distance to the 50 nearest
    pooled rows, we count those whose row is a training row, Z = (count - mean) / deviation, and take the largest Z.
    Its law without copying comes from permuting the labels of groups of identical rows, so that one p-value answers
    for all depths and both orders. A group that is in both sets has the label of one of its rows, drawn by the seed:
    its share would not be exchangeable with labels of single rows. Neither order looks at labels: sharp, wide or
    lopsided samples change nothing.

    Args:
        sets: the three sets.
        draws: of the permutation; the smallest p-value is 1 / (draws + 1).
        seed: of the permutation, and of the row that a group in both sets takes its label from.

    Returns:
        value: the largest Z; null: its median without copying. details: "depth" and "order" (0 or 1) where it is
        largest, "sizes" (tails,) and "z" (2, tails), "label_null" (share of training rows to be expected), "mid_p",
        "null_draws" (draws,) the largest Z of each permutation.

    Raises:
        DataError: a set is empty or not finite, or widths differ.

    References:
        Multivariate Two-Sample Tests Based on Nearest Neighbors (Schilling, 1986),
        https://doi.org/10.1080/01621459.1986.10478337
    """
    closest = sets.closest.of_one_row(seed)
    z = standardised(closest.excess(closest.labels), closest.deviations)
    highest, null = float(z.max()), largest_by_chance(closest, draws, seed)
    draws = len(null)
    order, depth = divmod(int(z.argmax()), z.shape[1])
    above, level_with = float((null > highest + _TIE).sum()), float((np.abs(null - highest) <= _TIE).sum())
    p = (1 + above + level_with) / (1 + draws)
    return Result(
        name="scan_share",
        title="Nearest rows from the training set, at the depth where they stand out most",
        value=highest,
        null=float(np.median([*null, highest])),
        p_value=p,
        direction="higher",
        n=len(closest.group),
        sentence=_sentence(closest, z, p),
        cannot_see=_CANNOT_SEE,
        citation=_CITATION,
        details={
            "depth": int(closest.tails[depth]),
            "order": order,
            "sizes": closest.tails,
            "z": z,
            "label_null": closest.null,
            "mid_p": (0.5 + above + level_with / 2) / (1 + draws),
            "null_draws": null,
        },
    )


def largest_by_chance(closest: Closest, draws: int, seed: int) -> FloatArray:
    """Return the largest Z of `draws` permutations of the labels of groups of identical rows.

    Labels are 0 or 1. Where there are no more than `draws` ways to deal them, of every way but the one at hand:
    with that one counted in, p is exact.
    """
    hit, place = np.unique(closest.group, return_inverse=True)
    counts, scale = _counts(closest, place, len(hit)), closest.deviations.ravel()
    alike = np.lexsort(counts.T)  # an order of the groups that does not depend on that of the rows
    counts, hit, found = counts[alike], hit[alike], []
    for labels in _labellings(closest.labels, hit, draws, stream(seed, "labels of pooled rows")):
        excess = (labels - closest.null) @ counts
        found.append(standardised(excess, np.broadcast_to(scale, excess.shape)).max(1))
    return np.concatenate(found)


def _labellings(
    labels: FloatArray, hit: NDArray[np.intp], draws: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Yield labels of the groups that are hit, (some, hit), a few ways to deal them at a time."""
    ones = int(labels.sum())
    if math.comb(len(labels), ones) <= draws:
        ways = arrangements([len(labels)], [ones], draws, rng)[0]
        yield ways[(ways != labels).any(1)][:, hit]
        return
    step, ordered = max(1, _BLOCK // len(hit)), np.sort(labels)
    for start in range(0, draws, step):
        some = min(step, draws - start)
        yield np.stack([rng.choice(ordered, len(hit), replace=False) for _ in range(some)])


def critical_value(null: FloatArray, alpha: float) -> float:
    """Return what the largest Z must exceed for p <= alpha; infinity where so few draws allow no such p.

    >>> round(critical_value(np.arange(99.0), 0.02), 3), critical_value(np.arange(99.0), 0.001)
    (97.0, inf)
    """
    beyond = int(np.floor(alpha * (len(null) + 1) + _TIE)) - 1
    return np.inf if beyond < 0 else float(np.sort(null)[::-1][beyond]) + _TIE


def _counts(closest: Closest, place: NDArray[np.intp], hit: int) -> FloatArray:
    """Return how often each group that is hit occurs in each tail, (hit, 2 tails)."""
    columns = [
        np.bincount(place[order[:size]], minlength=hit).astype(float)
        for order in closest.orders
        for size in closest.tails
    ]
    return np.stack(columns, axis=1)


def _sentence(closest: Closest, z: FloatArray, p: float) -> str:
    order, depth = divmod(int(z.argmax()), z.shape[1])
    size = int(closest.tails[depth])
    own = closest.labels[closest.group[closest.orders[order][:size]]].mean()
    return (
        f"Of the {size:,} samples nearest to any row by {ORDERS[order]}, {own:.1%} have a training row nearest, where "
        f"chance gives {closest.null:.1%}: a Z of {z.max():.1f}, the largest of {z.size} looked at (p = {p:.2g})."
    )
