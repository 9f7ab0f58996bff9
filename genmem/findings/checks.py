"""How far can the numbers of an audit be trusted? Each check has a value, a reference value and a sentence."""

import math
from collections.abc import Sequence

import numpy as np

from genmem import stats
from genmem.findings.folds import fold_checks
from genmem.findings.records import Check
from genmem.findings.stages import failed_stages, stages_check
from genmem.leaveout.posterior import correction_of, estimate_of, sampled
from genmem.run.directory import Run
from genmem.run.storage import Arrays

RELIABLE = 0.7
NOISE_SHARE = 0.1
ENCODER_SHARE = 0.05
NAMED = 3


def checks(run: Run) -> list[Check]:
    """Return the validity checks of a scored run. They are to be read before its findings."""
    found = [_reliability(run), _failed(run), _duplicates(run), _constants(run), *fold_checks(run)]
    found += [_sampling_noise(run)] if sampled(run) else []
    found += [_encoder_bias(correction)] if (correction := correction_of(run)) is not None else []
    found += [stages_check(failed)] if (failed := failed_stages(run)) else []
    return found + ([_adjusted(run)] if run.has_result("adjusted") else [])


def _reliability(run: Run) -> Check:
    scores = run.result("scores")
    value = stats.reliability(scores["score"], scores["standard_error"])
    title = "Reliability of the scores"
    if not math.isfinite(value):
        sentence = "Noise cannot be estimated from one repeat: use --repeats 3 or more."
        if run.repeats > 1 and not np.isfinite(scores["standard_error"]).any():
            sentence = "Noise cannot be estimated: no example has scores of two independent repeats."
        elif run.repeats > 1:
            sentence = "All scores are equal, so there is nothing to rank."
        return Check("reliability", title, math.nan, "", 0.0, False, sentence)
    ok = value >= RELIABLE
    advice = "" if ok else " Rankings of single examples are noisy: add repeats."
    sentence = f"Scores of a second study of this size would have a correlation of {value:.2f} with these.{advice}"
    if value <= 0:
        sentence = f"The scores of single examples are noise; a second study would not reproduce them.{advice}"
    return Check("reliability", title, value, "", 0.0, ok, sentence)


def _duplicates(run: Run) -> Check:
    count = int((run.result("nearest")["duplicate_of"] >= 0).sum())
    sentence = "No two examples are identical."
    if count:
        sentence = f"{count:,} examples have duplicates. If one is left out, the model still trains on another."
    return Check("duplicates", "Identical examples", float(count), "examples", 0.0, count == 0, sentence)


def _constants(run: Run) -> Check:
    columns = run.plan["data"]["constant_columns"]
    sentence = "Every column varies."
    if columns:
        named = ", ".join(_column_names(run, columns[:10])) + (", ..." if len(columns) > 10 else "")
        sentence = (
            f"{_counted(len(columns), 'column')} constant ({named}). They carry no information about examples, and a "
            "VAE omits them from its likelihood."
        )
    return Check("constant_columns", "Constant columns", float(len(columns)), "columns", 0.0, True, sentence)


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun} is" if n == 1 else f"{n:,} {noun}s are"


def _column_names(run: Run, columns: Sequence[int]) -> list[str]:
    names = run.plan["data"]["columns"]
    return [str(c) if names is None else names[c] for c in columns]


def _sampling_noise(run: Run) -> Check:
    """Return the variance of a score due to importance sampling, as a share of its variance over repeats."""
    bound = estimate_of(run) == "bound"
    title, unit = "Noise of the bound" if bound else "Noise of importance sampling", "of the variance of a score"
    draws, effective, share = _draws(run)
    if not math.isfinite(share):
        why = "one draw" if draws < 2 else "one repeat" if run.repeats < 2 else "scores without standard errors"
        return Check("sampling_noise", title, math.nan, unit, NOISE_SHARE, False, f"It cannot be estimated from {why}.")
    advice = "" if share <= NOISE_SHARE else " Use more --importance-samples."
    worth = "are averaged in the bound" if bound else f"have an effective sample size of {effective:.1f}"
    sentence = (
        f"{draws} draws {worth}; their noise is about {share:.1%} of the variance of a score within one repeat.{advice}"
    )
    return Check("sampling_noise", title, share, unit, NOISE_SHARE, share <= NOISE_SHARE, sentence)


def _draws(run: Run) -> tuple[int, float, float]:
    """Return, for the log p behind the scores, the number of draws, its ESS, and the draws' share of the variance."""
    if (found := correction_of(run)) is not None and found["everywhere"]:
        draws = int(found["draws"])
        return draws, float(found["effective"][1]) * draws, float(found["noise_share"])
    draws, splits = run.importance_samples, run.used_splits()
    effective = float(np.nanmean(run.shard_arrays("effective_draws")[:, -1]))
    scores = run.result("scores")
    squared = scores["standard_error"] ** 2 * np.isfinite(scores["per_repeat"]).sum(0)
    spread = np.nanmean(squared) if np.isfinite(squared).any() else math.nan
    if draws < 2 or not spread > 0:
        return draws, effective, math.nan
    inside = 1 / max(1.0, splits.n_splits / splits.n_repeats - 1)  # the mean over the other folds
    v_in, v_out = (np.nanmean(run.shard_arrays(f"variance_{which}")[:, -1]) for which in ("in", "out"))
    return draws, effective, float((v_out + v_in * inside) / spread)


def _failed(run: Run) -> Check:
    failed, n = run.failed(), run.used_splits().n_splits
    sentence = f"All {n:,} refits converged."
    if failed:
        named = "; ".join(f"split {split}: {why}" for split, why in list(failed.items())[:NAMED])
        more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        sentence = (
            f"{len(failed):,} of {n:,} refits failed and are excluded from every number ({named}{more}). Examples that "
            "they held out have fewer repeats."
        )
    return Check("failed_refits", "Refits that failed", float(len(failed)), "refits", 0.0, not failed, sentence)


def _encoder_bias(found: Arrays) -> Check:
    """Return the mean of M_refit - M_amortised as a share of the mean score with amortized posteriors."""
    score, bias = float(found["score"]), float(found["bias"][0])
    share = abs(bias / score) if score else math.inf
    everywhere = bool(found["everywhere"])
    n = len(found["sample"])
    what = f"Fitting the posterior to each of {n:,} examples changes their mean score by {bias:+.2f} nats"
    interval = f" ({found['bias'][2]:.2f} to {found['bias'][3]:.2f})" if np.isfinite(found["bias"][2:]).all() else ""
    then = (
        ". All scores are therefore computed with posteriors fitted to each example."
        if everywhere
        else ". Scores are computed with amortized posteriors."
    )
    ok = everywhere or share <= ENCODER_SHARE
    return Check(
        "encoder_bias", "Amortization gap", share, "of the mean score", ENCODER_SHARE, ok, what + interval + then
    )


def _adjusted(run: Run) -> Check:
    """Return how much noise of the scores the prediction behind the adjusted scores repeats."""
    found = run.result("adjusted")
    slope, error, told = float(found["slope"]), float(found["slope_error"]), int(found["ok"])
    sentence = (
        f"The prediction behind the adjusted scores does not repeat the scores' noise ({slope:.2f} +- {error:.2f})."
    )
    if told != 1:
        sentence = (
            str(found["reason"]) or "Whether adjusted scores repeat noise can be tested with two repeats or more only."
        )
    return Check("adjusted_guard", "Noise in adjusted scores", slope, "of the prediction", 0.0, told == 1, sentence)
