"""How well could an attacker tell which examples a model was trained on? The refits serve as shadow models.

For each repeat, its refits are targets, and the refits of all other repeats are shadow models, from which the attacker
knows the log p of each example under models with and without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from scipy.stats import t as student_t

from genmem import stats
from genmem.clusters import jackknife
from genmem.errors import DataError
from genmem.leaveout.epsilon import epsilon_bound
from genmem.leaveout.estimators import BoolArray, FloatArray, Rows, mean_where, ratio_where, repeats_of
from genmem.leaveout.matrix import checked_matrix, remaining
from genmem.protocols import Brief, figure
from genmem.seeding import stream
from genmem.stats import Rate

RATES = (0.01, 0.001)  # false-positive rates
LEAST_FALSE = 10  # expected false positives below which a rate is not reported
SCORES = ("likelihood_ratio", "difference", "log_prob")


@dataclass(frozen=True)
class AttackRates(Brief):
    """How well one statistic separates members of the training set from examples held out.

    Attributes:
        auc: the area under the ROC curve, 0.5 by chance.
        tpr: the share of members identified at each false-positive rate of `RATES`. NaN if fewer than 10 false
            positives are expected: below 1,000 non-members for 1%, below 10,000 for 0.1%.
    """

    auc: Rate
    tpr: Mapping[float, Rate]

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"AUC {figure(*self.auc)}"


@dataclass(frozen=True, eq=False)
class MembershipAttack(Brief):
    """Membership inference on the refits.

    Attributes:
        likelihood_ratio: the rates of the likelihood-ratio attack; intervals need three repeats or more.
        difference: those of log p minus the example's mean log p under models without it.
        log_prob: those of log p alone.
        identified: (n,) the share of the models trained on an example in which the likelihood-ratio attack identifies
            it, at a false-positive rate of 1%; NaN if that rate could not be set.
        epsilon: a lower bound, at 95% confidence, on the epsilon of pure differential privacy of the training; 0 if
            there is no evidence. It treats folds as independent draws of the training set, which they only
            approximate, and therefore counts every guess as less than one (see `epsilon_bound`).
        n_repeats: the number of repeats.
        n_held_out: the number of pairs of a model and an example it did not train on.
    """

    likelihood_ratio: AttackRates
    difference: AttackRates
    log_prob: AttackRates
    identified: FloatArray
    epsilon: float
    n_repeats: int
    n_held_out: int

    def headline(self) -> str:
        """Return the size and the main figures."""
        return (
            f"{len(self.identified):,} examples, {self.n_repeats:,} repeats, AUC {figure(*self.auc)}, "
            f"epsilon at least {figure(self.epsilon)}"
        )

    @property
    def auc(self) -> Rate:
        """The area under the ROC curve of the likelihood-ratio attack."""
        return self.likelihood_ratio.auc

    @property
    def tpr(self) -> Mapping[float, Rate]:
        """The true-positive rates of the likelihood-ratio attack."""
        return self.likelihood_ratio.tpr

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what a run stores: `auc` (3, 3) and `tpr` (3, rates, 3) as value, low, high for each of `SCORES`."""
        found = [getattr(self, name) for name in SCORES]
        return {
            "auc": np.array([_row(rates.auc) for rates in found]),
            "tpr": np.array([[_row(rates.tpr[at]) for at in RATES] for rates in found]),
            "identified": self.identified,
            "epsilon": np.asarray(self.epsilon),
            "repeats": np.asarray(self.n_repeats),
            "held_out": np.asarray(self.n_held_out),
        }


def _row(rate: Rate) -> list[float]:
    return [rate.value, *rate.interval]


def membership_attack(
    log_probs: ArrayLike,
    held_out: ArrayLike,
    repeat: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> MembershipAttack:
    """Attack every refit with the refits of the other repeats as shadow models.

    With x = log p of an example under the target, mu its mean under shadow models that trained on the example, s^2 its
    variance (pooled over in and out, moderated over examples) and M its memorization score, shrunk towards the mean,
    the statistic is the log likelihood ratio of two normal laws, `((x - mu + M)^2 - (x - mu)^2) / (2 s^2)`.

    Args:
        log_probs: (n_splits, n) log p of every example under every refit, nats; rows of NaN only are left out.
        held_out: (n_splits, n) bool, true where the refit did not train on the example.
        repeat: (n_splits,) the repeat of each split (see `memorization_score`).
        groups: (n,) which examples belong together. Intervals then allow for other groups, too, and `epsilon` rests on
            one example of each.
        seed: chooses the refit of each repeat behind `epsilon`, and the examples of groups.

    Raises:
        DataError: as in `memorization_score`, or fewer than two repeats, or too few shadow models for a variance, or
            `groups` has another shape.

    References:
        Membership Inference Attacks From First Principles (Carlini et al., 2022), https://arxiv.org/abs/2112.03570

    >>> rng = np.random.default_rng(0)
    >>> held_out = np.tile(np.repeat(np.eye(4, dtype=bool), 50, axis=1), (3, 1))
    >>> found = membership_attack(rng.normal(size=held_out.shape) - 3 * held_out, held_out)
    >>> round(found.auc.value, 2), found.epsilon > 0
    (0.97, True)
    """
    repeats = _repeats(log_probs, held_out, repeat)
    found = _statistics(repeats)
    values = _reported(found)
    belong = None if groups is None else _belonging(groups, len(repeats[0].level))
    rates = _rates(values, _without_each(repeats), _of_groups(found, belong))
    audited = found[0] if belong is None else found[0].of(_one_of_each(belong, seed))
    return MembershipAttack(
        **dict(zip(SCORES, rates, strict=True)),
        identified=found[0].share_above(_threshold(found[0], RATES[0]) if np.isfinite(values[0, 1]) else np.nan),
        epsilon=epsilon_bound(audited.values, audited.member, seed=seed),
        n_repeats=len(repeats),
        n_held_out=_n_held_out(found),
    )


def leave_out_repeats(
    log_probs: ArrayLike, held_out: ArrayLike, repeat: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return AUC and rates of the likelihood-ratio attack, (1 + rates,), and the same without each repeat.

    The second is (L, 1 + rates), without rows if there are fewer than three repeats. Arguments and errors are those of
    `membership_attack`: two audits that share repeats differ by a number whose jackknife is over both at once.
    """
    repeats = _repeats(log_probs, held_out, repeat)
    return _reported(_statistics(repeats))[0], _without_each(repeats)[:, 0]


def _repeats(log_probs: ArrayLike, held_out: ArrayLike, repeat: ArrayLike | None) -> "list[_Repeat]":
    log_p, held, failed = checked_matrix(log_probs, held_out)
    held, rows = remaining(held, repeats_of(held, repeat), failed)
    _require_shadows(held, rows)
    ell = np.asarray(log_p[~failed], dtype=np.float64)
    return [_Repeat.of(ell[r], held[r], ell.mean(axis=0)) for r in rows]


def _without_each(repeats: "list[_Repeat]") -> FloatArray:
    """Return the statistics without one repeat at a time: (L, 3, 1 + rates), or no rows of fewer than three repeats."""
    left = [_values(_statistics(repeats[:r] + repeats[r + 1 :])) for r in range(len(repeats)) if len(repeats) > 2]
    return np.array(left).reshape(-1, len(SCORES), 1 + len(RATES))


def _n_held_out(found: "list[_Statistic]") -> int:
    return sum(map(len, found[0].held_out))


def _reported(found: "list[_Statistic]") -> FloatArray:
    """Return AUC and rates, (3, 1 + rates), NaN where too few false positives are expected."""
    values = _values(found)
    values[:, 1:][:, [_n_held_out(found) * at < LEAST_FALSE for at in RATES]] = np.nan
    return values


def _require_shadows(held: BoolArray, rows: Rows) -> None:
    if len(rows) < 2:
        raise DataError(
            expected="two repeats or more: the refits of one are attacked with those of the others",
            got=f"{len(rows)}",
            do="Use --repeats 2 or more.",
        )
    if (fewest := min(len(held) - len(r) for r in rows)) < 3:
        raise DataError(
            expected="three shadow models or more for each refit", got=f"{fewest}", do="Use more folds or repeats."
        )


# --- the statistics of every example under every refit


@dataclass(frozen=True, eq=False)
class _Repeat:
    """The refits of one repeat: log p and membership (k, n), and sums over refits with and without the example (2, n).

    `level` (n,) is subtracted before sums are formed, so that squares keep their digits.
    """

    ell: FloatArray
    member: BoolArray
    level: FloatArray
    count: NDArray[np.intp]
    total: FloatArray
    squares: FloatArray

    @classmethod
    def of(cls, ell: FloatArray, held: BoolArray, level: FloatArray) -> Self:
        centred, masks = ell - level, (~held, held)
        count = np.stack([mask.sum(axis=0) for mask in masks])
        total = np.stack([centred.sum(axis=0, where=mask) for mask in masks])
        squares = np.stack([(centred**2).sum(axis=0, where=mask) for mask in masks])
        return cls(ell, ~held, level, count, total, squares)

    @property
    def score(self) -> FloatArray:
        mean_in, mean_out = ratio_where(self.total, self.count)
        return np.asarray(mean_in - mean_out)


@dataclass(frozen=True, eq=False)
class _Statistic:
    """One statistic: an array (k, n) for each repeat, NaN where shadow models do not know the example."""

    values: list[FloatArray]
    member: list[BoolArray]

    def of(self, examples: NDArray[Any]) -> "_Statistic":
        """Return the statistic of some examples: a mask or positions."""
        return _Statistic([z[:, examples] for z in self.values], [m[:, examples] for m in self.member])

    @property
    def members(self) -> list[FloatArray]:
        return [z[m & ~np.isnan(z)] for z, m in zip(self.values, self.member, strict=True)]

    @property
    def held_out(self) -> list[FloatArray]:
        return [z[~m & ~np.isnan(z)] for z, m in zip(self.values, self.member, strict=True)]

    def share_above(self, threshold: float) -> FloatArray:
        """Return the share of models trained on each example in which it exceeds a threshold: (n,)."""
        values, member = np.concatenate(self.values), np.concatenate(self.member)
        share = ratio_where(((values > threshold) & member).sum(axis=0), (member & ~np.isnan(values)).sum(axis=0))
        return share if np.isfinite(threshold) else np.full_like(share, np.nan)


def _statistics(repeats: list[_Repeat]) -> list[_Statistic]:
    """Return the statistics of `SCORES`."""
    found: list[list[FloatArray]] = [[], [], []]
    for i, target in enumerate(repeats):
        mean_in, mean_out, gap, variance = _shadow_law(repeats[:i] + repeats[i + 1 :])
        x = target.ell - target.level
        found[0].append(((x - mean_in + gap) ** 2 - (x - mean_in) ** 2) / (2 * variance))
        found[1].append(x - mean_out)
        found[2].append(np.where(np.isnan(mean_out), np.nan, target.ell))
    return [_Statistic(values, [repeat.member for repeat in repeats]) for values in found]


def _shadow_law(shadows: list[_Repeat]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return an example's mean log p in and out (less its level), its shrunken score, and its variance: (n,) each."""
    count = np.sum([shadow.count for shadow in shadows], axis=0)
    mean = ratio_where(np.sum([shadow.total for shadow in shadows], axis=0), count)
    within = np.sum([shadow.squares for shadow in shadows], axis=0) - count * np.nan_to_num(mean) ** 2
    degrees = np.maximum(count.sum(axis=0) - 2, 0)
    s2 = np.nan_to_num(ratio_where(np.maximum(within.sum(axis=0), 0.0), degrees))
    variance = np.maximum(stats.moderate_variances(s2, degrees).variances, 1e-200)  # refits may be identical
    scores = np.stack([shadow.score for shadow in shadows])
    score = mean_where(np.nan_to_num(scores), ~np.isnan(scores))
    return mean[0], mean[1], _shrunk(score, variance * (1 / np.maximum(count, 1)).sum(axis=0)), variance


def _shrunk(score: FloatArray, error: FloatArray) -> FloatArray:
    """Return scores shrunk towards their mean; `error` (n,) is the variance of each."""
    known = ~np.isnan(score)
    between = max(float(score[known].var() - error[known].mean()), 0.0)
    weight = ratio_where(np.full_like(error, between), between + error)
    mean = score[known].mean()
    return np.asarray(mean + np.nan_to_num(weight) * (score - mean))


# --- rates, with intervals over repeats


def _values(found: list[_Statistic]) -> FloatArray:
    """Return AUC and true-positive rates of the statistics: (3, 1 + rates)."""
    return np.array([[_auc(one), *(_tpr(one, at) for at in RATES)] for one in found])


def _belonging(groups: ArrayLike, n: int) -> NDArray[np.intp]:
    values = np.asarray(groups)
    if values.shape != (n,):
        raise DataError(
            expected=f"one group per example, shape ({n},)", got=f"shape {values.shape}", do="Pass `Data.groups`."
        )
    return np.unique(values, return_inverse=True)[1]


def _one_of_each(groups: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Return the position of one example of each group, at random."""
    order = stream(seed, "one of each group").permutation(len(groups))
    return np.sort(order[np.unique(groups[order], return_index=True)[1]])


def _of_groups(found: list[_Statistic], groups: NDArray[np.intp] | None) -> FloatArray:
    """Return half of the 95% interval of AUC and rates over groups, the refits being as they are; 0 without groups."""
    if groups is None:
        return np.zeros((len(SCORES), 1 + len(RATES)))
    variance, df = jackknife(lambda kept: _values([one.of(kept) for one in found]), groups)
    return np.asarray(student_t.isf(0.025, df) * np.sqrt(variance))


def _auc(found: _Statistic) -> float:
    """Return the area under the ROC curve within a repeat, averaged over repeats."""
    return float(np.mean([_area(i, o) for i, o in zip(found.members, found.held_out, strict=True)]))


def _area(member: FloatArray, other: FloatArray) -> float:
    ranks = rankdata(np.concatenate([member, other]))[: len(member)]
    return float((ranks.sum() - len(member) * (len(member) + 1) / 2) / (len(member) * len(other)))


def _tpr(found: _Statistic, at: float) -> float:
    threshold = _threshold(found, at)
    return float(np.mean([(z > threshold).mean() for z in found.members]))


def _threshold(found: _Statistic, rate: float) -> float:
    """Return the value that a share `rate` of the non-members of all refits exceeds at most."""
    pooled = np.concatenate(found.held_out)
    allowed = int(len(pooled) * rate + 1e-9)
    return float(np.partition(pooled, -1 - allowed)[-1 - allowed])


def _rates(values: FloatArray, left: FloatArray, of_groups: FloatArray) -> list[AttackRates]:
    """Return values with Student's intervals, from values without one repeat at a time: (L, *values.shape), or none."""
    half = np.full_like(values, np.nan)
    if len(left):
        half = np.where(np.isfinite(values), np.hypot(stats.jackknife_half(left), of_groups), np.nan)
    low, high = np.clip([values - half, values + half], 0, 1)
    rows = [
        [Rate(float(v), (float(lo), float(up))) for v, lo, up in zip(*row, strict=True)]
        for row in zip(values, low, high, strict=True)
    ]
    return [AttackRates(auc, dict(zip(RATES, tpr, strict=True))) for auc, *tpr in rows]
