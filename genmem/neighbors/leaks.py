"""Can somebody who sees only samples tell training examples from held-out ones?"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from genmem.neighbors.membership import auc_interval
from genmem.neighbors.results import Result
from genmem.neighbors.searches import Searches, searches_of

FloatArray = NDArray[np.float64]


def gan_leaks(train: ArrayLike, test: ArrayLike, samples: ArrayLike, *, searches: Searches | None = None) -> Result:
    """Return the AUC of telling training examples from held-out ones by their distance to the nearest sample.

    The full black-box attack without calibration: the nearer a sample, the likelier a member. The p-value is of the
    Mann-Whitney test with mid-ranks; rows count as independent, so a training example that occurs many times makes
    it too small. The interval is Newcombe's, and also stands where the AUC is 0 or 1.

    Args:
        train: (n_train, *event).
        test: (n_test, *event) held-out examples.
        samples: (n_samples, *event).
        searches: of these sets, where there are some already.

    Returns:
        `gan_leaks`: the AUC, null .5. `details`: the share of training examples caught at the threshold that catches
        at most 1% of held-out ones, and the distances (n_train,), (n_test,).

    Raises:
        DataError: the sets do not fit together.

    References:
        GAN-Leaks: A Taxonomy of Membership Inference Attacks against Generative Models (Chen et al., 2020),
        https://arxiv.org/abs/1909.03935
    """
    shared = searches_of(train, test, samples, searches)
    members, others = (shared.distance(name, "samples") for name in ("train", "test"))
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
