"""Pictures of examples: images as inline PNG, rows of a table as their most unusual columns; and all figures."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from genmem import plots
from genmem.plots import Floats, Group
from genmem.report.results import Results

SIDES = (96, 64, 48, 32, 24, 16)  # pixels of the longer side of reduced pictures
COLUMNS = 64  # columns of a table that are read at a time


@dataclass(frozen=True)
class Scale:
    """The values drawn as black and as white, common to all examples."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """One column in which a row differs from its nearest neighbour; `spread` in standard deviations."""

    column: str
    here: float
    there: float | None
    median: float
    spread: float


def scale_of(X: NDArray[np.generic]) -> Scale:
    """Choose the scale: 0 to 1 if it contains all values, 0 to 255 for other bytes, else the range of the values.

    >>> scale_of(np.array([0.0, 0.4])), scale_of(np.array([-1.0, 3.0]))
    (Scale(low=0.0, high=1.0), Scale(low=-1.0, high=3.0))
    """
    low, high = float(np.nanmin(X)), float(np.nanmax(X))
    if low >= 0 and high <= 1:  # binarized bytes too
        return Scale(0.0, 1.0)
    return Scale(0.0, 255.0) if X.dtype == np.uint8 else Scale(low, high)


def pixels(row: NDArray[np.generic], shape: Sequence[int], scale: Scale) -> NDArray[np.uint8]:
    """Turn one example into (h, w) grey or (h, w, 3 or 4) colour bytes.

    Args:
        row: one example, flat, (h, w), (h, w, c) or (c, h, w).
        shape: (h, w), (h, w, c) or (c, h, w), as `data.image_shape` of audit.json.
        scale: the values of black and of white.
    """
    shape = tuple(shape)
    if row.ndim == 3 and row.shape != shape and row.shape == (shape[-1], *shape[:-1]):
        row = np.moveaxis(row, 0, -1)
    image = np.nan_to_num(row.reshape(shape).astype(np.float64), nan=scale.low)
    if image.ndim == 3 and image.shape[-1] not in (1, 3, 4):
        image = np.moveaxis(image, 0, -1)
    if image.ndim == 3 and image.shape[-1] not in (3, 4):
        image = image.mean(axis=-1)
    span = (scale.high - scale.low) or 1.0
    return np.round(255 * np.clip((image - scale.low) / span, 0, 1)).astype(np.uint8)


def png(image: NDArray[np.uint8], side: int) -> str:
    """Encode an image as a data: address, reduced to `side` pixels if it is larger."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def album(
    X: NDArray[np.generic], shape: Sequence[int], positions: Sequence[int], budget: int
) -> tuple[dict[int, str], int | None]:
    """Encode the examples at `positions` as large as the budget of bytes allows.

    Returns:
        data: addresses by position, and the side they were reduced to (None for their own size).
    """
    scale = scale_of(X)
    images = {p: pixels(np.asarray(X[p]), shape, scale) for p in dict.fromkeys(positions)}
    native = max((max(image.shape[:2]) for image in images.values()), default=0)
    for side in SIDES:
        uris = {p: png(image, side) for p, image in images.items()}
        if sum(len(uris[p]) for p in positions) <= budget:
            break
    return uris, side if native > side else None


def differ(X: NDArray[np.generic], columns: Sequence[str], count: int = 5) -> Callable[..., list[Difference]]:
    """Return a function of (position or row, neighbour or None): the columns in which a row is most unusual.

    The row is compared with the neighbour, or with the median if there is none, in standard deviations of the column.
    Constant columns are omitted.
    """
    rows = X.reshape(len(X), -1)
    median, spread = centre_and_spread(rows)

    def differences(one: int | NDArray[np.generic], neighbor: int | None = None) -> list[Difference]:
        here = (rows[one] if isinstance(one, int | np.integer) else one.ravel()).astype(np.float64)
        there = median if neighbor is None else rows[neighbor].astype(np.float64)
        apart = np.divide(np.abs(here - there), spread, out=np.zeros(len(here)), where=spread > 0)
        chosen = [c for c in np.argsort(-apart, kind="stable")[:count] if spread[c] > 0]
        return [_difference(c, columns, here, None if neighbor is None else there, median, apart) for c in chosen]

    return differences


def centre_and_spread(rows: NDArray[np.generic]) -> tuple[Floats, Floats]:
    """Return median and standard deviation of each column; only a few columns are in memory at a time."""
    median, spread = np.empty(rows.shape[1]), np.empty(rows.shape[1])
    for start in range(0, rows.shape[1], COLUMNS):
        part = rows[:, start : start + COLUMNS].astype(np.float64)
        median[start : start + COLUMNS], spread[start : start + COLUMNS] = np.median(part, axis=0), part.std(axis=0)
    return median, spread


def _difference(
    c: int, columns: Sequence[str], here: Floats, there: Floats | None, median: Floats, apart: Floats
) -> Difference:
    name = columns[c] if c < len(columns) else f"column {c}"
    return Difference(
        name, float(here[c]), None if there is None else float(there[c]), float(median[c]), float(apart[c])
    )


# --- figures


TRAJECTORY = (  # arrays of results/trajectory.npz
    "epochs",
    "levels",
    "score_quantiles",
    "null_quantiles",
    "mean_in",
    "mean_out",
    "quantiles_null_low",
    "quantiles_null_high",
    "quantiles_first_epoch",
    "gap_first_epoch",
    "best_epoch",
)
GROUPS = 30  # groups of each kind that are shown, highest mean first


@dataclass(frozen=True)
class Figure:
    """A plotly figure as JSON that is safe inside a script element, and its height in pixels."""

    json: Markup
    height: int


def figures(results: Results, groups: dict[str, list[Group]]) -> dict[str, Figure]:
    """Draw the figures of a run; a figure whose results are missing is omitted."""
    s, near, path = results.scores, results.neighbors or {}, results.trajectory or {}
    found = {}
    if np.isfinite(s["score"]).any():
        found["distribution"] = plots.score_distribution(s["score"], results.placebo)
        found["log_prob"] = plots.score_against_log_prob(
            s["score"], s["log_prob_in"], s["q_value"], results.index, results.labels
        )
    if len(s["score"]) >= 200:
        found["tenths"] = plots.memorized_by_log_prob(s["score"], s["log_prob_in"])
    if len(path.get("epochs", ())) > 1:
        curve: dict[str, Any] = {name: path.get(name) for name in TRAJECTORY}
        found["trajectory"] = plots.trajectory(**curve)
    if "distance" in near:
        found["distance"] = plots.score_against_distance(s["score"], near["distance"], results.index, results.labels)
    if shaped := results.influence:
        at, own = shaped["examples"], shaped["self_influence"]
        labels = [results.labels[p] for p in at] if results.labels else None
        found["influence"] = plots.self_influence_against_score(own, s["score"][at], results.index[at], labels)
    for kind, part in groups.items():
        if part:
            found[kind] = plots.group_intervals(part[:GROUPS])
    return {name: figure_of(figure) for name, figure in found.items()}


def figure_of(figure: go.Figure) -> Figure:
    """Return a figure as JSON that is safe inside a script element."""
    # Newer versions of plotly escape angle brackets too; a second time does no harm.
    text = figure.to_json().replace("<", "\\u003c").replace(">", "\\u003e")
    return Figure(Markup(text), int(figure.layout.height))


def drawn(results: Results) -> tuple[int, int]:
    """Return how many examples the scatter of score against log_prob_in draws, and how many there are."""
    flagged = results.scores["q_value"] < plots.FLAGGED
    return int(plots.drawn(flagged).sum()), len(flagged)
