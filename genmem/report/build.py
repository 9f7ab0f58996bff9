"""Build offline pages from results: report.html of a run or of a copy check, from arrays and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from genmem.data.arrays import fingerprint
from genmem.findings.records import Finding
from genmem.plots import Group
from genmem.regions import corrected, most_in_need
from genmem.report import attribution, neurons, regions, words
from genmem.report.copies import QUESTION as COPIES
from genmem.report.copies import CopyResults, copies, copies_of_run
from genmem.report.pictures import GROUPS, album, differ, drawn, figures
from genmem.report.results import Results, read_results
from genmem.report.verdicts import (
    QUESTIONS,
    Verdict,
    most_memorized,
    ranked,
    stands_out,
    strip,
    verdicts,
)
from genmem.run.storage import Arrays, write_atomically

ROWS = 25  # of the table of the most memorized examples
GALLERY = 12  # examples in each half of the gallery
NEIGHBORS = 5  # neighbours of each
EXEMPLARS = 4  # examples of each group
PAGE = 7_800_000  # bytes of a page at most; pictures get the bytes that figures leave
MARKUP = 300_000  # bytes reserved for text and tables


@dataclass(frozen=True)
class Plate:
    """One example of the gallery: its position, and its neighbours with their distances."""

    position: int
    neighbors: list[tuple[int, float]]


def write_report(run_dir: Path) -> Path:
    """Write report.html from the results in a run directory.

    The page is self-contained and opens without a network. It replaces an earlier page atomically.

    Args:
        run_dir: a run directory with audit.json, scores.parquet, data/X.npy and, if computed, results/*.npz.

    Returns:
        The path of the report.

    Raises:
        IncompleteRunError: audit.json, scores.parquet or data/X.npy is missing.
        RunError: a file is damaged or of another schema, the files disagree about the examples, or the page
            cannot be written.
    """
    run_dir = Path(run_dir)
    # A file name may contain bytes that are not UTF-8; they become question marks, not an error.
    page = render(read_results(run_dir)).encode("utf-8", "replace")
    write_atomically(run_dir / "report.html", lambda handle: handle.write(page))
    return run_dir / "report.html"


def render(results: Results) -> str:
    """Return the page as HTML. A pure function of the results."""
    template = environment().get_template("template.html")
    return template.render(**_context(results))


def _context(results: Results) -> dict[str, Any]:
    audit, near = results.audit, results.neighbors or {}
    groups = {kind: _highest_first(results.groups, kind) for kind in ("label", "cell")}
    answers, findings = verdicts(results), ranked(results.findings)
    top, shaped = _listed(results), attribution.attribution(results)
    answers += attribution.verdict(results, shaped)
    located = neurons.located(results)
    needed = regions.section(results)
    if stands := regions.verdict(results, needed):
        answers = [stands if answer.question == "regions" else answer for answer in answers]
    copied = copies_of_run(results)
    share = next((replace(f, unit="of the samples") for f in findings if f.id == "copied_share"), None)
    answers += [] if copied is None else [Verdict("copies", copied.sentence, share, [])]
    answers += neurons.verdict(results, located)
    plates = {"most": _plates(near, "most"), "least": _plates(near, "least")}
    shown = [p for answer in answers for p in answer.examples] + top
    shown += [p for part in plates.values() for plate in part for p in (plate.position, *dict(plate.neighbors))]
    shown += shaped.positions if shaped else []
    shown += regions.positions(needed, GROUPS, EXEMPLARS)
    shown += [p for part in groups.values() for group in part[:GROUPS] for p in group.examples[:EXEMPLARS]]
    shape = audit["data"].get("image_shape")
    drawings, library = figures(results, groups), get_plotlyjs()
    drawings |= {"map": needed.figure} if needed and needed.figure else {}
    budget = PAGE - len(library) - sum(len(figure.json) for figure in drawings.values()) - MARKUP
    uris, reduced = album(results.X, shape, shown, budget) if shape else ({}, None)
    return {
        "audit": audit,
        "results": results,
        "scores": results.scores,
        "near": near,
        "title": Path(audit["data"]["source"]).name or audit["data"]["source"],
        "model": str(audit["asked"]["model"]["name"]).rpartition(":")[2],
        "questions": {**QUESTIONS, **attribution.QUESTIONS, "copies": COPIES, "neurons": neurons.QUESTION},
        "verdicts": answers,
        "findings": findings,
        "checks": results.checks,
        "failed": [check for check in results.checks if not check.ok],
        "describe": partial(_describe, results),
        "missing": words.missing(results.one_repeat),
        "why": partial(_why, results),
        "uris": uris,
        "reduced": reduced,
        "plates": plates,
        "shaped": shaped,
        "copied": copied,
        "located": located,
        "needed": needed,
        "drawings": attribution.pictures_of(shaped.samples, results.X, shape, reduced) if shaped and shape else {},
        "rank": words.nearest(np.shape(near.get("most_distances", [[0]]))[1]),
        "differences": None if shape else differ(results.X, audit["data"].get("columns") or ()),
        "groups": groups,
        "in_need": [
            g for kind in groups if (g := most_in_need(results.groups, kind)) and stands_out(g, results.groups)
        ],
        "corrected": partial(corrected, results.groups),
        "limits": {"groups": GROUPS, "exemplars": EXEMPLARS},
        "top": top,
        "listed": _columns(results.listed),
        "figures": drawings,
        "drawn": drawn(results),
        "plotly": Markup(library),  # trusted: the library itself
        "nonce": fingerprint(repr(sorted(audit.items())).encode("utf-8", "replace"))[:32],
    }


def _listed(results: Results) -> list[int]:
    """Return the positions of the examples with the highest scores: those that intervals were computed for."""
    stored = results.listed
    return most_memorized(results, ROWS) if stored is None else [int(p) for p in stored["examples"]]


def _columns(stored: Arrays | None) -> dict[int, tuple[float, list[float]]] | None:
    """Return the expected true score of each listed example, and its interval; None if the scores have no errors."""
    if stored is None or not np.isfinite(stored["interval"]).any():
        return None
    rows = zip(stored["examples"], stored["expected"], stored["interval"].T, strict=True)
    return {int(p): (float(expected), interval.tolist()) for p, expected, interval in rows}


def _why(results: Results, found: Finding | Group) -> str:
    """Return why a number of this finding or group is missing."""
    measured = words.known(found.standard_error) or words.known(found.interval[0])
    return "not tested" if measured else words.missing(results.one_repeat)


def _describe(results: Results, position: int) -> str:
    parts = [f"row {results.index[position]}"]
    parts += [f"label {results.labels[position]}"] if results.labels else []
    parts += [results.names[position]] if results.names else []
    return ", ".join(parts)


def _plates(near: Arrays, which: str) -> list[Plate]:
    if which not in near:
        return []
    rows = zip(near[which], near[f"{which}_neighbors"], near[f"{which}_distances"], strict=True)
    return [
        Plate(int(p), [(int(i), float(d)) for i, d in zip(i_row, d_row, strict=True) if i >= 0][:NEIGHBORS])
        for p, i_row, d_row in list(rows)[:GALLERY]
    ]


def _highest_first(groups: Sequence[Group], kind: str) -> list[Group]:
    return sorted((g for g in groups if g.kind == kind), key=lambda g: g.mean, reverse=True)


# --- templates


FILTERS = ("number", "fixed", "probability", "interval", "duration", "plain", "design")


def environment() -> Environment:
    """Return the environment of the templates; an undefined name raises an error."""
    found = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=PackageLoader("genmem", "report"),
    )
    found.filters |= {name: getattr(words, name) for name in FILTERS}
    found.filters["influence"] = attribution.influence_score
    found.globals["strip"] = strip
    return found


# --- the page of a copy check


def render_copies(results: CopyResults) -> str:
    """Return the page as HTML. A pure function of the results."""
    source = str(results.about["asked"]["samples"])
    title = Path(source).name or source
    template = environment().get_template("copycheck.html")
    return template.render(about=results.about, c=copies(results), title=title)
