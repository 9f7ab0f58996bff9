"""Relate the scores to the data: nearest neighbours, and the report."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.data.arrays import identical_groups
from genmem.findings.audit_json import summarise
from genmem.protocols import Listener, Progress, ignore
from genmem.report import write_report
from genmem.run.directory import Run, stage
from genmem.run.storage import Arrays
from genmem.search.exact import nearest

SHOWN_NEIGHBORS = 5
GALLERY = 12


def neighbors(run: Run, *, progress: Listener = ignore) -> None:
    """Find the nearest neighbours of every example among the others: results/neighbors.npz."""
    with stage(run, "neighbors"):
        progress(Progress("neighbors", 0, 1))
        scores, n = run.result("scores")["score"], run.plan["data"]["n"]
        near = nearest_others(run)
        order, count = np.argsort(-scores, kind="stable"), min(GALLERY, n // 2)
        most, least = order[:count], order[::-1][:count]
        run.write_result(
            "neighbors",
            distance=near["distances"][:, :SHOWN_NEIGHBORS][:, -1],
            duplicate_of=near["duplicate_of"],
            most=most,
            most_neighbors=near["indices"][most, :SHOWN_NEIGHBORS],
            most_distances=near["distances"][most, :SHOWN_NEIGHBORS],
            least=least,
            least_neighbors=near["indices"][least, :SHOWN_NEIGHBORS],
            least_distances=near["distances"][least, :SHOWN_NEIGHBORS],
        )
        progress(Progress("neighbors", 1, 1))


def report(run: Run, *, progress: Listener = ignore) -> Path:
    """Write audit.json and report.html from stored results, and return the path of the report."""
    with stage(run, "report"):
        progress(Progress("report", 0, 1))
        run.check_results()
        run.write_json("audit.json", summarise(run))
        path = write_report(run.path)
        progress(Progress("report", 1, 1))
    return path


def report_again(run: Run, *, progress: Listener = ignore) -> None:
    """Rewrite an existing report, if the results it needs are still stored."""
    needed = ("scores", "nearest", "neighbors", "cells")  # a new score stage removes some of these
    if (run.path / "report.html").exists() and all(run.has_result(name) for name in needed):
        report(run, progress=progress)


# --- nearest others


NEIGHBORS = 10


def nearest_others(run: Run) -> Arrays:
    """Return distances and indices (n, k) of the nearest neighbours, and `duplicate_of` (n,)."""
    if not run.has_result("nearest"):
        X = np.asarray(run.data().X)
        k = min(NEIGHBORS, len(X) - 1)
        distances, indices = nearest(X, X, k, exclude=np.arange(len(X)))
        run.write_result("nearest", distances=distances, indices=indices, duplicate_of=_duplicate_of(X))
    return run.result("nearest")


def _duplicate_of(X: NDArray[Any]) -> NDArray[np.intp]:
    """Return for each example the first other one that is identical to it, or -1."""
    groups = identical_groups(X)
    order = np.argsort(groups, kind="stable")
    found = np.full(len(X), -1)
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    for rows in np.split(order, starts[1:]):
        if len(rows) > 1:
            found[rows] = rows[0]
            found[rows[0]] = rows[1]
    return found
