"""Which clusters of a hierarchy stand out: by their scores, and by their share of held-out examples."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from genmem.regions.tree import Tree
from genmem.seeding import stream

FloatArray = NDArray[np.float64]
Numbers = FloatArray | np.float64
Statistics = Callable[[FloatArray], FloatArray]
BOUND = 2.5  # standard errors from the logarithm of a mean score to the lower bound by which clusters are ranked
BLOCK = 2**23  # numbers of one block of permutations
LARGEST = 0.5  # share of all points above which a cluster is no region
LEAST_MEAN = 0.1  # a mean score counts as this share of the mean of all at least


@dataclass(frozen=True, eq=False)
class Counted:
    """What is known of each cluster of a tree of training and held-out examples.

    Attributes:
        train: (nodes,) number of training examples.
        held_out: (nodes,) number of held-out examples.
        mean: (nodes,) mean score of the training examples, nats; that of all where there are none.
        variance: (nodes,) variance of that mean over examples.
        overall: the mean score of all training examples, nats.
        n_train: number of training examples.
        n_held_out: number of held-out examples.
    """

    train: FloatArray
    held_out: FloatArray
    mean: FloatArray
    variance: FloatArray
    overall: float
    n_train: int
    n_held_out: int

    @property
    def score_ratio(self) -> FloatArray:
        """The mean score over that of all; 1 where no mean of all is above 0."""
        if not self.overall > 0:
            return np.ones_like(self.mean)
        return np.asarray(np.maximum(self.mean / self.overall, LEAST_MEAN))

    @property
    def rank(self) -> FloatArray:
        """The number by which clusters are ranked, highest first.

        With held-out examples the log likelihood ratio of a larger share of them, plus the logarithm of
        `score_ratio`: the likelihood of a thin region, weighted by what memorization says it costs. Without, a lower
        bound of that logarithm.
        """
        ratio = np.log(self.score_ratio)
        if self.n_held_out:
            return np.asarray(share_evidence(self.held_out, self) + ratio)
        if not self.overall > 0:
            return ratio
        error = np.sqrt(self.variance) / np.maximum(self.mean, LEAST_MEAN * self.overall)
        return np.asarray(ratio - BOUND * error)


def count(tree: Tree, scores: FloatArray, n_held_out: int) -> Counted:
    """Return what is known of each cluster; the points are the training examples, then the held-out ones.

    Args:
        tree: of n + n_held_out points.
        scores: (n,) nats.
        n_held_out: number of held-out examples.
    """
    n, outside = len(scores), np.zeros(n_held_out)
    is_train, centred = np.r_[np.ones(n), outside], scores - scores.mean()
    train, total = tree.sums(is_train), tree.sums(np.r_[centred, outside])
    there = np.maximum(train, 1)
    mean = total / there
    within = tree.sums(np.r_[centred**2, outside]) - there * mean**2
    # Of a few examples, the variance says little: it is held against that of all, which counts as two examples.
    variance = (np.maximum(within, 0) + 2 * scores.var()) / (there + 1) / there
    return Counted(
        train,
        tree.sums(1 - is_train),
        np.where(train > 0, scores.mean() + mean, scores.mean()),
        np.where(train > 0, variance, scores.var()),
        float(scores.mean()),
        n,
        n_held_out,
    )


def allowed(found: Counted, least: int) -> NDArray[np.bool_]:
    """Return which clusters may be named: not smaller than `least`, not larger than half of all."""
    size = found.train + found.held_out
    enough = size >= least if found.n_held_out else found.train >= least
    return np.asarray(enough & (size <= LARGEST * (found.n_train + found.n_held_out)))


def score_p_values(tree: Tree, scores: FloatArray, found: Counted, permutations: int, seed: int) -> FloatArray:
    """Return p (nodes,) of a mean score above that of all, corrected for every cluster that was looked at.

    The statistic is the standardized mean; p is its rank among the largest of all clusters when scores are dealt to
    training examples at random (Westfall and Young, Resampling-Based Multiple Testing, 1993).
    """
    n, usable = len(scores), (found.train > 0) & (found.train < len(scores))
    error = scores.std() * np.sqrt(np.where(usable, found.train, 1) * (1 - found.train / n).clip(1e-12))
    if not scores.std() > 0:
        return np.ones(len(usable))
    centred = scores - scores.mean()

    def statistics(dealt: FloatArray) -> FloatArray:
        padded = np.concatenate([dealt, np.zeros((len(dealt), found.n_held_out))], axis=1)
        return np.asarray(np.where(usable, tree.sums(padded) / error, -np.inf))

    return _against_largest(statistics, centred, permutations, seed)


def share_p_values(tree: Tree, found: Counted, permutations: int, seed: int) -> FloatArray:
    """Return p (nodes,) of a share of held-out examples above that of training ones, corrected likewise.

    The statistic is `share_evidence`; which points are held out is dealt at random. The tree does not depend on it, so
    that p is exact.
    """
    is_held_out = np.r_[np.zeros(found.n_train), np.ones(found.n_held_out)]

    def statistics(dealt: FloatArray) -> FloatArray:
        return share_evidence(tree.sums(dealt), found)

    return _against_largest(statistics, is_held_out, permutations, seed)


def share_evidence(inside: FloatArray, found: Counted) -> FloatArray:
    """Return the log likelihood ratio of a larger share of held-out examples in each cluster than outside, nats.

    That of a Bernoulli scan (Kulldorff, A Spatial Scan Statistic, 1997); 0 where the share is not larger.

    Args:
        inside: (..., nodes) number of held-out examples in each cluster.
        found: how many examples there are.
    """
    size, n, h = found.train + found.held_out, found.n_train + found.n_held_out, found.n_held_out
    rate, others = inside / size, (h - inside) / np.maximum(n - size, 1)
    ratio = _log_likelihood(inside, size, rate) + _log_likelihood(h - inside, n - size, others)
    alike = _log_likelihood(np.float64(h), np.float64(n), np.float64(h / n))
    return np.asarray(np.where(rate > others, ratio - alike, 0.0))


def _log_likelihood(count: Numbers, size: Numbers, rate: Numbers) -> FloatArray:
    return np.asarray(xlogy(count, rate) + xlogy(size - count, 1 - rate))


def _against_largest(statistics: Statistics, values: FloatArray, permutations: int, seed: int) -> FloatArray:
    rng, observed = stream(seed, "regions"), statistics(values[None])[0]
    largest = np.empty(permutations)
    block = max(1, BLOCK // len(values))
    for first in range(0, permutations, block):
        dealt = rng.permuted(np.tile(values, (min(block, permutations - first), 1)), axis=1)
        largest[first : first + block] = statistics(dealt).max(axis=1)
    largest.sort()
    above = permutations - np.searchsorted(largest, observed - 1e-9, side="left")
    return np.asarray((1 + above) / (1 + permutations))
