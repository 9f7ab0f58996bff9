"""Do the refits that trained on an example have as many training examples as those that held it out?

If groups of unequal size are left out, refits train on unequal numbers of examples, and fewer training examples make
log p of any other example lower, memorized or not. Within a repeat, log p under refits that trained on an example is
therefore averaged with weights w >= 0 under which the mean of 1 / size is that of the refits that held it out, as log p
is linear in 1 / size to first order. Of all such weights these have the smallest sum of squares. Where no refits that
trained on an example are as small (or as large) as those that held it out, the closest ones are used and the rest of
the difference is told: `Balance.gap`.

Large groups also recur: repeats that leave out nearly the same examples together are no independent repeats, and their
spread is too small an error (`variance_factor`).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Rows = list[NDArray[np.intp]]

TOLERANCE = 0.02  # relative difference of training sizes that is left as it is
RECURRING = 0.05  # mean share of companions in common between repeats that is left as it is
RECURRING_ALONE = 0.15  # and that of a single example


class Balance(NamedTuple):
    """How to average log p over the refits that trained on each example.

    Attributes:
        weights: (n_splits, b), 1 in sum over the in-splits of each repeat; 0 in repeats without a score.
        inside: (b,) the mean of 1 / size under these weights, over the repeats with a score.
        outside: (b,) the mean of 1 / size over the splits that held the example out.
    """

    weights: FloatArray
    inside: FloatArray
    outside: FloatArray

    @property
    def gap(self) -> FloatArray:
        """What remains of the difference: (outside - inside) / (outside + inside), (b,); 0 if it is small.

        Positive where refits that held an example out trained on fewer examples.
        """
        gap = (self.outside - self.inside) / (self.outside + self.inside)
        return np.where(np.abs(gap) <= TOLERANCE, 0.0, gap)


def uneven_sizes(held: BoolArray, rows: Rows) -> FloatArray | None:
    """Return the training size of each split (n_splits,); None if the sizes within each repeat are equal enough.

    That is, if they differ by at most 2%, or by one example for each time that an example is held out, which is
    rounding.
    """
    sizes = (~held).sum(axis=1).astype(np.float64)
    for r in rows:
        rounding = held[r].sum(axis=0).max()
        if np.ptp(sizes[r]) > max(TOLERANCE * sizes[r].max(), rounding):
            return np.asarray(sizes)
    return None


def balance(out: BoolArray, in_: BoolArray, rows: Rows, sizes: FloatArray) -> Balance:
    """Return the weights that balance training sizes: out and in_ (n_splits, b), and sizes (n_splits,)."""
    weights, inside, outside, repeats = np.zeros(out.shape), *np.zeros((3, out.shape[1]))
    for r in rows:
        there = out[r].any(axis=0) & in_[r].any(axis=0)
        inverse = 1 / sizes[r]
        target = (inverse @ out[r]) / np.maximum(out[r].sum(axis=0), 1)
        weights[r] = np.where(there, _weights(in_[r], inverse, target), 0.0)
        inside += inverse @ weights[r]
        outside += np.where(there, target, 0.0)
        repeats += there
    count = np.where(repeats > 0, repeats, np.nan)
    return Balance(weights, inside / count, outside / count)


def _weights(mask: BoolArray, inverse: FloatArray, target: FloatArray) -> FloatArray:
    """Return weights (k, b) under which the mean of `inverse` (k,) is as close to target (b,) as it can be.

    They are solved for without the bound w >= 0; splits below it are dropped, until none is.
    """
    column, kept = inverse[:, None], mask.copy()
    mean = _mean(column, kept)
    wanted = np.clip(mean, target * (1 - TOLERANCE), target * (1 + TOLERANCE))  # no further than needed
    low, high = np.where(mask, column, np.inf).min(axis=0), np.where(mask, column, 0.0).max(axis=0)
    wanted = np.clip(wanted, low, np.maximum(low, high))
    while True:
        mean = _mean(column, kept)
        apart = np.where(kept, column - mean, 0.0)
        squares = (apart**2).sum(axis=0)
        slope = np.divide(wanted - mean, squares, out=np.zeros_like(mean), where=squares > 1e-20 * mean**2)
        weights = np.where(kept, 1 / np.maximum(kept.sum(axis=0), 1) + slope * apart, 0.0)
        below = weights < -1e-9
        if not below.any():
            return np.maximum(weights, 0.0)
        kept &= ~below


def _mean(column: FloatArray, kept: BoolArray) -> FloatArray:
    return np.asarray((column * kept).sum(axis=0) / np.maximum(kept.sum(axis=0), 1))


# --- what remains


class Uneven(NamedTuple):
    """What remains of unequal or recurring folds after the training sizes are balanced.

    Attributes:
        size_bias: (n,) what an example would score without being memorized, nats, because refits that held it out
            trained on fewer examples (negative: on more); 0 where sizes are balanced. Elsewhere there is no p.
        variance_factor: (n,) by which the variance over repeats is too small, because the same examples are left out
            together in several repeats; 1 if repeats are independent, NaN, and then there is no p, if all are the same.
    """

    size_bias: FloatArray
    variance_factor: FloatArray


def uneven(
    score: FloatArray, held: BoolArray, rows: Rows, sizes: FloatArray | None, factor: FloatArray | None
) -> Uneven | None:
    """Return what remains in "mean_log" scores (n,), from `uneven_sizes` and `variance_factor`; None if nothing."""
    if sizes is None and factor is None:
        return None
    bias = np.zeros_like(score)
    if sizes is not None:
        usable = np.zeros_like(held)
        for r in rows:
            usable[r] = held[r].any(axis=0) & ~held[r].all(axis=0)
        bias = bias_of_sizes(score, balance(held & usable, ~held & usable, rows, sizes))
    return Uneven(bias, np.ones_like(score) if factor is None else factor)


def bias_of_sizes(score: FloatArray, found: Balance) -> FloatArray:
    """Return the score (n,), nats, that each example would have without being memorized, because sizes differ.

    A model with p parameters fitted to m examples gives its training examples p / (2 m) nats more and others p / (2 m)
    less than the best such model, to first order (Akaike, 1974, A New Look at the Statistical Model Identification). A
    mean score is thus p (inside + outside) / 2, which gives p, and an example that is not memorized scores
    p (outside - inside) / 2. 0 where sizes are balanced. In small samples the bias is larger: .17 nats is told for .20
    of a normal law of 8 dimensions fitted to 80 and to 173 examples.
    """
    sums = found.outside + found.inside
    return np.asarray(np.nan_to_num(found.gap) * sums * np.nanmean(score) / np.nanmean(sums))


def variance_factor(held: BoolArray, rows: Rows) -> FloatArray | None:
    """Return (1 + (L - 1) c) / (1 - c), (n,), c being the correlation of an example's scores in two repeats.

    If the noise of a score is the sum of what each companion (an example left out with it) contributes, c is the share
    of companions that two repeats have in common beyond chance. It is an upper bound: noise of training does not recur.
    NaN where all are in common; None if c is what random folds give: on average, and for every example. If it is more
    for some examples only, as for those of one large group, the others keep a factor of 1.
    """
    n, pairs = held.shape[1], [(r, q) for i, r in enumerate(rows) for q in rows[:i]]
    if not pairs:
        return None
    c = np.mean([_in_common(held[r], held[q]) for r, q in pairs], axis=0)
    folds = max(map(len, rows))
    if c.mean() <= max(RECURRING, 4 * math.sqrt(2 / len(pairs)) * (folds - 1) / n):
        # By chance, the c of one example has a standard deviation of sqrt(K / ((K - 1) n pairs)).
        alone = c > max(RECURRING_ALONE, 8 * math.sqrt(folds / ((folds - 1) * n * len(pairs))))
        if not alone.any():
            return None
        c = np.where(alone, c, 0.0)
    c = np.clip(c, 0.0, 1.0)
    return np.asarray(np.divide(1 + (len(rows) - 1) * c, 1 - c, out=np.full_like(c, np.nan), where=c < 1 - 1e-9))


def _in_common(one: BoolArray, other: BoolArray) -> FloatArray:
    """Return the share (n,) of companions (of the first split out) in common: 0 at chance, 1 if all are."""
    both = one.astype(np.float32) @ other.T.astype(np.float32)
    a, b = one.argmax(axis=0), other.argmax(axis=0)
    n_a, n_b = one.sum(axis=1)[a] - 1, other.sum(axis=1)[b] - 1
    size = np.sqrt(n_a * n_b)
    share = np.divide(both[a, b] - 1, size, out=np.zeros(len(a)), where=size > 0)
    chance = size / max(1, one.shape[1] - 1)
    there = one.any(axis=0) & other.any(axis=0) & (size > 0)
    return np.where(there, (share - chance) / np.maximum(1 - chance, 1e-9), 0.0)
