"""Findings about units: whether memorization is local, and what the controls say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genmem.findings.records import Finding, to_json
from genmem.neurons.examples import COMPARISONS
from genmem.neurons.judge import BASELINES
from genmem.neurons.localize import Measured, additivity, confirmed
from genmem.neurons.search import Paired
from genmem.neurons.verdict import DECIDES, NO_CLAIM, Verdict
from genmem.run.directory import Run
from genmem.run.storage import Arrays

SUMMARY = (  # keys of results/neurons.json that audit.json repeats
    "verdict",
    "sentence",
    "units",
    "networks_used",
    "permutation_p",
    "detectable",
    "controls",
    "void",
)
SOURCES = "Maini et al. 2023, arXiv 2307.09542; Chang et al. 2024, arXiv 2311.09060"


@dataclass(frozen=True)
class Found:
    """results/neurons.json and results/neurons.npz."""

    about: dict[str, Any]
    arrays: Arrays

    def asked(self) -> dict[str, Any]:
        """Return the verdict and what it rests on, in the form that audit.json holds."""
        one, _ = decisive(self.about)
        against = one["baselines"]["damage"]
        return {
            **{name: self.about[name] for name in SUMMARY},
            "memorization": self.about["memorization"]["mean"],
            "sizes": one["sizes"],
            "effect": against["mean"],
            "interval": against["interval"],
            "p_value": against["p_value"],
            "comparisons": [_told(part, self.about["overlap"]) for part in self.about["comparisons"]],
        }


def neurons_of(run: Run) -> Found | None:
    """Return the stored result of a run, None if there is none."""
    about = run.read_json("results/neurons.json")
    return Found(about, run.result("neurons")) if about and run.has_result("neurons") else None


def described(
    verdict: Verdict,
    measured: Sequence[Measured],
    paired: Paired,
    asked: dict[str, Any],
    coverage: str,
    networks: int,
) -> dict[str, Any]:
    """Return the contents of results/neurons.json, without what the stage adds."""
    mean, interval = confirmed(measured)
    layers = [part.evidence.layers for part in measured]
    recalls = [part.recall for part in measured]
    found = {
        "asked": asked,
        "verdict": verdict.verdict,
        "sentence": verdict.sentence,
        "memorization": {"mean": float(verdict.memorization.mean()), "repeats": verdict.memorization},
        "units": len(layers[0]),
        "networks_used": networks,
        "coverage": coverage,
        "permutation_p": verdict.permutation_p,
        "detectable": verdict.detectable,
        "controls": list(verdict.controls),
        "void": list(verdict.void),
        "comparisons": [_comparison(verdict, name) for name in verdict.judgements],
        "overlap": {name: _mean([part.overlap[name] for part in measured]) for name in measured[0].overlap},
        "confirmed": {"mean": mean, "interval": interval, "additivity": additivity(measured)},
        "injected": {"recall": np.asarray(recalls), "gain": np.asarray([part.gain for part in measured])},
        "search": _search(paired),
    }
    return dict(to_json(found))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _comparison(verdict: Verdict, name: str) -> dict[str, Any]:
    judged = verdict.judgements[name]
    tested = {baseline: judged.against(baseline) for baseline in BASELINES}
    return {
        "name": name,
        "control": COMPARISONS[name],
        "decides": name == DECIDES,
        "void": name in verdict.void,
        "pairs": judged.pairs,
        "sizes": list(judged.sizes),
        "matched": judged.matched,
        "split_half": judged.split_half,
        "baselines": {
            baseline: {"mean": one.mean, "interval": one.interval, "p_value": one.p_value, "detectable": one.detectable}
            for baseline, one in tested.items()
        },
    }


def _search(paired: Paired) -> dict[str, Any]:
    difference = paired.difference
    return {
        "examples": paired.examples,
        "median_trained": paired.median_inside,
        "median_held_out": paired.median_outside,
        "difference": float(difference.mean[0]),
        "interval": difference.interval[0],
        "p_value": float(difference.p_value[0]),
    }


def _told(comparison: dict[str, Any], overlap: dict[str, float]) -> dict[str, Any]:
    """Return one comparison against units of the same damage, of the largest sets, as audit.json holds it."""
    against = comparison["baselines"]["damage"]
    return {
        **{name: comparison[name] for name in ("name", "control", "decides", "void", "pairs")},
        "overlap": overlap.get(comparison["name"]),
        "size": comparison["sizes"][-1],
        "effect": against["mean"][-1],
        "interval": against["interval"][-1],
        "p_value": min(against["p_value"]),
    }


def find_neurons(run: Run) -> list[Finding]:
    """Return the findings about units; none if they were not asked for."""
    found = neurons_of(run)
    return [] if found is None else [_locality(found.about), _searched(found.about)]


def decisive(about: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the comparison that decides, and the position of the size with the largest effect over its error."""
    one = next(part for part in about["comparisons"] if part["decides"])
    return one, int(np.argmin(one["baselines"]["damage"]["p_value"]))


def _locality(about: dict[str, Any]) -> Finding:
    one, at = decisive(about)
    against, size = one["baselines"]["damage"], one["sizes"][at]
    low, high = against["interval"][at]
    return Finding(
        "neurons_local",
        "neurons",
        f"Nats of memorization in {size} unit{'s' if size > 1 else ''}, beyond units of the same damage",
        against["mean"][at],
        standard_error=float("nan"),
        interval=(low, high),
        null=0.0,
        p_value=max(against["p_value"][at], about["permutation_p"]),
        n=about["networks_used"],
        sentence=about["sentence"],
        meaning="Units are chosen on one half of the memorized examples and judged on the other, against the same "
        "examples in networks that were not trained on them. The interval is over repeats, for this size alone; p is "
        "corrected for all sizes." + (" The controls do not allow a claim." if about["verdict"] == NO_CLAIM else ""),
        source=SOURCES,
    )


def _searched(about: dict[str, Any]) -> Finding:
    found = about["search"]
    low, high = found["interval"] or (float("nan"), float("nan"))
    return Finding(
        "neurons_search",
        "neurons",
        "Units that an example needs less where it was trained on",
        found["difference"],
        interval=(low, high),
        null=0.0,
        p_value=found["p_value"],
        n=found["examples"],
        unit="units",
        sentence=f"Half of the memorization score of an example is removed by {found['median_trained']:g} units where "
        f"it was trained on, and by {found['median_held_out']:g} where it was left out (medians).",
        meaning="A greedy search always finds units that lower log p of one example. Only the difference to the same "
        "search where the example was left out tells about memorization.",
        source=SOURCES,
    )
