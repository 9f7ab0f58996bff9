"""Which regions of the data need more examples?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genmem.data.examples import Data
from genmem.data.metadata import Metadata, read_metadata
from genmem.errors import DataError, IncompleteRunError, ModelError
from genmem.findings.records import to_json
from genmem.findings.regions import STORED, arrays_stamp, described, is_current, scores_stamp
from genmem.leaveout import planned_model
from genmem.models import DeepDensity
from genmem.protocols import Listener, Progress, draw, ignore
from genmem.regions import (
    MIN_EXAMPLES,
    GroupScore,
    Known,
    Regions,
    describe_regions,
    find_regions,
    group_scores,
    hdbscan_cells,
    latent_cells,
)
from genmem.run.directory import Run, stage
from genmem.seeding import seed32
from genmem.stages._describe import nearest_others, report_again
from genmem.stages._outside import Outside, outside_examples
from genmem.stages._refit import trained_network
from genmem.stages._spaces import Rows, coordinates, latent_means, of_training

FIFTH = 4
SPACES = ("pca", "latent", "data")
WAYS = ("kmeans", "hdbscan")
OUTSIDE = "none"
MOST = 0.5  # share of held-out examples that may be odd
Space = Literal["pca", "latent", "data"]


def regions(
    run: Run,
    *,
    held_out: Outside | None = None,
    held_out_labels: Any | None = None,
    samples: int = 0,
    space: Space = "pca",
    features: tuple[Any, Any] | Any | None = None,
    cells: str = "kmeans",
    n_cells: int | None = None,
    n_regions: int = 10,
    metadata: Metadata | None = None,
    by: Sequence[str] = (),
    seed: int | None = None,
    progress: Listener = ignore,
) -> dict[str, Any]:
    """Find the regions most in need of data, and describe groups by label, cell and metadata; updates the report.

    Writes results/regions.json, regions.npz, groups.json and cells.npz. Called without arguments, it keeps a stored
    result of the same scores.

    Args:
        run: a run with scores.
        held_out: held-out examples of the population that the model is for, an array or a file as for `genmem.load`.
            With them, a region is known to be thin if it has a larger share of held-out examples than of training
            examples; without, only by high scores.
        held_out_labels: labels of the held-out examples, an array or a file; by default those that are read with them,
            such as class folders.
        samples: number of samples of the model to count in each region.
        space: where regions are looked for: "pca" (16 principal components), "latent" (posterior means) or "data".
            Columns of tables are standardized.
        features: coordinates of the training examples, (n, d), in place of `space`; with `held_out`, a pair of those of
            training and of held-out examples.
        cells: how cells are formed: "kmeans" or "hdbscan".
        n_cells: number of cells of k-means; by default n // 100, from 2 to 20.
        n_regions: the largest number of regions that are named.
        metadata: a table with one row per row of the data's source, a data frame, or arrays by name.
        by: columns of the metadata; by default all that divide the examples into groups.
        seed: of samples, cells and permutations; by default that of the run.
        progress: called with each report of progress.

    Returns:
        The contents of results/regions.json.

    Raises:
        DataError: an argument is out of range, or held-out examples, features or metadata do not match the run.
        ModelError: the model has no latent space, or cannot draw samples.
        IncompleteRunError: the run has no scores, or samples or latent means need a model that was not trained yet.
    """
    _check(samples, space, cells, n_regions, by, metadata)
    if held_out is None and held_out_labels is not None:
        raise DataError(expected="held-out examples with the labels", got="labels alone", do="Pass held_out, too.")
    with stage(run, "regions"):
        progress(Progress("regions", 0, 1))
        seed = run.seed if seed is None else int(seed)
        given: dict[str, Any] = {"samples": samples, "space": space, "cells": cells, "n_cells": n_cells}
        given |= {"n_regions": n_regions, "by": list(by), "seed": seed}
        plain = held_out is None and features is None and metadata is None and given == _defaults(run)
        run.data()  # a stored answer is not one for changed data
        if plain and is_current(run) and run.has_result("cells") and run.read_json("results/groups.json") is not None:
            return dict(run.read_json(STORED))
        outside = None if held_out is None else outside_examples(run, None, held_out, held_out_labels)
        about = _compute(run, outside, features, metadata, given)
        about = {"scores": scores_stamp(run), "asked": given, **about}
        run.write_json(STORED, about)
        progress(Progress("regions", 1, 1))
    report_again(run, progress=progress)
    return about


def _defaults(run: Run) -> dict[str, Any]:
    return {
        "samples": 0,
        "space": "pca",
        "cells": "kmeans",
        "n_cells": None,
        "n_regions": 10,
        "by": [],
        "seed": run.seed,
    }


def _check(samples: Any, space: str, cells: str, n_regions: Any, by: Sequence[str], metadata: Any) -> None:
    for name, value, known in (("space", space, SPACES), ("cells", cells, WAYS)):
        if value not in known:
            raise DataError(expected=f"{name} to be one of {', '.join(known)}", got=repr(value), do=f"Change {name}.")
    for name, value, least in (("samples", samples, 0), ("n_regions", n_regions, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataError(
                expected=f"{name} to be a whole number of at least {least}", got=repr(value), do=f"Change {name}."
            )
    if len(by) and metadata is None:
        raise DataError(
            expected="metadata with the columns to group by", got="columns without metadata", do="Pass metadata, too."
        )


def _compute(
    run: Run, outside: Data | None, features: Any, metadata: Metadata | None, given: dict[str, Any]
) -> dict[str, Any]:
    data, known, seed = run.data(), _known(run), given["seed"]
    rows = Rows(
        _flat(data.X),
        _flat(data.X[:0] if outside is None else outside.X),
        _flat(_drawn(run, given["samples"], seed)),
    )
    _check_alike(rows, bool(run.plan["data"]["image_shape"]))
    searched, name = coordinates(run, rows, given["space"], features, seed)
    found = _found(known, searched, given)
    arrays = {"train": found.train, "held_out": found.held_out, "samples": found.samples}
    run.write_result("regions", map=searched.train[:, :2], **arrays)
    kinds = _kinds(run, data, outside, rows, known, metadata, given)
    _write_groups(run, data, known)
    about = described(found, kinds, name, len(rows.held_out), len(rows.samples), known)
    return {"arrays": arrays_stamp(run.result("regions")), **about}


def _found(known: Known, points: Rows, given: dict[str, Any]) -> Regions:
    """Search for regions; of too few examples there are none."""
    if known.n < 2 * MIN_EXAMPLES:
        train, held_out, samples = (np.full(len(part), "") for part in (points.train, points.held_out, points.samples))
        return Regions([], train, held_out, samples, searched=0, judged=len(known.per_repeat))
    return find_regions(
        known,
        points.train,
        points.held_out if len(points.held_out) else None,
        points.samples if len(points.samples) else None,
        n_regions=given["n_regions"],
        seed=given["seed"],
    )


def _check_alike(rows: Rows, images: bool) -> None:
    """Refuse held-out examples that are training examples, or on another scale: most differ from all by a range."""
    if not len(rows.held_out):
        return
    axis = None if images else 0
    low, high = rows.train.min(axis=axis), rows.train.max(axis=axis)
    outside = (rows.held_out > 2 * high - low) | (rows.held_out < 2 * low - high)
    if (outside & (high > low)).any(axis=1).mean() > MOST:
        raise DataError(
            expected=f"held-out examples on the scale of the training examples, {np.min(low):g} to {np.max(high):g}",
            got=f"values from {rows.held_out.min():g} to {rows.held_out.max():g}",
            do="Scale them as the training examples were.",
        )
    known = Counter(row.tobytes() for row in rows.train)
    same = sum(row.tobytes() in known for row in rows.held_out)
    alike = sum(count for count in known.values() if count > 1) / len(rows.train)  # as rows of few values are
    if same > max(MOST, 2 * alike) * len(rows.held_out):
        raise DataError(
            expected="held-out examples that are not among the training examples",
            got=f"{same:,} of {len(rows.held_out):,} that are",
            do="Pass examples that the model did not see.",
        )


def _known(run: Run) -> Known:
    scores = run.result("scores")
    identified = run.result("membership")["identified"] if run.has_result("membership") else None
    distance = nearest_others(run)["distances"]
    return Known(
        scores["per_repeat"],
        run.data().groups,
        identified,
        scores["log_prob_out"],
        distance[:, min(FIFTH, distance.shape[1] - 1)],
    )


def _flat(X: NDArray[Any]) -> NDArray[Any]:
    kind = np.float64 if X.dtype == np.float64 else np.float32
    return np.asarray(X, kind).reshape(len(X), int(np.prod(X.shape[1:])))


def _drawn(run: Run, count: int, seed: int) -> NDArray[Any]:
    X = run.data().X
    if not count:
        return np.asarray(X[:0])
    model = planned_model(run, None)
    if not isinstance(model, DeepDensity):
        raise ModelError(
            expected="samples of a network that was trained on all examples",
            got=type(model).__name__,
            do="Omit samples.",
        )
    fitted, _ = trained_network(run, model)
    return np.asarray(draw(fitted, count, seed32(seed, "samples of regions"))).reshape(count, *X.shape[1:])


# --- groups


def _kinds(
    run: Run,
    data: Data,
    outside: Data | None,
    rows: Rows,
    known: Known,
    metadata: Metadata | None,
    given: dict[str, Any],
) -> dict[str, list[Any]]:
    """Return what is known of labels, cells and the groups of each column of metadata, by kind."""
    kinds = {}
    if data.labels is not None:
        theirs = None if outside is None or outside.labels is None else outside.labels
        if theirs is not None and not np.isin(theirs.astype(str), data.labels.astype(str)).any():
            raise DataError(
                expected=f"held-out labels like those of the run, such as {data.labels[0]!s}",
                got=f"others, such as {theirs[0]!s}",
                do="Use the same names for the labels of both.",
            )
        kinds["label"] = describe_regions("label", known, data.labels, theirs)
    kinds["cell"] = _cells(run, rows, known, given)
    if metadata is not None:
        for name, groups in read_metadata(metadata, data.index, given["by"]).items():
            kind = f"{name} (metadata)" if name in ("label", "cell", "found") else name
            kinds[kind] = describe_regions(kind, known, groups)
    return kinds


def _cells(run: Run, rows: Rows, known: Known, given: dict[str, Any]) -> list[Any]:
    """Form cells in the latent space, or in principal components, and store them."""
    try:
        points, space = latent_means(run, rows), "latent space"
    except (ModelError, IncompleteRunError):
        points, space = of_training(rows, run.seed), "data"
    if given["cells"] == "hdbscan":
        cell = hdbscan_cells(points.train)
    else:
        cell = latent_cells(points.train, n_cells=given["n_cells"], seed=seed32(given["seed"], "cells"))
    run.write_result("cells", cell=cell, space=np.asarray(space))
    theirs, drawn = (_of_nearest(points.train, cell, part) for part in (points.held_out, points.samples))
    return describe_regions("cell", known, _cell_names(cell), theirs, drawn)


def _cell_names(cell: NDArray[Any]) -> NDArray[np.str_]:
    """Return cells as text: "none" for examples that HDBSCAN puts in no cell."""
    return np.asarray(np.where(cell < 0, OUTSIDE, cell.astype(str)))


def _of_nearest(train: NDArray[Any], cell: NDArray[Any], part: NDArray[Any]) -> NDArray[np.str_] | None:
    """Return the cell of the nearest training example; None for a set without rows."""
    from scipy.spatial import KDTree

    return None if not len(part) else _cell_names(cell[KDTree(train).query(part)[1]])


def _write_groups(run: Run, data: Data, known: Known) -> None:
    kinds = {} if data.labels is None else {"label": data.labels}
    groups = [
        {"kind": kind, **_as_json(group, len(known.per_repeat))}
        for kind, members in {**kinds, "cell": _cell_names(run.result("cells")["cell"])}.items()
        for group in group_scores(known.per_repeat, members, belong=known.belong)
    ]
    run.write_json("results/groups.json", groups)


def _as_json(group: GroupScore, repeats: int) -> dict[str, Any]:
    """Return a group for JSON; with one repeat without p, which would ignore the variation between refits."""
    return dict(to_json(group if repeats > 1 else replace(group, p_value=np.nan)))
