"""Is a training row nearer to a sample than to a held-out row?"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError
from genmem.neighbors.dealing import dealt, nearest_of_both
from genmem.neighbors.results import Result
from genmem.neighbors.searches import Name, Searches, searches_of
from genmem.neighbors.spaces import in_space
from genmem.stats import share_interval

FloatArray = NDArray[np.float64]

_DRAWS = 9_999
_OTHERS: tuple[Name, Name] = ("test", "samples")
_CITATION = (
    "On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021), "
    "https://arxiv.org/abs/2106.03216"
)


def distance_ratio(
    train: ArrayLike,
    held_out: ArrayLike,
    samples: ArrayLike,
    *,
    pool: bool = False,
    searches: Searches | None = None,
) -> FloatArray:
    """Return rho = d(x, nearest held-out row) / d(x, nearest sample) of each training row x, (n_train,).

    Above 1 the nearest sample lies nearer than the nearest held-out row, which is taken for a sign of memorization.
    Compare like with like: with more samples than held-out rows rho is large by their number alone, so pass as many
    of one as of the other. A sample equal to x gives infinity, where a held-out row is equal to it too 1, and such a
    row alone 0.

    Args:
        train: (n_train, *event).
        held_out: (n_test, *event).
        samples: (n_samples, *event).
        pool: average images over 2 x 2 pixels first, as was published: details then weigh less.
        searches: of the same three sets, where there are some and `pool` is left out.

    Raises:
        DataError: a set is empty or not finite, widths differ, `pool` is asked of rows that are no images, or
            `searches` are given with `pool`.

    References:
        On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021),
        https://arxiv.org/abs/2106.03216

    >>> distance_ratio([[0.0], [5.0]], [[1.0], [9.0]], [[0.5], [5.0]])
    array([ 2., inf])
    """
    near = _searches(train, held_out, samples, pool, searches)
    to_test, to_samples = near.distance("train", "test"), near.distance("train", "samples")
    return _ratio(to_test, to_samples)


def ratio_test(
    train: ArrayLike,
    test: ArrayLike,
    samples: ArrayLike,
    *,
    pool: bool = False,
    seed: int = 0,
    searches: Searches | None = None,
) -> Result:
    """Test whether too many training rows have rho > 1: a sample nearer to them than any held-out row.

    Fresh samples and held-out rows are exchangeable, so the null is the share of samples among both (1/2 for equal
    numbers). The p-value is from 9,999 random assignments of the labels to groups of identical rows: one row may be
    nearest to many training rows, so these are not independent. Where a sample and a held-out row are equally near,
    what they hold decides; where they are identical, the row counts by the share of samples among these. The interval
    is Wilson's for as many independent rows as would have the variance of those assignments.

    Args:
        train: (n_train, *event).
        test: (n_test, *event) held-out examples.
        samples: (n_samples, *event).
        pool: average images over 2 x 2 pixels first.
        seed: of the assignments.
        searches: of the same three sets, where there are some and `pool` is left out.

    Returns:
        `details` holds "rho" (n_train,), "median", "mid_p", and "null_sd" of the value.

    Raises:
        DataError: as `distance_ratio`.

    References:
        On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021),
        https://arxiv.org/abs/2106.03216
    """
    near = _searches(train, test, samples, pool, searches)
    to_test, to_samples = (near.near("train", base, min(2, len(near[base])))[0][:, 0] for base in _OTHERS)
    rho = _ratio(to_test, to_samples)
    both = nearest_of_both(near.turned())
    found = dealt(np.bincount(both.group, minlength=len(both.labels)), both.labels, seed, _DRAWS, place=both.place)
    worth = min(len(rho), found.null * (1 - found.null) / found.sd**2) if found.sd else len(rho)
    return Result(
        name="distance_ratio",
        title="Training rows nearer to a sample than to any held-out row",
        value=found.value,
        null=found.null,
        interval=share_interval(found.value * worth, worth),
        p_value=found.p_value,
        direction="higher",
        n=len(rho),
        sentence=(
            f"{found.value:.1%} of training rows have a sample nearer than any held-out row (rho > 1); "
            f"with fresh samples {found.null:.1%} would (p = {found.p_value:.2g})."
        ),
        cannot_see=(
            "A minority of copies: each moves one row. Sharpness is mistaken for copying: samples from denser regions "
            "than the data's lie nearer to most rows."
        ),
        citation=_CITATION,
        details={"rho": rho, "median": float(np.median(rho)), "mid_p": found.mid_p, "null_sd": found.sd},
    )


def _searches(train: ArrayLike, test: ArrayLike, samples: ArrayLike, pool: bool, searches: Searches | None) -> Searches:
    if not pool:
        return searches_of(train, test, samples, searches)
    if searches is not None:
        raise DataError(
            expected="either searches made before, or images to be pooled",
            got="both",
            do="Pass the sets alone: other distances need other searches.",
        )
    return Searches(*in_space("pooled", train, test, samples)[0])


def _ratio(over: FloatArray, under: FloatArray) -> FloatArray:
    """Return over / under, x / 0 = inf and 0 / 0 = 1."""
    rho = np.where(over > 0, np.inf, 1.0)
    return np.divide(over, under, out=rho, where=under > 0)
