"""Findings about single examples: which are named as memorized, and how high the highest scores truly are."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.findings.records import Finding
from genmem.leaveout import list_mean, memorization_score
from genmem.leaveout.posterior import scored_log_probs
from genmem.run.directory import Run

LEVEL = 0.05
TAIL = 0.95
SHOWN = 12
PAPER = "van den Burg & Williams 2021, arXiv 2106.03216"
FALSE_DISCOVERY = "Benjamini & Hochberg 1995"


def first(positions: NDArray[np.intp]) -> tuple[int, ...]:
    """Return the positions that a finding shows."""
    return tuple(positions[:SHOWN].tolist())


def find_named(run: Run) -> list[Finding]:
    """Return how many examples are named at a false-discovery rate, with the power of the test; none without tests."""
    scores = run.result("scores")
    q, score = scores["q_value"], scores["score"]
    if not np.isfinite(q).any():
        return []
    chosen, untested = np.flatnonzero(q < LEVEL), int(np.isnan(q).sum())
    aside = f" {untested:,} of them could not be tested." if untested else ""
    order = chosen[np.argsort(-score[chosen], kind="stable")]
    return [
        Finding(
            "flagged_share",
            "memorized",
            "Examples named as memorized",
            len(chosen) / len(q),
            standard_error=_jackknife_share(run, str(scores["estimator"])),
            null=0.0,
            n=len(q),
            unit="of all examples",
            sentence=f"{len(chosen):,} of {len(q):,} examples are named as memorized at a false-discovery rate of "
            f"{LEVEL:.0%}.{aside}{_power(run)}",
            meaning=f"Of the examples named, about {LEVEL:.0%} are named by chance. The share grows with the number of "
            "repeats: it is the power of the test, not the share of memorized examples. The test is one-sided, of "
            "score > 0.",
            source=FALSE_DISCOVERY,
            examples=first(order),
        )
    ]


def _power(run: Run) -> str:
    if not run.has_result("list"):
        return ""
    stored = run.result("list")
    powers = [
        f"{delta:g} {'nat' if delta == 1 else 'nats'} with a probability of {power:.0%}"
        for delta, power in zip(stored["power_at"].tolist(), stored["power"].tolist(), strict=True)
    ]
    return f" The test names an example with a true score of {', of '.join(powers)}." if powers else ""


def _jackknife_share(run: Run, estimator: str) -> float:
    """Return the jackknife error of the flagged share over repeats; NaN if one repeat fewer allows no t test."""
    splits = run.used_splits()
    if len(run.result("scores")["per_repeat"]) < 4 or estimator != "mean_log":
        return math.nan
    log_probs, shares = scored_log_probs(run), []
    for repeat in np.unique(splits.repeat):
        kept = splits.repeat != repeat
        left = memorization_score(log_probs[kept], splits.held_out[kept], repeat=splits.repeat[kept], missing="nan")
        shares.append(float((left.q_value < LEVEL).mean()))
    return float(math.sqrt((len(shares) - 1) * np.var(shares)))


def find_list(scores: dict[str, NDArray[Any]]) -> list[Finding]:
    """Return the mean true score of the list of highest scores; none for scores without independent repeats."""
    if str(scores["estimator"]) != "mean_log" or len(scores["per_repeat"]) < 2:
        return []
    score = scores["score"]
    k = max(1, round((1 - TAIL) * len(score)))
    order = np.argsort(-score, kind="stable")[:k]
    found, shown = list_mean(scores["per_repeat"], k), float(score[order].mean())
    return [
        Finding(
            "top_list",
            "memorized",
            "Mean true score of the highest 5%",
            found.value,
            interval=found.interval,
            n=k,
            sentence=f"{f'The {k:,} highest scores average' if k > 1 else 'The highest score is'} {shown:.1f} nats; "
            f"without the noise that put {'them' if k > 1 else 'it'} on top, {found.value:.1f}.",
            meaning="The highest of many noisy scores are too high on average. The second number ranks examples by all "
            "repeats but one and averages their scores in that one.",
            source=PAPER,
            examples=first(order),
        )
    ]
