"""How near samples lie to training examples, told by quantiles: common measures that are no test of copying."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from genmem.neighbors.results import Result
from genmem.neighbors.searches import Searches, searches_of

FloatArray = NDArray[np.float64]
Interval = tuple[float, float]

_DCR = (
    "Data Synthesis Based on Generative Adversarial Networks (Park et al., 2018), https://arxiv.org/abs/1806.03384; "
    "with held-out examples beside it"
)
_NNDR = "CTAB-GAN: Effective Table Data Synthesizing (Zhao et al., 2021), https://arxiv.org/abs/2102.08369"
_SHARP = "A model sharper than its data lies nearer to every example, copied or not, and lowers it as copies do."


def closest_record(
    train: ArrayLike, test: ArrayLike, samples: ArrayLike, *, searches: Searches | None = None
) -> tuple[Result, Result]:
    """Return the median and the 5% quantile of the distance to closest record (DCR), each against held-out examples.

    The distance of a sample to its nearest training example; the null is the same quantile of held-out examples'
    distances. The interval is distribution-free, from order statistics. Nothing else changes hands: exp(-d^2) of
    such distances, as some tools report, underflows to ties.

    Args:
        train: (n_train, *event).
        test: (n_test, *event) held-out examples.
        samples: (n_samples, *event).
        searches: of these sets, where there are some already.

    Returns:
        `dcr_median` and `dcr_tail`, in the units of the data; `details` holds the distances (n_samples,), (n_test,).

    Raises:
        DataError: the sets do not fit together.
    """
    shared = searches_of(train, test, samples, searches)
    ours, theirs = (shared.distance(name, "train") for name in ("samples", "test"))
    what = "distance to the nearest training example"
    return _quantiles("dcr", "Distance to closest record", what, ours, theirs, _SHARP, _DCR)


def neighbor_ratio(
    train: ArrayLike, test: ArrayLike, samples: ArrayLike, *, searches: Searches | None = None
) -> tuple[Result, Result]:
    """Return the median and the 5% quantile of the nearest-neighbour distance ratio (NNDR), against held-out examples.

    d1 / d2, a sample's distances to its nearest and its second nearest training example: near 0 where it belongs to
    one of them alone. Two training examples at distance 0 make it 0 too. NaN where there is one training example.

    Args:
        train: (n_train, *event).
        test: (n_test, *event) held-out examples.
        samples: (n_samples, *event).
        searches: of these sets, where there are some already.

    Returns:
        `nndr_median` and `nndr_tail`, between 0 and 1; `details` holds the ratios (n_samples,), (n_test,).

    Raises:
        DataError: the sets do not fit together.
    """
    shared = searches_of(train, test, samples, searches)
    ours, theirs = (_ratios(shared, name) for name in ("samples", "test"))
    what = "ratio of the distances to the nearest and the second nearest training example"
    blind = "Copies of rows that occur more than once, slightly changed: the second neighbour is then as near. "
    return _quantiles("nndr", "Nearest-neighbour distance ratio", what, ours, theirs, blind + _SHARP, _NNDR)


def _ratios(shared: Searches, name: Any) -> FloatArray:
    if len(shared["train"]) < 2:
        return np.full(len(shared[name]), np.nan)
    distances, _ = shared.near(name, "train", 2)
    return np.divide(distances[:, 0], distances[:, 1], out=np.zeros(len(distances)), where=distances[:, 1] > 0)


def _quantiles(
    key: str, title: str, what: str, ours: FloatArray, theirs: FloatArray, blind: str, citation: str
) -> tuple[Result, Result]:
    few = "Copies of fewer than half of the samples hardly move a median. " + blind
    rare = "Copies of much fewer than 5% of the samples. " + blind
    median = _quantile(f"{key}_median", f"{title}, median", 0.5, what, ours, theirs, few, citation)
    return median, _quantile(f"{key}_tail", f"{title}, 5% quantile", 0.05, what, ours, theirs, rare, citation)


def _quantile(
    name: str, title: str, level: float, what: str, ours: FloatArray, theirs: FloatArray, blind: str, citation: str
) -> Result:
    value, null = (float(np.quantile(x, level)) for x in (ours, theirs))
    which = "median" if level == 0.5 else f"{level:.0%} quantile"
    return Result(
        name=name,
        title=title,
        value=value,
        null=null,
        interval=_interval(ours, level),
        direction="lower",
        n=len(ours),
        sentence=f"The {which} of samples' {what} is {value:.4g}; of held-out examples' it is {null:.4g}.",
        cannot_see=blind,
        citation=citation,
        details={"samples": ours, "test": theirs, "null_interval": _interval(theirs, level)},
    )


def _interval(values: FloatArray, level: float) -> Interval:
    """Return a 95% interval of a quantile from order statistics; of few rows it begins at 0 or has no end, NaN."""
    if np.isnan(values).any():
        return np.nan, np.nan
    low, high = stats.quantile_test(values, q=float(np.quantile(values, level)), p=level).confidence_interval(0.95)
    return (0.0 if np.isnan(low) else float(low)), float(high)
