"""Common measures of samples beside the tests of copying: what each says, and what it cannot see."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from genmem.neighbors.membership import auc_interval
from genmem.neighbors.prdc import precision_recall
from genmem.neighbors.results import Result
from genmem.neighbors.sets import Name, Sets, of_three_sets
from genmem.neighbors.two_sample import one_nn_two_sample


@of_three_sets
def context(sets: Sets, *, rows: int = 2000, seed: int = 0) -> tuple[Result, ...]:
    """Return the measures that reports of generative models often give, each with its value on fresh data.

    Distance to closest record and nearest-neighbour distance ratio (median and 5% quantile), membership by distance
    to the nearest sample, on all rows; leave-one-out 1-NN accuracy, precision, recall, density and coverage on `rows`
    of each set at most. None of them decides whether samples are copies; `cannot_see` of each says why.

    It asks for two training neighbours of samples and held-out examples, and for the nearest sample of
    training and held-out examples.

    Args:
        sets: the three sets.
        rows: how many rows of each set those take that search sets within themselves.
        seed: of the draw of these rows.

    Returns:
        `dcr_median`, `dcr_tail`, `nndr_median`, `nndr_tail`, `gan_leaks`, `one_nn_train`, `one_nn_test`, `precision`,
        `recall`, `density`, `coverage`.

    Raises:
        DataError: the sets do not fit together, or `rows` is below 1.
    """
    # The ratio asks for two neighbours, the distance then takes the first of these.
    ratio = neighbor_ratio(sets)
    return (
        *closest_record(sets),
        *ratio,
        gan_leaks(sets),
        *one_nn_two_sample(sets, rows=rows, seed=seed),
        *precision_recall(sets, rows=rows, seed=seed),
    )


# --- distances


FloatArray = NDArray[np.float64]
Interval = tuple[float, float]

_DCR = (
    "Data Synthesis Based on Generative Adversarial Networks (Park et al., 2018), https://arxiv.org/abs/1806.03384; "
    "with held-out examples beside it"
)
_NNDR = "CTAB-GAN: Effective Table Data Synthesizing (Zhao et al., 2021), https://arxiv.org/abs/2102.08369"
_SHARP = "A model sharper than its data lies nearer to every example, copied or not, and lowers it as copies do."


@of_three_sets
def closest_record(sets: Sets) -> tuple[Result, Result]:
    """Return the median and the 5% quantile of the distance to closest record (DCR), each against held-out examples.

    The distance of a sample to its nearest training example; the null is the same quantile of held-out examples'
    distances. The interval is distribution-free, from order statistics. Nothing else changes hands: exp(-d^2) of
    such distances, as some tools report, underflows to ties.

    Args:
        sets: the three sets.

    Returns:
        `dcr_median` and `dcr_tail`, in the units of the data; `details` holds the distances (n_samples,), (n_test,).

    Raises:
        DataError: the sets do not fit together.
    """
    ours, theirs = (sets.distance(name, "train") for name in ("samples", "test"))
    what = "distance to the nearest training example"
    return _quantiles("dcr", "Distance to closest record", what, ours, theirs, _SHARP, _DCR)


@of_three_sets
def neighbor_ratio(sets: Sets) -> tuple[Result, Result]:
    """Return the median and the 5% quantile of the nearest-neighbour distance ratio (NNDR), against held-out examples.

    d1 / d2, a sample's distances to its nearest and its second nearest training example: near 0 where it belongs to
    one of them alone. Two training examples at distance 0 make it 0 too. NaN where there is one training example.

    Args:
        sets: the three sets.

    Returns:
        `nndr_median` and `nndr_tail`, between 0 and 1; `details` holds the ratios (n_samples,), (n_test,).

    Raises:
        DataError: the sets do not fit together.
    """
    ours, theirs = (_ratios(sets, name) for name in ("samples", "test"))
    what = "ratio of the distances to the nearest and the second nearest training example"
    blind = "Copies of rows that occur more than once, slightly changed: the second neighbour is then as near. "
    return _quantiles("nndr", "Nearest-neighbour distance ratio", what, ours, theirs, blind + _SHARP, _NNDR)


def _ratios(sets: Sets, name: Name) -> FloatArray:
    if len(sets.train) < 2:
        return np.full(len(sets[name]), np.nan)
    distances, _ = sets.near(name, "train", 2)
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


# --- GAN-Leaks


@of_three_sets
def gan_leaks(sets: Sets) -> Result:
    """Return the AUC of telling training examples from held-out ones by their distance to the nearest sample.

    The full black-box attack without calibration: the nearer a sample, the likelier a member. The p-value is of the
    Mann-Whitney test with mid-ranks; rows count as independent, so a training example that occurs many times makes
    it too small. The interval is Newcombe's, and also stands where the AUC is 0 or 1.

    Args:
        sets: the three sets.

    Returns:
        `gan_leaks`: the AUC, null .5. `details`: the share of training examples caught at the threshold that catches
        at most 1% of held-out ones, and the distances (n_train,), (n_test,).

    Raises:
        DataError: the sets do not fit together.

    References:
        GAN-Leaks: A Taxonomy of Membership Inference Attacks against Generative Models (Chen et al., 2020),
        https://arxiv.org/abs/1909.03935
    """
    members, others = (sets.distance(name, "samples") for name in ("train", "test"))
    auc, p = _auc(members, others)
    low, high = auc_interval(auc, len(members), len(others))
    caught = _caught(members, others, 0.01)
    return Result(
        name="gan_leaks",
        title="Membership by distance to the nearest sample (GAN-Leaks), AUC",
        value=auc,
        null=0.5,
        interval=(low, high),
        p_value=p,
        direction="higher",
        n=len(members) + len(others),
        sentence=f"Distance to the nearest sample tells training examples from held-out ones with AUC {auc:.3f} "
        f"({low:.3f} to {high:.3f}); chance is .5. At 1% false alarms {caught:.1%} are found.",
        cannot_see="Copies of few training examples: an AUC averages over all of them. A training example that occurs "
        "many times counts as many independent ones in the p-value.",
        citation="GAN-Leaks: A Taxonomy of Membership Inference Attacks against Generative Models (Chen et al., 2020), "
        "https://arxiv.org/abs/1909.03935",
        details={"tpr_at_1_percent": caught, "train": members, "test": others},
    )


def _auc(members: FloatArray, others: FloatArray) -> tuple[float, float]:
    if np.ptp(np.concatenate([members, others])) == 0:
        return 0.5, 1.0
    test = stats.mannwhitneyu(members, others, alternative="less")
    return float(1 - test.statistic / (len(members) * len(others))), float(test.pvalue)


def _caught(members: FloatArray, others: FloatArray, rate: float) -> float:
    """Return the share of members strictly nearer than all but a share `rate` of the others."""
    threshold = np.sort(others)[int(rate * len(others))]
    return float((members < threshold).mean())
