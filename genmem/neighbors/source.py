"""Are training and held-out rows of one source? Where they are not, no comparison with held-out rows can be read."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.neighbors.results import Result
from genmem.neighbors.searches import Searches, searches_of
from genmem.neighbors.subsets import rows_of_each, some_rows
from genmem.rows import identical_groups
from genmem.search import nearest
from genmem.seeding import stream
from genmem.stats import rank_p

NEIGHBOURS = 5
_RELABELLINGS = 1999


def same_source_test(
    train: ArrayLike,
    test: ArrayLike,
    samples: ArrayLike,
    *,
    rows: int = 2000,
    seed: int = 0,
    searches: Searches | None = None,
) -> Result:
    """Test whether training and held-out rows were dealt at random: a check of the data, not of the samples.

    As many rows of each are pooled, of identical ones one is kept and those in both sets are dropped. The value is
    the share of the 5 nearest other rows that come from a row's own set; p is by relabelling the rows, towards larger
    shares. Held-out rows from another time or place, or cleaned otherwise, raise it; copies among the samples do not.

    Args:
        train: (n_train, *event).
        test: (n_test, *event) held-out examples.
        samples: (n_samples, *event), not used.
        rows: of each set, at most; they are drawn by the seed.
        seed: of the draw of rows and of relabellings.
        searches: of the same three sets, where there are some; only their rows are used.

    Returns:
        `details["identical"]` counts held-out rows that are identical to a training row, of all of them. Value and
        p_value are NaN where fewer than 3 rows are left.

    Raises:
        DataError: a set is empty or not finite, widths differ, or `rows` is below 1.

    References:
        Multivariate Two-Sample Tests Based on Nearest Neighbors (Schilling, 1986),
        https://doi.org/10.1080/01621459.1986.10478337
    """
    sets = searches_of(train, test, samples, searches)
    rows_of_each(sets, rows)  # refuses none
    pool, labels = _pool(sets, min(rows, len(sets["train"]), len(sets["test"])), seed)
    same = _same_set(pool, labels, seed) if len(pool) > 2 else np.full(2, np.nan)
    value, null = float(same[0]), float(same[1:].mean())
    p = float(rank_p(value, same[1:])) if len(pool) > 2 else np.nan
    identical = int((sets.distance("test", "train") == 0).sum())
    return Result(
        name="same_source",
        title="Training and held-out rows among each other's neighbours (a check of the data)",
        value=value,
        null=null,
        p_value=p,
        direction="either",
        n=len(pool),
        sentence=f"{_said(value, null, p)} {identical:,} of {len(sets['test']):,} held-out rows are identical to a "
        "training row.",
        cannot_see="Differences that leave neighbourhoods as they are; small ones, on so few rows.",
        citation="Multivariate Two-Sample Tests Based on Nearest Neighbors (Schilling, 1986)",
        details={"identical": identical},
    )


def _said(value: float, null: float, p: float) -> str:
    if np.isnan(value):
        return "There are too few rows that are in one of the two sets only to tell whether these are of one source."
    return (
        f"{value:.1%} of the neighbours of training and held-out rows are of their own set; {null:.1%} where rows are "
        f"dealt at random (p = {p:.2g})."
    )


def _pool(sets: Searches, count: int, seed: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Return rows of both sets, each once and in an order that chance decides, and which are training rows."""
    rows = np.concatenate([some_rows(sets, "train", count, seed), some_rows(sets, "test", count, seed)])
    labels, groups = np.repeat([True, False], count), identical_groups(rows)
    first = np.unique(groups, return_index=True)[1]
    in_train = np.bincount(groups, weights=labels) / np.bincount(groups)
    kept = stream(seed, "order of the pool").permutation(first[(in_train == 0) | (in_train == 1)])
    return rows[kept], labels[kept]


def _same_set(pool: NDArray[np.generic], labels: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
    """Return the share of neighbours from a row's own set: as it is, then under random relabellings."""
    _, found = nearest(pool, pool, min(NEIGHBOURS, len(pool) - 1), exclude=np.arange(len(pool)))
    rng = stream(seed, "relabellings")
    ways = [labels, *(rng.permutation(labels) for _ in range(_RELABELLINGS))]
    return np.array([(way[found] == way[:, None]).mean() for way in ways])
