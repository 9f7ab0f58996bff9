"""The amortization gap of a score: how much of it is memorization by the encoder, and how much by the density?

The encoder of a VAE fits training examples better than held-out ones. log p with amortized posteriors is therefore too
low for held-out examples, and the score too high. With a posterior fitted to each example the score is memorization by
the density alone (here *decoder*). The difference M_amortized - M_fitted is the *amortization gap* (here *encoder*).
Posteriors are fitted to a random subset of the examples, and to all examples if the gap matters.
"""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem import stats
from genmem.errors import DataError, IncompleteRunError, ModelError
from genmem.leaveout.estimators import mean_where
from genmem.leaveout.posterior import Refitted, read_posteriors, refit_posteriors
from genmem.leaveout.refitting import Count, make_task
from genmem.models.base import DeepDensity
from genmem.models.posterior import STEPS, has_posterior
from genmem.protocols import Brief, Listener, figure, ignore
from genmem.run.directory import Run
from genmem.seeding import stream
from genmem.stats import repeat_means
from genmem.training.ensemble import fresh_module

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

SAMPLE = 500
BIAS_SHARE = 0.05  # of the mean score: if the amortization gap is larger, posteriors are fitted to every example
NOISE_SHARE = 0.1  # of a score's variance within a repeat: the most that the noise of draws may contribute
DRAWS = (16, 32, 64)
OVER_REPEATS, OVER_FOLDS = "repeats and examples", "folds and examples"


@dataclass(frozen=True)
class Estimate:
    """A mean over examples, its standard error, its 95% interval, and what these cover; "" if there is no interval."""

    value: float
    standard_error: float
    interval: tuple[float, float]
    over: str


def sample_of(n: int, seed: int, size: int = SAMPLE) -> NDArray[np.intp]:
    """Return min(n, size) examples drawn at random without replacement, in order.

    >>> len(sample_of(30, seed=0)), len(sample_of(3000, seed=0))
    (30, 500)
    """
    drawn = stream(seed, "posterior sample").choice(n, min(n, size), replace=False)
    return np.sort(drawn).astype(np.intp)


def parts(
    amortised: ArrayLike, refitted: ArrayLike, held_out: ArrayLike, repeat: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Return the score with fitted posteriors and the amortization gap of each example within each repeat: (L, m) each.

    Args:
        amortised: (n_splits, m) log p with amortized posteriors; a row with NaN is a failed split and is left out.
        refitted: (n_splits, m) log p with posteriors fitted to each example; likewise.
        held_out: (n_splits, m) bool.
        repeat: (n_splits,) the repeat of each split.

    >>> out = np.eye(2, dtype=bool)
    >>> parts(np.where(out, -9.0, -2.0), np.where(out, -6.0, -1.0), out, [0, 0])
    (array([[5., 5.]]), array([[2., 2.]]))
    """
    before, after = np.asarray(amortised, np.float64), np.asarray(refitted, np.float64)
    sound = np.asarray(np.isfinite(before + after).all(1))
    decoder = _per_repeat(after, np.asarray(held_out), np.asarray(repeat), sound)
    return decoder, _per_repeat(before, np.asarray(held_out), np.asarray(repeat), sound) - decoder


def _per_repeat(ell: FloatArray, held_out: BoolArray, repeat: NDArray[np.intp], sound: BoolArray) -> FloatArray:
    rows = [np.flatnonzero((repeat == r) & sound) for r in np.unique(repeat)]
    return np.stack([mean_where(ell[r], ~held_out[r]) - mean_where(ell[r], held_out[r]) for r in rows])


def mean_over_examples(per_repeat: FloatArray, held_out: BoolArray, repeat: ArrayLike, n: int) -> Estimate:
    """Return the mean of an effect over examples, with an interval for new repeats and all n examples.

    With three repeats or more, the squared errors of the mean over repeats and over examples (drawn without
    replacement) are added, with Satterthwaite's degrees of freedom. The noise of single values is in both and counts
    twice, so the interval is conservative. With one or two repeats, the folds of a repeat are taken as clusters: they
    have different examples and different held-out networks. The interval is conservative too, because a deviation of
    one network raises its own fold and lowers the others. Designs with overlapping held-out sets have no interval.

    Args:
        per_repeat: (L, m) the effect on each example within each repeat, NaN if there is none.
        held_out: (n_splits, m) bool.
        repeat: (n_splits,) the repeat of each split.
        n: number of all examples, of which these m are a random subset.

    >>> held_out = np.tile(np.eye(3, dtype=bool), (3, 1))
    >>> mean_over_examples(np.ones((3, 3)), held_out, np.repeat([0, 1, 2], 3), n=9).interval
    (1.0, 1.0)
    """
    scored = np.isfinite(per_repeat).any(0)
    per_repeat, held_out = per_repeat[:, scored], held_out[:, scored]
    value = float(np.nanmean(per_repeat, axis=0).mean()) if per_repeat.size else np.nan
    if np.isfinite(per_repeat).any(1).sum() >= 3:
        (variance, df), over = _over_repeats(per_repeat, n), OVER_REPEATS
    else:
        variance, df = _over_folds(per_repeat, held_out, np.asarray(repeat))
        over = OVER_FOLDS if df > 0 else ""
    error = float(np.sqrt(variance))
    return Estimate(value, error, stats.student_interval(value, error, df), over)


def _over_repeats(per_repeat: FloatArray, n: int) -> tuple[float, float]:
    terms = [_variance_of_mean(stats.repeat_means(per_repeat), np.inf)]
    terms.append(_variance_of_mean(np.nanmean(per_repeat, axis=0), n))
    total = sum(variance for variance, _ in terms)
    if total == 0:
        return 0.0, terms[0][1]
    return total, total**2 / sum(variance**2 / df for variance, df in terms if df > 0)


def _variance_of_mean(values: FloatArray, population: float) -> tuple[float, float]:
    """Return the squared error of a mean of values drawn from a population, and its degrees of freedom."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return 0.0, 0.0
    left = max(0.0, 1 - len(values) / population)
    return float(values.var(ddof=1) / len(values) * left), len(values) - 1


def _over_folds(per_repeat: FloatArray, held_out: BoolArray, repeat: NDArray[np.intp]) -> tuple[float, float]:
    variances, df = [], 0
    for values, r in zip(per_repeat, np.unique(repeat), strict=True):
        there, out = np.isfinite(values), held_out[repeat == r]
        if not there.any():
            continue
        out = out[:, there]
        out = out[out.any(1)]
        if len(out) < 2 or (out.sum(0) != 1).any():
            return np.nan, 0
        sums = out @ (values[there] - values[there].mean())
        variances.append(len(out) / (len(out) - 1) * float((sums**2).sum()) / there.sum() ** 2)
        df += len(out) - 1
    # Not divided by the repeats, because they share the examples.
    return (float(np.mean(variances)), df) if variances else (np.nan, 0)


def exceeds(bias: float, score: float, share: float = BIAS_SHARE) -> bool:
    """Return whether the amortization gap is too large a share of the mean score to be left in it.

    >>> exceeds(-0.3, 5.0), exceeds(-0.2, 5.0)
    (True, False)
    """
    return abs(bias) > share * abs(score)


def noise_share(
    variance: ArrayLike, log_probs: ArrayLike, held_out: ArrayLike, repeat: ArrayLike
) -> tuple[float, float, float]:
    """Return the share of draws in a score's variance within a repeat, and their variance for log p in and out.

    The variance of a score is that over repeats; with one repeat, it is inferred from the spread of the in-splits.

    Args:
        variance: (n_splits, m) that of each log p over draws.
        log_probs: (n_splits, m); a row with NaN is left out.
        held_out: (n_splits, m) bool.
        repeat: (n_splits,) the repeat of each split.
    """
    ell, of = np.asarray(log_probs, np.float64), np.asarray(repeat)
    sound = np.isfinite(ell).all(1)
    ell, of, out, v = ell[sound], of[sound], np.asarray(held_out)[sound], np.asarray(variance, np.float64)[sound]
    v_in, v_out = (float(v[which].mean()) if which.any() else np.nan for which in (~out, out))
    repeats = len(np.unique(of))
    n_in, n_out = (~out).sum(0).mean() / repeats, out.sum(0).mean() / repeats
    by_draws, total = v_in / n_in + v_out / n_out, _score_variance(ell, out, of, 1 / n_in + 1 / n_out)
    share = by_draws / total if total > 0 else (0.0 if by_draws == 0 else np.inf)
    return float(share), v_in, v_out


def _score_variance(ell: FloatArray, out: BoolArray, repeat: NDArray[np.intp], scale: float) -> float:
    per_repeat = _per_repeat(ell, out, repeat, np.ones(len(ell), np.bool_))
    several = np.isfinite(per_repeat).sum(0) > 1
    if several.any():
        return float(np.nanvar(per_repeat[:, several], axis=0, ddof=1).mean())
    level = mean_where(ell, ~out)
    df = np.maximum((~out).sum(0) - 1, 0)
    return float(((ell - level) ** 2).sum(0, where=~out).sum() / max(1, df.sum()) * scale)


def draws_needed(share: float, draws: int) -> int:
    """Return how many draws keep their share of noise within `NOISE_SHARE`, given it at `draws`; it falls as 1/draws.

    >>> draws_needed(0.04, 16), draws_needed(0.15, 16), draws_needed(3.0, 16)
    (16, 32, 64)
    """
    enough = [count for count in DRAWS if share * draws / count <= NOISE_SHARE]
    return enough[0] if enough else DRAWS[-1]


# --- the correction


MODES = ("auto", "refit", "amortised")


@dataclass(frozen=True, eq=False)
class Correction(Brief):
    """The amortization gap of m examples under every refit of the repeats in use.

    Attributes:
        mode: the requested mode, "auto" or "refit".
        everywhere: whether posteriors were fitted to all examples: `posterior_log_probs(run)` then yields scores.
        examples: (m,) in order.
        sample: the examples that the mean is over: all, or the random subset (never the flagged ones, which are
            selected).
        decoder: (L, m) the score within each repeat with fitted posteriors: memorization by the density.
        encoder: (L, m) the amortization gap, M_amortized - M_fitted.
        bias: the mean of `-encoder` over the sample, M_fitted - M_amortized, nats, with its interval.
        score: the mean score of the sample with amortized posteriors.
        steps: of the fit of each posterior.
        draws: importance samples of each log p with fitted posteriors.
        effective_before: effective sample size as a share of the draws, with amortized posteriors.
        effective_after: likewise with fitted posteriors.
        variance_in: mean variance over draws of log p with fitted posteriors, nats^2, under networks that trained on
            the example.
        variance_out: likewise under those that did not.
        noise_share: the contribution of these to a score, as a share of its variance within a repeat.
    """

    mode: str
    everywhere: bool
    examples: NDArray[np.intp]
    sample: NDArray[np.intp]
    decoder: NDArray[np.float64]
    encoder: NDArray[np.float64]
    bias: Estimate
    score: float
    steps: int
    draws: int
    effective_before: float
    effective_after: float
    variance_in: float
    variance_out: float
    noise_share: float

    def headline(self) -> str:
        """Return the size and the main figures."""
        return (
            f"{len(self.examples):,} examples, mean amortization gap {figure(-self.bias.value)} nats, mode {self.mode}"
        )

    @property
    def bias_share(self) -> float:
        """The bias as a share of the mean score."""
        return self.bias.value / self.score if self.score else float(np.inf * self.bias.value)


def correct_encoder(
    run: Run,
    mode: str = "auto",
    *,
    flagged: ArrayLike = (),
    model: Any = None,
    executor: Executor | None = None,
    workers: Count = "auto",
    progress: Listener = ignore,
) -> Correction | None:
    """Fit posteriors to examples as far as it matters, and split the scores into density and amortization gap.

    A random subset of 500 examples comes first. Its noise decides how many draws each log p takes (16, 32 or 64). If
    the amortization gap exceeds 5% of the mean score, or `mode` is "refit", all other examples follow; otherwise only
    the flagged ones. Stored results are kept.

    Args:
        run: a run whose refits are done.
        mode: "auto", "refit", or "amortised" to do nothing.
        flagged: examples to include in any case, such as those with a significant score.
        model: the planned model, needed only if it cannot be imported from the plan.
        executor: where to compute, see `refit`; it overrides `workers`.
        workers: processes on this machine, see `refit`.
        progress: is told how many refits are done.

    Returns:
        The correction; None with "amortised", and with "auto" for models without a posterior to fit.

    Raises:
        DataError: an unknown mode.
        ModelError: "refit" for a model without a posterior.
        IncompleteRunError, RunError: see `refit_posteriors`.
    """
    if mode not in MODES:
        raise DataError(expected=f"posterior to be one of {', '.join(MODES)}", got=repr(mode), do="Correct it.")
    if mode == "amortised" or not _can_refit(run, mode, model):
        return None
    where = {"model": model, "executor": executor, "workers": workers, "progress": progress}
    sample = sample_of(int(run.plan["data"]["n"]), run.seed)
    _refit_within_budget(run, sample, where)
    found = _correction(run, mode, sample, sample)
    rest = np.asarray(flagged, dtype=np.intp)
    if everywhere := mode == "refit" or exceeds(found.bias.value, found.score):
        rest = sample = np.arange(int(run.plan["data"]["n"]))
    refit_posteriors(run, rest, draws=found.draws, **where)
    # Results of earlier calls for other examples take no part: the same question has the same answer.
    return _correction(run, mode, sample, np.union1d(sample, rest), everywhere)


def _can_refit(run: Run, mode: str, model: Any) -> bool:
    task = make_task(run, model)
    able = isinstance(task.model, DeepDensity) and has_posterior(fresh_module(task.recipe(), 0))
    if not able and mode == "refit":
        raise ModelError(
            expected="a network with a posterior over z",
            got=type(task.model).__name__,
            do='Use posterior="auto": log p of other models does not use an encoder.',
        )
    return able


def _refit_within_budget(run: Run, sample: NDArray[np.intp], where: dict[str, Any]) -> None:
    """Fit posteriors to the subset with the fewest draws that keep the noise small, or with as many as are in use."""
    refit_posteriors(run, sample, draws=_draws_in_use(run), **where)
    found = read_posteriors(run)
    share, _, _ = _noise(run, found, sample)
    if (needed := draws_needed(share, found.draws)) > found.draws:
        refit_posteriors(run, sample, draws=needed, **where)


def _draws_in_use(run: Run) -> int:
    try:
        return read_posteriors(run).draws
    except IncompleteRunError:
        return DRAWS[0]


def _some(found: Refitted, examples: NDArray[np.intp]) -> Refitted:
    at = np.searchsorted(found.examples, examples)
    parts = {name: getattr(found, name)[:, at] for name in ("log_probs", "effective_draws", "variance")}
    return Refitted(examples=found.examples[at], draws=found.draws, **parts)


def _noise(run: Run, found: Refitted, examples: NDArray[np.intp]) -> tuple[float, float, float]:
    splits, at = run.used_splits(), np.searchsorted(found.examples, examples)
    return noise_share(found.variance[:, at], found.log_probs[:, at], splits.held_out[:, examples], splits.repeat)


def _correction(
    run: Run, mode: str, sample: NDArray[np.intp], wanted: NDArray[np.intp], everywhere: bool = False
) -> Correction:
    found, splits, n = _some(read_posteriors(run), wanted), run.used_splits(), int(run.plan["data"]["n"])
    held_out, amortised = splits.held_out[:, found.examples], run.log_probs()[:, found.examples]
    decoder, encoder = parts(amortised, found.log_probs, held_out, splits.repeat)
    at = np.searchsorted(found.examples, sample)
    share, variance_in, variance_out = _noise(run, found, sample)
    before = run.shard_arrays("effective_draws")[:, -1]
    return Correction(
        mode=mode,
        everywhere=everywhere,
        examples=found.examples,
        sample=sample,
        decoder=decoder,
        encoder=encoder,
        bias=mean_over_examples(-encoder[:, at], held_out[:, at], splits.repeat, n),
        score=float(np.nanmean(repeat_means((decoder + encoder)[:, at]))),
        steps=STEPS,
        draws=found.draws,
        effective_before=float(np.nanmean(before) / run.importance_samples),
        effective_after=float(np.nanmean(found.effective_draws) / found.draws),
        variance_in=variance_in,
        variance_out=variance_out,
        noise_share=share,
    )
