"""The figures of the page, as JSON that plotly draws in the browser."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from genmem import plots
from genmem.plots import Group
from genmem.report.results import Results

TRAJECTORY = (  # of results/trajectory.npz
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
GROUPS = 30  # groups of each kind that are shown, the highest mean first


@dataclass(frozen=True)
class Figure:
    """A plotly figure as JSON that is safe inside a script element, and its height in pixels."""

    json: Markup
    height: int


def figures(results: Results, groups: dict[str, list[Group]]) -> dict[str, Figure]:
    """Draw what the results hold; a figure whose results are not there is left out."""
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
    return {name: _figure(figure) for name, figure in found.items()}


def _figure(figure: go.Figure) -> Figure:
    # plotly escapes the angle brackets too; a second time costs nothing and does not rest on its version.
    text = figure.to_json().replace("<", "\\u003c").replace(">", "\\u003e")
    return Figure(Markup(text), int(figure.layout.height))


def drawn(results: Results) -> tuple[int, int]:
    """How many examples the scatter of score against log_prob_in draws, and of how many."""
    flagged = results.scores["q_value"] < plots.FLAGGED
    return int(plots.drawn(flagged).sum()), len(flagged)
