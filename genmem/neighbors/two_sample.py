"""Can a 1-NN classifier separate samples from data, and are training and held-out examples from one source?"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from genmem.data.arrays import identical_groups
from genmem.neighbors.pooled import earlier
from genmem.neighbors.results import Result
from genmem.neighbors.sets import Name, Sets, of_three_sets
from genmem.search.exact import nearest
from genmem.seeding import stream
from genmem.stats import rank_p

_RELABELLINGS = 999
_CITATION = (
    "An Empirical Study on Evaluation Metrics of Generative Adversarial Networks (Xu et al., 2018), "
    "https://arxiv.org/abs/1806.07755"
)


@of_three_sets
def one_nn_two_sample(sets: Sets, *, rows: int = 2000, seed: int = 0) -> tuple[Result, Result]:
    """Return the leave-one-out accuracy of 1-NN between samples and training, and samples and held-out, examples.

    Equal numbers of both are pooled, and each point takes the label of its nearest other point, ties at random. Near 1
    the two differ; below the null, (n - 1) / (2n - 1), points tend to have copies on the other side. The p-value counts
    random permutations of the labels with neighbours fixed; the interval is normal, with the standard deviation of
    these.

    Args:
        sets: the three sets.
        rows: the largest number of rows of each set; they are drawn with the seed.
        seed: of the draw of rows, of ties and of permutations.

    Returns:
        `one_nn_train` with a p-value for a low accuracy, and `one_nn_test`, which is not a test of copying; the
        one-sided p-value for samples that differ from data is `details["p_different"]` (in both).

    Raises:
        DataError: the sets do not fit together, or `rows` is below 1.

    References:
        Revisiting Classifier Two-Sample Tests (Lopez-Paz & Oquab, 2017), https://arxiv.org/abs/1610.06545
        An Empirical Study on Evaluation Metrics of Generative Adversarial Networks (Xu et al., 2018),
        https://arxiv.org/abs/1806.07755
    """
    count = sets.rows_of_each(rows)
    return _against(sets, "train", count, seed), _against(sets, "test", count, seed)


def _against(sets: Sets, name: Name, count: int, seed: int) -> Result:
    same = _same_label(_neighbours(sets, name, count, seed), count, seed)
    accuracy, null = float(same[0]), (count - 1) / (2 * count - 1)
    half = float(stats.norm.ppf(0.975) * same[1:].std())
    whom = "training examples" if name == "train" else "held-out examples"
    p_low, p_high = (float(rank_p(sign * same[0], sign * same[1:])) for sign in (-1, 1))
    return Result(
        name=f"one_nn_{name}",
        title=f"Leave-one-out 1-NN accuracy, samples against {whom}",
        value=accuracy,
        null=null,
        interval=(max(0.0, accuracy - half), min(1.0, accuracy + half)),
        p_value=p_low if name == "train" else np.nan,
        direction="lower" if name == "train" else "either",
        n=2 * count,
        sentence=(
            f"A 1-NN classifier separates {count:,} samples from {count:,} {whom} with a leave-one-out accuracy of "
            f"{accuracy:.1%}; {null:.1%} is expected by chance."
        ),
        cannot_see=_blind(name, count, len(sets[name])),
        citation=_CITATION,
        details={"p_lower": p_low, "p_different": p_high, "sd": float(same[1:].std())},
    )


def _blind(name: Name, count: int, there: int) -> str:
    if name == "test":
        return (
            "Copying: it compares samples with held-out examples only and shows whether samples differ from the data."
        )
    part = f"Copies whose originals are not among the {count:,} of {there:,} training examples that are used. " * (
        count < there
    )
    return (
        part + "A minority of copies among samples that otherwise differ from the data, because the two effects cancel."
    )


def _neighbours(sets: Sets, name: Name, count: int, seed: int) -> NDArray[np.intp]:
    """Return the nearest other row of each pooled row (2 * count,): the rows of the set first, then the samples."""
    real, made = sets.some_rows(name, count, seed), sets.some_rows("samples", count, seed)
    # Ties go to the lower index; in a random order this favours neither side.
    order = stream(seed, "order of the pool").permutation(2 * count)
    pool = np.concatenate([real, made])[order]
    _, found = nearest(pool, pool, 1, exclude=np.arange(2 * count))
    neighbour = np.empty(2 * count, np.intp)
    neighbour[order] = order[found[:, 0]]
    return neighbour


def _same_label(neighbour: NDArray[np.intp], count: int, seed: int) -> NDArray[np.float64]:
    """Return the share of rows with their neighbour's label: observed, then under random permutations."""
    labels = np.repeat([False, True], count)
    random = stream(seed, "relabellings").permuted(np.tile(labels, (_RELABELLINGS, 1)), axis=1)
    every = np.concatenate([labels[None], random])
    same: NDArray[np.float64] = (every == every[:, neighbour]).mean(axis=1)
    return same


# --- one source


NEIGHBOURS = 5
_OF_ONE_GROUP = 20  # examples at most
_BOTH: tuple[Name, Name] = ("train", "test")
_SOURCE_RELABELLINGS = 1999


@of_three_sets
def same_source_test(sets: Sets, *, rows: int = 2000, seed: int = 0) -> Result:
    """Test whether the split into training and held-out examples is random: a check of the data, not of the samples.

    Equal numbers of both are pooled; identical examples count once, and those in both sets are dropped. The value is
    the share of the 5 nearest other examples that are from an example's own set; p is by permutation of the labels,
    towards larger shares. Of examples that belong together at most 20 are used; their labels are permuted as one, and
    none is another's neighbour. Held-out examples from another time or place, or cleaned differently, raise it; copies
    among the samples do not.

    Args:
        sets: the three sets.
        rows: the largest number of examples of each set; they are drawn with the seed.
        seed: of the draw of examples and of permutations.

    Returns:
        `details["identical"]` counts the held-out examples that are identical to a training example, of all of them.
        Value and p_value are NaN if fewer than 3 examples remain.

    Raises:
        DataError: a set is empty or not finite, widths differ, or `rows` is below 1.

    References:
        Multivariate Two-Sample Tests Based on Nearest Neighbors (Schilling, 1986),
        https://doi.org/10.1080/01621459.1986.10478337
    """
    pool = _pool(sets, sets.rows_of_each(rows, "train", "test"), seed)
    same = _same_set(pool, seed) if pool.enough else np.full(2, np.nan)
    value, null = float(same[0]), float(same[1:].mean())
    p = float(rank_p(value, same[1:])) if pool.enough else np.nan
    identical = int((sets.distance("test", "train") == 0).sum())
    return Result(
        name="same_source",
        title="Training and held-out examples among each other's neighbours (a check of the data)",
        value=value,
        null=null,
        p_value=p,
        direction="either",
        n=len(pool.rows),
        sentence=(
            f"{_said(value, null, p)} {identical:,} of {len(sets.test):,} held-out examples are identical to a "
            "training example."
        ),
        cannot_see="Differences that leave neighbourhoods unchanged; small differences, if examples are few.",
        citation="Multivariate Two-Sample Tests Based on Nearest Neighbors (Schilling, 1986)",
        details={"identical": identical},
    )


@of_three_sets
def same_spread_test(sets: Sets, *, rows: int = 2000, seed: int = 0) -> Result:
    """Test whether training and held-out examples are equally far from their neighbours: a check of the data.

    If one set is wider than the other, which `same_source_test` hardly notices in many dimensions, samples are closer
    to the examples of the narrower one although nothing is copied. Both sets are pooled as there. The value is the
    probability that a held-out example has a larger mean distance to its 5 nearest other examples, of either set, than
    a training example has; these distances do not depend on the labels, and p is two-sided, by permutation of them.

    Args:
        sets: the three sets.
        rows: the largest number of examples of each set; they are drawn with the seed.
        seed: of the draw of examples and of permutations.

    Returns:
        Value and p_value are NaN if fewer than 3 examples remain.

    Raises:
        DataError: a set is empty or not finite, widths differ, or `rows` is below 1.

    References:
        On a Test of Whether One of Two Random Variables is Stochastically Larger than the Other (Mann & Whitney, 1947),
        https://doi.org/10.1214/aoms/1177730491
    """
    pool = _pool(sets, sets.rows_of_each(rows, "train", "test"), seed)
    larger = _larger(pool, seed) if pool.enough else np.full(2, np.nan)
    value, null = float(larger[0]), float(larger[1:].mean())
    p = float(rank_p(abs(value - null), np.abs(larger[1:] - null))) if pool.enough else np.nan
    said = (
        "Too few examples are in only one of the two sets to test whether both are equally wide."
        if np.isnan(value)
        else f"A held-out example is farther from its neighbours than a training example is with a probability of "
        f"{value:.1%}; {null:.1%} is expected if the split is random (p = {p:.2g})."
    )
    return Result(
        name="same_spread",
        title="Held-out examples farther from their neighbours than training examples (a check of the data)",
        value=value,
        null=null,
        p_value=p,
        direction="either",
        n=len(pool.rows),
        sentence=said,
        cannot_see="Differences that leave the density of the data unchanged; small differences, if examples are few.",
        citation="On a Test of Whether One of Two Random Variables is Stochastically Larger than the Other (Mann & "
        "Whitney, 1947), https://doi.org/10.1214/aoms/1177730491",
    )


def _said(value: float, null: float, p: float) -> str:
    if np.isnan(value):
        return "Too few examples are in only one of the two sets to test whether both are from one source."
    return (
        f"{value:.1%} of the neighbours of training and held-out examples are from their own set; {null:.1%} are "
        f"expected if the split is random (p = {p:.2g})."
    )


class _Pool(NamedTuple):
    """Examples of both sets, each once and in random order: which are training examples, and their groups."""

    rows: NDArray[np.generic]
    labels: NDArray[np.bool_]
    groups: NDArray[np.intp]

    @property
    def enough(self) -> bool:
        """Whether labels can be permuted."""
        return len(self.rows) > 2 and len(np.unique(self.groups)) > 2

    def relabelled(self, seed: int) -> list[NDArray[np.bool_]]:
        """Return the labels, then random permutations of the labels of groups."""
        first = np.unique(self.groups, return_index=True)[1]
        place = np.argsort(np.argsort(first))[self.groups]  # groups by first appearance
        each, rng = self.labels[np.sort(first)], stream(seed, "relabellings")
        return [self.labels, *(rng.permutation(each)[place] for _ in range(_SOURCE_RELABELLINGS))]

    def neighbours(self) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return distances to and indices of neighbours (n, k), and which are the 5 nearest of other groups."""
        largest = int(np.bincount(self.groups).max())
        count = min(NEIGHBOURS + largest - 1, len(self.rows) - 1)
        distances, found = nearest(self.rows, self.rows, count, exclude=np.arange(len(self.rows)))
        apart = self.groups[found] != self.groups[:, None]
        return distances, found, apart & (np.cumsum(apart, axis=1) <= NEIGHBOURS)


def _pool(sets: Sets, count: int, seed: int) -> _Pool:
    at = [sets.some_places(name, count, seed) for name in _BOTH]
    rows = np.concatenate([sets[name][places] for name, places in zip(_BOTH, at, strict=True)])
    labels, identical = np.repeat([True, False], count), identical_groups(rows)
    groups = identical if sets.own is None else np.concatenate([sets.groups[0][at[0]], sets.groups[1][at[1]]])
    first = np.unique(identical, return_index=True)[1]
    in_train = (np.bincount(groups, weights=labels) / np.maximum(np.bincount(groups), 1))[groups[first]]
    first = first[(in_train == 0) | (in_train == 1)]
    kept = stream(seed, "order of the pool").permutation(first)
    kept = kept[earlier(groups[kept]) < _OF_ONE_GROUP]
    return _Pool(rows[kept], labels[kept], np.unique(groups[kept], return_inverse=True)[1])


def _same_set(pool: _Pool, seed: int) -> NDArray[np.float64]:
    """Return the share of neighbours from an example's own set: observed, then with labels of groups permuted."""
    _, found, apart = pool.neighbours()
    return np.array([(way[found] == way[:, None])[apart].mean() for way in pool.relabelled(seed)])


def _larger(pool: _Pool, seed: int) -> NDArray[np.float64]:
    """Return how often a held-out example is farther from its neighbours: observed, then with labels permuted."""
    distances, _, apart = pool.neighbours()
    mean = np.where(apart, distances, 0).sum(axis=1) / np.maximum(apart.sum(axis=1), 1)
    ranks = stats.rankdata(mean)
    return np.array([_auc(ranks, way) for way in pool.relabelled(seed)])


def _auc(ranks: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the probability that an example without the label has the larger rank; ties count half."""
    others = int((~labels).sum())
    if others in (0, len(labels)):
        return 0.5
    return float((ranks[~labels].sum() - others * (others + 1) / 2) / others / (len(labels) - others))
