"""Which examples are compared: memorized ones by the scores of other repeats, their controls, and the pairs of these.

For a network of repeat r, everything that selects an example comes from the other repeats: its score M, and
log_prob_in and log_prob_out. So selection does not know the network that is judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from genmem.errors import DataError
from genmem.neurons.contrast import FloatArray, Rows
from genmem.seeding import stream

SHARE = 0.05  # of the examples: the memorized ones
LOW = 3  # one in so many examples, those with M closest to 0, may be a control
CALIPER = 1.0  # nats
DAMAGE = 64  # held-out examples for the score of a unit, and as many for matching
LEAST_DAMAGE = 8
LEAST_MEMORIZED = 16
COMPARISONS = {
    "out": "the same examples in networks that did not train on them",
    "in": "examples with M near 0 and the same log_prob_in",
    "fragile": "examples with M near 0 and the same log_prob_out",
    "held out": "would-be-memorized examples that were held out, against held-out examples with M near 0",
    "not memorized": "examples with M near 0, trained on against held out",
}


@dataclass(frozen=True, eq=False)
class Chosen:
    """The examples of one network: positions of examples in the data.

    Attributes:
        pairs: for each of `COMPARISONS` (pairs, 2): case and control; a control may serve several cases, except in
            "out" and "not memorized".
        overlap: for "in", "fragile" and "held out" the share of cases that have a control within 1 nat.
        damage: two sets of held-out examples that are in no pair.
        memorized: the memorized examples, trained on or not, by the other repeats.
        trained: which of these the network trained on.
    """

    pairs: Mapping[str, Rows]
    overlap: Mapping[str, float]
    damage: tuple[Rows, Rows]
    memorized: Rows
    trained: NDArray[np.bool_]

    @property
    def used(self) -> Rows:
        """The positions of all examples, in order, each once."""
        parts = [pairs.ravel() for pairs in self.pairs.values()]
        return np.unique(np.concatenate([*parts, *self.damage, self.memorized]))


@dataclass(frozen=True, eq=False)
class Means:
    """log_prob_in and log_prob_out of every example over the repeats other than one: (n,) each, nats."""

    inside: FloatArray
    outside: FloatArray

    @property
    def score(self) -> FloatArray:
        """The memorization score of every example, nats."""
        return self.inside - self.outside


def means_without(log_probs: ArrayLike, held_out: ArrayLike, repeat: ArrayLike, left_out: int) -> Means:
    """Return the means over the networks of all repeats but one; networks whose log p is not finite are left out."""
    values, out = np.asarray(log_probs, np.float64), np.asarray(held_out, bool)
    used = (np.asarray(repeat) != left_out) & np.isfinite(values).all(1)
    return Means(_mean(values[used], ~out[used]), _mean(values[used], out[used]))


def _mean(values: FloatArray, where: NDArray[np.bool_]) -> FloatArray:
    count = where.sum(0)
    if not len(values) or not count.all():
        raise DataError(
            expected="every example trained on and held out in the other repeats",
            got=f"{int((count == 0).sum()) if len(values) else 'all'} examples without",
            do="Use splits in which every repeat trains on each example and holds it out, such as Splits.subsets(.5).",
        )
    return np.asarray(np.where(where, values, 0).sum(0) / count)


def choose(means: Means, held_out: ArrayLike, *, share: float = SHARE, seed: int = 0, network: int = 0) -> Chosen:
    """Return the examples of one network, by the scores of the other repeats.

    Args:
        means: over the other repeats.
        held_out: (n,) which examples the network did not train on.
        share: of the examples, those with the highest scores, that count as memorized.
        seed: of the choice of examples among equally good ones.
        network: the number of the network, which has its own stream.

    Raises:
        DataError: there are too few examples.
    """
    out, score, rng = np.asarray(held_out, bool), means.score, stream(seed, "neurons examples", network)
    n = len(score)
    refuse_few_examples(n, share)
    most = np.argsort(-score, kind="stable")[: max(1, round(share * n))]
    rest = np.setdiff1d(np.arange(n), most)
    low = rest[np.argsort(np.abs(score[rest]), kind="stable")][: n // LOW]
    pairs: dict[str, Rows] = {"out": _one_to_one(most[~out[most]], most[out[most]], means.outside)}
    overlap: dict[str, float] = {}
    for name, held, by in (
        ("in", False, means.inside),
        ("fragile", False, means.outside),
        ("held out", True, means.inside),
    ):
        cases = most[out[most] == held]
        pairs[name] = _closest(cases, low[out[low] == held], by)
        overlap[name] = len(pairs[name]) / max(1, len(cases))
    some = rng.permutation(low)[: len(most)]
    pairs["not memorized"] = _one_to_one(some[~out[some]], some[out[some]], means.outside)
    used = np.concatenate([most, *(part.ravel() for part in pairs.values())])
    damage = _of_their_own(np.setdiff1d(np.flatnonzero(out), used), rng)
    return Chosen(pairs, overlap, damage, most, ~out[most])


def refuse_few_examples(n: int, share: float) -> None:
    """Check that the memorized examples suffice: half of them are held out in a network, and half of those judge.

    Raises:
        DataError: they do not.
    """
    if round(share * n) < LEAST_MEMORIZED:
        raise DataError(
            expected=f"{LEAST_MEMORIZED} or more memorized examples, to choose units on some and judge on others",
            got=f"{share:.1%} of {n:,}, that is {round(share * n)}",
            do=f"Use a larger share, such as {min(0.25, LEAST_MEMORIZED / n):.2g}, or more data."
            if n >= 4 * LEAST_MEMORIZED
            else f"Use more data: {4 * LEAST_MEMORIZED} examples or more.",
        )


def _of_their_own(free: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Return two disjoint random sets of the same size."""
    size = min(DAMAGE, len(free) // 2)
    if size < LEAST_DAMAGE:
        raise DataError(
            expected=f"{2 * LEAST_DAMAGE} held-out examples besides those compared, to measure the damage of units",
            got=f"{len(free)}",
            do="Use more data: a few hundred examples.",
        )
    order = rng.permutation(free)
    return np.sort(order[:size]), np.sort(order[size : 2 * size])


def _one_to_one(cases: Rows, controls: Rows, by: FloatArray) -> Rows:
    """Return as many disjoint pairs as possible, those with the smallest sum of differences."""
    if not len(cases) or not len(controls):
        return np.empty((0, 2), np.intp)
    rows, columns = linear_sum_assignment(np.abs(by[cases][:, None] - by[controls]))
    return np.stack([cases[rows], controls[columns]], axis=1)


def _closest(cases: Rows, controls: Rows, by: FloatArray) -> Rows:
    """Return each case with the closest control, if that is within the caliper."""
    if not len(cases) or not len(controls):
        return np.empty((0, 2), np.intp)
    apart = np.abs(by[cases][:, None] - by[controls])
    near = apart.min(1) <= CALIPER
    return np.asarray(np.stack([cases, controls[apart.argmin(1)]], axis=1)[near])
