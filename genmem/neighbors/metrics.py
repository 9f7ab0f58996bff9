"""Common measures of samples beside the tests of copying: their values, and what each cannot detect."""

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
    """Return measures that are often reported for generative models, each with its value on fresh data.

    Distance to closest record, nearest-neighbour distance ratio (median and 5% quantile) and membership by distance to
    the closest sample use all rows. Leave-one-out 1-NN accuracy, precision, recall, density and coverage use at most
    `rows` of each set. None of them decides whether samples are copies; `cannot_see` of each says why.

    The searches are: two training neighbours of samples and of held-out examples, and the closest sample of training
    and of held-out examples.

    Args:
        sets: the three sets.
        rows: the largest number of rows of each set for measures that search sets within themselves.
        seed: of the random subset of rows.

    Returns:
        `dcr_median`, `dcr_tail`, `nndr_median`, `nndr_tail`, `gan_leaks`, `one_nn_train`, `one_nn_test`, `precision`,
        `recall`, `density`, `coverage`.

    Raises:
        DataError: the sets do not fit together, or `rows` is below 1.
    """
    # The ratio searches for two neighbours; the distance then uses the first of these.
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
    "Data Synthesis Based on Generative Adversarial Networks (Park et al., 2018), "
    "https://arxiv.org/abs/1806.03384; with held-out examples as a reference"
)
_NNDR = "CTAB-GAN: Effective Table Data Synthesizing (Zhao et al., 2021), https://arxiv.org/abs/2102.08369"
_SHARP = (
    "A model that is sharper than the data is closer to every example, copied or not, and lowers the value as "
    "copies do."
)


@of_three_sets
def closest_record(sets: Sets) -> tuple[Result, Result]:
    """Return the median and the 5% quantile of the distance to closest record (DCR), each against held-out examples.

    The distance is that of a sample to its closest training example; the null is the same quantile of the distances of
    held-out examples. The interval is distribution-free, from order statistics. Some tools report exp(-d^2) of these
    distances, which underflows to ties.

    Args:
        sets: the three sets.

    Returns:
        `dcr_median` and `dcr_tail`, in the units of the data; `details` holds the distances (n_samples,), (n_test,).

    Raises:
        DataError: the sets do not fit together.
    """
    ours, theirs = (sets.distance(name, "train") for name in ("samples", "test"))
    what = "distance to the closest training example"
    return _quantiles("dcr", "Distance to closest record", what, ours, theirs, _SHARP, _DCR)


@of_three_sets
def neighbor_ratio(sets: Sets) -> tuple[Result, Result]:
    """Return the median and the 5% quantile of the nearest-neighbour distance ratio (NNDR), against held-out examples.

    The ratio is d1 / d2 of a sample's distances to its closest and its second closest training example; it is near 0 if
    one of them is much closer than all others. Two training examples at distance 0 also give 0. With one training
    example it is NaN.

    Args:
        sets: the three sets.

    Returns:
        `nndr_median` and `nndr_tail`, between 0 and 1; `details` holds the ratios (n_samples,), (n_test,).

    Raises:
        DataError: the sets do not fit together.
    """
    ours, theirs = (_ratios(sets, name) for name in ("samples", "test"))
    what = "ratio of the distances to the closest and the second closest training example"
    blind = (
        "Slightly changed copies of examples that occur more than once: the second neighbour is then equally close. "
    )
    return _quantiles("nndr", "Nearest-neighbour distance ratio", what, ours, theirs, blind + _SHARP, _NNDR)


def _ratios(sets: Sets, name: Name) -> FloatArray:
    if len(sets.train) < 2:
        return np.full(len(sets[name]), np.nan)
    distances, _ = sets.near(name, "train", 2)
    return np.divide(distances[:, 0], distances[:, 1], out=np.zeros(len(distances)), where=distances[:, 1] > 0)


def _quantiles(
    key: str, title: str, what: str, ours: FloatArray, theirs: FloatArray, blind: str, citation: str
) -> tuple[Result, Result]:
    few = "Copies that are fewer than half of the samples hardly change the median. " + blind
    rare = "Copies that are far fewer than 5% of the samples. " + blind
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
        sentence=f"The {which} of the {what} is {value:.4g} for samples and {null:.4g} for held-out examples.",
        cannot_see=blind,
        citation=citation,
        details={"samples": ours, "test": theirs, "null_interval": _interval(theirs, level)},
    )


def _interval(values: FloatArray, level: float) -> Interval:
    """Return a 95% interval of a quantile from order statistics; with few values it starts at 0 or its end is NaN."""
    if np.isnan(values).any():
        return np.nan, np.nan
    low, high = stats.quantile_test(values, q=float(np.quantile(values, level)), p=level).confidence_interval(0.95)
    return (0.0 if np.isnan(low) else float(low)), float(high)


# --- GAN-Leaks


@of_three_sets
def gan_leaks(sets: Sets) -> Result:
    """Return the AUC of separating training from held-out examples by their distance to the closest sample.

    This is the full black-box attack without calibration: the closer a sample, the more likely the example is a member.
    The p-value is of the Mann-Whitney test with mid-ranks. Examples count as independent, so a training example that
    occurs many times makes it too small. The interval is Newcombe's, which is also defined at an AUC of 0 or 1.

    Args:
        sets: the three sets.

    Returns:
        `gan_leaks`: the AUC, null .5. `details`: the share of training examples detected at a threshold that at most 1%
        of held-out examples pass, and the distances (n_train,), (n_test,).

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
        title="Membership by distance to the closest sample (GAN-Leaks), AUC",
        value=auc,
        null=0.5,
        interval=(low, high),
        p_value=p,
        direction="higher",
        n=len(members) + len(others),
        sentence=(
            f"The distance to the closest sample separates training from held-out examples with an AUC of {auc:.3f} "
            f"({low:.3f} to {high:.3f}); 0.5 is chance. At 1% false positives, {caught:.1%} of training examples are "
            "detected."
        ),
        cannot_see=(
            "Copies of few training examples, because an AUC averages over all of them. A training example that "
            "occurs many times counts as many independent ones in the p-value."
        ),
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
    """Return the share of members strictly closer than all but a share `rate` of the others."""
    threshold = np.sort(others)[int(rate * len(others))]
    return float((members < threshold).mean())
