"""Findings about influence: whether it can be trusted, and what it agrees with."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem import stats
from genmem.data.arrays import fingerprint
from genmem.findings.records import Correlation, Finding, from_json
from genmem.run.directory import Run
from genmem.run.storage import Arrays

PAPER = "Kong & Chaudhuri 2021, arXiv 2105.14203"
DEPTH = 5  # proponents and opponents looked at
SHOWN = 12
SCALES = {  # in the order in which a sentence lists them
    "dot": "with dot products",
    "query": "with scores divided by the length of the training example's gradient",
    "cosine": "with cosines",
}
ASKED = (  # keys of results/influence.json that audit.json repeats
    "method",
    "skipped",
    "weights",
    "scale",
    "unit",
    "draws",
    "checkpoints",
    "coverage",
    "note",
    "n",
    "subset",
    "k",
    "seed",
    "chosen",
    "reliability",
    "correlations",
)


@dataclass(frozen=True)
class Found:
    """results/influence.json and results/influence.npz (empty if influence was skipped)."""

    about: dict[str, Any]
    arrays: Arrays

    def asked(self) -> dict[str, Any]:
        """Return how influence was computed, in the form that audit.json holds."""
        return {name: self.about[name] for name in ASKED}


def influence_of(run: Run) -> Found | None:
    """Return the stored influence of a run, or None if there is none or the scores have changed since."""
    about = run.read_json("results/influence.json")
    if not about or about["scores"] != fingerprint(run.result("scores")["score"]):
        return None
    if about["skipped"]:
        return Found(about, {})
    return Found(about, run.result("influence")) if run.has_result("influence") else None


def find_influence(run: Run) -> list[Finding]:
    """Return the findings about influence; none if it was not computed."""
    found = influence_of(run)
    if found is None or not found.arrays:
        return []
    labels = run.data().labels
    findings = [_against_score(found), self_check(found)]
    if labels is not None:
        findings += label_agreement(found.arrays, labels)
    if run.has_result("latents") and (means := run.result("latents")["mean"]).size:
        findings += latent_distance(found.arrays, means)
    return [one for one in findings if math.isfinite(one.value)]


def _against_score(found: Found) -> Finding:
    first, *others = (from_json(Correlation, one) for one in found.about["correlations"])
    own, at = found.arrays["self_influence"], found.arrays["examples"]
    rest = "".join(f", {c.rho:.2f} with the {c.of}" for c in others if math.isfinite(c.rho))
    return Finding(
        "self_influence_vs_score",
        "influence",
        "Self-influence and the memorization score",
        first.rho,
        standard_error=first.standard_error,
        interval=first.interval,
        null=0.0,
        n=first.n,
        unit="rank correlation",
        sentence=f"Self-influence has a rank correlation of {first.rho:.2f} with the memorization score{rest}.",
        meaning="Near 1, self-influence identifies the same memorized examples as the refits. The report compares it "
        "with the loss and with distances: if these agree with the score as well, influence adds nothing to them. The "
        "interval is over examples, for one trained model.",
        source=PAPER,
        examples=tuple(at[np.argsort(-own, kind="stable")[:SHOWN]].tolist()),
    )


def self_check(found: Found) -> Finding:
    """Return how often an example is its own strongest proponent; ties with its own score count as success."""
    arrays = found.arrays
    checked, itself, n = arrays["checked"], arrays["checked_itself"], len(arrays["examples"])
    ahead = (arrays["checked_proponent_scores"] > (itself + 1e-9 * np.abs(itself))[:, None]).sum(1)
    rank = np.where(np.isnan(itself), n, ahead + 1)
    first, among, count = int((rank == 1).sum()), int((rank <= DEPTH).sum()), len(checked)
    return Finding(
        "self_check",
        "influence",
        "Examples that are their own strongest proponent",
        first / count,
        standard_error=math.sqrt(first * (count - first) / count**3),
        interval=stats.share_interval(first, count),
        null=1 / n,
        n=count,
        unit=f"of {count} examples",
        sentence=f"{first} of {count} training examples are their own strongest proponent among {n:,}, and {among} "
        f"are among their own {DEPTH} strongest.",
        meaning="If the model trained on the query, no other example should influence it more. If many fail, scores "
        f"mostly reflect noise of the draws or the size of gradients. By chance, one in {n:,} passes."
        + _by_scale(found),
        source=PAPER,
        examples=tuple(checked[rank > 1][:SHOWN].tolist()),
    )


def _by_scale(found: Found) -> str:
    """Return how many pass if scores are divided by lengths of gradients; long gradients dominate dot products."""
    counts = [
        f"{int((found.arrays[f'checked_proponents_{scale}'][:, 0] == found.arrays['checked']).sum())} pass {words}"
        for scale, words in SCALES.items()
        if scale != found.about["scale"] and f"checked_proponents_{scale}" in found.arrays
    ]
    return f" {', '.join(counts)}." if counts else ""


def label_agreement(found: Arrays, labels: NDArray[Any]) -> list[Finding]:
    """Return how often proponents and opponents of an example, excluding itself, have its label."""
    null = _share_of_label(found["checked"], found["examples"], labels)
    findings = []
    for side in ("proponents", "opponents"):
        share = _agreement(found["checked"], _of_side(found, side), labels)
        there = np.isfinite(share) & np.isfinite(null)
        value, error, (low, high) = stats.mean_interval(share[there])
        chance = float(null[there].mean()) if there.any() else np.nan
        findings.append(
            Finding(
                "label_agreement" if side == "proponents" else "label_agreement_opponents",
                "influence",
                f"{side.capitalize()} that have the label of the query",
                value,
                standard_error=error,
                interval=(max(0.0, low), min(1.0, high)) if math.isfinite(low) else (low, high),
                null=chance,
                n=int(there.sum()),
                unit=f"of {side}",
                sentence=f"{value:.0%} of the {DEPTH} strongest {side} of a training example, excluding itself, have "
                f"its label; {chance:.0%} of all examples do.",
                meaning="Far above the null, the model learns an example from others with its label."
                if side == "proponents"
                else "Below the null, opponents of an example have other labels. Above it, examples with the same "
                "label compete with each other.",
                source=PAPER,
            )
        )
    return findings


def latent_distance(found: Arrays, means: NDArray[Any]) -> list[Finding]:
    """Return how close the proponents and opponents of an example are to it, by the distance between latent means.

    Args:
        found: results/influence.npz.
        means: (n, latent) posterior means of all examples.
    """
    findings = []
    for side in ("proponents", "opponents"):
        closer = _shares_closer(found, _of_side(found, side), means)
        closer = closer[np.isfinite(closer)]
        value, error, (low, high) = stats.mean_interval(closer)
        findings.append(
            Finding(
                "latent_distance" if side == "proponents" else "latent_distance_opponents",
                "influence",
                f"Examples closer in latent space than {side}",
                value,
                standard_error=error,
                interval=(max(0.0, low), min(1.0, high)) if math.isfinite(low) else (low, high),
                null=0.5,
                n=len(closer),
                unit="of other examples",
                sentence=f"The {DEPTH} strongest {side} rank, on average, in the closest {value:.0%} of all examples "
                "by latent distance (50% if they were random).",
                meaning="Far below 50%, the model learned an example from examples with similar latent codes. Near "
                "50%, proponents are mostly examples with long gradients."
                if side == "proponents"
                else "Below 50%, an example competes with examples that have similar latent codes. Above 50%, its "
                "opponents have distant codes. The interval is over examples, for one trained model.",
                source=PAPER,
            )
        )
    return findings


def _shares_closer(found: Arrays, others: NDArray[np.intp], means: NDArray[Any]) -> NDArray[np.float64]:
    """Return for each query the mean share of examples closer than its strongest others; NaN if it has none.

    Ties in distance count half.
    """
    shares = np.full(len(others), np.nan)
    positions = found["examples"]
    for row, query in enumerate(found["checked"]):
        kept = _first_others(query, others[row])
        if not kept or len(positions) < 3:
            continue
        away = np.linalg.norm(means[positions] - means[query], axis=1)
        rest = np.sort(away[positions != query])
        theirs = away[np.searchsorted(positions, kept)]  # positions are sorted
        below, above = (np.searchsorted(rest, theirs, side) for side in ("left", "right"))
        shares[row] = float((below + (above - below - 1) / 2).mean() / (len(rest) - 1))
    return shares


def _of_side(found: Arrays, side: str) -> NDArray[np.intp]:
    """Return the strongest of one side for each checked example, -1 if the score has the sign of the other side."""
    sign = 1 if side == "proponents" else -1
    return np.where(sign * found[f"checked_{side[:-1]}_scores"] > 0, found[f"checked_{side}"], -1)


def _first_others(query: int, strongest: NDArray[np.intp]) -> list[int]:
    return [int(p) for p in strongest if p not in (query, -1)][:DEPTH]


def _agreement(queries: NDArray[np.intp], others: NDArray[np.intp], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return for each query the share of its strongest others that have its label; NaN if it has none."""
    share = np.full(len(queries), np.nan)
    for row, (query, found) in enumerate(zip(queries, others, strict=True)):
        kept = _first_others(query, found)
        if kept:
            share[row] = float((labels[kept] == labels[query]).mean())
    return share


def _share_of_label(queries: NDArray[np.intp], examples: NDArray[np.intp], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return for each query, one of the examples, the share of the other examples that have its label."""
    names, which = np.unique(labels, return_inverse=True)
    counts = np.bincount(which[examples], minlength=len(names))
    return np.asarray((counts[which[queries]] - 1) / max(1, len(examples) - 1), np.float64)
