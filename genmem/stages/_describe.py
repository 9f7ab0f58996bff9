"""Relate the scores to the data: nearest neighbours, regions, and the report."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from genmem.data.arrays import identical_groups
from genmem.data.examples import Data
from genmem.findings.audit_json import summarise
from genmem.findings.records import to_json
from genmem.protocols import Listener, Progress, ignore
from genmem.regions import GroupScore, group_scores, latent_cells
from genmem.report import write_report
from genmem.run.directory import Run, stage
from genmem.run.storage import Arrays
from genmem.search.exact import nearest
from genmem.seeding import seed32

SHOWN_NEIGHBORS = 5
GALLERY = 12
COMPONENTS = 32


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


def regions(run: Run, *, progress: Listener = ignore) -> None:
    """Average the scores by label and by k-means cell of the latent mean: results/groups.json."""
    with stage(run, "regions"):
        progress(Progress("regions", 0, 1))
        data, per_repeat = run.data(), run.result("scores")["per_repeat"]
        coordinates, space = _coordinates(run, data)
        cells = latent_cells(coordinates, seed=seed32(run.seed, "cells"))
        run.write_result("cells", cell=cells, space=np.asarray(space))
        kinds = {} if data.labels is None else {"label": data.labels}
        groups = [
            {"kind": kind, **_as_json(group, len(per_repeat))}
            for kind, members in {**kinds, "cell": cells}.items()
            for group in group_scores(per_repeat, members, belong=data.groups)
        ]
        run.write_json("results/groups.json", groups)
        progress(Progress("regions", 1, 1))


def _coordinates(run: Run, data: Data) -> tuple[NDArray[Any], str]:
    """Return the coordinates of the cells and their name: latent means, or leading principal components of the data."""
    if run.has_result("latents"):
        means = run.result("latents")["mean"]
        if means.size:
            return means, "latent space"
    kind = np.float64 if data.X.dtype == np.float64 else np.float32
    flat = np.asarray(data.X, kind).reshape(len(data.X), -1)
    components = min(COMPONENTS, *flat.shape)
    if flat.shape[1] <= components:
        return flat, "data"
    reduced = PCA(components, svd_solver="randomized", random_state=seed32(run.seed, "components"))
    return reduced.fit_transform(flat), "data"


def _as_json(group: GroupScore, repeats: int) -> dict[str, Any]:
    """Return a group for JSON; with one repeat without p, which would ignore the variation between refits."""
    return dict(to_json(group if repeats > 1 else replace(group, p_value=np.nan)))


def report(run: Run, *, progress: Listener = ignore) -> Path:
    """Write audit.json and report.html from stored results, and return the path of the report."""
    with stage(run, "report"):
        progress(Progress("report", 0, 1))
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
