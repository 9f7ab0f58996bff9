"""How much copying would go undetected? The power is measured with copies planted into the user's own sets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genmem.neighbors.copied_share import Hits, by_neighbourhoods
from genmem.neighbors.pooled import NEAR, Closest, standardised
from genmem.neighbors.scan import critical_value, largest_by_chance
from genmem.neighbors.sets import Sets, over_mean
from genmem.protocols import Brief, figure
from genmem.search.exact import nearest
from genmem.seeding import stream

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]

POWER = 0.8
TRIALS = 100
MODELS = 1000  # training examples to copy, at most
_STEPS = 40  # candidate shares, evenly spaced in their logarithm
_NOT_MEASURED = "The power to detect copies was not measured."
_FEW = 2000  # samples
_DRAWS = 999  # permutations for each share tried, if samples are few


@dataclass(frozen=True, eq=False)
class Power(Brief):
    """How often planted copies are detected.

    Attributes:
        smallest: the smallest share of copies among the samples that is detected with power `at`; NaN if none is. Also
            called `value`.
        shares: (tried,) shares of planted copies, ascending.
        found: (tried,) share of trials in which they were detected; its standard error is at most .05 at 100 trials.
        at: the required power.
        alpha: the false-alarm rate.
        noise: length of the noise added to each copy, in median distances of a held-out example to the training set.
        trials: for each share.
        sentence: the result in words.
    """

    smallest: float
    shares: FloatArray
    found: FloatArray
    at: float
    alpha: float
    noise: float
    trials: int
    sentence: str

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"smallest share {figure(self.smallest)} with power {self.at:g}, {self.trials:,} trials"

    @property
    def value(self) -> float:
        """The same as `smallest`."""
        return self.smallest


@dataclass(frozen=True, eq=False)
class _Copies:
    """Copies to plant.

    Attributes:
        of: the group of pooled examples that each is a copy of.
        group: the group closest to it.
        distance: to that group.
        density_free: the same, relative to the local density of pooled examples.
        local: (any number,) distances of copies of training examples to the closest training example, relative to the
            local density.
        local_held_out: (n_test,) the same for held-out examples, or (groups,) for groups of these.
    """

    of: IndexArray
    group: IndexArray
    distance: FloatArray
    density_free: FloatArray
    local: FloatArray
    local_held_out: FloatArray

    def stand_out(self, count: int, n: int, alpha: float, rng: np.random.Generator) -> bool:
        """Return whether `count` copies among n samples are detected by neighbourhoods, without the other samples."""
        local = np.full(n, np.inf)
        local[:count] = rng.choice(self.local, count)
        hits = Hits(local, np.isfinite(local), np.arange(n), 1, 1)  # samples at infinity hit no example
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
    """Return the smallest share of copies that is detected with power `at`.

    In each trial the labels of pooled examples are permuted, which removes any copying that is there. Some samples,
    chosen at random, are then replaced by copies of distinct examples that are now labelled training. The copies are
    detected if the largest Z of `scan_share_test` exceeds `critical`, if `by_neighbourhoods` has a bound above 0, or if
    there are `identical` or more. If the samples contain copies already, planted ones stand out less, and the share is
    too large.

    Args:
        sets: the three sets.
        critical: the verdict is "copies found" if the largest Z is above this.
        alpha: the false-alarm rate that corresponds to `critical`.
        alone: the error of the bound by neighbourhoods; alpha if None.
        identical: how many exact copies of distinct examples are detected as identical, see `fewest_copies`.
        noise: length of the noise added to each copy, in median distances of a held-out example to the training set.
        at: the required power.
        trials: for each share; 0 skips the measurement.
        seed: of permutations, copies and noise.
    """
    if trials < 1:
        return Power(np.nan, np.empty(0), np.empty(0), at, alpha, noise, 0, _NOT_MEASURED)
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

    low, high = -1, len(counts)  # power grows with the share: bisection
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    smallest = float(counts[high] / size) if high < len(counts) else np.nan
    shares = np.array(sorted(tried)) / size
    found = np.array([tried[count] for count in sorted(tried)])
    return Power(smallest, shares, found, at, alpha, noise, trials, _sentence(smallest, at, noise))


def _copies(sets: Sets, noise: float, seed: int) -> _Copies:
    groups, held_out = sets.pooled_groups, sets.held_out_ratios
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
    """Return distances to the 50 nearest pooled examples, the closest one, and distances to 50 training examples."""
    found = [nearest(rows, base, min(NEAR, len(base))) for base in (sets.train, sets.test)]
    distances = np.hstack([distance for distance, _ in found])
    indices = np.hstack([found[0][1], found[1][1] + len(sets.train)])
    order = np.argsort(distances, axis=1, kind="stable")[:, :NEAR]
    first: IndexArray = np.take_along_axis(indices, order[:, :1], 1)[:, 0].astype(np.intp)
    return np.take_along_axis(distances, order, 1), first, found[0][0]


def _found(
    closest: Closest, copies: _Copies, count: int, rule: tuple[float, float, float], trials: int, seed: int
) -> float:
    """Return how often this many copies are detected; `rule` holds the critical Z, its alpha, and the error `alone`.

    A fifth of the trials suffices if that share is far from the required power. With few samples the distribution of
    the largest Z depends on how many of them share an example, so the critical value is computed again.
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
    """Return samples that are independent of the training set, except for `count` copies planted among them."""
    labels = rng.permutation(closest.labels)
    ours = np.flatnonzero(labels[copies.of] == 1)
    ours = ours if len(ours) else np.arange(len(copies.of))
    chosen = np.resize(rng.permutation(ours), count)
    at = rng.choice(len(closest.group), count, replace=False)
    group, distance, free = closest.group.copy(), closest.distance.copy(), closest.density_free.copy()
    group[at], distance[at], free[at] = copies.group[chosen], copies.distance[chosen], copies.density_free[chosen]
    any_order = rng.permutation(len(group))  # ties in random order
    orders = [any_order[np.argsort(near[any_order], kind="stable")] for near in (distance, free)]
    return Closest(labels, group, np.stack(orders), distance, free, closest.place)


def _sentence(smallest: float, at: float, noise: float) -> str:
    kind = "Exact copies of distinct training examples"
    if noise:
        kind = (
            f"Copies of distinct training examples, moved by {noise:g} times the median distance of a held-out "
            "example to the training set,"
        )
    if np.isnan(smallest):
        return (
            f"{kind} are not detected with {at:.0%} power even if all samples are copies: there are too few examples."
        )
    return f"{kind} are detected with {at:.0%} power once they make up {100 * smallest:.3g}% of the samples."
