"""The search for the regions most in need of data, without labels."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from genmem.data.arrays import matrix
from genmem.errors import DataError
from genmem.protocols import Brief
from genmem.regions.amount import Decline
from genmem.regions.groups import MIN_EXAMPLES, checked
from genmem.regions.regions import DECLINE, NOWHERE, FloatArray, Known, Region, Strings, describe_regions
from genmem.regions.scan import Counted, allowed, count, score_p_values, share_p_values
from genmem.regions.tree import Tree, ward_tree

PERMUTATIONS = 999
HALVES = 6  # repeats from which regions are found on one half of them and judged on the other


@dataclass(frozen=True, eq=False)
class Points:
    """Coordinates of examples in one space; `held_out` and `samples` have no rows if there are none."""

    train: FloatArray
    held_out: FloatArray
    samples: FloatArray

    @classmethod
    def of(cls, train: ArrayLike, held_out: ArrayLike | None = None, samples: ArrayLike | None = None) -> "Points":
        """Check that all have the same coordinates.

        Raises:
            DataError: they have not, or a value is missing.
        """
        rows = matrix(train, "coordinates of training examples", float64=True)
        others = []
        for name, given in (("held-out examples", held_out), ("samples", samples)):
            other = (
                np.empty((0, rows.shape[1])) if given is None else matrix(given, f"coordinates of {name}", float64=True)
            )
            if other.shape[1] != rows.shape[1]:
                raise DataError(
                    expected=f"{name} with {rows.shape[1]} coordinates, like the training examples",
                    got=f"{other.shape[1]}",
                    do="Pass coordinates in the same space.",
                )
            others.append(other)
        return cls(rows, *others)

    @property
    def pooled(self) -> FloatArray:
        """Training examples, then held-out ones."""
        return np.concatenate([self.train, self.held_out])


@dataclass(frozen=True, eq=False)
class Regions(Brief):
    """Regions of one kind, most in need of data first.

    Attributes:
        regions: what is known of each.
        train: (n,) the name of the region of each training example, "" for none.
        held_out: (h,) that of each held-out example.
        samples: (s,) that of each sample.
        searched: how many clusters were looked at to name these.
        judged: number of repeats by which regions were judged; all, if the same found them.
    """

    regions: list[Region]
    train: Strings
    held_out: Strings
    samples: Strings
    searched: int
    judged: int

    def headline(self) -> str:
        """Return how many regions stand out among those that were looked at."""
        out = [region.name for region in self.regions if region.stands_out]
        which = f"region {', '.join(out)} of {len(self.regions)} named stand out" if out else "no region stands out"
        return f"{which}; {self.searched:,} clusters of {len(self.train):,} examples were looked at"


def find_regions(
    known: Known | ArrayLike,
    train: ArrayLike,
    held_out: ArrayLike | None = None,
    samples: ArrayLike | None = None,
    *,
    n_regions: int = 10,
    min_examples: int = MIN_EXAMPLES,
    decline: Decline = DECLINE,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Regions:
    """Find the regions most in need of data, without labels.

    Regions are disjoint clusters of Ward's hierarchy of training and held-out examples together. With held-out
    examples they are ranked by the log likelihood ratio of a larger share of held-out examples, plus the logarithm of
    the mean score over that of all; without, by a lower bound of the latter. `Region.need` is what the order is for:
    where a share s of the population meets n training examples, and the held-out loss falls with n as M does, one
    example more lowers the mean held-out loss by s M / n up to a constant.

    p-values are corrected for every cluster of the hierarchy, by permutation. With six repeats or more, clusters are
    found by the scores of one half of the repeats and judged by those of the other, because neighbouring examples
    share noise of the refits; p is the larger of the two. If examples belong together, p is that of `group_scores`
    times the number of clusters, and shares are not tested.

    Args:
        known: what is known of the training examples, or their scores within each repeat, (L, n), nats.
        train: (n, d) coordinates of the training examples.
        held_out: (h, d) those of held-out examples of the population that the model is for.
        samples: (s, d) those of samples of the model; they are counted in the regions and do not shape them.
        n_regions: the largest number of regions.
        min_examples: the smallest region: of training examples, or of training and held-out ones together.
        decline: how scores fall with the number of examples.
        permutations: number of permutations behind p-values.
        seed: of permutations.

    Raises:
        DataError: coordinates disagree, there are fewer than twice `min_examples` examples, or a score is infinite.
    """
    known = known if isinstance(known, Known) else Known(np.atleast_2d(np.asarray(known, np.float64)))
    points = _checked(known, Points.of(train, held_out, samples), min_examples)
    tree, n_held_out = ward_tree(points.pooled, seed), len(points.held_out)
    found_by, judged_by = _halves(known.per_repeat)
    counted = count(tree, np.nanmean(found_by, axis=0), n_held_out)
    usable = np.flatnonzero(allowed(counted, min_examples))
    nodes = tree.disjoint(usable[np.argsort(-counted.rank[usable], kind="stable")], n_regions)
    names = _named(tree, nodes)
    inside, outside, drawn = names[: known.n], names[known.n :], _nearest(points, names)
    regions = describe_regions(
        "found",
        replace(known, per_repeat=judged_by),
        inside,
        outside if n_held_out else None,
        drawn if len(points.samples) else None,
        decline=decline,
        searched=len(usable),
    )
    tested = Tested(known, tree, counted, nodes, permutations, seed)
    regions = sorted(map(tested.corrected, regions), key=lambda region: int(region.name))
    return Regions(regions, inside, outside, drawn, len(usable), len(judged_by))


class Tested:
    """The p-values of the regions of a search."""

    def __init__(
        self, known: Known, tree: Tree, counted: Counted, nodes: list[int], permutations: int, seed: int
    ) -> None:
        self.halved, self.belong = len(known.per_repeat) >= HALVES, known.belong is not None
        scores, h = np.nanmean(known.per_repeat, axis=0), counted.n_held_out
        self.by_score = self.by_share = np.full(len(nodes), np.nan)
        if not self.belong and len(known.per_repeat) > 1:
            self.by_score = score_p_values(tree, scores, count(tree, scores, h), permutations, seed)[nodes]
        if not self.belong and h:
            self.by_share = share_p_values(tree, counted, permutations, seed)[nodes]

    def corrected(self, region: Region) -> Region:
        """Return the region with p-values that allow for the search."""
        if self.belong:
            return region
        at, p = int(region.name) - 1, math.nan
        if region.n >= MIN_EXAMPLES:
            p = float(self.by_score[at])
            if self.halved:  # of the half that did not find it, for all regions named
                p = float(np.maximum(p, min(1.0, region.p_value * len(self.by_score))))
        return replace(region, p_corrected=p, share_p=float(self.by_share[at]))


def _checked(known: Known, points: Points, least: int) -> Points:
    if len(points.train) != known.n:
        raise DataError(
            expected=f"coordinates of the {known.n:,} examples that have scores",
            got=f"{len(points.train):,} rows",
            do="Pass one row of coordinates per example.",
        )
    checked(known.per_repeat, np.zeros(known.n))
    if known.n < 2 * least:
        raise DataError(
            expected=f"at least {2 * least} examples, for regions of {least} or more",
            got=f"{known.n}",
            do="Regions need more examples.",
        )
    return points


def _halves(per_repeat: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the scores that regions are found by and judged by: those of every other repeat, or all if they are few.

    An example whose refits failed in all repeats of a half has its mean of the others there.
    """
    if len(per_repeat) < HALVES:
        return per_repeat, per_repeat
    halves = [per_repeat[0::2].copy(), per_repeat[1::2].copy()]
    for half, other in zip(halves, reversed(halves), strict=True):
        lost = np.isnan(half).all(axis=0)
        if lost.any():
            half[:, lost] = np.nanmean(other[:, lost], axis=0)
    return halves[0], halves[1]


def _named(tree: Tree, nodes: list[int]) -> Strings:
    """Return the region of each point, 1 being the first of the ranking; "" for none."""
    names = np.full(len(tree.order), NOWHERE, dtype="U12")
    for at, node in enumerate(nodes, 1):
        names[tree.members(node)] = str(at)
    return names


def _nearest(points: Points, names: Strings) -> Strings:
    """Return the region of each sample: that of the nearest example."""
    from scipy.spatial import KDTree

    if not len(points.samples):
        return names[:0]
    return np.asarray(names[KDTree(points.pooled).query(points.samples)[1]])
