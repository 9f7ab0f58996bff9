"""How much more likely is an example under models that trained on it than under models that did not?

Standard errors rest on the independent repeats, never on the splits of one repeat: sd / sqrt(L) for "mean_log", the
jackknife for "log_mean"; NaN at L = 1. `nulls` describes the p values.

Failed splits, rows of NaN only, are left out. An example has a score in each repeat in which some remaining splits
trained on it and some held it out. L is the number of these repeats and differs from example to example.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem import stats
from genmem.errors import DataError
from genmem.leaveout import nulls
from genmem.leaveout.estimators import (
    ESTIMATES,
    PER_REPEAT,
    BoolArray,
    FloatArray,
    Rows,
    differences,
    mean_log,
    repeats_of,
    shifted,
    usable_splits,
)
from genmem.leaveout.matrix import checked_matrix, remaining, require_scores
from genmem.leaveout.sizes import Uneven, uneven, uneven_sizes, variance_factor
from genmem.protocols import Brief, figure, mean

if TYPE_CHECKING:
    import pyarrow as pa

ESTIMATORS = tuple(ESTIMATES)
WITHOUT_ERROR = ("exact", "warm_refit")  # of `leave_one_out`
PLACEBOS = 8  # placebo scores kept as the null distribution
TEST_PLACEBOS = 16  # placebo scores per example for a p value at two repeats
BLOCK = 2**21  # numbers of the matrix processed at once


@dataclass(frozen=True, eq=False)
class MemorizationScores(Brief):
    """Memorization scores of n examples, nats; every array is float64.

    Attributes:
        score: (n,) log_prob_in - log_prob_out.
        log_prob_in: (n,) average log p of the example under models that trained on it.
        log_prob_out: (n,) the same under models that did not.
        standard_error: (n,) of the score, from the spread of independent repeats, unmoderated; NaN at one repeat.
        p_value: (n,) one-sided, of no memorization against score > 0; NaN for "mean_log" at one repeat, which allows no
            test (see `nulls`), and with unequal or recurring folds where they allow none (see `sizes`).
        q_value: (n,) Benjamini-Hochberg over the examples; `q_values` offers others.
        estimator: "mean_log" or "log_mean"; for `leave_one_out`, "exact" or "warm_refit", which have no error: standard
            errors are 0, p and q values NaN, and scores may be infinite.
        per_repeat: (L, n) the score within each repeat; for "log_mean" the contribution of each repeat to the pooled
            score (jackknife pseudo-values, centred). Its mean is the score, its spread the standard error. NaN if
            failed splits left an example no score in a repeat; a repeat without any score has no row.
        placebo: (m, n) scores of placebo folds, which the models did train on: the null distribution. NaN where the
            score is. Repeats with fewer than three remaining splits have none.
        moderated: whether tests moderate variances across examples.
        uneven: what remains of folds of unequal size or with the same examples in every repeat (see `sizes`), or None.
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
    uneven: Uneven | None = None

    def headline(self) -> str:
        """Return the size and the main figures."""
        return (
            f"{len(self.score):,} examples, {self.n_repeats:,} repeats, {self.estimator}, mean score "
            f"{mean(self.score)} nats, highest {figure(self.score.max())} (example {self.score.argmax()})"
        )

    @property
    def n_repeats(self) -> int:
        """The number of independent repeats that contain a score."""
        return len(self.per_repeat)

    @property
    def repeats_used(self) -> NDArray[np.intp]:
        """The number of repeats (n,) behind each score: fewer than `n_repeats` if splits failed."""
        return np.asarray((~np.isnan(self.per_repeat)).sum(axis=0), dtype=np.intp)

    @property
    def reliability(self) -> float:
        """1 - mean(SE^2) / Var(score): the expected correlation with the scores of a second study of the same size."""
        return stats.reliability(self.score, self.standard_error)

    def quantiles(self, levels: Sequence[float] = (0.5, 0.95, 0.999)) -> FloatArray:
        """Return quantiles (Q,) of the scores; not interpolated if some scores are infinite."""
        if np.isinf(self.score).any():
            return np.asarray(np.nanquantile(self.score, list(levels), method="inverted_cdf"))
        return np.asarray(np.nanquantile(self.score, levels))

    def null_quantiles(self, levels: Sequence[float] = (0.5, 0.95, 0.999)) -> FloatArray:
        """Return the same quantiles of each placebo: (m, Q)."""
        return np.asarray([np.nanquantile(scores, levels) for scores in self.placebo]).reshape(-1, len(levels))

    def p_above(self, delta: float) -> FloatArray:
        """Return p values (n,) of score <= delta nats against score > delta: memorized by *more than* delta.

        NaN with fewer than three repeats and for "log_mean", which only has a test of "no effect", and for scores
        without error.
        """
        if not self._has_t:
            return np.full(self.score.shape, np.nan)
        return _student_p(self.per_repeat, delta, self.moderated, self.uneven)

    def q_values(self, method: str = "bh", *, delta: float | None = None) -> FloatArray:
        """Return q values (n,): the examples with q <= a have a false discovery rate of a.

        Args:
            method: "bh" (Benjamini-Hochberg: independent or positively dependent tests, such as those of the folds of
                refits) or "by" (Benjamini-Yekutieli: any dependence; larger by sum(1/k), 8.1 at 1,797 examples).
            delta: without it, of no memorization at all (`p_value`); with it, of a score <= delta (`p_above`).

        Raises:
            DataError: the method is unknown.
        """
        adjust = {"bh": stats.benjamini_hochberg, "by": stats.benjamini_yekutieli}
        if method not in adjust:
            raise DataError(expected='"bh" or "by"', got=repr(method), do='Use "by" to be safe under any dependence.')
        return adjust[method](self.p_value if delta is None else self.p_above(delta))

    def interval(self, level: float = 0.95) -> FloatArray:
        """Return the two-sided interval of each score, lower and upper end: (2, n).

        It is Student's t over the repeats, with variances moderated as in the tests, for the score that infinitely many
        repeats of the same design would give. NaN with fewer than three repeats and for "log_mean"; the score itself if
        it has no error. Its coverage is below the nominal level if refits are skewed, most of all for the highest
        scores at few repeats: docs/calibration.md has measurements.

        >>> held_out = np.tile(np.eye(2, dtype=bool), (3, 1))
        >>> log_probs = np.where(held_out, [[-1.0], [-1.0], [-2.0], [-2.0], [-3.0], [-3.0]], 0.0)
        >>> memorization_score(log_probs, held_out).interval().round(2)
        array([[0.4, 0.4],
               [3.6, 3.6]])
        """
        if not 0 < level < 1:
            raise DataError(expected="a level between 0 and 1", got=f"{level}", do="Pass 0.95 for a 95% interval.")
        if self.estimator in WITHOUT_ERROR:
            return np.stack([self.score, self.score])
        if not self._has_t:
            return np.full((2, len(self.score)), np.nan)
        return nulls.student_interval(self.per_repeat, level, self.moderated, _factor(self.uneven))

    def law(self) -> nulls.Student:
        """Return mean, variance and degrees of freedom of the scores over repeats, as tests and intervals use them.

        Raises:
            DataError: they have no t law: fewer than three repeats, or "log_mean".
        """
        if not self._has_t:
            raise DataError(
                expected='"mean_log" scores of three repeats or more',
                got=f'"{self.estimator}" scores of {self.n_repeats}',
                do="Add repeats: the noise of a score is known from three on.",
            )
        return nulls.student(self.per_repeat, self.moderated, _factor(self.uneven))

    @property
    def variance_factor(self) -> FloatArray | None:
        """By how much the variance over repeats is too small, (n,), or None if repeats are independent (`Uneven`)."""
        return _factor(self.uneven)

    @property
    def balanced(self) -> BoolArray:
        """Whether refits with and without each example have about as many training examples, (n,)."""
        return np.ones(self.score.shape, np.bool_) if self.uneven is None else self.uneven.size_bias == 0

    @property
    def _has_t(self) -> bool:
        return self.estimator == "mean_log" and self.n_repeats >= 3

    def to_table(self, **columns: ArrayLike | None) -> "pa.Table":
        """Return an Arrow table with one row per example: the given columns, then the six of this class.

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
    missing: Literal["raise", "nan"] = "raise",
    seed: int = 0,
) -> MemorizationScores:
    """Score every example from a matrix of log p under refits that leave examples out.

    "mean_log": the mean over repeats of (mean log p of the splits that trained on the example - mean of those that held
    it out), the expected difference of log densities. "log_mean", as published: logmeanexp over *all* splits that
    trained on it minus logmeanexp over all that held it out, the log ratio of mean densities. It is biased upward if
    refits are heavy-tailed, because it averages unequal numbers of them (by 1 nat with no memorization at all, at 10
    folds, 10 repeats and a standard deviation of 3 nats). The modules describe standard errors and p values.

    Args:
        log_probs: (n_splits, n) log p of every example under every refit, nats, float32 or float64. A row of NaN only
            is a failed refit and is left out.
        held_out: (n_splits, n) bool, true where the refit did not train on the example.
        estimator: "mean_log" or "log_mean".
        repeat: (n_splits,) the repeat of each split. Without it, consecutive splits whose held-out sets partition
            the examples form one repeat.
        moderate: moderate variances. Without this, t tests are the plain ones, with hardly any power at L = 3, and
            placebo tests are conservative.
        missing: what to do if failed splits leave an example no score in any repeat: "raise", or score it "nan".
        seed: of the shifts of placebos and of the permutations.

    Raises:
        DataError: shapes disagree, a value is not finite, the repeats cannot be inferred, an example is never in or
            never out within a repeat, failed splits leave an example without a score, or the estimator is unknown.

    References:
        On Memorization in Probabilistic Deep Generative Models (van den Burg & Williams, 2021),
        https://arxiv.org/abs/2106.03216

    >>> held_out = np.eye(3, dtype=bool)
    >>> memorization_score(np.where(held_out, -5.0, -3.0), held_out).score
    array([2., 2., 2.])
    """
    if estimator not in ESTIMATORS:
        raise DataError(
            expected=f"an estimator among {', '.join(ESTIMATORS)}",
            got=repr(estimator),
            do="Use mean_log unless you reproduce the published estimator.",
        )
    log_p, held, failed = checked_matrix(log_probs, held_out)
    rows = repeats_of(held, repeat)
    sizes = uneven_sizes(held, rows)
    held, rows = remaining(held, rows, failed)
    if missing == "raise":
        require_scores(held, rows, failed)
    sizes, factor = None if sizes is None else sizes[~failed], variance_factor(held, rows)
    by_placebo = estimator == "mean_log" and len(rows) == 2 and sizes is None and factor is None
    placebos = nulls.placebo_design(held, rows, seed, TEST_PLACEBOS if by_placebo else PLACEBOS)
    study = _Study(rows, placebos, estimator, by_placebo, seed, sizes)
    parts = [_score_block(ell, out, study) for ell, out in _blocks(log_p, held, ~failed)]
    whole = _Part(*(np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True)))
    score = whole.log_prob_in - whole.log_prob_out
    left = uneven(score, held, rows, sizes, factor)
    p = _p(whole, held, study, moderate, left)
    return MemorizationScores(
        score=score,
        log_prob_in=whole.log_prob_in,
        log_prob_out=whole.log_prob_out,
        standard_error=nulls.standard_error(whole.per_repeat, _factor(left)),
        p_value=p,
        q_value=stats.benjamini_hochberg(p),
        estimator=estimator,
        per_repeat=whole.per_repeat,
        placebo=whole.placebo,
        moderated=moderate,
        uneven=left,
    )


def untested(scores: MemorizationScores) -> DataError:
    """Return the error for scores of which none can be tested."""
    failed = scores.uneven is None
    return DataError(
        expected="scores of which some can be tested",
        got="failed refits that leave no example two repeats"
        if failed
        else "folds of unequal size, or repeats that leave out the same examples together",
        do="Retry them (--recompute), or add repeats." if failed else "Use smaller groups, and many more than folds.",
    )


def _student_p(per_repeat: FloatArray, delta: float, moderate: bool, left: Uneven | None) -> FloatArray:
    p = nulls.student_p(per_repeat, delta, moderate, _factor(left))
    return p if left is None else np.where((left.size_bias == 0) & np.isfinite(left.variance_factor), p, np.nan)


def _factor(left: Uneven | None) -> FloatArray | None:
    return None if left is None else left.variance_factor


def _p(whole: "_Part", held: BoolArray, study: "_Study", moderate: bool, left: Uneven | None) -> FloatArray:
    if study.estimator == "log_mean":  # it permutes refits of independent repeats
        return whole.p if left is None else np.where(left.variance_factor == 1, whole.p, np.nan)
    if len(study.rows) > 2:
        return _student_p(whole.per_repeat, 0.0, moderate, left)
    if not study.by_placebo:  # one repeat; or folds are uneven, and those of placebos are so otherwise
        return np.full_like(whole.log_prob_in, np.nan)
    tested, found = whole.per_repeat[study.placebos.repeats], nulls.Contrasts(*whole.contrasts)
    ratio = np.nan
    if whole.contrasts.size and len(tested) == 2:
        ratio = nulls.variance_ratio(found, tested, held[study.rows[0]].argmax(axis=0))
    return nulls.placebo_p(found, ~np.isnan(tested), moderate, ratio)


# --- one block of examples


class _Study(NamedTuple):
    rows: Rows
    placebos: nulls.PlaceboShifts
    estimator: str
    by_placebo: bool
    seed: int
    sizes: FloatArray | None  # (n_splits,) training sizes, if they are not equal


class _Part(NamedTuple):
    log_prob_in: FloatArray  # (b,)
    log_prob_out: FloatArray  # (b,)
    per_repeat: FloatArray  # (L, b)
    placebo: FloatArray  # (m, b)
    p: FloatArray  # (b,), by permutation
    contrasts: FloatArray  # (5, 2 + m, b): `nulls.Contrasts`, or none


def _score_block(ell: FloatArray, held: BoolArray, study: _Study) -> _Part:
    usable = usable_splits(held, study.rows)
    out, in_ = held & usable, ~held & usable
    moved = [shifted(held, study.placebos.rows, shift) & usable for shift in study.placebos.shifts]
    estimate, each = ESTIMATES[study.estimator], PER_REPEAT[study.estimator]
    if study.estimator == "mean_log":
        estimate, each = partial(mean_log, sizes=study.sizes), partial(differences, sizes=study.sizes)
    log_in, log_out = estimate(ell, out, in_, study.rows)
    per_repeat = each(ell, out, in_, study.rows)
    null_pairs = [estimate(ell, held_out, in_ & ~held_out, study.placebos.rows) for held_out in moved[:PLACEBOS]]
    p, contrasts = np.full(len(log_in), np.nan), np.empty((5, 0, len(log_in)))
    if study.estimator == "log_mean" and study.sizes is None:  # it permutes refits of equal sizes
        p = nulls.permutation_p(ell, out, usable, study.rows, study.seed)
    elif study.by_placebo and moved:
        contrasts = np.stack(nulls.contrasts(ell, out, in_, moved, study.placebos.rows))
    placebo = np.array([i - o for i, o in null_pairs]).reshape(len(null_pairs), len(log_in))
    return _Part(log_in, log_out, per_repeat, placebo, p, contrasts)


def _blocks(
    log_probs: NDArray[np.floating], held: BoolArray, kept: BoolArray
) -> Iterator[tuple[FloatArray, BoolArray]]:
    n_splits, n = log_probs.shape
    step = max(1, BLOCK // n_splits)
    for start in range(0, n, step):
        block = slice(start, start + step)
        yield np.asarray(log_probs[:, block][kept], dtype=np.float64), held[:, block]
