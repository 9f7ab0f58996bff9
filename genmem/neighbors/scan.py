"""Are the samples closest to any example closer to training than to held-out examples, at any depth?"""

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
ORDERS = ("distance", "distance relative to the local density of the data")

_BLOCK = 2**23  # permuted labels in memory at a time
_TIE = 1e-9
_CANNOT_SEE = (
    "Copies of so few examples that chance could explain their labels: one example repeated five hundred times "
    "is one label. Copies that are far from their originals in this space (shifted, mirrored, recoloured). "
    "Anything else that makes training and held-out examples differ is mistaken for copying: another source, "
    "another time, different cleaning."
)
_CITATION = (
    "Label permutation (Multivariate Two-Sample Tests Based on Nearest Neighbors, Schilling, 1986, "
    "https://doi.org/10.1080/01621459.1986.10478337), largest of several statistics (Resampling-Based Multiple "
    "Testing, Westfall & Young, 1993)"
)


@of_three_sets
def scan_share_test(sets: Sets, *, draws: int = DRAWS, seed: int = 0) -> Result:
    """Test whether the examples closest to samples are training examples more often than by chance, at any depth.

    Training and held-out examples are pooled, and each sample has its closest pooled example. Among the closest .5, 1,
    2, 5, 10, 20, 50 and 100% of the samples, ordered by distance and again by distance relative to the mean distance to
    the 50 nearest pooled examples, the test counts those whose example is a training example. Z = (count - mean) /
    standard deviation, and the statistic is the largest Z. Its distribution without copying comes from permuting the
    labels of groups of identical examples, so that one p-value covers all depths and both orders. A group that is in
    both sets takes the label of one of its examples, drawn with the seed: its share is not exchangeable with labels of
    single examples. Neither order depends on labels: whether samples are sharp, wide or biased makes no difference.

    Args:
        sets: the three sets.
        draws: permutations; the smallest p-value is 1 / (draws + 1).
        seed: of the permutations, and of the labels of groups that are in both sets.

    Returns:
        value: the largest Z; null: its median without copying. details: "depth" and "order" (0 or 1) of the largest Z,
        "sizes" (tails,) and "z" (2, tails), "label_null" (expected share of training examples), "mid_p", "null_draws"
        (draws,) the largest Z of each permutation.

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
        title="Samples closest to a training example, at the depth of the largest excess",
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
    """Return the largest Z of `draws` permutations of the labels of groups of identical examples.

    Labels are 0 or 1. If there are at most `draws` distinct permutations, the result holds one for each of them except
    the observed one; p, which counts that one, is then exact.
    """
    hit, place = np.unique(closest.group, return_inverse=True)
    counts, scale = _counts(closest, place, len(hit)), closest.deviations.ravel()
    alike = np.lexsort(counts.T)  # an order of the groups that does not depend on that of the examples
    counts, hit, found = counts[alike], hit[alike], []
    for labels in _labellings(closest.labels, hit, draws, stream(seed, "labels of pooled rows")):
        excess = (labels - closest.null) @ counts
        found.append(standardised(excess, np.broadcast_to(scale, excess.shape)).max(1))
    return np.concatenate(found)


def _labellings(
    labels: FloatArray, hit: NDArray[np.intp], draws: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Yield permuted labels of the groups that are hit, (some, hit), a few permutations at a time."""
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
    """Return what the largest Z must exceed for p <= alpha; infinity if the number of draws allows no such p.

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
        f"Of the {size:,} samples closest to any example by {ORDERS[order]}, {own:.1%} are closest to a training "
        f"example; {closest.null:.1%} are expected by chance (Z = {z.max():.1f}, the largest of {z.size}; p = "
        f"{p:.2g})."
    )
