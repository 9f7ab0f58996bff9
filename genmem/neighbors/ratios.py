"""Are training examples closer to samples than to held-out examples, and samples closer to them than other examples?"""

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
    """Return rho = d(x, closest held-out example) / d(x, closest sample) of each training example x, (n_train,).

    Above 1, the closest sample is closer than the closest held-out example, which is interpreted as memorization. More
    samples than held-out examples increase rho by their number alone, so pass equal numbers. A sample equal to x gives
    infinity, or 1 if a held-out example is equal to x too; a held-out example alone gives 0.

    Args:
        sets: the three sets.
        pool: average images over 2 x 2 pixels first, as published, which reduces the weight of details.

    Raises:
        DataError: a set is empty or not finite, widths differ, or `pool` is True and the examples are not images.

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
    """Test whether too many training examples have rho > 1: a sample closer to them than any held-out example.

    Fresh samples and held-out examples are exchangeable, so the null is the share of samples among both (1/2 for equal
    numbers). The p-value is from 9,999 random permutations of the labels of groups of identical points: one point may
    be closest to many training examples, so these are not independent. If a sample and a held-out example are equally
    close, the choice depends on their values alone; if they are identical, the label is the share of samples in their
    group. The interval is Wilson's for the number of independent examples that would have the variance of these
    permutations.

    Args:
        sets: the three sets.
        pool: average images over 2 x 2 pixels first.
        seed: of the permutations.

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
        title="Training examples closer to a sample than to any held-out example",
        value=found.value,
        null=found.null,
        interval=share_interval(found.value * worth, worth),
        p_value=found.p_value,
        direction="higher",
        n=len(rho),
        sentence=(
            f"{found.value:.1%} of training examples are closer to a sample than to any held-out example (rho > "
            f"1); {found.null:.1%} would be with fresh samples (p = {found.p_value:.2g})."
        ),
        cannot_see=(
            "A minority of copies, because each affects one training example. Sharpness is mistaken for "
            "copying: samples from denser regions are closer to most examples."
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
_LOOKED_AT = 10  # neighbours of a query that are tried before all examples are searched
_VALUES = 2**20  # in memory at a time

_ALAA = (
    "How Faithful is your Synthetic Data? Sample-level Metrics for Evaluating and Auditing Generative Models "
    "(Alaa, van Breugel, Saveliev & van der Schaar, 2022), https://arxiv.org/abs/2102.08921"
)


@of_three_sets
def authenticity(sets: Sets) -> Result:
    """Return the share of authentic samples, with that of held-out examples as its null.

    A sample q is authentic if another training example is closer to t, its closest training example, than q is: d(t,
    others) < d(q, t). The share of fresh samples that are authentic depends on the data and their dimension and is not
    one half; held-out examples give its reference value. Given the training set, fresh samples and held-out examples
    are exchangeable, so p is that of Fisher's exact test, towards fewer authentic samples.

    Args:
        sets: the three sets.

    Returns:
        `value` and `null` are shares; `interval` is Wilson's of the value. `details` holds "authentic" (n_samples,),
        "null_interval", "difference" (value - null) and "difference_interval" (Newcombe's, from both intervals), and
        "mid_p".

    Raises:
        DataError: a set is empty or not finite, widths differ, or there is only one training example.

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
            f"{value:.1%} of samples are farther from their closest training example than that example is from "
            f"the others; {null:.1%} of held-out examples are (p = {p:.2g})."
        ),
        cannot_see=(
            "Noisy copies of examples that the training set holds twice, or nearly: they are farther away than "
            "the duplicate and count as authentic. Sharpness is mistaken for copying."
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

    The distance from the difference to an end is the root of the sum of squared distances of both values to the
    corresponding ends of their intervals.

    >>> low, high = difference_interval((0.7, (0.6, 0.8)), (0.3, (0.2, 0.4)))
    >>> round(low, 3), round(high, 3)
    (0.259, 0.541)
    """
    (p, (low, high)), (q, (q_low, q_high)) = one, other
    return p - q - float(np.hypot(p - low, q_high - q)), p - q + float(np.hypot(high - p, q - q_low))


def _authentic(sets: Sets) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether each sample, and each held-out example, is authentic."""
    others = [sets.near(name, "train", _LOOKED_AT)[1] for name in _QUERIES]
    distances, rows = zip(*(sets.nearest_row(name, "train") for name in _QUERIES), strict=True)
    distance, row = np.concatenate(distances), np.concatenate(rows)
    authentic = _has_closer(sets.train, np.concatenate(others), distance, row)
    # Search only for training examples that are closest to a query, and only for queries that are still undecided.
    still = np.flatnonzero(~authentic)
    if len(still):
        used, place = np.unique(row[still], return_inverse=True)
        apart = nearest(sets.train[used], sets.train, 1, exclude=used)[0][place, 0]
        authentic[still] = apart < distance[still]
    return authentic[: len(rows[0])], authentic[len(rows[0]) :]


def _has_closer(
    train: NDArray[np.generic], others: NDArray[np.int64], distance: FloatArray, row: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether one of the `others` (m, few) is closer to the training example `row` (m,) than its query is.

    The others are training examples close to the query. Most authentic queries have one that is closer, and then need
    no search.
    """
    found, step = np.zeros(len(row), np.bool_), max(1, _VALUES // train.shape[1])
    for other in others.T:
        at = np.flatnonzero(~found & (other != row))
        for some in np.split(at, range(step, len(at), step)):
            gap = train[other[some]].astype(np.float64)
            gap -= train[row[some]]
            found[some] = np.sqrt(np.square(gap, out=gap).sum(axis=1)) < distance[some]
    return found
