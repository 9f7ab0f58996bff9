"""Are samples closer to training than to held-out examples more often than fresh samples would be?

Two of the tests here pool training and held-out examples: which is closest to a sample, and from which set is it? If
samples are sharper or wider than the data, their distances to both sets change alike, so these tests do not mistake it
for copying. The third test compares distances, and does mistake sharpness for copying.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from genmem.errors import DataError
from genmem.neighbors.pooled import DRAWS, NearestOfBoth, label_permutation
from genmem.neighbors.results import Result
from genmem.neighbors.sets import Sets, of_three_sets
from genmem.stats import share_interval

Floats = NDArray[np.float64]

_ELSEWHERE = (
    "Copies of examples that are held out as well. Held-out examples from another source are mistaken for copying."
)


@of_three_sets
def train_share_test(sets: Sets, *, seed: int = 0, draws: int = DRAWS) -> Result:
    """Test whether too many samples have their closest example in the training set rather than the held-out set.

    Identical examples of the two sets are one group with one label: 1 in the training set, 0 in the held-out set, or
    the share of training examples for a group in both. The value is the mean label of the groups closest to the
    samples; its null is the mean label of all groups, n_train / (n_train + n_test) if no examples are identical. On
    fresh samples all permutations of the labels are equally likely, and the p-value is the share of random permutations
    that reach the value, the observed one included. For a group in both sets the p-value uses the label of one example
    drawn from it, which keeps it exact whether examples or groups were assigned to the two sets. Ties between groups
    are resolved by the values of the examples alone. Sets of different sizes need no subsampling, which would hide
    copies.

    With c_r the number of samples closest to group r, N groups, N_1 of them with label 1, the variance of the number of
    samples is N_1 (N - N_1) / (N (N - 1)) sum (c - mean c)^2. The interval is Wilson's for the number of independent
    samples that would have this variance: it covers the sampling of training and held-out examples too.

    Args:
        sets: the three sets.
        seed: of the random permutations.
        draws: the number of permutations.

    Returns:
        `details` holds "mid_p", with permutations that equal the value counted half; "z" and "null_sd" from the
        variance above; "excess", (value - null) / (1 - null); "resolution", the smallest possible p-value;
        "interval_samples", Wilson's interval for fixed training and held-out examples; "label" and "asked"
        (n_samples,).

    Raises:
        DataError: a set is empty or not finite, or widths differ.

    >>> rng = np.random.default_rng(0)
    >>> T, H, fresh = (rng.normal(size=(500, 4)) for _ in range(3))
    >>> train_share_test(T, H, fresh).p_value > 0.05 > 1e-4 > train_share_test(T, H, [*T[:100], *fresh]).p_value
    True
    """
    both = sets.both
    asked = np.ones(len(both.group), bool)
    return _share_result(
        both,
        asked,
        (seed, draws),
        name="train_share",
        title="Samples closest to a training example",
        what="of samples are closer to a training example than to any held-out example",
        cannot_see=(
            f"Few copies among many samples: a share c of copies raises it by only c (1 - {both.labels.mean():.2g}). "
            + _ELSEWHERE
        ),
    )


@of_three_sets
def tail_share_test(sets: Sets, *, tail: float = 0.05, seed: int = 0, draws: int = DRAWS) -> Result:
    """Test the samples closest to any example: do too many have it in the training set?

    As `train_share_test`, for the share `tail` of samples that are closest to training and held-out examples pooled
    (samples at the same distance as the last of them included). The choice of samples does not depend on which example
    is in which set, so the p-value remains exact. Copies are among the closest samples, so even a few of them show
    here.

    Args:
        sets: the three sets.
        tail: the share of samples used, above 0, at most 1.
        seed: of the random permutations.
        draws: the number of permutations.

    Returns:
        `details` as of `train_share_test`; "asked" says whether a sample is one of the closest.

    Raises:
        DataError: a set is empty or not finite, widths differ, or `tail` is not a share.
    """
    _require_share(tail, "tail")
    both = sets.both
    last = np.partition(both.distance, (count := _part(tail, len(both.distance))) - 1)[count - 1]
    return _share_result(
        both,
        both.distance <= last,
        (seed, draws),
        name="tail_share",
        title=f"The same, for the {tail:.0%} of samples closest to any example",
        what=(
            f"of the {tail:.0%} of samples closest to any example are closer to a training example than to any "
            "held-out example"
        ),
        cannot_see=(
            "Copies altered so much that fresh samples in dense regions are closer to some example than they are. "
            + _ELSEWHERE
        ),
    )


@of_three_sets
def tail_excess_test(sets: Sets, *, tail: float = 0.01) -> Result:
    """Test whether too many samples are closer to a training example than nearly all held-out examples are.

    The threshold is the r-th smallest distance of a held-out example to the training set, r = ceil(tail n_test). With a
    samples strictly below it, the value is a / n_samples and its null r / (n_test + 1). On fresh samples all n_test +
    n_samples distances are exchangeable. The probability of a or more samples before the r-th held-out example is then
    exactly that of a or more samples among the first a + r - 1: hypergeometric. Ties make it conservative.

    The interval is Wilson's, for the share of further samples below this threshold.

    Args:
        sets: the three sets.
        tail: the share of held-out examples below the threshold, above 0, at most 1.

    Returns:
        `details` holds "threshold"; "mid_p"; "detectable", the smallest share of exact copies, the rest fresh, for
        which p <= 0.05 in 80% of cases (`tail_excess_power`); "below" (n_samples,).

    Raises:
        DataError: a set is empty or not finite, widths differ, or `tail` is not a share.

    >>> rng = np.random.default_rng(0)
    >>> T, H, fresh = (rng.normal(size=(500, 4)) for _ in range(3))
    >>> tail_excess_test(T, H, [*T[:25], *fresh[25:]]).p_value < 1e-5
    True
    """
    _require_share(tail, "tail")
    of_samples, of_test = sets.distance("samples", "train"), sets.distance("test", "train")
    m, n = len(of_samples), len(of_test)
    r = _part(tail, n)
    threshold = float(np.partition(of_test, r - 1)[r - 1])
    below = of_samples < threshold
    a, null = int(below.sum()), r / (n + 1)
    p = _chance(a, r, m, n)
    return Result(
        name="tail_excess",
        title=f"Samples closer to a training example than {100 * (1 - r / n):.3g}% of held-out examples are",
        value=a / m,
        null=null,
        interval=share_interval(a, m),
        p_value=p,
        direction="higher",
        n=m + n,
        sentence=(
            f"{a:,} of {m:,} samples ({a / m:.2%}) are closer to a training example than the {_nth(r)} closest "
            f"of {n:,} held-out examples; {null:.2%} of fresh samples would be (p = {p:.2g})."
        ),
        cannot_see=(
            "Samples that are sharper than the data are mistaken for copies. So are fresh samples if held-out "
            "examples were duplicated after the split. If many held-out examples are identical to training "
            "examples, the threshold is 0 and no sample is below it."
        ),
        citation="the hypergeometric law of exceedances",
        details={
            "threshold": threshold,
            "mid_p": (p + _chance(a + 1, r, m, n)) / 2,
            "detectable": _detectable(r, m, n),
            "below": below,
        },
    )


def tail_excess_power(n_test: int, n_samples: int, share: float, *, tail: float = 0.01, level: float = 0.05) -> float:
    """Return how often `tail_excess_test` gives p <= level if each sample is an exact copy with probability `share`.

    The other samples are fresh. The share of fresh samples below the held-out threshold has a beta distribution; given
    it, the count is binomial. It is assumed that no two distances are equal.

    >>> round(tail_excess_power(1_000, 1_000, 0.0), 2), round(tail_excess_power(1_000, 1_000, 0.05), 2)
    (0.04, 1.0)
    """
    r = _part(tail, n_test)
    return _power(share, _needed(r, n_samples, n_test, level), n_samples, _cuts(r, n_test))


def _needed(r: int, m: int, n: int, level: float) -> int:
    """Return the smallest count with p <= level; m + 1 if there is none."""
    a = np.arange(m + 1)
    return int((stats.hypergeom.sf(a - 1, n + m, m, a + r - 1) > level).sum())


def _cuts(r: int, n: int) -> Floats:
    """Return equally likely shares of fresh samples below the r-th of n held-out examples."""
    return np.asarray(stats.beta.ppf((np.arange(500) + 0.5) / 500, r, n - r + 1))


def _power(share: float, needed: int, m: int, cuts: Floats) -> float:
    return float(stats.binom.sf(needed - 1, m, share + (1 - share) * cuts).mean())


def _detectable(r: int, m: int, n: int, power: float = 0.8, level: float = 0.05) -> float:
    """Return the share of copies with this power; NaN if even copies alone have less."""
    needed, cuts = _needed(r, m, n, level), _cuts(r, n)
    if needed > m:
        return np.nan
    return float(optimize.brentq(lambda share: _power(share, needed, m, cuts) - power, 0.0, 1.0, xtol=1e-4))


def _chance(a: int, r: int, m: int, n: int) -> float:
    """Return the probability that a or more of m come before the r-th of n."""
    return float(stats.hypergeom.sf(a - 1, n + m, m, a + r - 1)) if a <= m else 0.0


def _share_result(
    both: NearestOfBoth,
    asked: NDArray[np.bool_],
    random: tuple[int, int],
    *,
    name: str,
    title: str,
    what: str,
    cannot_see: str,
) -> Result:
    """Return the result on the samples `asked`; `random` is the seed and the number of permutations."""
    counts = np.bincount(both.group[asked], minlength=len(both.labels))
    found = label_permutation(counts, both.labels, *random, place=both.place)
    label, (value, null) = both.labels[both.group], found[:2]
    return Result(
        name=name,
        title=title,
        value=value,
        null=null,
        interval=_interval(value, null, found.sd, len(label[asked])),
        p_value=found.p_value,
        direction="higher",
        n=len(label[asked]),
        sentence=f"{value:.1%} {what}; {null:.1%} of fresh samples would be (p = {found.p_value:.2g}).",
        cannot_see=cannot_see,
        citation="a permutation test of the labels of groups of identical examples",
        details={
            "mid_p": found.mid_p,
            "z": found.z,
            "null_sd": found.sd,
            "excess": (value - null) / (1 - null) if null < 1 else 0.0,
            "resolution": found.resolution,
            "interval_samples": share_interval(label[asked].sum(), len(label[asked])),
            "asked": asked,
            "label": label,
        },
    )


def _interval(value: float, null: float, sd: float, asked: int) -> tuple[float, float]:
    """Return Wilson's interval for the number of independent samples that would have this variance."""
    worth = min(asked, null * (1 - null) / sd**2) if sd else asked
    return share_interval(value * worth, worth)


def _part(tail: float, n: int) -> int:
    """Return the smallest count that is at least a share `tail` of n; one in a million is allowed for rounding."""
    return max(1, int(np.ceil(tail * n - 1e-6)))


def _nth(r: int) -> str:
    if 10 <= r % 100 <= 20:
        return f"{r}th"
    return f"{r}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(r % 10, 'th') }"


def _require_share(share: float, name: str) -> None:
    if not 0 < share <= 1:
        raise DataError(expected=f"{name} above 0, at most 1", got=f"{share}", do="Pass a share, such as 0.05.")
