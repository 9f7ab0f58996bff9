"""Which samples lie nearer to training examples than held-out examples do, and which training rows are hit?"""

from numpy.typing import ArrayLike

from genmem.neighbors.copied import copied_share
from genmem.neighbors.flagging import flags_of
from genmem.neighbors.results import Flags
from genmem.neighbors.searches import Searches, searches_of

__all__ = ["conformal_rows", "conformal_samples", "copied_share"]

_CITATION = (
    "Testing for Outliers with Conformal p-values (Bates, Candès, Lei, Romano & Sesia, 2023), "
    "https://arxiv.org/abs/2104.08279"
)


def conformal_samples(
    train: ArrayLike, test: ArrayLike, samples: ArrayLike, *, level: float = 0.1, searches: Searches | None = None
) -> Flags:
    """Rank the distance of each sample to its nearest training example among those of held-out examples.

    The p-value of a sample is (1 + #{held-out no farther}) / (n_test + 1). Given the training set, fresh samples
    and held-out examples are exchangeable, so it is valid; the p-values depend positively on each other through
    the held-out examples they share, under which Benjamini and Hochberg's procedure still holds its rate.

    Args:
        train: (n_train, *event).
        test: (n_test, *event) held-out examples.
        samples: (n_samples, *event).
        level: the false-discovery rate.
        searches: of the same three sets, where there are some.

    Returns:
        One entry a sample: distances in the units of the data, `partner` the nearest training example.

    Raises:
        DataError: a set is empty or not finite, widths differ, or the level is not between 0 and 1.

    References:
        Testing for Outliers with Conformal p-values (Bates, Candès, Lei, Romano & Sesia, 2023),
        https://arxiv.org/abs/2104.08279
    """
    near = searches_of(train, test, samples, searches)
    distance, partner = near.near("samples", "train")
    return flags_of(
        distance[:, 0],
        near.distance("test", "train"),
        partner[:, 0],
        level=level,
        rows="samples",
        nearer="lie nearer to a training example than held-out examples do",
        name="conformal_samples",
        title="Samples too near to training examples",
        cannot_see=(
            "Copies that this space moves away (shifted, flipped, re-coloured). Sharpness is mistaken for copying: "
            "samples from denser regions than the data's lie nearer to everything."
        ),
        citation=_CITATION,
    )


def conformal_rows(
    train: ArrayLike, test: ArrayLike, samples: ArrayLike, *, level: float = 0.1, searches: Searches | None = None
) -> Flags:
    """Rank the distance of each training example to its nearest sample among those of held-out examples.

    The p-value of a training row is (1 + #{held-out no farther from a sample}) / (n_test + 1). Where samples owe
    no more to the training set than to the held-out one, the two are exchangeable and it is valid, however sharp
    the samples are.

    Args:
        train: (n_train, *event).
        test: (n_test, *event) held-out examples.
        samples: (n_samples, *event).
        level: the false-discovery rate.
        searches: of the same three sets, where there are some.

    Returns:
        One entry a training row: distances in the units of the data, `partner` the nearest sample.

    Raises:
        DataError: a set is empty or not finite, widths differ, or the level is not between 0 and 1.

    References:
        Testing for Outliers with Conformal p-values (Bates, Candès, Lei, Romano & Sesia, 2023),
        https://arxiv.org/abs/2104.08279
    """
    near = searches_of(train, test, samples, searches)
    distance, partner = near.near("train", "samples")
    return flags_of(
        distance[:, 0],
        near.distance("test", "samples"),
        partner[:, 0],
        level=level,
        rows="train",
        nearer="lie nearer to a sample than held-out examples do",
        name="conformal_rows",
        title="Training rows too near to samples",
        cannot_see=(
            "Few rows copied often: one p-value cannot be less than 1 / (n_test + 1), and among many rows a few such "
            "do not stand out. Copies that this space moves away (shifted, flipped, re-coloured)."
        ),
        citation=_CITATION,
    )
