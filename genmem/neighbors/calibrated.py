"""Is a sample near to a training example by the standards of its own neighbourhood?"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.neighbors.flagging import flags_of
from genmem.neighbors.results import Flags
from genmem.neighbors.searches import Name, Searches, searches_of
from genmem.rows import identical_groups
from genmem.search import nearest

FloatArray = NDArray[np.float64]
NEIGHBOURS = 50

_CITATION = "Extracting Training Data from Diffusion Models (Carlini et al., 2023), https://arxiv.org/abs/2301.13188"


def calibrated_distance(
    train: ArrayLike,
    test: ArrayLike,
    samples: ArrayLike,
    *,
    alpha: float = 0.5,
    k: int = NEIGHBOURS,
    level: float = 0.1,
    searches: Searches | None = None,
) -> Flags:
    """Compare each sample's distance to its nearest training example with its mean distance to the `k` nearest.

    The statistic is d_1 / (alpha * mean(d_1, ..., d_k)), without unit, from 0 for an exact copy to 1 / alpha.
    What counts as small is taken from held-out examples: p-values by rank, false discoveries controlled. Identical
    training rows count once among the k: otherwise a row's own copies would be its neighbourhood, and a sample
    beside them would look ordinary. With fewer than k distinct training rows all are taken.

    A sample drawn without regard to the training set sees about the same pattern of neighbours wherever it lies, so
    sharp samples hardly lower the statistic. They do where the density changes much between its nearest rows and its
    k-th, as in few rows of many dimensions.

    Args:
        train: (n_train, *event).
        test: (n_test, *event) held-out examples.
        samples: (n_samples, *event).
        alpha: the share of the mean distance that counts as near; it scales the statistic and changes no p-value.
        k: how many neighbours make the neighbourhood, 2 or more.
        level: the false-discovery rate.
        searches: of the same three sets, where there are some; ask them for `k` neighbours first.

    Returns:
        One entry a sample; `partner` is the nearest training example, the first of identical ones.

    Raises:
        DataError: a set is empty or not finite, widths differ, k is less than 2, alpha not above 0, or the level not
            between 0 and 1.

    References:
        Extracting Training Data from Diffusion Models (Carlini et al., 2023), https://arxiv.org/abs/2301.13188
    """
    if k < 2 or k != int(k) or not alpha > 0:
        raise DataError(
            expected="2 or more neighbours and an alpha above 0",
            got=f"k={k}, alpha={alpha}",
            do=f"Leave them at {NEIGHBOURS} and 0.5, the published values.",
        )
    near = searches_of(train, test, samples, searches)
    of_samples, partner = local_ratio(near, "samples", k)
    of_test, _ = local_ratio(near, "test", k)
    return flags_of(
        of_samples / alpha,
        of_test / alpha,
        partner,
        level=level,
        rows="samples",
        nearer="lie nearer to one training example, for their neighbourhood, than held-out examples do",
        name="calibrated_distance",
        title="Samples near to one training example for their neighbourhood",
        cannot_see=(
            "Copies with noise of a row that the training set holds in many slightly different versions: these are "
            "then its neighbourhood. Copies that this space moves away (shifted, flipped, re-coloured). Samples drawn "
            "too often from tight groups of the data are mistaken for copies, if less than by the plain distance."
        ),
        citation=_CITATION,
    )


def local_ratio(searches: Searches, queries: Name, k: int = NEIGHBOURS) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return d_1 / mean(d_1, ..., d_k) over distinct training rows, (m,), and the nearest row; 0 / 0 is 0."""
    return searches.once(f"local ratio of {queries} to {k}", lambda sets: _local_ratio(sets, queries, k))


def _local_ratio(searches: Searches, queries: Name, k: int) -> tuple[FloatArray, NDArray[np.int64]]:
    train = searches["train"]
    distinct = searches.once("distinct training rows", lambda sets: _first_of_identical(sets["train"]))
    count = min(int(k), len(distinct))
    if len(distinct) == len(train):
        distances, indices = searches.near(queries, "train", count)
        found = indices[:, 0]
    else:
        distances, places = nearest(searches[queries], train[distinct], count)
        found = distinct[places[:, 0]]
    nearest_one, mean = distances[:, 0], distances.mean(axis=1)
    return np.divide(nearest_one, mean, out=np.zeros_like(mean), where=mean > 0), found


def _first_of_identical(rows: NDArray[np.generic]) -> NDArray[np.int64]:
    return np.unique(identical_groups(rows), return_index=True)[1].astype(np.int64)
