"""How much more likely is an example under models that trained on it than under models that did not?

Standard errors rest on the L independent repeats, never on the splits of one: sd / sqrt(L) for "mean_log", the
jackknife for "log_mean"; NaN at L = 1. One-sided p values, by case:

- "mean_log", L >= 3: Student t over the repeats, variances moderated across examples (df d0 + L - 1).
- "mean_log", L = 1 or 2: a test of *no effect* against placebos. The true fold is dropped and another fold of its
  repeat is called held out. Both contrasts are divided by sqrt(1/out + 1/in) and by the moderated spread of their
  own in-splits; p = (1 + #{placebo >= t}) / (1 + #placebo), pooled over examples. Folds are exchangeable under no
  effect, so this needs no normality; what is left of the difference between K - 1 and K - 2 in-splits is small:
  simulated sizes at .05 and .01 are .044-.055 and .007-.012 for K >= 4, normal or strongly skewed. With K = 3
  placebos leave no spread: true and sham fold are compared, undivided, with the one in-fold they share, which is
  exact. With K = 2 there is no placebo: NaN.
- "log_mean": permutation within each repeat, 999 draws, or all arrangements where there are fewer, so that p is
  never below 1 / K at one repeat of K folds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem import stats
from genmem.errors import DataError
from genmem.seeding import stream
from genmem.splits import repeats_of, sham_shifts, shifted

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Rows = list[NDArray[np.intp]]  # the splits of each repeat

ESTIMATORS = ("mean_log", "log_mean")
PLACEBOS = 8  # sham scores kept as the null distribution
TEST_SHAMS = 16  # sham scores per example behind a p value at one or two repeats
DRAWS = 999
BLOCK = 2**21  # numbers of the matrix worked on at once


@dataclass(frozen=True, eq=False)
class MemorizationScores:
    """Memorization scores of n examples, nats; every array is float64.

    Attributes:
        score: (n,) log_prob_in - log_prob_out.
        log_prob_in: (n,) average log p of the example under models that trained on it.
        log_prob_out: (n,) the same under models that did not.
        standard_error: (n,) error of the score from the spread of independent repeats, unmoderated; NaN at one.
        p_value: (n,) one-sided, of no memorization against score > 0.
        q_value: (n,) Benjamini-Hochberg over the examples.
        estimator: "mean_log" or "log_mean".
        per_repeat: (L, n) the score within each repeat; for "log_mean" what each repeat adds to the pooled score
            (jackknife pseudo-values, centred). Its mean is the score, its spread the standard error.
        placebo: (m, n) scores of sham held-out folds, which the models did train on: the null distribution.
        moderated: whether tests borrow strength across examples for the variances.
    """

    score: FloatArray
    log_prob_in: FloatArray
    log_prob_out: FloatArray
    standard_error: FloatArray
    p_value: FloatArray
    q_value: FloatArray
    estimator: str
    per_repeat: FloatArray
    placebo: FloatArray
    moderated: bool = True

    @property
    def n_repeats(self) -> int:
        """The number of independent repeats L."""
        return len(self.per_repeat)

    @property
    def reliability(self) -> float:
        """1 - mean(SE^2) / Var(score): the correlation to expect with the scores of a second such study."""
        return stats.reliability(self.score, self.standard_error)

    def quantiles(self, levels: Sequence[float] = (0.5, 0.95, 0.999)) -> FloatArray:
        """Return quantiles (Q,) of the scores."""
        return np.asarray(np.quantile(self.score, levels))

    def null_quantiles(self, levels: Sequence[float] = (0.5, 0.95, 0.999)) -> FloatArray:
        """Return the same quantiles of each placebo: (m, Q)."""
        return np.asarray(np.quantile(self.placebo, levels, axis=1).T)

    def p_above(self, delta: float) -> FloatArray:
        """Return p values (n,) of score <= delta nats, against above: memorized by *more than* delta.

        NaN with fewer than three repeats and for "log_mean", where only "no effect" can be tested.
        """
        if self.estimator != "mean_log" or self.n_repeats < 3:
            return np.full(self.score.shape, np.nan)
        return _student_p(self.per_repeat, delta, self.moderated)

    def to_table(self, **columns: ArrayLike | None) -> "pa.Table":
        """Return one row per example as an Arrow table: the given columns, then the six of this class.

        An undefined number is null. A column given as None is left out: `to_table(index=..., label=labels)`.
        """
        import pyarrow as pa

        names = ("score", "log_prob_in", "log_prob_out", "standard_error", "p_value", "q_value")
        given = {name: np.asarray(values) for name, values in columns.items() if values is not None}
        arrays = {**given, **{name: getattr(self, name) for name in names}}
        return pa.table({name: pa.array(values, from_pandas=True) for name, values in arrays.items()})


def memorization_score(
    log_probs: ArrayLike,
    held_out: ArrayLike,
    *,
    estimator: str = "mean_log",
    repeat: ArrayLike | None = None,
    moderate: bool = True,
    seed: int = 0,
) -> MemorizationScores:
    """Score every example from a matrix of leave-out refits.

    "mean_log": mean over repeats of (mean log p of the splits that saw the example - mean of those that held it
    out), the expected difference of log densities. "log_mean", as published: logmeanexp over *all* splits that
    saw it minus logmeanexp over all that held it out, the log ratio of mean densities; biased upward when refits
    are heavy-tailed, for it averages unequal numbers of them (by 1 nat with no memorization at all, at 10 folds,
    10 repeats and a spread of 3 nats). The module says how errors and p values are made.

    Args:
        log_probs: (n_splits, n) log p of every example under every refit, nats, float32 or float64.
        held_out: (n_splits, n) bool, true where the refit did not train on the example.
        estimator: "mean_log" or "log_mean".
        repeat: (n_splits,) the repeat of each split. Without it, consecutive splits whose held-out sets partition
            the examples form one repeat.
        moderate: moderate variances; without, t tests are the plain ones, with next to no power at L = 3, and
            placebo tests are conservative.
        seed: root of the shifts of placebos and of the permutations.

    Raises:
        DataError: shapes disagree, a value is not finite, the repeats cannot be told, an example is never in or
            never out within a repeat, or the estimator is unknown.

    References:
        On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021),
        https://arxiv.org/abs/2106.03216

    >>> held_out = np.eye(3, dtype=bool)
    >>> memorization_score(np.where(held_out, -5.0, -3.0), held_out).score
    array([2., 2., 2.])
    """
    log_p, out = _checked(log_probs, held_out, estimator)
    rows = repeats_of(out, repeat)
    by_placebo = estimator == "mean_log" and len(rows) < 3
    shifts = sham_shifts(out, rows, seed, TEST_SHAMS if by_placebo else PLACEBOS)
    parts = [_score_block(ell, held, rows, shifts, estimator, by_placebo, seed) for ell, held in _blocks(log_p, out)]
    whole = _Part(*(np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True)))
    p = whole.p if estimator == "log_mean" else _p(whole, by_placebo, moderate)
    return MemorizationScores(
        score=whole.log_prob_in - whole.log_prob_out,
        log_prob_in=whole.log_prob_in,
        log_prob_out=whole.log_prob_out,
        standard_error=whole.error,
        p_value=p,
        q_value=stats.benjamini_hochberg(p),
        estimator=estimator,
        per_repeat=whole.per_repeat,
        placebo=whole.placebo,
        moderated=moderate,
    )


# --- one block of examples


class _Part(NamedTuple):
    log_prob_in: FloatArray  # (b,)
    log_prob_out: FloatArray  # (b,)
    per_repeat: FloatArray  # (L, b)
    placebo: FloatArray  # (m, b)
    error: FloatArray  # (b,)
    p: FloatArray  # (b,), by permutation
    contrasts: FloatArray  # (2 + m, 3, b): true, true against the first placebo's in-splits, placebos


def _score_block(
    ell: FloatArray,
    held: BoolArray,
    rows: Rows,
    shifts: NDArray[np.intp],
    estimator: str,
    by_placebo: bool,
    seed: int,
) -> _Part:
    shams = [shifted(held, rows, shift) for shift in shifts]
    estimate = _mean_log if estimator == "mean_log" else _log_mean
    log_in, log_out, per_repeat = estimate(ell, held, ~held, rows)
    nulls = [estimate(ell, sham, ~held & ~sham, rows) for sham in shams[:PLACEBOS]]
    placebo = np.array([i - o for i, o, _ in nulls]).reshape(len(nulls), ell.shape[1])
    if estimator == "log_mean":
        per_repeat, p = _pseudo_values(ell, held, rows), _permutation_p(ell, held, rows, seed)
    else:
        p = np.full(len(log_in), np.nan)
    error = _repeat_error(per_repeat)
    contrasts = np.empty((0, 3, len(log_in)))
    if by_placebo and shams:
        pairs = [(held, ~held), (held, ~held & ~shams[0]), *((sham, ~held & ~sham) for sham in shams)]
        contrasts = np.stack([_contrast(ell, out, in_, rows) for out, in_ in pairs])
    return _Part(log_in, log_out, per_repeat, placebo, error, p, contrasts)


def _mean_log(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows) -> tuple[FloatArray, FloatArray, FloatArray]:
    level, ell = ell[0], ell - ell[0]  # so that refits that agree exactly differ by exactly 0
    mean_in = np.stack([ell[r].mean(axis=0, where=in_[r]) for r in rows])  # (L, b)
    mean_out = np.stack([ell[r].mean(axis=0, where=out[r]) for r in rows])
    return level + mean_in.mean(axis=0), level + mean_out.mean(axis=0), mean_in - mean_out


def _log_mean(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows) -> tuple[FloatArray, FloatArray, FloatArray]:
    ins, outs = _log_sums(ell, in_, rows), _log_sums(ell, out, rows)
    return _pool(*ins), _pool(*outs), (ins[0] - np.log(ins[1])) - (outs[0] - np.log(outs[1]))


def _log_sums(ell: FloatArray, mask: BoolArray, rows: Rows) -> tuple[FloatArray, FloatArray]:
    """Return, for each repeat, the log of the summed densities and their number: (L, b) each."""
    sums = [np.logaddexp.reduce(ell[r], axis=0, where=mask[r], initial=-np.inf) for r in rows]
    return np.stack(sums), np.stack([mask[r].sum(axis=0) for r in rows]).astype(np.float64)


def _pool(log_sums: FloatArray, counts: FloatArray) -> FloatArray:
    return np.asarray(np.logaddexp.reduce(log_sums, axis=0) - np.log(counts.sum(axis=0)))


def _blocks(log_probs: NDArray[np.floating], held_out: BoolArray) -> Iterator[tuple[FloatArray, BoolArray]]:
    n_splits, n = log_probs.shape
    step = max(1, BLOCK // n_splits)
    for start in range(0, n, step):
        block = slice(start, start + step)
        yield np.asarray(log_probs[:, block], dtype=np.float64), held_out[:, block]


# --- errors and tests


def _p(whole: _Part, by_placebo: bool, moderate: bool) -> FloatArray:
    return _placebo_p(whole.contrasts, moderate) if by_placebo else _student_p(whole.per_repeat, 0.0, moderate)


def _repeat_error(per_repeat: FloatArray) -> FloatArray:
    if len(per_repeat) < 2:
        return np.full(per_repeat.shape[1], np.nan)
    return np.asarray(per_repeat.std(axis=0, ddof=1) / np.sqrt(len(per_repeat)))


def _pseudo_values(ell: FloatArray, held: BoolArray, rows: Rows) -> FloatArray:
    """Return what each repeat adds to the pooled "log_mean" score: (L, b), of mean the score and of jackknife error."""
    ins, outs = _log_sums(ell, ~held, rows), _log_sums(ell, held, rows)
    score = _pool(*ins) - _pool(*outs)
    if len(rows) < 2:
        return score[None]
    kept = [np.arange(len(rows)) != r for r in range(len(rows))]
    left = np.stack([_pool(ins[0][k], ins[1][k]) - _pool(outs[0][k], outs[1][k]) for k in kept])
    return np.asarray(score - (len(rows) - 1) * (left - left.mean(axis=0)))


def _student_p(per_repeat: FloatArray, delta: float, moderate: bool) -> FloatArray:
    variances, df = per_repeat.var(axis=0, ddof=1), np.float64(len(per_repeat) - 1)
    if moderate:
        shrunk = stats.moderate_variances(variances, df)
        return stats.student_sf(_ratio(per_repeat.mean(axis=0) - delta, shrunk.variances / len(per_repeat)), shrunk.df)
    return stats.student_sf(_ratio(per_repeat.mean(axis=0) - delta, variances / len(per_repeat)), df)


def _ratio(difference: FloatArray, variance: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / np.sqrt(variance))


def _contrast(ell: FloatArray, out: BoolArray, in_: BoolArray, rows: Rows) -> FloatArray:
    """Return (3, b): score / sqrt(1/out + 1/in), sum of squares within the in-splits, its df."""
    score, squares, df, scale = np.zeros((4, ell.shape[1]))
    ell = ell - ell[0]
    for r in rows:
        n_in, n_out = in_[r].sum(axis=0), out[r].sum(axis=0)
        mean = ell[r].mean(axis=0, where=in_[r])
        score += mean - ell[r].mean(axis=0, where=out[r])
        squares += ((ell[r] - mean) ** 2).sum(axis=0, where=in_[r])
        df += n_in - 1
        scale += 1 / n_in + 1 / n_out
    return np.stack([score / np.sqrt(scale), squares, df])


def _placebo_p(contrasts: FloatArray, moderate: bool) -> FloatArray:
    if len(contrasts) == 0:
        return np.full(contrasts.shape[-1], np.nan)
    true, matched, shams = contrasts[0], contrasts[1], contrasts[2:]
    if shams[:, 2].min() == 0:  # no spread to divide by
        return stats.rank_p(matched[0], shams[:, 0])
    prior = stats.moderate_variances(true[1] / true[2], true[2]) if moderate else None
    return stats.rank_p(_studentised(true, prior), np.stack([_studentised(sham, prior) for sham in shams]))


def _studentised(contrast: FloatArray, prior: stats.Moderated | None) -> FloatArray:
    score, squares, df = contrast
    variance = squares / df
    return _ratio(score, variance if prior is None else prior.shrink(variance, df))


def _permutation_p(ell: FloatArray, held: BoolArray, rows: Rows, seed: int) -> FloatArray:
    """Return p of the "log_mean" score when any splits of a repeat could have been the held-out ones."""
    density = np.exp(ell - ell.max(axis=0))
    # The score falls as the density held out rises; rounding must not break ties between equal arrangements.
    bound = (density * held).sum(axis=0) * (1 + 1e-9)
    counts = np.stack([held[r].sum(axis=0) for r in rows])  # (L, b)
    p = np.empty(ell.shape[1])
    for pattern in np.unique(counts, axis=1).T:
        some = np.flatnonzero((counts == pattern[:, None]).all(axis=0))
        draws, exact = stats.arrangements([len(r) for r in rows], pattern.tolist(), DRAWS, stream(seed, "permutation"))
        ordered = density[np.concatenate(rows)][:, some]
        hits = sum((part @ ordered <= bound[some]).sum(axis=0) for part in np.array_split(draws, 32))
        p[some] = hits / len(draws) if exact else (1 + hits) / (1 + len(draws))
    return p


# --- what comes in


def _checked(log_probs: ArrayLike, held_out: ArrayLike, estimator: str) -> tuple[NDArray[np.floating], BoolArray]:
    if estimator not in ESTIMATORS:
        raise DataError(
            expected=f"an estimator among {', '.join(ESTIMATORS)}",
            got=repr(estimator),
            do="Use mean_log unless you reproduce the published estimator.",
        )
    log_p, out = np.asarray(log_probs), np.asarray(held_out)
    if log_p.ndim != 2 or log_p.shape != out.shape or not log_p.size:
        raise DataError(
            expected="log_probs and held_out of one shape (n_splits, n)",
            got=f"shapes {log_p.shape} and {out.shape}",
            do="Pass one row per refit and one column per example in both.",
        )
    if out.dtype != np.bool_ or log_p.dtype.kind not in "fiu":
        raise DataError(
            expected="real log_probs and boolean held_out",
            got=f"dtypes {log_p.dtype} and {out.dtype}",
            do="Convert them; held_out is true where the refit did not train on the example.",
        )
    for s, row in enumerate(log_p):
        if not np.isfinite(row).all():
            raise _not_finite(row, s)
    return log_p, out


def _not_finite(row: NDArray[np.floating], split: int) -> DataError:
    example = int(np.flatnonzero(~np.isfinite(row))[0])
    do = "Look at that refit: training diverged, or its log_prob overflows."
    if row[example] == -np.inf:
        do = "Use a model that gives every example some density, or leave that example out of the audit."
    return DataError(expected="finite log_probs", got=f"{row[example]} at split {split}, example {example}", do=do)
