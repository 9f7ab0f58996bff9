"""What would the search for copies have missed? Copies planted into the user's own sets tell."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genmem.neighbors.copied_share import Hits, by_neighbourhoods
from genmem.neighbors.pooled import NEAR, Closest, standardised
from genmem.neighbors.scan import critical_value, largest_by_chance
from genmem.neighbors.sets import Sets, over_mean
from genmem.search.exact import nearest
from genmem.seeding import stream

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]

POWER = 0.8
TRIALS = 100
MODELS = 1000  # training rows to plant copies of, at most
_STEPS = 40  # shares to choose from, evenly in their logarithm
_NOT_ASKED = "What would have been missed was not asked."
_FEW = 2000  # samples
_DRAWS = 999  # of labels, for each share tried, where samples are few


@dataclass(frozen=True, eq=False)
class Power:
    """How often planted copies are found.

    Attributes:
        smallest: the least share of copies among the samples that is found with probability `at`; NaN if none is.
            Also called `value`.
        shares: (tried,) shares of planted copies, ascending.
        found: (tried,) share of trials in which they were found; its error is at most .05 at 100 trials.
        at: the power asked for.
        alpha: the false-alarm rate at which.
        noise: length of the noise added to each copy, in median distances of a held-out row to the training set.
        trials: of each share.
        sentence: the finding in words.
    """

    smallest: float
    shares: FloatArray
    found: FloatArray
    at: float
    alpha: float
    noise: float
    trials: int
    sentence: str

    @property
    def value(self) -> float:
        """The same as `smallest`."""
        return self.smallest


@dataclass(frozen=True, eq=False)
class _Copies:
    """Copies to plant.

    Attributes:
        of: the group of pooled rows that each is a copy of.
        group: the group it lies nearest to.
        distance: to that.
        density_free: the same for how dense pooled rows are there.
        local: (any number,) distances of copies of training rows to these, for how dense training rows are there.
        local_held_out: (n_test,) the same of held-out rows.
    """

    of: IndexArray
    group: IndexArray
    distance: FloatArray
    density_free: FloatArray
    local: FloatArray
    local_held_out: FloatArray

    def stand_out(self, count: int, n: int, alpha: float, rng: np.random.Generator) -> bool:
        """Return whether `count` copies among n samples show by themselves, whatever lies nearest to the others."""
        local = np.full(n, np.inf)
        local[:count] = rng.choice(self.local, count)
        hits = Hits(local, np.isfinite(local), np.arange(n), 1, 1)  # samples at infinity hit nothing
        return by_neighbourhoods(hits, local, self.local_held_out, alpha).low > 0


def detectable_share(
    sets: Sets,
    *,
    critical: float,
    alpha: float,
    alone: float | None = None,
    identical: float = np.inf,
    noise: float = 0.0,
    at: float = POWER,
    trials: int = TRIALS,
    seed: int = 0,
) -> Power:
    """Return the smallest share of copies that would be found with probability `at`.

    In each trial the labels of pooled rows are permuted, which takes away whatever copying there is; then some
    samples, drawn at random, are replaced by copies of different rows now labelled training. The copies are found if
    the largest Z of `scan_share_test` exceeds `critical`, if `by_neighbourhoods` has a bound above 0, or if they are
    `identical` or more. Where the samples hold copies already, others stand out less, and the share told is too large.

    Args:
        sets: the three sets.
        critical: the largest Z above which copies are said to be found.
        alpha: the false-alarm rate it stands for.
        alone: the error of the bound by neighbourhoods; alpha if None.
        identical: how many exact copies of different rows show by being identical, see `fewest_rows`.
        noise: length of the noise added to each copy, in median distances of a held-out row to the training set.
        at: the power asked for.
        trials: of each share; 0 to ask nothing.
        seed: of permutations, copies and noise.
    """
    if trials < 1:
        return Power(
            np.nan, np.empty(0), np.empty(0), at, alpha, noise, 0, "What would have been missed was not asked."
        )
    closest = sets.closest.of_one_row(seed)
    copies = _copies(sets, noise, seed)
    size, error = len(closest.group), alpha if alone is None else alone
    counts = np.unique(np.round(np.geomspace(1, size, _STEPS)).astype(np.intp))
    tried: dict[int, float] = {}

    def enough(place: int) -> bool:
        count = int(counts[place])
        if count not in tried:
            tried[count] = (
                1.0 if count >= identical else _found(closest, copies, count, (critical, alpha, error), trials, seed)
            )
        return tried[count] >= at

    low, high = -1, len(counts)  # power grows with the share, so halve the range
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    smallest = float(counts[high] / size) if high < len(counts) else np.nan
    shares = np.array(sorted(tried)) / size
    found = np.array([tried[count] for count in sorted(tried)])
    return Power(smallest, shares, found, at, alpha, noise, trials, _sentence(smallest, at, noise))


def _copies(sets: Sets, noise: float, seed: int) -> _Copies:
    groups, held_out = sets.pooled_groups, sets.local_ratio("test")[0]
    if noise == 0:
        none = np.zeros(len(groups))
        return _Copies(groups, groups, none, none, none[:1], held_out)
    rng = stream(seed, "copies to plant")
    rows = np.sort(rng.choice(len(groups), min(MODELS, len(groups)), replace=False))
    originals = np.concatenate([part.astype(np.float64) for part in _pooled(sets, rows)])
    step = rng.normal(size=originals.shape)
    length = noise * float(np.median(sets.distance("test", "train")))
    step *= length / np.linalg.norm(step, axis=1, keepdims=True)
    near, at, to_train = _nearest_pooled(originals + step, sets)
    local = over_mean(to_train)[rows < len(sets.train)]
    return _Copies(groups[rows], groups[at], near[:, 0], over_mean(near), local, held_out)


def _pooled(sets: Sets, rows: IndexArray) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    size = len(sets.train)
    return sets.train[rows[rows < size]], sets.test[rows[rows >= size] - size]


def _nearest_pooled(rows: FloatArray, sets: Sets) -> tuple[FloatArray, IndexArray, FloatArray]:
    """Return distances to the 50 nearest pooled rows, the nearest of them, and distances to 50 training rows."""
    found = [nearest(rows, base, min(NEAR, len(base))) for base in (sets.train, sets.test)]
    distances = np.hstack([distance for distance, _ in found])
    indices = np.hstack([found[0][1], found[1][1] + len(sets.train)])
    order = np.argsort(distances, axis=1, kind="stable")[:, :NEAR]
    first: IndexArray = np.take_along_axis(indices, order[:, :1], 1)[:, 0].astype(np.intp)
    return np.take_along_axis(distances, order, 1), first, found[0][0]


def _found(
    closest: Closest, copies: _Copies, count: int, rule: tuple[float, float, float], trials: int, seed: int
) -> float:
    """Return how often so many copies are found; `rule` holds the critical Z, its alpha, and the error alone.

    A fifth of the trials will do where that share is far from the power asked for. Few samples have a law of the
    largest Z that depends on how many of them share a row, so there it is found anew.
    """
    (critical, alpha, error), rng, found = rule, stream(seed, "planted copies", count), 0
    if len(closest.group) < _FEW:
        critical = critical_value(largest_by_chance(_planted(closest, copies, count, rng), _DRAWS, seed), alpha)
    for trial in range(1, trials + 1):
        planted = _planted(closest, copies, count, rng)
        largest = float(standardised(planted.excess(planted.labels), planted.deviations).max())
        found += largest > critical or copies.stand_out(count, len(planted.group), error, rng)
        if trial == max(1, trials // 5) and not 0.6 < found / trial < 1:
            return found / trial
    return found / trials


def _planted(closest: Closest, copies: _Copies, count: int, rng: np.random.Generator) -> Closest:
    """Return samples that owe nothing to the training set, but for `count` copies planted among them."""
    labels = rng.permutation(closest.labels)
    ours = np.flatnonzero(labels[copies.of] == 1)
    ours = ours if len(ours) else np.arange(len(copies.of))
    chosen = np.resize(rng.permutation(ours), count)
    at = rng.choice(len(closest.group), count, replace=False)
    group, distance, free = closest.group.copy(), closest.distance.copy(), closest.density_free.copy()
    group[at], distance[at], free[at] = copies.group[chosen], copies.distance[chosen], copies.density_free[chosen]
    any_order = rng.permutation(len(group))  # equally near samples come in any
    orders = [any_order[np.argsort(near[any_order], kind="stable")] for near in (distance, free)]
    return Closest(labels, group, np.stack(orders), distance, free, closest.place)


def _sentence(smallest: float, at: float, noise: float) -> str:
    kind = "exact copies of different training rows"
    if noise:
        kind = f"copies of different training rows, off by {noise:g} times a held-out row's typical distance to them"
    if np.isnan(smallest):
        return f"Samples that are all {kind}, would go unseen: there are too few rows for a power of {at:.0%}."
    return f"Were {smallest:.2%} of the samples {kind}, they would be found with a power of {at:.0%}."
