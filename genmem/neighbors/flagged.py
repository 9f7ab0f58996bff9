"""Which samples are too close to a training example, which training examples are hit, and which pairs look alike?"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.neighbors.pooled import NEAR
from genmem.neighbors.results import Flags, flags_of
from genmem.neighbors.sets import Sets, of_three_sets

_BATES = (
    "Testing for Outliers with Conformal p-values (Bates, Candès, Lei, Romano & Sesia, 2023), "
    "https://arxiv.org/abs/2104.08279"
)


@of_three_sets
def conformal_samples(sets: Sets, *, level: float = 0.1) -> Flags:
    """Rank the distance of each sample to its closest training example among the distances of held-out examples.

    The p-value of a sample is (1 + #{held-out examples at most as far}) / (n_test + 1). Given the training set, fresh
    samples and held-out examples are exchangeable, so it is valid. The p-values share the held-out examples and are
    positively dependent, under which the procedure of Benjamini and Hochberg still controls its rate.

    Args:
        sets: the three sets.
        level: the false-discovery rate.

    Returns:
        One entry per sample: distances in the units of the data, `partner` the closest training example.

    Raises:
        DataError: a set is empty or not finite, widths differ, or the level is not between 0 and 1.

    References:
        Testing for Outliers with Conformal p-values (Bates, Candès, Lei, Romano & Sesia, 2023),
        https://arxiv.org/abs/2104.08279
    """
    distance, partner = sets.near("samples", "train")
    return flags_of(
        distance[:, 0],
        sets.distance("test", "train"),
        partner[:, 0],
        level=level,
        rows="samples",
        closer="are closer to a training example than held-out examples are",
        name="conformal_samples",
        title="Samples too close to training examples",
        cannot_see=(
            "Copies that are far from their originals in this space (shifted, mirrored, recoloured). Sharpness "
            "is mistaken for copying: samples from denser regions are closer to all examples."
        ),
        citation=_BATES,
    )


@of_three_sets
def conformal_rows(sets: Sets, *, level: float = 0.1) -> Flags:
    """Rank the distance of each training example to its closest sample among the distances of held-out examples.

    The p-value of a training example is (1 + #{held-out examples at most as far from a sample}) / (n_test + 1). If
    samples do not depend on which examples were trained on, training and held-out examples are exchangeable, and the
    p-value is valid however sharp the samples are.

    Args:
        sets: the three sets.
        level: the false-discovery rate.

    Returns:
        One entry per training example: distances in the units of the data, `partner` the closest sample.

    Raises:
        DataError: a set is empty or not finite, widths differ, or the level is not between 0 and 1.

    References:
        Testing for Outliers with Conformal p-values (Bates, Candès, Lei, Romano & Sesia, 2023),
        https://arxiv.org/abs/2104.08279
    """
    distance, partner = sets.near("train", "samples")
    return flags_of(
        distance[:, 0],
        sets.distance("test", "samples"),
        partner[:, 0],
        level=level,
        rows="train",
        closer="are closer to a sample than held-out examples are",
        name="conformal_rows",
        title="Training examples too close to samples",
        cannot_see=(
            "Few examples copied often: no p-value can be below 1 / (n_test + 1), and a few of these are not "
            "significant among many examples. Copies that are far from their originals in this space (shifted, "
            "mirrored, recoloured)."
        ),
        citation=_BATES,
    )


# --- close relative to the local density


_CARLINI = "Extracting Training Data from Diffusion Models (Carlini et al., 2023), https://arxiv.org/abs/2301.13188"


@of_three_sets
def calibrated_distance(sets: Sets, *, alpha: float = 0.5, k: int = NEAR, level: float = 0.1) -> Flags:
    """Compare each sample's distance to its closest training example with its mean distance to the `k` nearest.

    The statistic is d_1 / (alpha * mean(d_1, ..., d_k)); it has no unit and ranges from 0 for an exact copy to 1 /
    alpha. Its null distribution comes from held-out examples: p-values by rank, with control of the false-discovery
    rate. Identical training examples count once among the k: otherwise the duplicates of an example would be its
    neighbourhood, and a copy of it would look ordinary. If there are fewer than k distinct training examples, all are
    used.

    A sample drawn independently of the training set sees about the same pattern of neighbours everywhere, so sharp
    samples hardly lower the statistic. They do if the density changes much between the nearest neighbour and the k-th,
    as with few examples in many dimensions.

    Args:
        sets: the three sets.
        alpha: the share of the mean distance that counts as close; it scales the statistic and changes no p-value.
        k: the number of neighbours, 2 or more.
        level: the false-discovery rate.

    Returns:
        One entry per sample; `partner` is the closest training example, the first of identical ones.

    Raises:
        DataError: a set is empty or not finite, widths differ, k is less than 2, alpha is not above 0, or the level is
            not between 0 and 1.

    References:
        Extracting Training Data from Diffusion Models (Carlini et al., 2023), https://arxiv.org/abs/2301.13188
    """
    if k < 2 or k != int(k) or not alpha > 0:
        raise DataError(
            expected="2 or more neighbours and an alpha above 0",
            got=f"k={k}, alpha={alpha}",
            do=f"Leave them at {NEAR} and 0.5, the published values.",
        )
    of_samples, partner = sets.local_ratio("samples", int(k))
    of_test, _ = sets.local_ratio("test", int(k))
    return flags_of(
        of_samples / alpha,
        of_test / alpha,
        partner,
        level=level,
        rows="samples",
        closer="are closer to one training example, relative to the local density, than held-out examples are",
        name="calibrated_distance",
        title="Samples close to one training example relative to the local density",
        cannot_see=(
            "Noisy copies of an example that the training set holds in many slightly different versions, "
            "because these are its neighbourhood. Copies that are far from their originals in this space "
            "(shifted, mirrored, recoloured). Samples drawn too often from tight clusters of the data are "
            "mistaken for copies, though less than by plain distance."
        ),
        citation=_CARLINI,
    )


# --- pairs


MOST = 1000


def suspicious_pairs(
    sets: Sets, samples: Flags, calibrated: Flags, *, first: ArrayLike = (), most: int = MOST
) -> dict[str, NDArray[Any]]:
    """Return the most suspicious samples, each with its closest training example and its closest held-out example.

    Those that stand out come first, then samples closer to a training example than to any held-out example. Among them,
    the order is by distance relative to the local density (`calibrated_distance`): copies in sparse and in dense
    regions count alike.

    Args:
        sets: the three sets.
        samples: of `conformal_samples`.
        calibrated: of `calibrated_distance`.
        first: indices of the samples that stand out, see `visible_copies`.
        most: the number of samples.

    Returns:
        Columns of one length: "sample", "train", "test" (indices), "distance_train", "distance_test", "ratio" (of these
        distances, 0 to infinity; 1 if both are 0), "p_value", "q_value", "flagged" (of `samples`), "calibrated",
        "calibrated_flagged", "visible" (whether it stands out).
    """
    (to_train, train), (to_test, test) = sets.nearest_row("samples", "train"), sets.nearest_row("samples", "test")
    place = sets.place("samples")  # ties are ordered by the values of the samples
    visible = np.isin(np.arange(len(place)), first)
    at = np.lexsort((place, to_train, calibrated.statistic, to_train >= to_test, ~visible))[:most]
    ratio = np.divide(to_train, to_test, out=np.where(to_train > 0, np.inf, 1.0), where=to_test > 0)
    columns = {
        "train": train,
        "test": test,
        "distance_train": to_train,
        "distance_test": to_test,
        "ratio": ratio,
        "p_value": samples.p_value,
        "q_value": samples.q_value,
        "flagged": samples.flagged,
        "calibrated": calibrated.statistic,
        "calibrated_flagged": calibrated.flagged,
        "visible": visible,
    }
    return {"sample": at, **{name: column[at] for name, column in columns.items()}}
