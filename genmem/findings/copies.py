"""Findings about copies, and a copy check in files: copycheck.json, tables, and numbers for conditions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.findings.records import Finding, from_json, to_json
from genmem.neighbors import battery
from genmem.neighbors.cautions import differs
from genmem.neighbors.copycheck import CopyCheck
from genmem.neighbors.power import Power
from genmem.neighbors.results import Flags, Result
from genmem.neighbors.visible import Visible
from genmem.run.directory import Run
from genmem.run.storage import Arrays, write_atomically

SHOWN_ROWS = 12
BESIDE = ("scan_share", "train_share", "c_t", "distance_ratio", "authenticity")  # tests beside the copied share
ASKED = (  # keys of results/copycheck.json that audit.json repeats
    "verdict",
    "sentence",
    "note",
    "data",
    "space",
    "copied_share",
    "power",
    "power_noisy",
    "samples",
    "rows",
    "calibrated",
    "tests",
    "missed",
)
ADDED = ("visible",)  # keys that checks of older versions lack


@dataclass(frozen=True)
class FoundCopies:
    """results/copycheck.json and results/copycheck.npz."""

    about: dict[str, Any]
    arrays: Arrays

    def asked(self) -> dict[str, Any]:
        """Return the copy check in the form that audit.json holds."""
        how = {name: self.about["asked_of_run"][name] for name in ("level", "seed")}
        added = {name: self.about[name] for name in ADDED if name in self.about}
        return {**{name: self.about[name] for name in ASKED}, **added, **how}


def copies_of(run: Run) -> FoundCopies | None:
    """Return the stored copy check of a run, or None if there is none."""
    about = run.read_json("results/copycheck.json")
    return FoundCopies(about, run.result("copycheck")) if about and run.has_result("copycheck") else None


def find_copies(run: Run) -> list[Finding]:
    """Return the findings about copies; none if the samples of the run were not checked."""
    found = copies_of(run)
    if found is None:
        return []
    share, tests = found.about["copied_share"], {t["name"]: t for t in found.about["tests"]}
    findings = [_finding(found, share, "copied_share", found.about["sentence"])]
    return findings + [_finding(found, tests[n], n, tests[n]["sentence"]) for n in BESIDE if n in tests]


def _finding(found: FoundCopies, test: dict[str, Any], name: str, sentence: str) -> Finding:
    told = {
        "id": name,
        "question": "copies",
        "unit": "",
        "sentence": sentence,
        "meaning": f"Limits: {test['cannot_see']}",
        "source": test["citation"],
        "examples": _rows(found) if name == "copied_share" else [],
    }
    return from_json(Finding, {**test, **told})


def _rows(found: FoundCopies) -> list[int]:
    """Return the training examples of the samples that stand out, the most suspicious first."""
    out = found.arrays["pair_stands_out"].astype(bool)
    return list(dict.fromkeys(found.arrays["pair_train"][out].tolist()))[:SHOWN_ROWS]


# --- a copy check in files


ALARM = 0.05
SHOWN = 24  # pairs on a page, one for each training example
DIRECTIONS = {"higher": "higher", "lower": "lower", "either": "either side"}
NUMBERS = {
    "copies_found": "1 if the verdict is that copies were found, else 0",
    "inspect": "1 if the verdict is to inspect pairs, else 0",
    "visible_samples": "samples far closer to a training example than all others, if copies are not found",
    "other_source": "1 if training and held-out examples differ beyond chance (p <= .01), so that no verdict is valid",
    "sharp": "1 if the verdict is sharp but not copying, else 0",
    "copied_share": "estimated share of the samples that are copies",
    "copied_share_low": "lower end of its 95% interval",
    "copied_share_high": "upper end of its 95% interval",
    "detectable_share": "smallest share of exact copies that the check detects with a power of 80%",
    "flagged_samples": "samples unusually close to training examples; samples of a sharp model are among them",
    "flagged_samples_share": "the same, as a share of all samples",
    "flagged_rows": "training examples unusually close to samples",
    "calibrated_samples": "samples unusually close to one training example, relative to the local density of the data",
}


def names() -> tuple[str, ...]:
    """Return the names that a condition can use: those of `NUMBERS`, of tests, and of tests with `_p`."""
    tests = battery.names()
    return (*NUMBERS, *tests, *(f"{test}_p" for test in tests))


def numbers(check: CopyCheck) -> dict[str, float]:
    """Return the numbers that a condition can name; NaN if one is undefined.

    These are the numbers of `NUMBERS`, and for every test its value (`<name>`) and its p-value (`<name>_p`).
    """
    low, high = check.copied_share.interval
    found = {
        "copies_found": float(check.verdict == "copies found"),
        "inspect": float(check.verdict == "inspect these pairs"),
        "visible_samples": float(len(check.visible.samples)),
        "other_source": _other_source(check["same_source"], check["same_spread"]),
        "sharp": float(check.verdict == "sharp but not copying"),
        "copied_share": check.copied_share.value,
        "copied_share_low": low,
        "copied_share_high": high,
        "detectable_share": check.power.smallest,
        "flagged_samples": float(check.samples.flagged.sum()),
        "flagged_samples_share": float(check.samples.flagged.mean()),
        "flagged_rows": float(check.rows.flagged.sum()),
        "calibrated_samples": float(check.calibrated.flagged.sum()),
    }
    for test in check.tests:
        found |= {test.name: test.value, f"{test.name}_p": test.p_value}
    return {name: float(value) for name, value in found.items()}


def _other_source(source: Result, spread: Result) -> float:
    known = not (np.isnan(source.p_value) and np.isnan(spread.p_value))
    return float(differs(source, spread)) if known else float("nan")


def describe(check: CopyCheck, space: str, words: str) -> dict[str, Any]:
    """Return a copy check in the form of copycheck.json, where numbers that are not finite are null.

    Args:
        check: the copy check.
        space: the feature space, as the user named it.
        words: a description of the feature space.
    """
    about = {
        "verdict": check.verdict,
        "sentence": check.sentence,
        "space": {"name": space, "sentence": f"Distances were taken in this feature space: {words}."},
        "copied_share": _result(check.copied_share),
        "power": _power(check.power),
        "power_noisy": _power(check.power_noisy),
        "numbers": numbers(check),
        "samples": _flags(check.samples),
        "rows": _flags(check.rows),
        "calibrated": _flags(check.calibrated),
        "visible": _visible(check.visible),
        "tests": [_result(test) for test in check.tests],
        "missed": _missed(check),
    }
    return dict(to_json(about))


def _missed(check: CopyCheck) -> list[str]:
    """Return what the check could have missed or mistaken, in a sentence or two each."""
    rows, held_out = len(check.rows.flagged), len(check.near_test)
    found = [
        check.power.sentence,
        check.power_noisy.sentence,
        check.copied_share.cannot_see,
        f"Copies of examples that are not among the {rows:,} training examples given here; copies of any kind if the "
        f"{held_out:,} held-out examples are of another source.",
        f"{check.calibrated.title}: {check.calibrated.cannot_see}",
        f"{check.rows.title}: {check.rows.cannot_see}",
    ]
    return list(dict.fromkeys(found))


def _visible(found: Visible) -> dict[str, Any]:
    """Return what stands out as a dictionary: row numbers and how far."""
    return {
        "samples": found.samples.tolist(),
        "examples": found.examples,
        "factor": float(found.factor),
        "local": found.local,
        "held_out_needed": found.held_out,
        "by_chance": found.by_chance,
    }


def _power(found: Power) -> dict[str, Any]:
    """Return the power of the check as a dictionary."""
    return {name: getattr(found, name) for name in ("smallest", "at", "shares", "found", "sentence")}


def _result(found: Result) -> dict[str, Any]:
    """Return one test as a dictionary, without its arrays."""
    return {
        "name": found.name,
        "title": found.title,
        "value": float(found.value),
        "null": float(found.null),
        "interval": found.interval,
        "p_value": float(found.p_value),
        "direction": DIRECTIONS[found.direction],
        "n": found.n,
        "alarm": found.p_value <= ALARM,
        "sentence": found.sentence,
        "cannot_see": found.cannot_see,
        "citation": found.citation.rstrip("."),
    }


def _flags(found: Flags) -> dict[str, Any]:
    """Return the summary of a list of flags; the flags themselves are in the tables."""
    return {
        "title": found.title,
        "flagged": found.flagged.sum(),
        "n": len(found.flagged),
        "level": float(found.level),
        "resolution": found.resolution,
        "sentence": found.sentence,
        "cannot_see": found.cannot_see,
        "citation": found.citation.rstrip("."),
    }


def stands_out(pairs: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Return which pairs are visible, or flagged by either list and closer to a training than to a held-out example."""
    flagged = np.asarray(pairs["flagged"], bool) | np.asarray(pairs["calibrated_flagged"], bool)
    flagged &= np.asarray(pairs["distance_train"] < pairs["distance_test"])
    return np.asarray(flagged | np.asarray(pairs.get("visible", False), bool))


def one_for_each_row(pairs: Mapping[str, NDArray[Any]], most: int = SHOWN, least: int = 8) -> NDArray[np.intp]:
    """Return positions of the pairs to show: the first pair of each training example, however often it is copied.

    Pairs that stand out come first, ordered by how often their training example is copied. Other pairs follow if fewer
    than `least` stand out.
    """
    rows = np.asarray(pairs["train"])
    _, first, group = np.unique(rows, return_index=True, return_inverse=True)
    out = stands_out(pairs)
    times = np.bincount(group, weights=out)[group]
    leading = np.flatnonzero(out)[np.unique(rows[out], return_index=True)[1]]
    leading = np.sort(leading)
    leading = leading[np.argsort(-times[leading], kind="stable")]
    others = np.sort(first[~np.isin(rows[first], rows[leading])])
    return np.concatenate([leading, others[: max(0, least - len(leading))]])[:most]


def tables(check: CopyCheck) -> dict[str, Arrays]:
    """Return the columns of pairs.parquet, samples.parquet and rows.parquet: row numbers and distances, no data."""
    near, local = check.samples, check.calibrated
    own = {"calibrated": local.statistic, "calibrated_p": local.p_value, "calibrated_flagged": local.flagged}
    return {
        "pairs": {**check.pairs, "stands_out": stands_out(check.pairs)},
        "samples": {**_flag_columns(near, "sample", "train"), **own},
        "rows": _flag_columns(check.rows, "train", "sample"),
    }


def _flag_columns(found: Flags, own: str, other: str) -> Arrays:
    return {
        own: np.arange(len(found.statistic)),
        f"nearest_{other}": found.partner,
        "distance": found.statistic,
        "p_value": found.p_value,
        "q_value": found.q_value,
        "flagged": found.flagged,
    }


def write_table(file: Path, columns: Mapping[str, Any]) -> None:
    """Write columns to a .parquet file atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    write_atomically(file, lambda handle: pq.write_table(table, handle))
