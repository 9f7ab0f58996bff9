"""What an audit found about copies: whether samples of the model repeat its training set."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from genmem.findings import finding
from genmem.run import Run
from genmem.storage import Arrays

SHOWN = 12
BESIDE = ("scan_share", "train_share", "c_t", "distance_ratio", "authenticity")  # tests beside the copied share
ASKED = (  # of results/copycheck.json, what audit.json says
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


@dataclass(frozen=True)
class FoundCopies:
    """results/copycheck.json and results/copycheck.npz."""

    about: dict[str, Any]
    arrays: Arrays

    def asked(self) -> dict[str, Any]:
        """Return the copy check as audit.json says it."""
        how = {name: self.about["asked_of_run"][name] for name in ("level", "seed")}
        return {**{name: self.about[name] for name in ASKED}, **how}


def copies_of(run: Run) -> FoundCopies | None:
    """Return what was found about copies; None where nothing was."""
    about = run.read_json("results/copycheck.json")
    return FoundCopies(about, run.result("copycheck")) if about and run.has_result("copycheck") else None


def find_copies(run: Run) -> list[dict[str, Any]]:
    """Return the findings about copies of a run, none where samples were not checked."""
    found = copies_of(run)
    if found is None:
        return []
    share, tests = found.about["copied_share"], {t["name"]: t for t in found.about["tests"]}
    findings = [_finding(found, share, "copied_share", found.about["sentence"])]
    return findings + [_finding(found, tests[n], n, tests[n]["sentence"]) for n in BESIDE if n in tests]


def _finding(found: FoundCopies, test: dict[str, Any], name: str, sentence: str) -> dict[str, Any]:
    low, high = test["interval"] or (math.nan, math.nan)
    return finding(
        name,
        "copies",
        test["title"],
        _or_nan(test["value"]),
        interval=(low, high),
        null=_or_nan(test["null"]),
        p_value=_or_nan(test["p_value"]),
        n=test["n"],
        unit="",
        sentence=sentence,
        meaning=f"What it cannot see, or takes for copying: {test['cannot_see']}",
        source=test["citation"],
        examples=_rows(found) if name == "copied_share" else (),
    )


def _rows(found: FoundCopies) -> list[int]:
    """Return the training rows of samples that stand out, the most suspicious first."""
    out = found.arrays["pair_stands_out"].astype(bool)
    return list(dict.fromkeys(found.arrays["pair_train"][out].tolist()))[:SHOWN]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(np.float64(value))
