"""Are samples nearer to a training row than that row is to the others?"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import hypergeom

from genmem.errors import DataError
from genmem.neighbors.results import Result
from genmem.neighbors.searches import Name, Searches, searches_of
from genmem.neighbors.ties import nearest_row
from genmem.search import nearest
from genmem.stats import share_interval

FloatArray = NDArray[np.float64]
_QUERIES: tuple[Name, Name] = ("samples", "test")
_LOOKED_AT = 10  # training rows near to a query, before all are searched
_VALUES = 2**20  # handled at a time

_CITATION = (
    "How Faithful is your Synthetic Data? Sample-level Metrics for Evaluating and Auditing Generative Models "
    "(Alaa, van Breugel, Saveliev & van der Schaar, 2022), https://arxiv.org/abs/2102.08921"
)


def authenticity(train: ArrayLike, test: ArrayLike, samples: ArrayLike, *, searches: Searches | None = None) -> Result:
    """Return the share of authentic samples, with that of held-out rows as its null.

    A sample q is authentic where its nearest training row t has another training row nearer to it than q is:
    d(t, others) < d(q, t). What share of fresh rows is authentic depends on the data and their dimension and is not
    one half, so the same is asked of held-out rows. Given the training set fresh samples and held-out rows are
    exchangeable, so p is that of Fisher's exact test, towards fewer authentic samples.

    Args:
        train: (n_train, *event), 2 rows or more.
        test: (n_test, *event) held-out examples.
        samples: (n_samples, *event).
        searches: of the same three sets, where there are some.

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
    near = searches_of(train, test, samples, searches)
    if len(near["train"]) < 2:
        raise DataError(expected="2 or more training examples", got="1", do="Add training examples.")
    authentic, null_authentic = _authentic(near)
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
        citation=_CITATION,
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


def _authentic(near: Searches) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether each sample, and each held-out row, is authentic."""
    others = [near.near(name, "train", min(_LOOKED_AT, len(near["train"])))[1] for name in _QUERIES]
    distances, rows = zip(*(nearest_row(near, name, "train") for name in _QUERIES), strict=True)
    distance, row = np.concatenate(distances), np.concatenate(rows)
    authentic = _has_nearer(near["train"], np.concatenate(others), distance, row)
    # Only rows that are nearest to something are asked, not all of the training set, and only where it is open yet.
    still = np.flatnonzero(~authentic)
    if len(still):
        used, place = np.unique(row[still], return_inverse=True)
        apart = nearest(near["train"][used], near["train"], 1, exclude=used)[0][place, 0]
        authentic[still] = apart < distance[still]
    return authentic[: len(rows[0])], authentic[len(rows[0]) :]


def _has_nearer(
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
