"""Is a training row nearer to a sample than to a held-out row, and a sample nearer to it than the other rows are?"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from genmem.errors import DataError
from genmem.neighbors.pooled import label_permutation
from genmem.neighbors.results import Result
from genmem.neighbors.sets import Name, Sets, of_three_sets
from genmem.neighbors.spaces import placed
from genmem.search.exact import nearest
from genmem.stats import share_interval

FloatArray = NDArray[np.float64]

_DRAWS = 9_999
_OTHERS: tuple[Name, Name] = ("test", "samples")
_VAN_DEN_BURG = (
    "On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021), "
    "https://arxiv.org/abs/2106.03216"
)


@of_three_sets
def distance_ratio(sets: Sets, *, pool: bool = False) -> FloatArray:
    """Return rho = d(x, nearest held-out row) / d(x, nearest sample) of each training row x, (n_train,).

    Above 1 the nearest sample lies nearer than the nearest held-out row, which is taken for a sign of memorization.
    Compare like with like: with more samples than held-out rows rho is large by their number alone, so pass as many
    of one as of the other. A sample equal to x gives infinity, where a held-out row is equal to it too 1, and such a
    row alone 0.

    Args:
        sets: the three sets.
        pool: average images over 2 x 2 pixels first, as was published: details then weigh less.

    Raises:
        DataError: a set is empty or not finite, widths differ, or `pool` is asked of rows that are no images.

    References:
        On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021),
        https://arxiv.org/abs/2106.03216

    >>> distance_ratio([[0.0], [5.0]], [[1.0], [9.0]], [[0.5], [5.0]])
    array([ 2., inf])
    """
    near = placed("pooled", sets)[0] if pool else sets
    return _ratio(near.distance("train", "test"), near.distance("train", "samples"))


@of_three_sets
def ratio_test(sets: Sets, *, pool: bool = False, seed: int = 0) -> Result:
    """Test whether too many training rows have rho > 1: a sample nearer to them than any held-out row.

    Fresh samples and held-out rows are exchangeable, so the null is the share of samples among both (1/2 for equal
    numbers). The p-value is from 9,999 random assignments of the labels to groups of identical rows: one row may be
    nearest to many training rows, so these are not independent. Where a sample and a held-out row are equally near,
    what they hold decides; where they are identical, the row counts by the share of samples among these. The interval
    is Wilson's for as many independent rows as would have the variance of those assignments.

    Args:
        sets: the three sets.
        pool: average images over 2 x 2 pixels first.
        seed: of the assignments.

    Returns:
        `details` holds "rho" (n_train,), "median", "mid_p", and "null_sd" of the value.

    Raises:
        DataError: as `distance_ratio`.

    References:
        On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021),
        https://arxiv.org/abs/2106.03216
    """
    near = placed("pooled", sets)[0] if pool else sets
    to_test, to_samples = (near.near("train", base, 2)[0][:, 0] for base in _OTHERS)
    rho, both = _ratio(to_test, to_samples), near.turned().both
    found = label_permutation(
        np.bincount(both.group, minlength=len(both.labels)), both.labels, seed, _DRAWS, place=both.place
    )
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
        citation=_VAN_DEN_BURG,
        details={"rho": rho, "median": float(np.median(rho)), "mid_p": found.mid_p, "null_sd": found.sd},
    )


def _ratio(over: FloatArray, under: FloatArray) -> FloatArray:
    """Return over / under, x / 0 = inf and 0 / 0 = 1."""
    rho = np.where(over > 0, np.inf, 1.0)
    return np.divide(over, under, out=rho, where=under > 0)


# --- authenticity


_QUERIES: tuple[Name, Name] = ("samples", "test")
_LOOKED_AT = 10  # training rows near to a query, before all are searched
_VALUES = 2**20  # handled at a time

_ALAA = (
    "How Faithful is your Synthetic Data? Sample-level Metrics for Evaluating and Auditing Generative Models "
    "(Alaa, van Breugel, Saveliev & van der Schaar, 2022), https://arxiv.org/abs/2102.08921"
)


@of_three_sets
def authenticity(sets: Sets) -> Result:
    """Return the share of authentic samples, with that of held-out rows as its null.

    A sample q is authentic where its nearest training row t has another training row nearer to it than q is:
    d(t, others) < d(q, t). What share of fresh rows is authentic depends on the data and their dimension and is not
    one half, so the same is asked of held-out rows. Given the training set fresh samples and held-out rows are
    exchangeable, so p is that of Fisher's exact test, towards fewer authentic samples.

    Args:
        sets: the three sets.

    Returns:
        `value` and `null` are shares; `interval` is Wilson's of the value. `details` holds "authentic" (n_samples,),
        "null_interval", "difference" (value - null) and "difference_interval" (Newcombe's, from both intervals), and
        "mid_p".

    Raises:
        DataError: a set is empty or not finite, widths differ, or there is one training row only.

    References:
        How Faithful is your Synthetic Data? Sample-level Metrics for Evaluating and Auditing Generative Models
        (Alaa, van Breugel, Saveliev & van der Schaar, 2022), https://arxiv.org/abs/2102.08921.
        Interval Estimation for the Difference Between Independent Proportions (Newcombe, 1998), Statistics in
        Medicine 17.
    """
    if len(sets.train) < 2:
        raise DataError(expected="2 or more training examples", got="1", do="Add training examples.")
    authentic, null_authentic = _authentic(sets)
    a, m, b, n = int(authentic.sum()), len(authentic), int(null_authentic.sum()), len(null_authentic)
    value, null = a / m, b / n
    interval, null_interval = share_interval(a, m), share_interval(b, n)
    fewer = hypergeom(m + n, a + b, m)
    p = float(fewer.cdf(a))
    return Result(
        name="authenticity",
        title="Authentic samples",
        value=value,
        null=null,
        interval=interval,
        p_value=p,
        direction="lower",
        n=m,
        sentence=(
            f"{value:.1%} of samples are farther from their nearest training row than that row is from the others; "
            f"of held-out rows {null:.1%} are (p = {p:.2g})."
        ),
        cannot_see=(
            "Copies with noise of rows that the training set holds twice, or nearly: they are farther than the "
            "row's twin and count as authentic. Sharpness is mistaken for copying."
        ),
        citation=_ALAA,
        details={
            "authentic": authentic,
            "null_interval": null_interval,
            "difference": value - null,
            "difference_interval": difference_interval((value, interval), (null, null_interval)),
            "mid_p": p - float(fewer.pmf(a)) / 2,
        },
    )


def difference_interval(
    one: tuple[float, tuple[float, float]], other: tuple[float, tuple[float, float]]
) -> tuple[float, float]:
    """Return Newcombe's interval of one - other, from each value with its interval.

    The distance from the difference to an end is the root of the sum of squares of both values' distances to the
    ends that make it.

    >>> low, high = difference_interval((0.7, (0.6, 0.8)), (0.3, (0.2, 0.4)))
    >>> round(low, 3), round(high, 3)
    (0.259, 0.541)
    """
    (p, (low, high)), (q, (q_low, q_high)) = one, other
    return p - q - float(np.hypot(p - low, q_high - q)), p - q + float(np.hypot(high - p, q - q_low))


def _authentic(sets: Sets) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether each sample, and each held-out row, is authentic."""
    others = [sets.near(name, "train", _LOOKED_AT)[1] for name in _QUERIES]
    distances, rows = zip(*(sets.nearest_row(name, "train") for name in _QUERIES), strict=True)
    distance, row = np.concatenate(distances), np.concatenate(rows)
    authentic = _has_closer(sets.train, np.concatenate(others), distance, row)
    # Only rows that are nearest to something are asked, not all of the training set, and only where it is open yet.
    still = np.flatnonzero(~authentic)
    if len(still):
        used, place = np.unique(row[still], return_inverse=True)
        apart = nearest(sets.train[used], sets.train, 1, exclude=used)[0][place, 0]
        authentic[still] = apart < distance[still]
    return authentic[: len(rows[0])], authentic[len(rows[0]) :]


def _has_closer(
    train: NDArray[np.generic], others: NDArray[np.int64], distance: FloatArray, row: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether one of the `others` (m, few) is nearer to the training row `row` (m,) than its query is.

    The others are training rows near to the query. One that is nearer makes the query authentic without a search, and
    most that are authentic have one.
    """
    found, step = np.zeros(len(row), np.bool_), max(1, _VALUES // train.shape[1])
    for other in others.T:
        at = np.flatnonzero(~found & (other != row))
        for some in np.split(at, range(step, len(at), step)):
            gap = train[other[some]].astype(np.float64)
            gap -= train[row[some]]
            found[some] = np.sqrt(np.square(gap, out=gap).sum(axis=1)) < distance[some]
    return found
