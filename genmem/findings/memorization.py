"""What an audit found: each finding with its value, standard error, null, interval and a sentence."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from genmem import stats
from genmem.findings.records import NO_INTERVAL, Finding
from genmem.leaveout import memorization_score
from genmem.leaveout.posterior import correction_of, estimate_of, scored_log_probs
from genmem.regions import MIN_EXAMPLES, Group, candidates, corrected, most_in_need
from genmem.run.directory import Run

LEVEL = 0.05
TAIL = 0.95
SHOWN = 12
ALIKE = 0.7  # rank correlation
PAPER = "van den Burg & Williams 2021, arXiv 2106.03216"
INFERENCE = "Cremer, Li & Duvenaud 2018, arXiv 1801.03558"
FALSE_DISCOVERY = "Benjamini & Hochberg 1995"


def find(run: Run, groups: Sequence[Group]) -> list[Finding]:
    """Return the findings of a scored run, in the order of the questions."""
    scores, space = run.result("scores"), str(run.result("cells")["space"])
    found = [_mean(scores, estimate_of(run) == "bound"), _tail(scores)]
    if np.isfinite(scores["q_value"]).any():
        found.insert(1, _flagged(run, scores))
    if (correction := correction_of(run)) is not None and str(scores["estimator"]) == "mean_log":
        found.append(_encoder_part(correction))
    if run.has_result("exact"):
        found.append(_exact(run.result("exact"), scores))
    found += _over_training(run.result("trajectory"), scores["score"].size)
    most = [most_in_need(groups, kind) for kind in ("label", "cell")]
    found += [_neediest(group, groups, space) for group in most if group is not None]
    return found + [f for f in _baselines(run, scores) if math.isfinite(f.value)]


def _first(positions: NDArray[np.intp]) -> tuple[int, ...]:
    return tuple(positions[:SHOWN].tolist())


def _mean(scores: dict[str, NDArray[Any]], bound: bool) -> Finding:
    per_repeat = stats.repeat_means(scores["per_repeat"])
    per_repeat = per_repeat[np.isfinite(per_repeat)]
    value, repeats = float(scores["score"].mean()), len(per_repeat)
    error = float(per_repeat.std(ddof=1) / math.sqrt(repeats)) if repeats > 1 else math.nan
    # "log_mean" is not 0 without memorization, so a t test against 0 would mean nothing.
    tested = error > 0 and str(scores["estimator"]) == "mean_log"
    p = float(stdtr(repeats - 1, -value / error)) if tested else math.nan
    null = float(np.nanmean(scores["placebo"])) if scores["placebo"].size else math.nan
    return Finding(
        "mean_score",
        "memorized",
        "Mean memorization score",
        value,
        standard_error=error,
        interval=stats.student_interval(value, error, repeats - 1),
        null=null,
        p_value=p,
        n=scores["score"].size,
        sentence=f"An example is on average {abs(value):.2f} nats {'more' if value >= 0 else 'less'} likely under "
        f"models that trained on it{', by a lower bound of log p' if bound else ''}.",
        meaning="0 means the model treats examples it trained on as it treats new ones; higher is more memorization.",
        source=PAPER,
    )


def _flagged(run: Run, scores: dict[str, NDArray[Any]]) -> Finding:
    q, score = scores["q_value"], scores["score"]
    chosen = np.flatnonzero(q < LEVEL)
    order = chosen[np.argsort(-score[chosen], kind="stable")]
    return Finding(
        "flagged_share",
        "memorized",
        "Examples memorized beyond chance",
        len(chosen) / len(q),
        standard_error=_jackknife_share(run, str(scores["estimator"])),
        null=0.0,
        n=len(q),
        unit="of all examples",
        sentence=f"{len(chosen):,} of {len(q):,} examples are memorized at a false discovery rate of {LEVEL:.0%}.",
        meaning=f"About {LEVEL:.0%} of those named are named by chance; the test is one-sided, of score > 0.",
        source=FALSE_DISCOVERY,
        examples=_first(order),
    )


def _jackknife_share(run: Run, estimator: str) -> float:
    """Return the error of the flagged share over repeats; NaN where leaving one out leaves no t test."""
    splits = run.used_splits()
    if len(run.result("scores")["per_repeat"]) < 4 or estimator != "mean_log":
        return math.nan
    log_probs, shares = scored_log_probs(run), []
    for repeat in np.unique(splits.repeat):
        kept = splits.repeat != repeat
        left = memorization_score(log_probs[kept], splits.held_out[kept], repeat=splits.repeat[kept], missing="nan")
        shares.append(float((left.q_value < LEVEL).mean()))
    return float(math.sqrt((len(shares) - 1) * np.var(shares)))


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
        sentence=f"One example in twenty scores above {value:.1f} nats; by chance that bound would be {null:.1f}."
        if math.isfinite(null)
        else f"One example in twenty scores above {value:.1f} nats.",
        meaning="Memorization is uneven: the tail shows it where the mean hides it. The null scores folds "
        "that were trained on as if they had been left out.",
        source=PAPER,
        examples=_first(np.argsort(-score, kind="stable")),
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
    """How much of the mean score through the encoder is not memorization in the density."""
    bias, error, low, high = (float(v) for v in found["bias"])
    score, n = float(found["score"]), len(found["sample"])
    return Finding(
        "encoder_part",
        "memorized",
        "The encoder's part of the mean score",
        -bias,
        standard_error=error,
        interval=(-high, -low),
        null=0.0,
        n=n,
        sentence=f"Through the encoder the mean score of {n:,} examples is {score:.2f} nats, with posteriors refitted "
        f"to each example {score + bias:.2f}.",
        meaning="An encoder fits examples it was trained on better than others. That part of a score is memory of the "
        "encoder, not of the density, and more importance samples do not take it out.",
        source=INFERENCE,
        examples=_first(found["examples"][np.argsort(-found["encoder"], kind="stable")]),
    )


def _over_training(curve: dict[str, NDArray[Any]], n: int) -> list[Finding]:
    """When the tail of the scores rises above its null, and whether early stopping would have spared it."""
    epochs, tail = curve["epochs"], int(np.argmin(np.abs(curve["levels"] - TAIL)))
    if len(epochs) < 2:
        return []
    first, low, high = (int(curve[f"quantiles_first_epoch{part}"][tail]) for part in ("", "_low", "_high"))
    gap = int(curve["gap_first_epoch"])
    onset = Finding(
        "onset",
        "memorized",
        "First epoch with memorization in the tail",
        math.nan if first < 0 else float(first),
        interval=NO_INTERVAL if min(low, high) < 0 else (float(low), float(high)),
        n=n,
        unit="epochs",
        sentence=f"The 95% quantile of the scores is above its null {_from(first)}, the generalization gap "
        f"{_from(gap)}.",
        meaning="Of the scored epochs, the first with p at most 5%, corrected over epochs; the range is that of "
        "leaving out one repeat at a time. Both stand against the same shifted folds, through the encoder.",
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
        sentence=f"At epoch {int(curve['best_epoch'])}, the best of those scored by held-out log p, one example in "
        f"twenty scores above {value:.1f} nats{_against(null)}.",
        meaning="What early stopping would leave: near the null, it spares the memorization; above it, it does not.",
        source=PAPER,
    )
    return [onset, stopped] if epochs[best] != epochs[-1] else [onset]


def _from(epoch: int) -> str:
    return "at no scored epoch" if epoch < 0 else f"from epoch {epoch} on"


def _against(null: float) -> str:
    return f"; by chance that bound would be {null:.1f}" if math.isfinite(null) else ""


def _neediest(group: Group, groups: Sequence[Group], space: str) -> Finding:
    is_label = group.kind == "label"
    name = f"label {group.name}" if is_label else f"cell {group.name} of the {space}"
    return Finding(
        f"neediest_{group.kind}",
        "regions",
        "Label that most needs data" if is_label else "Region that most needs data",
        group.mean,
        standard_error=group.standard_error,
        interval=group.interval,
        null=group.rest,
        p_value=corrected(groups, group),
        n=group.n,
        sentence=f"The {group.n:,} examples of {name} score {group.mean:.1f} nats on average, "
        f"all others {group.rest:.1f}.",
        meaning="Where scores are high the model leans on single examples: more examples there would let it "
        "generalise instead. The null is the mean of all other examples; p is corrected for choosing the highest of "
        f"{len(candidates(groups, group.kind))} (those with {MIN_EXAMPLES} examples or more).",
        source=PAPER,
        examples=group.examples,
    )


def _exact(exact: dict[str, NDArray[Any]], scores: dict[str, NDArray[Any]]) -> Finding:
    """Say what leaving out one example alone does, in closed form, and whether refits rank examples alike."""
    finite = np.isfinite(exact["score"])
    value, count = float(exact["score"][finite].mean()), int(finite.sum())
    sentence = f"With one example left out at a time, exactly, the mean score is {value:.2f} nats"
    if count < finite.size:
        sentence += f" over the {count:,} examples where it is finite"
    if count > 2:
        rank = stats.spearman(exact["score"][finite], scores["score"][finite]).rho
        alike = "much the same" if rank >= ALIKE else "differently"
        sentence += f"; refits that leave out a whole part rank examples {alike} (Spearman {rank:.2f})"
    return Finding(
        "exact_leave_one_out",
        "memorized",
        "Exact leave-one-out score",
        value,
        n=count,
        sentence=f"{sentence}.",
        meaning="This model has a closed form: the score of each example with only that example left out, without "
        "error, is in scores.parquet as leave_one_out. Scores of refits are of models trained on less.",
        source=PAPER,
        examples=_first(np.argsort(-np.where(finite, exact["score"], -np.inf))),
    )


def _baselines(run: Run, scores: dict[str, NDArray[Any]]) -> list[Finding]:
    near, score = run.result("neighbors"), scores["score"]
    found = [
        _rank_finding(
            "distance_correlation",
            "Score and distance to the nearest neighbours",
            stats.spearman(score, near["distance"]),
            len(score),
            "The memorization score and the distance to the nearest other examples",
            "Near 1, isolation alone would explain what is memorized; what is left over is what distances miss.",
            tuple(near["most"].tolist()),
        ),
    ]
    if "half_score" in scores:
        found.append(_surprise(scores))
    return found


def _surprise(scores: dict[str, NDArray[Any]]) -> Finding:
    """Compare the score with -log_prob_out across halves of the repeats: within one, noise alone correlates them."""
    halves, outs = scores["half_score"], scores["half_log_prob_out"]
    there = np.isfinite(halves).all(0)
    one, other = (stats.spearman(halves[a][there], -outs[b][there]) for a, b in ((0, 1), (1, 0)))
    mean = stats.Correlation(
        (one.rho + other.rho) / 2,
        max(one.standard_error, other.standard_error),
        (min(one.interval[0], other.interval[0]), max(one.interval[1], other.interval[1])),
    )
    return _rank_finding(
        "surprise_correlation",
        "Score and surprise",
        mean,
        int(there.sum()),
        "The memorization score and how unlikely an example is to models that never saw it",
        "Near 1, the memorized examples are simply the unlikely ones. Each comes from one half of the repeats.",
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
