"""The section on regions: which need more examples, how many, what they look like and where they lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from genmem import plots
from genmem.findings.records import Finding, from_json
from genmem.regions import Region
from genmem.report.pictures import Figure, centre_and_spread, figure_of
from genmem.report.results import Results
from genmem.report.verdicts import Verdict

TRAITS = 3  # columns that tell a region of a table from the rest
LEAST_TRAIT = 0.5  # standard deviations by which a column must differ
SEQUENCE = 8  # values from which a row without column names is drawn as a line
WIDTH, HEIGHT = 120, 28  # of a line, pixels


@dataclass(frozen=True)
class Trait:
    """A column whose mean in a region differs from that of all examples, by `apart` standard deviations."""

    column: str
    here: float
    overall: float
    apart: float


@dataclass(frozen=True)
class Section:
    """What audit.json says of regions, and what each region looks like.

    Attributes:
        about: `regions` of audit.json.
        found: regions of the search, most in need first.
        kinds: groups by label, cell and column of metadata.
        traits: by name of a region found, what tells it from the rest; none for images.
        lines: by name of a region found, drawings of sequences; none for images and tables.
        figure: the map; None if it was not stored.
    """

    about: dict[str, Any]
    found: list[Region]
    kinds: dict[str, list[Region]]
    traits: dict[str, list[Trait]]
    lines: dict[str, list[Markup]]
    figure: Figure | None


def section(results: Results) -> Section | None:
    """Return the section, or None if regions were not looked for."""
    about, arrays = results.audit.get("regions"), results.regions
    if not about:
        return None
    found = [from_json(Region, region) for region in about["found"]]
    kinds = {kind: [from_json(Region, region) for region in part] for kind, part in about["kinds"].items()}
    names = None if arrays is None else arrays["train"].astype(str)
    data = results.audit["data"]
    traits, lines = {}, {}
    if names is not None and not data.get("image_shape"):
        if data.get("columns"):
            traits = _traits(results.X, data["columns"], names, [region.name for region in found])
        else:
            lines = {region.name: _lines(results.X, region.examples[:3]) for region in found}
    figure = None
    if arrays is not None and "map" in arrays and names is not None:
        figure = figure_of(plots.region_map(arrays["map"], names, [region.name for region in found]))
    return Section(about, found, kinds, traits, lines, figure)


def positions(part: Section | None, limit: int, count: int) -> list[int]:
    """Return the positions of all examples that the section shows: `count` of up to `limit` regions of each kind."""
    shown = [] if part is None else [part.found, *part.kinds.values()]
    return [p for regions in shown for region in regions[:limit] for p in region.examples[:count]]


def verdict(results: Results, part: Section | None) -> Verdict | None:
    """Answer the question by the region that stands out; None if none does."""
    first = None if part is None else next((region for region in part.found if region.stands_out), None)
    if part is None or first is None:
        return None
    evidence: Finding | None = next((f for f in results.findings if f.id == "region"), None)
    return Verdict("regions", part.about["sentence"], evidence, list(first.examples))


def _traits(
    X: NDArray[Any], columns: Sequence[str], names: NDArray[np.str_], regions: Sequence[str]
) -> dict[str, list[Trait]]:
    rows = X.reshape(len(X), -1)
    _, spread = centre_and_spread(rows)
    overall, found = rows.mean(axis=0, dtype=np.float64), {}
    for name in regions:
        inside = names == name
        here = rows[inside].mean(axis=0, dtype=np.float64) if inside.any() else overall
        apart = np.divide(here - overall, spread, out=np.zeros(len(here)), where=spread > 0)
        chosen = [c for c in np.argsort(-np.abs(apart), kind="stable")[:TRAITS] if abs(apart[c]) >= LEAST_TRAIT]
        found[name] = [Trait(columns[c], float(here[c]), float(overall[c]), float(apart[c])) for c in chosen]
    return found


def _lines(X: NDArray[Any], examples: Sequence[int]) -> list[Markup]:
    """Draw rows of numbers as lines, on the scale of all of them; nothing for short rows."""
    if np.prod(X.shape[1:]) < SEQUENCE or not len(examples):
        return []
    rows = np.nan_to_num(np.stack([np.asarray(X[p], np.float64).ravel() for p in examples]))
    low, span = rows.min(), np.ptp(rows) or 1.0
    across = np.linspace(1, WIDTH - 1, rows.shape[1])
    return [_line(across, HEIGHT - 1 - (HEIGHT - 2) * (row - low) / span) for row in rows]


def _line(across: NDArray[np.float64], up: NDArray[np.float64]) -> Markup:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, up, strict=True))
    return Markup(  # numbers only
        f'<svg class="sparkline" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="values of the example">'
        f'<polyline points="{points}"/></svg>'
    )
