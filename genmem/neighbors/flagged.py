"""Which samples lie too near to a training example, which training rows are hit, and which pairs look alike?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Rank the distance of each sample to its nearest training example among those of held-out examples.

    The p-value of a sample is (1 + #{held-out no farther}) / (n_test + 1). Given the training set, fresh samples
    and held-out examples are exchangeable, so it is valid; the p-values depend positively on each other through
    the held-out examples they share, under which Benjamini and Hochberg's procedure still holds its rate.

    Args:
        sets: the three sets.
        level: the false-discovery rate.

    Returns:
        One entry a sample: distances in the units of the data, `partner` the nearest training example.

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
        closer="lie nearer to a training example than held-out examples do",
        name="conformal_samples",
        title="Samples too near to training examples",
        cannot_see=(
            "Copies that this space moves away (shifted, flipped, re-coloured). Sharpness is mistaken for copying: "
            "samples from denser regions than the data's lie nearer to everything."
        ),
        citation=_BATES,
    )


@of_three_sets
def conformal_rows(sets: Sets, *, level: float = 0.1) -> Flags:
    """Rank the distance of each training example to its nearest sample among those of held-out examples.

    The p-value of a training row is (1 + #{held-out no farther from a sample}) / (n_test + 1). Where samples owe
    no more to the training set than to the held-out one, the two are exchangeable and it is valid, however sharp
    the samples are.

    Args:
        sets: the three sets.
        level: the false-discovery rate.

    Returns:
        One entry a training row: distances in the units of the data, `partner` the nearest sample.

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
        closer="lie nearer to a sample than held-out examples do",
        name="conformal_rows",
        title="Training rows too near to samples",
        cannot_see=(
            "Few rows copied often: one p-value cannot be less than 1 / (n_test + 1), and among many rows a few such "
            "do not stand out. Copies that this space moves away (shifted, flipped, re-coloured)."
        ),
        citation=_BATES,
    )


# --- near by the standards of the neighbourhood


_CARLINI = "Extracting Training Data from Diffusion Models (Carlini et al., 2023), https://arxiv.org/abs/2301.13188"


@of_three_sets
def calibrated_distance(sets: Sets, *, alpha: float = 0.5, k: int = NEAR, level: float = 0.1) -> Flags:
    """Compare each sample's distance to its nearest training example with its mean distance to the `k` nearest.

    The statistic is d_1 / (alpha * mean(d_1, ..., d_k)), without unit, from 0 for an exact copy to 1 / alpha.
    What counts as small is taken from held-out examples: p-values by rank, false discoveries controlled. Identical
    training rows count once among the k: otherwise a row's own copies would be its neighbourhood, and a sample
    beside them would look ordinary. With fewer than k distinct training rows all are taken.

    A sample drawn without regard to the training set sees about the same pattern of neighbours wherever it lies, so
    sharp samples hardly lower the statistic. They do where the density changes much between its nearest rows and its
    k-th, as in few rows of many dimensions.

    Args:
        sets: the three sets.
        alpha: the share of the mean distance that counts as near; it scales the statistic and changes no p-value.
        k: how many neighbours make the neighbourhood, 2 or more.
        level: the false-discovery rate.

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
        closer="lie nearer to one training example, for their neighbourhood, than held-out examples do",
        name="calibrated_distance",
        title="Samples near to one training example for their neighbourhood",
        cannot_see=(
            "Copies with noise of a row that the training set holds in many slightly different versions: these are "
            "then its neighbourhood. Copies that this space moves away (shifted, flipped, re-coloured). Samples drawn "
            "too often from tight groups of the data are mistaken for copies, if less than by the plain distance."
        ),
        citation=_CARLINI,
    )


# --- pairs


MOST = 1000


def suspicious_pairs(sets: Sets, samples: Flags, calibrated: Flags, *, most: int = MOST) -> dict[str, NDArray[Any]]:
    """Return the most suspicious samples with the training row and the held-out row nearest to each.

    Samples nearer to a training row than to any held-out row come first, and among them those whose training row is
    nearest for how dense the data are there (`calibrated_distance`): copies in sparse and in dense regions alike.

    Args:
        sets: the three sets.
        samples: of `conformal_samples`.
        calibrated: of `calibrated_distance`.
        most: how many.

    Returns:
        Columns of one length: "sample", "train", "test" (rows), "distance_train", "distance_test", "ratio" (of
        these, 0 to infinity; 1 where both are 0), "p_value", "q_value", "flagged" (of `samples`), "calibrated",
        "calibrated_flagged".
    """
    (to_train, train), (to_test, test) = sets.nearest_row("samples", "train"), sets.nearest_row("samples", "test")
    place = sets.place("samples")  # equally suspicious ones in an order that their values decide
    at = np.lexsort((place, to_train, calibrated.statistic, to_train >= to_test))[:most]
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
    }
    return {"sample": at, **{name: column[at] for name, column in columns.items()}}
