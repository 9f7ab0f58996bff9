"""What is done about the encoder's bias: refit the posterior of a sample, and of all examples where it matters."""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmem.errors import DataError, IncompleteRunError, ModelError
from genmem.leaveout.encoder import (
    DRAWS,
    Estimate,
    draws_needed,
    exceeds,
    mean_over_examples,
    noise_share,
    parts,
    sample_of,
)
from genmem.leaveout.posterior import Refitted, read_posteriors, refit_posteriors
from genmem.leaveout.refitting import Count, make_task
from genmem.models.base import DeepDensity
from genmem.models.posterior import STEPS, has_posterior
from genmem.progress import Listener, ignore
from genmem.run import Run
from genmem.stats import repeat_means
from genmem.training.ensemble import fresh_module

MODES = ("auto", "refit", "amortised")


@dataclass(frozen=True, eq=False)
class Correction:
    """What refitting posteriors found: of the m examples it was done for, under every refit of the repeats in use.

    Attributes:
        mode: what was asked, "auto" or "refit".
        everywhere: whether all examples were refitted: then scores can be made of `posterior_log_probs(run)`.
        examples: (m,) in order.
        sample: those the bias is the mean over: all, or the random sample (never the flagged ones, which were picked).
        decoder: (L, m) the score within each repeat with refitted posteriors: memorization in the density.
        encoder: (L, m) what the encoder adds, M_amortised - M_refit.
        bias: the mean of `-encoder` over the sample, M_refit - M_amortised, nats, with its interval.
        score: the mean amortised score of the sample.
        steps: of each refit.
        draws: importance samples of each refitted log p.
        effective_before: share of the draws that carry weight, through the encoder.
        effective_after: likewise with refitted posteriors.
        variance_in: mean variance of a refitted log p over draws, nats^2, under networks that saw the example.
        variance_out: likewise under those that did not.
        noise_share: what these add to a score, as a share of its variance within a repeat.
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
    """Refit posteriors as far as it matters, and split the scores into their decoder and encoder parts.

    A random sample of 500 examples comes first. Its noise settles how many draws each log p takes (16, 32 or 64).
    Where the encoder's bias exceeds 5% of the mean score, or `mode` is "refit", all examples follow; elsewhere the
    flagged ones. What is there is kept.

    Args:
        run: a run whose refits are done.
        mode: "auto", "refit", or "amortised" to do nothing.
        flagged: examples to look at in any case, such as those whose score is significant.
        model: the planned model, where it cannot be imported from the plan.
        executor: where to compute, see `refit`; it wins over `workers`.
        workers: processes on this machine, see `refit`.
        progress: told of refits done.

    Returns:
        What was found; None with "amortised", and with "auto" for models without a posterior to refit.

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
    # What else is on disk, from earlier, takes no part: the same question has the same answer.
    return _correction(run, mode, sample, np.union1d(sample, rest), everywhere)


def _can_refit(run: Run, mode: str, model: Any) -> bool:
    task = make_task(run, model)
    able = isinstance(task.model, DeepDensity) and has_posterior(fresh_module(task.recipe(), 0))
    if not able and mode == "refit":
        raise ModelError(
            expected="a network with a posterior over z",
            got=type(task.model).__name__,
            do='Use posterior="auto": log p of other models has no encoder in it.',
        )
    return able


def _refit_within_budget(run: Run, sample: NDArray[np.intp], where: dict[str, Any]) -> None:
    """Refit the sample with the fewest draws whose noise is within the budget, or with as many as are in use."""
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
