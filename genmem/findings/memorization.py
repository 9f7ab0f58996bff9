"""Findings about scores, each with a value, standard error, null, interval and a sentence."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from genmem import stats
from genmem.clusters import half_width, mean_variance, spearman
from genmem.findings.effective import find_effective
from genmem.findings.folds import left_uneven
from genmem.findings.membership import find_membership
from genmem.findings.named import PAPER, TAIL, find_list, find_named, first
from genmem.findings.prevalence import find_prevalence
from genmem.findings.records import NO_INTERVAL, Finding
from genmem.leaveout.posterior import correction_of, estimate_of
from genmem.leaveout.sizes import Uneven
from genmem.regions import MIN_EXAMPLES, Group, candidates, corrected, most_in_need
from genmem.run.directory import Run

ALIKE = 0.7  # rank correlation
INFERENCE = "Cremer, Li & Duvenaud 2018, arXiv 1801.03558"


def find(run: Run, groups: Sequence[Group]) -> list[Finding]:
    """Return the findings of a scored run, in the order of the questions."""
    scores, space = run.result("scores"), str(run.result("cells")["space"])
    belong = run.data().groups
    left = left_uneven(run)
    over_repeats = [*find_named(run), _tail(scores), *find_list(scores)]
    if left is not None and (left.variance_factor != 1).any():  # repeats are not independent
        over_repeats = [replace(each, standard_error=math.nan, interval=NO_INTERVAL) for each in over_repeats]
    found = [_mean(scores, estimate_of(run) == "bound", belong, left), *over_repeats]
    found += find_prevalence(run) + find_membership(run) + find_effective(run)
    if (correction := correction_of(run)) is not None and str(scores["estimator"]) == "mean_log":
        found.append(_encoder_part(correction))
    if run.has_result("exact"):
        found.append(_exact(run.result("exact"), scores))
    found += _over_training(run.result("trajectory"), scores["score"].size)
    most = [most_in_need(groups, kind) for kind in ("label", "cell")]
    found += [_most_in_need(group, groups, space) for group in most if group is not None]
    return found + [f for f in _baselines(run, scores) if math.isfinite(f.value)]


def _mean(scores: dict[str, NDArray[Any]], bound: bool, belong: NDArray[Any] | None, left: Uneven | None) -> Finding:
    per_repeat = stats.repeat_means(scores["per_repeat"])
    per_repeat = per_repeat[np.isfinite(per_repeat)]
    value, repeats = float(scores["score"].mean()), len(per_repeat)
    terms = [(float(per_repeat.var(ddof=1)) / repeats, repeats - 1)] if repeats > 1 else [(math.nan, 1)]
    terms += [] if belong is None else [mean_variance(scores["score"], belong)]
    error, half = math.sqrt(sum(variance for variance, _ in terms)), half_width(terms)
    # "log_mean" is not 0 without memorization, so a t test against 0 would mean nothing.
    tested = error > 0 and str(scores["estimator"]) == "mean_log" and _testable(left, belong is not None)
    p = float(stdtr(min(df for _, df in terms), -value / error)) if tested else math.nan
    null = float(np.nanmean(scores["placebo"])) if scores["placebo"].size else math.nan
    return Finding(
        "mean_score",
        "memorized",
        "Mean memorization score",
        value,
        standard_error=error,
        interval=(value - half, value + half),
        null=null,
        p_value=p,
        n=scores["score"].size,
        sentence=f"An example is on average {abs(value):.2f} nats {'more' if value >= 0 else 'less'} likely under "
        f"models that trained on it{', by a lower bound on log p' if bound else ''}.",
        meaning="At 0, the model treats training examples like new ones. Higher values mean more memorization."
        + ("" if belong is None else f" The error is over refits and over the {len(np.unique(belong)):,} groups."),
        source=PAPER,
    )


def _testable(left: Uneven | None, by_group: bool) -> bool:
    """Return whether the mean score would be 0 without memorization, with an error that holds.

    Errors by group hold if repeats leave out the same groups together, others do not.
    """
    return left is None or (not left.size_bias.any() and (by_group or bool((left.variance_factor == 1).all())))


def _tail(scores: dict[str, NDArray[Any]]) -> Finding:
    score, per_repeat, placebo = scores["score"], scores["per_repeat"], scores["placebo"]
    value = float(np.quantile(score, TAIL))
    error = _jackknife_quantile(per_repeat)
    null = float(np.nanquantile(placebo, TAIL, axis=1).mean()) if placebo.size else math.nan
    return Finding(
        "tail_score",
        "memorized",
        "95% quantile of the scores",
        value,
        standard_error=error,
        interval=stats.student_interval(value, error, len(per_repeat) - 1),
        null=null,
        n=len(score),
        sentence=f"5% of the examples score above {value:.1f} nats{_against(null)}.",
        meaning="Memorization is uneven: a few examples can be memorized although the mean is low. The null is the "
        "same quantile of placebo scores.",
        source=PAPER,
        examples=first(np.argsort(-score, kind="stable")),
    )


def _jackknife_quantile(per_repeat: NDArray[np.float64]) -> float:
    repeats = len(per_repeat)
    if repeats < 3:
        return math.nan
    quantiles = []
    for one in range(repeats):
        others = np.delete(per_repeat, one, axis=0)
        there = np.isfinite(others)
        means = others.sum(0, where=there)[there.any(0)] / there.sum(0)[there.any(0)]
        quantiles.append(np.quantile(means, TAIL))
    left = np.asarray(quantiles)
    return float(math.sqrt((repeats - 1) * left.var()))


def _encoder_part(found: dict[str, NDArray[Any]]) -> Finding:
    """Return the amortization gap of the mean score: the part that is not memorization by the density."""
    bias, error, low, high = (float(v) for v in found["bias"])
    score, n = float(found["score"]), len(found["sample"])
    return Finding(
        "encoder_part",
        "memorized",
        "Amortization gap of the mean score",
        -bias,
        standard_error=error,
        interval=(-high, -low),
        null=0.0,
        n=n,
        sentence=f"With amortized posteriors the mean score of {n:,} examples is {score:.2f} nats; with posteriors "
        f"fitted to each example, {score + bias:.2f}. The difference is the amortization gap: memorization by the "
        "encoder, not by the density.",
        meaning="An encoder fits training examples better than held-out ones. More importance samples do not remove "
        "this part of a score.",
        source=INFERENCE,
        examples=first(found["examples"][np.argsort(-found["encoder"], kind="stable")]),
    )


def _over_training(curve: dict[str, NDArray[Any]], n: int) -> list[Finding]:
    """Return when the tail of the scores rises above its null, and how high it is at the best held-out epoch."""
    epochs, tail = curve["epochs"], int(np.argmin(np.abs(curve["levels"] - TAIL)))
    if len(epochs) < 2:
        return []
    first, low, high = (int(curve[f"quantiles_first_epoch{part}"][tail]) for part in ("", "_low", "_high"))
    gap = int(curve["gap_first_epoch"])
    onset = Finding(
        "onset",
        "memorized",
        "First epoch with memorization",
        math.nan if first < 0 else float(first),
        interval=NO_INTERVAL if min(low, high) < 0 else (float(low), float(high)),
        n=n,
        unit="epochs",
        sentence=f"The 95% quantile of the scores is above its null {_from(first)}; the generalization gap is above "
        f"its null {_from(gap)}.",
        meaning="The first scored epoch with p of at most 5%, corrected over epochs. The range is from leaving out one "
        "repeat at a time. Both nulls use the same placebos and amortized posteriors.",
        source=PAPER,
    )
    best = int(np.flatnonzero(epochs == curve["best_epoch"])[0])
    value, null = float(curve["score_quantiles"][best, tail]), float(curve["null_quantiles"][best, tail])
    stopped = Finding(
        "early_stopping",
        "memorized",
        "95% quantile of the scores at the best held-out epoch",
        value,
        standard_error=float(curve["quantiles_se"][best, tail]),
        null=null,
        p_value=float(curve["quantiles_p_corrected"][best, tail]),
        n=n,
        sentence=f"At epoch {int(curve['best_epoch'])}, the scored epoch with the highest held-out log p, 5% of the "
        f"examples score above {value:.1f} nats{_against(null)}.",
        meaning="Near the null, early stopping would avoid memorization. Above it, it would not.",
        source=PAPER,
    )
    tested = np.isfinite(curve["gap_p_value"]).any()  # not if folds are unequal or recur
    return ([onset] if tested else []) + ([stopped] if epochs[best] != epochs[-1] else [])


def _from(epoch: int) -> str:
    return "at no scored epoch" if epoch < 0 else f"from epoch {epoch} on"


def _against(null: float) -> str:
    return f"; without memorization, 5% would score above {null:.1f}" if math.isfinite(null) else ""


def _most_in_need(group: Group, groups: Sequence[Group], space: str) -> Finding:
    is_label = group.kind == "label"
    name = f"label {group.name}" if is_label else f"cell {group.name} of the {space}"
    return Finding(
        f"neediest_{group.kind}",
        "regions",
        "Label most in need of data" if is_label else "Region most in need of data",
        group.mean,
        standard_error=group.standard_error,
        interval=group.interval,
        null=group.rest,
        p_value=corrected(groups, group),
        n=group.n,
        sentence=f"The {group.n:,} examples of {name} score {group.mean:.1f} nats on average, "
        f"all others {group.rest:.1f}.",
        meaning="A high mean says that the model depends on single examples there; more data of that kind would let it "
        "generalize instead. The null is the mean of all other examples. p is corrected for the choice of the highest "
        f"of {len(candidates(groups, group.kind))} groups (those with {MIN_EXAMPLES} examples or more).",
        source=PAPER,
        examples=group.examples,
    )


def _exact(exact: dict[str, NDArray[Any]], scores: dict[str, NDArray[Any]]) -> Finding:
    """Return the mean exact leave-one-out score, and whether refits rank examples in the same way."""
    finite = np.isfinite(exact["score"])
    value, count = float(exact["score"][finite].mean()), int(finite.sum())
    sentence = f"The exact leave-one-out score is {round(value, 2) + 0.0:.2f} nats on average"  # no "-0.00"
    if count < finite.size:
        sentence += f" over the {count:,} examples for which it is finite"
    rank = stats.spearman(exact["score"][finite], scores["score"][finite]).rho if count > 2 else math.nan
    if math.isfinite(rank):  # not if all scores are equal
        alike = "similarly" if rank >= ALIKE else "differently"
        sentence += f"; refits that leave out many examples at once rank them {alike} (Spearman {rank:.2f})"
    return Finding(
        "exact_leave_one_out",
        "memorized",
        "Exact leave-one-out score",
        value,
        n=count,
        sentence=f"{sentence}.",
        meaning="This model has a closed form for leaving out one example alone: the column leave_one_out of "
        "scores.parquet. Scores of refits are those of models trained on less data.",
        source=PAPER,
        examples=first(np.argsort(-np.where(finite, exact["score"], -np.inf))),
    )


def _baselines(run: Run, scores: dict[str, NDArray[Any]]) -> list[Finding]:
    near, score, belong = run.result("neighbors"), scores["score"], run.data().groups
    found = [
        _rank_finding(
            "distance_correlation",
            "Score and distance to the nearest neighbours",
            spearman(score, near["distance"], belong),
            len(score),
            "The memorization score and the distance to the nearest other examples",
            "Near 1, the memorized examples are the isolated ones; a value below 1 shows what distances miss.",
            tuple(near["most"].tolist()),
        ),
    ]
    if "half_score" in scores:
        found.append(_against_held_out(scores, belong))
    return found


def _against_held_out(scores: dict[str, NDArray[Any]], belong: NDArray[Any] | None) -> Finding:
    """Correlate the score with -log_prob_out across halves of the repeats; within a half they share their noise."""
    halves, outs = scores["half_score"], scores["half_log_prob_out"]
    there = np.isfinite(halves).all(0)
    whole = None if belong is None else belong[there]
    one, other = (spearman(halves[a][there], -outs[b][there], whole) for a, b in ((0, 1), (1, 0)))
    mean = stats.Correlation(
        (one.rho + other.rho) / 2,
        max(one.standard_error, other.standard_error),
        (min(one.interval[0], other.interval[0]), max(one.interval[1], other.interval[1])),
    )
    return _rank_finding(
        "surprise_correlation",
        "Score and held-out negative log-likelihood",
        mean,
        int(there.sum()),
        "The memorization score and the held-out negative log-likelihood",
        "Near 1, the memorized examples are those unlikely under models that never saw them. The two are computed from "
        "different halves of the repeats and share no noise.",
        (),
    )


def _rank_finding(
    name: str, title: str, found: stats.Correlation, n: int, what: str, meaning: str, examples: tuple[int, ...]
) -> Finding:
    return Finding(
        name,
        "neighbors",
        title,
        found.rho,
        standard_error=found.standard_error,
        interval=found.interval,
        null=0.0,
        n=n,
        unit="rank correlation",
        sentence=f"{what} have a rank correlation of {found.rho:.2f}.",
        meaning=meaning,
        examples=examples,
    )
