"""Findings about regions: which need more examples, how many, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from genmem.data.arrays import fingerprint
from genmem.errors import IncompleteRunError, RunError
from genmem.findings.records import Finding, from_json, to_json
from genmem.regions import Known, Region, Regions
from genmem.run.directory import Run
from genmem.run.storage import Arrays

CLEAR = 0.05
UNCERTAIN = 20.0  # times an estimate, from which the upper end of its interval says nothing
STORED = "results/regions.json"
SAID = ("space", "searched", "judged", "held_out", "samples", "sentence", "found", "kinds")
SOURCES = (
    "Kulldorff, A Spatial Scan Statistic, 1997; Westfall and Young, Resampling-Based Multiple Testing, 1993; "
    "van den Burg & Williams, On Memorization in Probabilistic Deep Generative Models, 2021"
)


def described(
    found: Regions, kinds: Mapping[str, Sequence[Region]], space: str, held_out: int, samples: int, known: Known
) -> dict[str, Any]:
    """Return the contents of results/regions.json, without what was asked."""
    return {
        "space": space,
        "searched": found.searched,
        "judged": found.judged,
        "repeats": len(known.per_repeat),
        "held_out": held_out or None,
        "samples": samples or None,
        "sentence": sentence(found.regions, bool(held_out)),
        "found": to_json(found.regions),
        "kinds": to_json(dict(kinds)),
    }


def regions_of(run: Run) -> dict[str, Any] | None:
    """Return what audit.json says of regions; None if they were not looked for with these scores."""
    return {key: run.read_json(STORED)[key] for key in SAID} if is_current(run) else None


def is_current(run: Run) -> bool:
    """Return whether regions are stored, and are those of the stored scores."""
    about = run.read_json(STORED)
    if not about or about.get("scores") != scores_stamp(run):
        return False
    try:
        return bool(about.get("arrays") == arrays_stamp(run.result("regions")))
    except (IncompleteRunError, RunError):
        return False


def arrays_stamp(arrays: Arrays) -> str:
    """Return what tells the regions of the examples from those of another search."""
    return fingerprint(*(arrays[name] for name in ("train", "held_out", "samples")))


def scores_stamp(run: Run) -> str:
    """Return what tells the scores of a run from others."""
    return fingerprint(run.result("scores")["per_repeat"])


def find_regions_in(run: Run) -> list[Finding]:
    """Return the finding on the region most in need of data, if one stands out."""
    about = regions_of(run)
    found = [] if about is None else [from_json(Region, region) for region in about["found"]]
    first = next((region for region in found if region.stands_out), None)
    if first is None or about is None:
        return []
    thin = about["held_out"] is not None
    return [
        Finding(
            "region",
            "regions",
            "Examples to collect in the region most in need of data",
            first.more,
            interval=first.more_interval,
            null=0.0,
            p_value=first.p_any,
            n=first.n,
            unit="examples",
            sentence=sentence(found, thin),
            meaning=f"{first.why} p is corrected for the {about['searched']:,} clusters that were looked at.",
            source=SOURCES,
            examples=first.examples,
        )
    ]


def sentence(regions: Sequence[Region], held_out: bool) -> str:
    """Say which region needs data most, and how many examples; or that none stands out.

    >>> sentence([], False)
    'No region stands out by its scores. Held-out examples would show regions that are thin in the training set.'
    """
    first = next((region for region in regions if region.stands_out), None)
    if first is None and held_out:
        return "No region stands out, by its scores or by its share of held-out examples."
    if first is None:
        advice = "Held-out examples would show regions that are thin in the training set."
        return f"No region stands out by its scores. {advice}"
    parts = [f"Region {first.name} needs more examples: {_reasons(first)}.", _collect(first)]
    if not held_out:
        parts.append("Held-out examples would show whether it is thin in the training set, or merely unusual.")
    return " ".join(part for part in parts if part)


def _reasons(region: Region) -> str:
    told = []
    if region.share_p < CLEAR:
        told.append(
            f"it holds {region.held_out_share:.1%} of the held-out examples but {region.train_share:.1%} of the "
            f"training examples (p = {region.share_p:.2g})"
        )
    if region.n:
        count = "training example scores" if region.n == 1 else "training examples score"
        judged = f" (p = {region.p_corrected:.2g})" if region.p_corrected < CLEAR else ""
        told.append(f"its {region.n:,} {count} {region.mean:.1f} nats on average{judged}, all others {region.rest:.1f}")
    return ", and ".join(told)


def _collect(region: Region) -> str:
    """Say how many examples to collect; nothing if no number is known."""
    if not math.isfinite(region.more) or not region.more:
        return ""
    low, high = region.more_interval
    if math.isfinite(low) and high < UNCERTAIN * region.more:
        return f"Collect about {region.more:,.0f} more there (95% interval {low:,.0f} to {high:,.0f})."
    return f"Collect about {region.more:,.0f} more there; the number is uncertain."
