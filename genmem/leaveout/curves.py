"""How does memorization grow during training, and from which epoch on does it exceed chance?

At every scored epoch the scores ("mean_log") are summarized by quantiles over the examples and by their mean. The mean
is the generalization gap: mean log p of training examples minus that of held-out examples. Noise alone makes all of
these nonzero, so each is reported with its null, made of joint fold shifts (`fold_shifts`).

- p of one epoch: the rank of the statistic among m rotations of the folds, (1 + #{rotation >= it}) / (1 + m). It is
  one-sided and exact whatever the examples share. K folds and L repeats have K^L rotations: no p is below 1/25 with 5
  folds and two repeats.
- p corrected over epochs: Westfall and Young's step-down maximum of the statistics, each in units of the standard
  deviation of its rotations. Rotations are joint over epochs, so strong dependence between epochs costs no power, as it
  would with Holm's correction, and no shape of the curve is assumed. Each statistic is a family of its own.
- Null mean and band: from placebos, which contain no memorization.
- Standard errors cover the refits (jackknife over repeats) for these examples. Noise of the refits also moves extreme
  quantiles outwards, by an amount that falls as 1/L if scores vary more than their noise; `denoised` subtracts it. If
  scores are noise alone, it subtracts half of that; compare with the null in this case.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr

from genmem import stats
from genmem.errors import DataError
from genmem.leaveout.estimators import repeats_of
from genmem.leaveout.fold_shifts import Epoch, joint_shifts, score_epoch
from genmem.leaveout.sizes import uneven_sizes, variance_factor
from genmem.protocols import Brief, figure

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LEVELS = (0.5, 0.95, 0.999)
ALPHA = 0.05
NEVER = -1
DRAWS = 199


@dataclass(frozen=True, eq=False)
class Excess(Brief):
    """Statistics of the scores over E epochs, each with its null. Trailing shape: (Q,) quantiles, or () the gap.

    Attributes:
        epochs: (E,) scored epochs.
        value: (E, ...) the statistic, nats.
        error: (E, ...) its standard error over repeats (jackknife); NaN at one repeat.
        denoised: (E, ...) the statistic minus what noise of the refits adds, to first order; NaN at one repeat.
        null_mean: (E, ...) mean over the placebos; NaN if the design has none (2 folds).
        null_low: (E, ...) 2.5% quantile of the placebos.
        null_high: (E, ...) 97.5% quantile of the placebos.
        p_value: (E, ...) one-sided p of no memorization at that epoch; NaN if folds are unequal or recur (`sizes`).
        p_corrected: (E, ...) the same, corrected over epochs.
        p_without: (L, E, ...) `p_corrected` with each repeat left out in turn.
    """

    epochs: NDArray[np.int64]
    value: FloatArray
    error: FloatArray
    denoised: FloatArray
    null_mean: FloatArray
    null_low: FloatArray
    null_high: FloatArray
    p_value: FloatArray
    p_corrected: FloatArray
    p_without: FloatArray

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{len(self.epochs):,} epochs, at the last {figure(np.max(self.value[-1]))} nats"

    @property
    def excess(self) -> FloatArray:
        """The statistic minus the mean of its null (E, ...)."""
        return self.value - self.null_mean

    def first(self, alpha: float = ALPHA) -> NDArray[np.int64]:
        """Return the first epoch (...) with a corrected p of at most `alpha`; -1 if there is none."""
        return _first(self.epochs, self.p_corrected, alpha)

    def first_range(self, alpha: float = ALPHA) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the earliest and the latest value of `first` as each repeat is left out in turn; -1 means never."""
        if not len(self.p_without):  # one repeat
            never = np.full(self.value.shape[1:], NEVER)
            return never, never
        found = np.array([_first(self.epochs, p, alpha) for p in self.p_without])  # (L, ...)
        last = np.iinfo(np.int64).max
        late = np.where(found == NEVER, last, found)
        low, high = late.min(axis=0, initial=last), late.max(axis=0, initial=0) if len(late) else last
        return np.where(low == last, NEVER, low), np.where(high == last, NEVER, high)

    def interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Return the Student t interval of `denoised` over repeats: two arrays (E, ...)."""
        half = self.error * stats.student_interval(0.0, 1.0, len(self.p_without) - 1, level)[1]
        return self.denoised - half, self.denoised + half


@dataclass(frozen=True, eq=False)
class MemorizationCurve(Brief):
    """Memorization over E scored epochs.

    Attributes:
        epochs: (E,) scored epochs.
        levels: (Q,) levels of the quantiles.
        quantiles: quantiles of the scores over examples, (E, Q).
        gap: the generalization gap (E,): mean log_prob_in minus mean log_prob_out, which is the mean score.
        mean_in: (E,) mean log p of the examples under refits that trained on them; the negative training loss.
        mean_out: (E,) mean log p of the examples under refits that did not; the negative held-out loss.
        in_by_split: (E, n_splits) mean log p of the examples each refit trained on; NaN for a failed refit.
        out_by_split: (E, n_splits) mean log p of the examples each refit held out.
        gap_per_repeat: (E, L) the gap within each repeat.
    """

    epochs: NDArray[np.int64]
    levels: FloatArray
    quantiles: Excess
    gap: Excess
    mean_in: FloatArray
    mean_out: FloatArray
    in_by_split: FloatArray
    out_by_split: FloatArray
    gap_per_repeat: FloatArray

    def headline(self) -> str:
        """Return the size and the main figures."""
        gap = f"gap {figure(self.gap.value[-1])} nats at epoch {self.epochs[-1]}"
        return f"{len(self.epochs):,} epochs, {self.in_by_split.shape[1]:,} refits, {gap}"

    @property
    def best(self) -> int:
        """Position of the epoch with the best mean held-out log p, where early stopping would stop."""
        return int(np.nanargmax(self.mean_out))

    @property
    def gap_student_p(self) -> FloatArray:
        """One-sided p (E,) of the gap by Student's t over repeats, uncorrected; NaN at one repeat or if p is."""
        L = np.isfinite(self.gap_per_repeat).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(self.gap.value == 0, 0.0, self.gap.value / self.gap.error)
        return np.where((L > 1) & np.isfinite(self.gap.p_value), stdtr(np.maximum(L - 1, 1), -t), np.nan)

    def to_arrays(self, alpha: float = ALPHA) -> dict[str, NDArray[np.generic]]:
        """Return plain arrays to store; -1 stands for an epoch that does not exist."""
        q, gap = self.quantiles, self.gap
        names = ("null_low", "null_high", "p_value", "p_corrected", "denoised")
        return {
            "epochs": self.epochs,
            "levels": self.levels,
            "score_quantiles": q.value,
            "null_quantiles": q.null_mean,
            "quantiles_se": q.error,
            **{f"quantiles_{name}": getattr(q, name) for name in names},
            **{f"quantiles_{name}": values for name, values in _firsts(q, alpha).items()},
            "mean_score": gap.value,
            "mean_score_se": gap.error,
            **{f"gap_{name}": getattr(gap, name) for name in names[:-1]},
            **{f"gap_{name}": values for name, values in _firsts(gap, alpha).items()},
            "gap_student_p": self.gap_student_p,
            "gap_per_repeat": self.gap_per_repeat,
            "mean_in": self.mean_in,
            "mean_out": self.mean_out,
            "in_by_split": self.in_by_split,
            "out_by_split": self.out_by_split,
            "best_epoch": np.asarray(self.epochs[self.best]),
        }


def memorization_curve(
    log_probs_by_epoch: Iterable[ArrayLike],
    held_out: ArrayLike,
    repeat: ArrayLike | None = None,
    *,
    epochs: ArrayLike | None = None,
    levels: Sequence[float] = LEVELS,
    draws: int = DRAWS,
    seed: int = 0,
) -> MemorizationCurve:
    """Follow quantiles of the memorization score and the generalization gap over training.

    Args:
        log_probs_by_epoch: for each scored epoch, (n_splits, n) log p of every example under every refit, nats. A
            generator is accepted; one matrix is held at a time. A row of NaN only is a failed refit and is left out.
        held_out: (n_splits, n) bool, true where the refit did not train on the example.
        repeat: (n_splits,) the repeat of each split; see `memorization_score`.
        epochs: (E,) names of the epochs, rising; by default 1, 2, ...
        levels: of the quantiles, each between 0 and 1.
        draws: number of joint fold shifts for p values and null; all shifts if there are fewer.
        seed: of the shifts.


    Raises:
        DataError: shapes disagree, a row is neither finite nor NaN only, no epoch has a score, or the repeats cannot be
            inferred.

    References:
        On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021),
        https://arxiv.org/abs/2106.03216
        Resampling-Based Multiple Testing (Westfall & Young, 1993), the step-down maximum of section 2.6.

    >>> held_out = np.tile(np.eye(4, dtype=bool), (3, 1))
    >>> noise = np.random.default_rng(0).normal(size=(2, 12, 4))
    >>> curve = memorization_curve([noise[0], noise[1] - 9 * held_out], held_out, epochs=[5, 10])
    >>> int(curve.gap.first())
    10
    """
    held = np.asarray(held_out, dtype=np.bool_)
    rows = repeats_of(held, repeat)
    shifts = joint_shifts(held, rows, draws, seed)
    found = [score_epoch(ell, held, rows, shifts, levels) for ell in _checked(log_probs_by_epoch, held)]
    names = _names(epochs, len(found))
    _require_scores(found)
    whole = _excess(names, found)
    if uneven_sizes(held, rows) is not None or variance_factor(held, rows) is not None:
        whole = _untested(whole)
    return MemorizationCurve(
        epochs=names,
        levels=np.asarray(levels, dtype=np.float64),
        quantiles=_part(whole, slice(0, -1)),
        gap=_part(whole, -1),
        mean_in=np.array([f.mean_in for f in found]),
        mean_out=np.array([f.mean_out for f in found]),
        in_by_split=np.stack([f.in_by_split for f in found]),
        out_by_split=np.stack([f.out_by_split for f in found]),
        gap_per_repeat=np.stack([f.gap_per_repeat for f in found]),
    )


def _excess(epochs: NDArray[np.int64], found: Sequence[Epoch]) -> Excess:
    """Compute the statistics (E, C) of all epochs with their nulls."""
    value, without = np.stack([f.value for f in found]), np.stack([f.without for f in found])  # (E, C), (E, L, C)
    rotated, placebo = np.stack([f.rotated for f in found]), np.stack([f.placebo for f in found])  # (E, m, C)
    rotated_without = [np.stack(parts) for parts in zip(*(f.rotated_without for f in found), strict=True)]
    error, denoised = _jackknife(value, without)
    low, high = (_nan_if_none(placebo, np.quantile, end) for end in (0.025, 0.975))
    p_without = [_step_down_p(without[:, r], null) for r, null in enumerate(rotated_without)]
    return Excess(
        epochs=epochs,
        value=value,
        error=error,
        denoised=denoised,
        null_mean=_nan_if_none(placebo, np.mean),
        null_low=low,
        null_high=high,
        p_value=_rank_p(value, rotated),
        p_corrected=_step_down_p(value, rotated),
        p_without=np.array(p_without).reshape(-1, *value.shape),
    )


def _untested(whole: Excess) -> Excess:
    """Return the statistics without p: folds cannot be exchanged if they are unequal or recur in the repeats."""
    names = ("p_value", "p_corrected", "p_without")
    return replace(whole, **{name: np.full_like(getattr(whole, name), np.nan) for name in names})


def _part(whole: Excess, part: slice | int) -> Excess:
    arrays = {name: values[..., part] for name, values in vars(whole).items() if name != "epochs"}
    return Excess(epochs=whole.epochs, **arrays)


def _jackknife(value: FloatArray, without: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the standard error (E, C) from leaving out each repeat, and the value minus its bias of order 1/L."""
    L = np.isfinite(without).sum(axis=1)
    if without.shape[1] < 2 or (L < 2).any():
        return np.full(value.shape, np.nan), np.full(value.shape, np.nan)
    mean = np.nanmean(without, axis=1)
    squares = np.nansum((without - mean[:, None]) ** 2, axis=1)
    return np.sqrt((L - 1) / L * squares), L * value - (L - 1) * mean


def _rank_p(value: FloatArray, null: FloatArray) -> FloatArray:
    above = ~(null < value[:, None])  # so that NaN is never significant
    return np.asarray((1 + above.sum(axis=1)) / (1 + null.shape[1]))


def _step_down_p(value: FloatArray, null: FloatArray) -> FloatArray:
    """Return p (E, C) corrected over the E epochs, for each column separately: values (E, C), rotations (E, m, C).

    The epoch that exceeds its rotations most is compared with the maximum over all epochs of each rotation; the next
    epoch with the maximum over the remaining epochs; and so on. The true value counts as one rotation, so ranks are
    exact.
    """
    every = np.concatenate([value[:, None], null], axis=1)  # (E, 1 + m, C)
    spread = every.std(axis=1, keepdims=True)
    z = (every - every.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    z = np.where(np.isfinite(z), z, -np.inf)  # an epoch without a score exceeds nothing
    order = np.argsort(-z[:, 0], axis=0, kind="stable")  # (E, C)
    z = np.take_along_axis(z, order[:, None], axis=0)
    furthest = np.maximum.accumulate(z[::-1], axis=0)[::-1]
    p = np.maximum.accumulate((furthest >= z[:, :1]).mean(axis=1), axis=0)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, p, axis=0)
    return corrected


def _first(epochs: NDArray[np.int64], p: FloatArray, alpha: float) -> NDArray[np.int64]:
    found = p <= alpha
    return np.where(found.any(axis=0), epochs[found.argmax(axis=0)], NEVER)


def _firsts(excess: Excess, alpha: float) -> dict[str, NDArray[np.int64]]:
    low, high = excess.first_range(alpha)
    return {"first_epoch": excess.first(alpha), "first_epoch_low": low, "first_epoch_high": high}


def _nan_if_none(placebo: FloatArray, summary: Callable[..., FloatArray], *args: float) -> FloatArray:
    if not placebo.shape[1]:
        return np.full((len(placebo), placebo.shape[2]), np.nan)
    return np.asarray(summary(placebo, *args, axis=1))


# --- checks of the arguments


def _checked(matrices: Iterable[ArrayLike], held: BoolArray) -> Iterator[NDArray[np.floating]]:
    for at, matrix in enumerate(matrices):
        ell = np.asarray(matrix)
        if ell.shape != held.shape or ell.dtype.kind != "f":
            raise DataError(
                expected=f"real log_probs of the shape of held_out, {held.shape}, at every epoch",
                got=f"{ell.dtype} of shape {ell.shape} at position {at}",
                do="Pass one row per refit and one column per example.",
            )
        for s, row in enumerate(ell):
            if not np.isfinite(row).all() and not np.isnan(row).all():
                example = int(np.flatnonzero(~np.isfinite(row))[0])
                raise DataError(
                    expected="log_probs that are finite, or NaN throughout for a failed refit",
                    got=f"{row[example]} at epoch position {at}, split {s}, example {example}",
                    do="Check that refit: its log_prob overflows.",
                )
        yield ell


def _names(epochs: ArrayLike | None, count: int) -> NDArray[np.int64]:
    names = np.arange(1, count + 1) if epochs is None else np.asarray(epochs, dtype=np.int64)
    if names.shape != (count,) or not count or (np.diff(names) <= 0).any():
        raise DataError(
            expected=f"one rising epoch per matrix, {count} of them and at least one",
            got=f"epochs={np.array2string(names, threshold=10)}",
            do="Pass the scored epochs in order.",
        )
    return names


def _require_scores(found: Sequence[Epoch]) -> None:
    if not any(np.isfinite(f.value).all() for f in found):
        raise DataError(
            expected="refits that trained on an example and refits that held it out, within one repeat",
            got="no example with both at any epoch: too many refits failed",
            do="Check why they failed (a lower learning rate often helps), and refit.",
        )
