"""Does the model's density separate training examples from held-out examples?"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from genmem.errors import DataError
from genmem.neighbors.results import Result
from genmem.stats import rank_p, share_interval

FloatArray = NDArray[np.float64]

RATES = (0.01, 0.001)  # false-positive rates

_CITATION = (
    "Membership Inference Attacks From First Principles (Carlini et al., 2022), https://arxiv.org/abs/2112.03570"
)


def membership_inference(log_prob_train: ArrayLike, log_prob_test: ArrayLike) -> Result:
    """Return how well log p separates training from held-out examples: AUC, and TPR at low false-positive rates.

    An example counts as a member if its log p is above a threshold. The AUC is the probability that a training example
    has a higher log p than a held-out one, with ties counted half. It is an average: a model that reveals one example
    in a hundred may have an AUC of .5. Therefore the true-positive rates at false-positive rates of 1% and 0.1%
    accompany it. Their thresholds, to be exceeded, come from the held-out examples: the (floor(rate n_test) + 1)-th
    highest log p. With fewer than 1 / rate held-out examples this is the highest log p of all, and the actual
    false-positive rate may be higher than nominal.

    Args:
        log_prob_train: (n_train,) log p of training examples, nats; -inf for a density of 0.
        log_prob_test: (n_test,) the same for held-out examples.

    Returns:
        `value` is the AUC, `null` 1/2, `p_value` that of the Mann-Whitney test. The interval is Newcombe's score
        interval, which has a positive width even at an AUC of 1. `details` holds, for each rate, "tpr_0.01" and
        "tpr_0.001" with "..._interval" (95%, over both sets: order statistics for the threshold, Wilson's interval for
        the share above it, half the error each), "..._p" and "..._mid_p" (of as many training examples above the
        threshold by chance); and "p_value" (n_train,), the rank of each training example's log p among held-out ones.

    Raises:
        DataError: an array is empty, not of shape (n,), or holds NaN.

    References:
        Membership Inference Attacks From First Principles (Carlini et al., 2022), https://arxiv.org/abs/2112.03570.
        Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2 (Newcombe, 2006),
        https://doi.org/10.1002/sim.2324

    >>> membership_inference([-1.0, -2.0, -3.0], [-2.5, -4.0]).value
    0.8333333333333334
    """
    inside, outside = _checked(log_prob_train, "log_prob_train"), _checked(log_prob_test, "log_prob_test")
    m, n = len(inside), len(outside)
    test = stats.mannwhitneyu(inside, outside, alternative="greater")
    auc, p = float(test.statistic) / (m * n), float(test.pvalue)
    rates: dict[str, object] = {}
    for rate in RATES:
        rates |= _true_positives(inside, outside, rate)
    return Result(
        name="membership",
        title="Membership inference from log p (AUC)",
        value=auc,
        null=0.5,
        interval=auc_interval(auc, m, n),
        p_value=p,
        direction="higher",
        n=m + n,
        sentence=(
            f"log p is higher for a training example than for a held-out one with probability {auc:.3f} (0.5 without "
            f"memorization; p = {p:.2g}). A threshold on log p detects "
            + " and ".join(f"{rates[f'tpr_{rate}']:.2%} of training examples at {rate:.1%}" for rate in RATES)
            + " false positives."
        ),
        cannot_see=(
            "What only a comparison with other models of the same data shows: log p is high for easy examples, "
            "whether or not they were trained on. The samples are not used."
        ),
        citation=_CITATION,
        details={**rates, "p_value": rank_p(inside, outside)},
    )


def auc_interval(auc: float, m: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Newcombe's score interval of an AUC from m and n values.

    The ends are the values from which the AUC is exactly z standard errors away, with Hanley and McNeil's variance at
    that value and with both numbers replaced by their mean.

    References:
        Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2 (Newcombe, 2006),
        https://doi.org/10.1002/sim.2324

    >>> [round(bound, 3) for bound in auc_interval(1.0, 50, 50)]
    [0.96, 1.0]
    """
    z, mean = float(stats.norm.ppf((1 + level) / 2)), (m + n) / 2

    def beyond(at: float) -> float:
        factor = 1 + (mean - 1) * ((1 - at) / (2 - at) + at / (1 + at))
        return (auc - at) ** 2 - z**2 * at * (1 - at) * factor / (m * n)

    # Do not start at the AUC itself: at 0 and 1 it is also a root.
    low = 0.0 if auc == 0 else float(optimize.brentq(beyond, 0.0, auc * (1 - 1e-9)))
    high = 1.0 if auc == 1 else float(optimize.brentq(beyond, 1 - (1 - auc) * (1 - 1e-9), 1.0))
    return low, high


def _true_positives(inside: FloatArray, outside: FloatArray, rate: float) -> dict[str, object]:
    """Return the true-positive rate at a false-positive rate, its interval and its p-value, by name."""
    m, n = len(inside), len(outside)
    falsely = math.floor(round(rate * n, 9))
    ordered = np.sort(outside)[::-1]
    found = int((inside > ordered[falsely]).sum())
    p, more = _p_of_found(found, falsely, m, n), _p_of_found(found + 1, falsely, m, n)
    name = f"tpr_{rate}"
    return {
        name: found / m,
        f"{name}_interval": _rate_interval(inside, ordered, rate),
        f"{name}_p": p,
        f"{name}_mid_p": (p + more) / 2,
    }


def _p_of_found(found: int, falsely: int, m: int, n: int) -> float:
    """Return the probability that `found` or more of m come before the (falsely + 1)-th of n."""
    return float(stats.hypergeom.sf(found - 1, m + n, m, found + falsely)) if 0 < found <= m else float(found <= 0)


def _rate_interval(inside: FloatArray, ordered: FloatArray, rate: float) -> tuple[float, float]:
    """Return the interval of P(log p of a training example > the true threshold).

    The true threshold, which a share `rate` of all held-out examples exceeds, lies between two order statistics. Their
    ranks are quantiles of the binomial number of these held-out examples above it.
    """
    m, n = len(inside), len(ordered)
    few, many = (int(stats.binom.ppf(part, n, rate)) for part in (0.0125, 0.9875))
    above = ordered[few - 1] if few else np.inf  # the threshold is at most this
    below = ordered[many] if many < n else -np.inf  # and at least this
    low = share_interval(int((inside > above).sum()), m, 0.975)[0] if few else 0.0
    return low, share_interval(int((inside > below).sum()), m, 0.975)[1]


def _checked(values: ArrayLike, name: str) -> FloatArray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim != 1 or len(array) == 0 or np.isnan(array).any():
        missing = f", {int(np.isnan(array).sum())} NaN" if array.dtype.kind == "f" else ""
        raise DataError(
            expected=f"{name} of one or more numbers, shape (n,), none NaN",
            got=f"dtype {array.dtype}, shape {array.shape}{missing}",
            do="Pass one log p per example.",
        )
    return array.astype(np.float64)
