"""Which regions of the data have high scores, and are therefore most in need of data?"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from genmem.clusters import Term, half_width, mean_variance
from genmem.data.arrays import matrix
from genmem.errors import DataError
from genmem.protocols import Brief, figure
from genmem.seeding import seed32
from genmem.stats import repeat_means

FloatArray = NDArray[np.float64]


MIN_EXAMPLES = 5  # a group needs this many to be called most in need of data
MIN_REPEATS = 4  # from which the noise that examples do not share is subtracted


@dataclass(frozen=True)
class GroupScore(Brief):
    """The mean score of one group of examples, nats.

    Attributes:
        name: the group's label as text.
        n: number of examples in it.
        mean: their mean score.
        standard_error: of the mean; NaN for a single example.
        interval: 95% interval of the mean.
        rest: mean score of all examples outside the group; NaN if there are none.
        p_value: one-sided, of mean > rest; NaN if an error is undefined or there is one repeat.
        examples: positions of its highest scores, highest first.
    """

    name: str
    n: int
    mean: float
    standard_error: float
    interval: tuple[float, float]
    rest: float
    p_value: float
    examples: tuple[int, ...]

    def headline(self) -> str:
        """Return the size and the main figures."""
        mean = figure(self.mean, self.interval)
        return f"{self.name}, {self.n:,} examples, mean {mean} nats, the rest {figure(self.rest)}"


def group_scores(
    per_repeat: ArrayLike, groups: ArrayLike, *, belong: ArrayLike | None = None, n_exemplars: int = 6
) -> list[GroupScore]:
    """Return the mean score of each group, highest first.

    SE^2 = s_ex^2 / n + s_shared^2 / L. s_ex is the standard deviation of the examples' mean scores, because the region
    is represented by n draws from it; it contains the noise of the refits that differs from example to example.
    s_shared is the noise that all examples of the group share within a repeat: with s_rep the standard deviation of the
    group's mean over the L repeats, and v the mean variance of an example over repeats, s_shared^2 =
    max(0, s_rep^2 - v / n) n / (n - 1). With two or three repeats it is s_rep^2, for a difference of so few is 0 too
    often: sizes of .08 at .05 under shared noise of three nats. The interval is mean +- sqrt(t^2 s_ex^2 / n +
    t^2 s_shared^2 / L), each t with the degrees of freedom of its own term; the p-value solves the same equation for
    group minus rest. Welch's approximation to the sum has a size of .06 at .05 for four repeats under such noise. With
    one repeat only the variation over examples is known: errors are too small by what refits share, and p is NaN, for
    its size would be .2. All are NaN for groups of one.

    Args:
        per_repeat: (L, n) score of each example within each repeat, nats (`MemorizationScores.per_repeat`); NaN where
            a failed refit left none.
        groups: (n,) group of each example, numbers or strings.
        belong: (n,) which examples belong together, such as those of one patient: then s_ex^2 / n is the variance of a
            mean of whole patients (`clusters.mean_variance`).
        n_exemplars: the largest number of positions in `GroupScore.examples`.

    Raises:
        DataError: shapes disagree, a score is infinite, or an example has none in any repeat.

    References:
        On Confidence Interval for Two-Means Problem Based on Separate Estimates of Variances and Tabulated Values
        of t-Table (Banerjee, 1961), Sankhya A 23: the interval has at least its nominal coverage.

    >>> [(g.name, g.mean) for g in group_scores([[1.0, 2.0, 6.0, 8.0]], ["a", "a", "b", "b"])]
    [('b', 7.0), ('a', 1.5)]
    """
    scores, members = checked(per_repeat, groups)
    whole = np.arange(len(members)) if belong is None else checked(per_repeat, belong)[1]
    found = [_describe(scores, members == name, whole, str(name), n_exemplars) for name in np.unique(members)]
    return sorted(found, key=lambda group: -group.mean)


def neediest(groups: Iterable[GroupScore], min_n: int = MIN_EXAMPLES) -> GroupScore | None:
    """Return the group most in need of data: the highest mean among those of `min_n` examples or more; None if none."""
    return max((g for g in groups if g.n >= min_n), key=lambda g: g.mean, default=None)


# --- groups of a run


@dataclass(frozen=True)
class Group(GroupScore):
    """One group of the examples of a run; `kind` is "label" or "cell"."""

    kind: str


def most_in_need(groups: Sequence[Group], kind: str) -> Group | None:
    """Return the group of a kind with the highest mean score, among those with at least five examples; None if none."""
    return max(candidates(groups, kind), key=lambda g: g.mean, default=None)


def candidates(groups: Sequence[Group], kind: str) -> list[Group]:
    """Return the groups of a kind with at least five examples and other examples to compare them with."""
    return [g for g in groups if g.kind == kind and g.n >= MIN_EXAMPLES and math.isfinite(g.rest)]


def corrected(groups: Sequence[Group], group: Group) -> float:
    """Return the p-value of a group times the number of groups of its kind (Bonferroni); NaN stays NaN."""
    return float(np.minimum(1.0, group.p_value * len(candidates(groups, group.kind))))


# --- cells of a space


def latent_cells(latents: ArrayLike, *, n_cells: int | None = None, seed: int = 0) -> NDArray[np.intp]:
    """Divide the latent space into cells by k-means; return the cell (n,) of each example, 0 being the largest.

    Args:
        latents: (n, L) latent means, or any features.
        n_cells: number of cells; by default n // 100, from 2 to 20. Never more than there are distinct rows.
        seed: of the initial centres; the best of ten starts is kept.

    Raises:
        DataError: `latents` is not a finite (n, L) array, or n_cells < 1.

    >>> latent_cells([[0.0], [0.1], [9.0]], n_cells=2)
    array([0, 0, 1])
    """
    from sklearn.cluster import KMeans

    z = _latents(latents, n_cells)
    wanted = int(np.clip(len(z) // 100, 2, 20)) if n_cells is None else n_cells
    count = min(wanted, len(np.unique(z, axis=0)))
    cells = KMeans(count, n_init=10, random_state=seed32(seed, "cells")).fit(z).labels_
    rank = np.argsort(np.argsort(-np.bincount(cells, minlength=count), kind="stable"))
    return np.asarray(rank[cells], dtype=np.intp)


def hdbscan_cells(points: ArrayLike, *, min_examples: int = MIN_EXAMPLES) -> NDArray[np.intp]:
    """Find dense cells by HDBSCAN; return the cell (n,) of each example, 0 being the largest, -1 for none.

    Args:
        points: (n, d) coordinates.
        min_examples: the smallest cell.

    Raises:
        DataError: `points` is not a finite (n, d) array.
    """
    from sklearn.cluster import HDBSCAN

    z = _latents(points, None)
    cells = HDBSCAN(min_cluster_size=min(min_examples, len(z)), copy=True).fit(z).labels_
    count = int(cells.max()) + 1
    rank = np.argsort(np.argsort(-np.bincount(cells[cells >= 0], minlength=count), kind="stable"))
    return np.asarray(np.where(cells >= 0, np.append(rank, -1)[cells], -1), dtype=np.intp)


def _describe(
    scores: FloatArray, inside: NDArray[np.bool_], belong: NDArray[np.generic], name: str, n_exemplars: int
) -> GroupScore:
    mine, others = scores[:, inside], scores[:, ~inside]  # (L, n in), (L, n out)
    of_example = np.nanmean(mine, axis=0)
    mean, rest = float(of_example.mean()), float(np.nanmean(others, axis=0).mean()) if others.size else np.nan
    of_mine = mean_variance(of_example, belong[inside])
    terms = [_shared(repeat_means(mine), mine), of_mine]
    error, half = float(np.sqrt(sum(variance for variance, _ in terms))), half_width(terms)
    p = np.nan
    if others.size and np.isfinite(apart := repeat_means(mine) - repeat_means(others)).sum() > 1:
        of_others = mean_variance(np.nanmean(others, axis=0), belong[~inside])
        terms = [_shared(apart, mine, others), of_mine, of_others]
        p = _p_above(mean - rest, terms)
    positions = np.flatnonzero(inside)
    highest = positions[np.argsort(-of_example, kind="stable")][:n_exemplars]
    return GroupScore(name, mine.shape[1], mean, error, (mean - half, mean + half), rest, p, tuple(highest.tolist()))


def _shared(means: FloatArray, *parts: FloatArray) -> Term:
    """Return the variance over repeats of a mean, or of a difference of means, beyond independent noise of examples."""
    means = means[np.isfinite(means)]  # in a repeat, all refits that held out the group may have failed
    repeats, n = len(means), min(part.shape[1] for part in parts)
    if repeats < 2 or n < 2:
        return 0.0, 1
    variance = float(means.var(ddof=1))
    if repeats >= MIN_REPEATS:
        variance = max(0.0, variance - sum(map(_independent, parts))) * n / (n - 1)
    return variance / repeats, repeats - 1


def _independent(scores: FloatArray) -> float:
    """Return the variance of the mean of a repeat if no two examples share noise, from the variances over repeats."""
    there = np.isfinite(scores)
    twice, count = there.sum(axis=0) > 1, there.sum(axis=1)
    if not twice.any():
        return 0.0
    return float(np.nanvar(scores[:, twice], axis=0, ddof=1).mean() * (1 / count[count > 0]).mean())


def _p_above(difference: float, terms: Sequence[Term]) -> float:
    """Return the tail probability at which the interval of the difference just touches 0."""
    least = 1e-100
    if not half_width(terms, least) > 0:  # undefined, or nothing varies
        return np.nan
    if half_width(terms, least) <= abs(difference):
        tail = least
    else:
        tail = float(brentq(lambda a: half_width(terms, a) - abs(difference), least, 0.5, xtol=least, rtol=1e-10))
    return tail if difference >= 0 else 1 - tail


def checked(per_repeat: ArrayLike, groups: ArrayLike) -> tuple[FloatArray, NDArray[np.generic]]:
    """Return scores and groups as arrays of matching shapes; DataError as in `group_scores`."""
    scores, members = np.asarray(per_repeat, dtype=np.float64), np.asarray(groups)
    if scores.ndim != 2 or members.shape != scores.shape[1:] or not scores.size:
        raise DataError(
            expected="per_repeat of shape (n_repeats, n) and groups of shape (n,)",
            got=f"shapes {scores.shape} and {members.shape}",
            do="Pass one row of scores per repeat and one group per example.",
        )
    bad = np.isinf(scores).any(axis=0) | np.isnan(scores).all(axis=0)
    if bad.any():
        i = int(bad.argmax())
        raise DataError(
            expected="a finite score of every example in at least one repeat",
            got=f"{scores[:, i]} for example {i}",
            do="Leave that example out.",
        )
    return scores, members


def _latents(latents: ArrayLike, n_cells: int | None) -> FloatArray:
    z = matrix(latents, "latents", float64=True)
    if n_cells is not None and n_cells < 1:
        raise DataError(expected="one cell or more", got=f"n_cells={n_cells}", do="Omit it to use the default.")
    return z
