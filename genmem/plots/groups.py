"""Figures of groups of examples."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
import plotly.graph_objects as go

from genmem.plots.look import BLUE, GREY, dress, label_text


class Group(TypedDict):
    """One group of examples, as `groups` of audit.json holds it; means and scores in nats."""

    kind: str
    name: str
    n: int
    mean: float
    standard_error: float | None
    interval: list[float] | None
    rest: float | None
    p_value: NotRequired[float | None]
    examples: list[int]


def group_intervals(groups: Sequence[Group]) -> go.Figure:
    """Mean score of each group with its interval, the highest on top; a tick marks the mean of the rest.

    Args:
        groups: as `groups` of audit.json: name, n, mean, interval, rest; nats.
    """
    groups = sorted(groups, key=lambda group: group["mean"])
    rows = np.arange(len(groups))
    bounds = np.array([group["interval"] or [np.nan, np.nan] for group in groups], dtype=float).reshape(-1, 2)
    mean = np.array([group["mean"] for group in groups], dtype=float)
    rest = np.array([group["rest"] for group in groups], dtype=float)  # None becomes NaN
    error = {"array": bounds[:, 1] - mean, "arrayminus": mean - bounds[:, 0], "thickness": 2, "width": 0}
    names = [label_text(group["name"], 60) for group in groups]
    tick = {"symbol": "line-ns-open", "size": 13, "color": GREY, "line": {"width": 2}}
    figure = go.Figure(
        [
            go.Scatter(x=rest, y=rows, mode="markers", marker=tick, name="mean of the rest", text=names),
            go.Scatter(x=mean, y=rows, error_x=error, mode="markers", marker={"color": BLUE, "size": 9},
                       name="mean, 95% interval", text=names, customdata=[group["n"] for group in groups]),
        ]
    )  # fmt: skip
    figure.data[0].hovertemplate = "all but %{text}: %{x:.2f} nats<extra></extra>"
    figure.data[1].hovertemplate = "%{text}: %{x:.2f} nats, n = %{customdata}<extra></extra>"
    dress(figure, "mean memorization score (nats)", "", 110 + 26 * max(len(groups), 2))
    short = [label_text(group["name"], 22) for group in groups]
    return figure.update_yaxes(
        tickvals=rows, ticktext=short, showgrid=False, zeroline=False, automargin=True, range=[-0.7, len(groups) - 0.3]
    )
