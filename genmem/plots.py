"""What does it look like? Plotly figures of an audit, for notebooks and the report.

Scores and log-probabilities are in nats. Colours are those of Okabe and Ito, legible to colour-blind readers;
backgrounds are transparent and greys neutral, so that a figure sits on a light or a dark page. Text that comes
from the data is escaped: plotly reads tags in it.

References: Color Universal Design (Okabe & Ito, 2008), https://jfly.uni-koeln.de/color/
"""

from collections.abc import Sequence
from html import escape
from typing import NotRequired, TypedDict

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from scipy.stats import hypergeom

from genmem.errors import DataError
from genmem.seeding import stream

Floats = NDArray[np.float64]

BLUE, VERMILLION, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#E69F00", "#009E73", "#8A8F98"
FLAGGED = 0.05  # an example is flagged when its q-value is below
TOP = 0.05  # the share of examples called highly memorized, as in van den Burg & Williams (2021)
POINTS = 20_000  # a scatter draws all highlighted examples, and others up to this many in all
SVG_POINTS = 2_000  # a scatter of more points is drawn by WebGL


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


def score_distribution(score: Floats, placebo: Floats | None = None) -> go.Figure:
    """Histogram of memorization scores, counts on a log axis so that the tail shows.

    Args:
        score: (n,) memorization scores, nats.
        placebo: (m, n) scores of sham held-out folds, nats: the null, drawn as the mean count of the m.

    Raises:
        DataError: no score is finite.
    """
    score = _finite(score)
    null = np.empty(0) if placebo is None else _finite(placebo, needed=False)
    edges = _bins(score, null)
    counts, expected = np.histogram(score, edges)[0], np.zeros(1)
    figure = go.Figure(_bars(counts, edges))
    if null.size:
        expected = np.histogram(null, edges)[0] * (score.size / null.size)
        figure.add_trace(_steps(expected, edges))
    mean = float(score.mean())
    figure.add_vline(x=mean, line={"color": GREY, "width": 1.5, "dash": "dot"})
    figure.add_annotation(
        x=mean, y=1, yref="paper", yanchor="top", xanchor="left", text=f" mean {mean:.2f}", showarrow=False
    )
    _dress(figure, "memorization score (nats)", "examples per bin, log scale", 340)
    low = 0.7 * min(1.0, score.size / max(null.size, 1))
    top = 1.6 * max(counts.max(), expected.max())
    return figure.update_yaxes(type="log", range=[np.log10(low), np.log10(top)], dtick=1)


def score_against_log_prob(
    score: Floats,
    log_prob_in: Floats,
    q_value: Floats,
    index: NDArray[np.integer],
    labels: NDArray[np.generic] | Sequence[object] | None = None,
) -> go.Figure:
    """Scatter of score against log_prob_in, examples with q below .05 in vermillion.

    All flagged examples are drawn, and of the others as many as fit in 20,000 points; the legend counts both.

    Args:
        score: (n,) memorization scores, nats.
        log_prob_in: (n,) log-probability of each example under models trained on it, nats.
        q_value: (n,) Benjamini-Hochberg q-values; NaN where there is none (not flagged).
        index: (n,) row in the source, shown on hover.
        labels: (n,) labels, shown on hover.
    """
    flagged = np.asarray(q_value) < FLAGGED
    figure = go.Figure(_points("log_prob_in", log_prob_in, score, flagged, f"q < {FLAGGED:g}", index, labels))
    return _dress(figure, "log_prob_in (nats)", "memorization score (nats)", 440)


def score_against_distance(
    score: Floats,
    distance: Floats,
    index: NDArray[np.integer] | None = None,
    labels: NDArray[np.generic] | Sequence[object] | None = None,
) -> go.Figure:
    """Scatter of score against the distance to other examples, the highest 5% of scores in vermillion.

    Args:
        score: (n,) memorization scores, nats.
        distance: (n,) distance of each example to its nearest other examples, in units of the data.
        index: (n,) row in the source, shown on hover; by default 0 .. n - 1.
        labels: (n,) labels, shown on hover.
    """
    index = np.arange(len(score)) if index is None else index
    figure = go.Figure(_points("distance", distance, score, highest(score), "highest 5% of scores", index, labels))
    return _dress(figure, "distance to other examples", "memorization score (nats)", 440)


def memorized_by_log_prob(score: Floats, log_prob_in: Floats) -> go.Figure:
    """How many of the highest 5% of scores fall in each tenth of log_prob_in, least likely tenth first.

    The band holds 95% of the counts that a random choice of as many examples would give (hypergeometric).

    Args:
        score: (n,) memorization scores, nats.
        log_prob_in: (n,) log-probability of each example under models trained on it, nats.
    """
    top = highest(score)
    tenths = np.array_split(np.argsort(log_prob_in, kind="stable"), 10)
    counts = [int(top[part].sum()) for part in tenths]
    low, high = hypergeom(len(score), int(top.sum()), len(tenths[-1])).interval(0.95)
    names = [str(i) for i in range(1, 11)]
    figure = go.Figure(go.Bar(x=names, y=counts, marker={"color": BLUE}, name="highest 5% of scores"))
    figure.add_hrect(y0=low, y1=high, fillcolor=GREY, opacity=0.25, line_width=0, layer="below")
    figure.add_annotation(
        x=1, xref="paper", xanchor="right", y=high, yanchor="bottom", text="95% of random choices", showarrow=False
    )
    figure.update_traces(hovertemplate="tenth %{x}: %{y} examples<extra></extra>")
    figure.update_xaxes(type="category", showgrid=False)
    _dress(figure, "tenth of log_prob_in, least likely first", "examples", 260)
    return figure.update_layout(bargap=0.25, margin_t=16, showlegend=False)


def trajectory(
    epochs: NDArray[np.integer],
    levels: Floats,
    score_quantiles: Floats,
    null_quantiles: Floats,
    mean_in: Floats,
    mean_out: Floats,
) -> go.Figure:
    """Quantiles of the score and of its null over epochs, above the mean log-probability in and out.

    Args:
        epochs: (E,) scored epochs.
        levels: (Q,) quantile levels, each in (0, 1).
        score_quantiles: (E, Q) quantiles of the score over examples, nats.
        null_quantiles: (E, Q) the same of the placebo scores, nats.
        mean_in: (E,) mean log_prob_in over examples, nats.
        mean_out: (E,) mean log_prob_out over examples, nats.
    """
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.58, 0.42], vertical_spacing=0.08)
    for q, (level, colour) in enumerate(zip(levels, _cycle(len(levels)), strict=True)):
        name = "median" if level == 0.5 else f"{100 * level:g}% quantile"
        figure.add_trace(_line(epochs, score_quantiles[:, q], f"{name} of scores", colour), row=1, col=1)
        figure.add_trace(_line(epochs, null_quantiles[:, q], f"{name}, null", colour, null=True), row=1, col=1)
    figure.add_trace(_line(epochs, mean_in, "mean log_prob_in", GREEN), row=2, col=1)
    figure.add_trace(_line(epochs, mean_out, "mean log_prob_out", GREY), row=2, col=1)
    _dress(figure, "", "score (nats)", 520)
    figure.update_xaxes(title_text="epoch", row=2, col=1)
    return figure.update_yaxes(title_text="log p (nats)", row=2, col=1).update_layout(hovermode="x unified")


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
    names = [_text(group["name"], 60) for group in groups]
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
    _dress(figure, "mean memorization score (nats)", "", 110 + 26 * max(len(groups), 2))
    short = [_text(group["name"], 22) for group in groups]
    return figure.update_yaxes(
        tickvals=rows, ticktext=short, showgrid=False, zeroline=False, automargin=True, range=[-0.7, len(groups) - 0.3]
    )


def highest(score: Floats) -> NDArray[np.bool_]:
    """Mark the highest 5% of scores (at least one example), NaN never.

    >>> int(highest(np.arange(100.0)).sum())
    5
    """
    ranked = np.where(np.isfinite(score), score, -np.inf)
    mark = np.zeros(len(ranked), dtype=bool)
    mark[np.argsort(-ranked, kind="stable")[: max(1, int(TOP * len(ranked)))]] = True
    return mark & np.isfinite(score)


def drawn(highlighted: NDArray[np.bool_], limit: int = POINTS) -> NDArray[np.bool_]:
    """Mark the examples a scatter draws: all highlighted, and a tenth of `limit` or more of the others.

    >>> mark = drawn(np.arange(100) < 10, limit=50)
    >>> int(mark.sum()), bool(mark[:10].all())
    (50, True)
    """
    others = np.flatnonzero(~highlighted)
    room = max(limit - int(highlighted.sum()), limit // 10)
    if others.size > room:
        others = stream(0, "plot").choice(others, room, replace=False)
    mark = highlighted.copy()
    mark[others] = True
    return mark


def _points(
    x_name: str,
    x: Floats,
    y: Floats,
    highlighted: NDArray[np.bool_],
    name: str,
    index: NDArray[np.integer],
    labels: NDArray[np.generic] | Sequence[object] | None,
) -> list[go.Scatter | go.Scattergl]:
    """Two traces, the others below the highlighted, named with how many of how many are drawn."""
    mark = drawn(highlighted)
    kind = go.Scattergl if mark.sum() > SVG_POINTS else go.Scatter
    width = 40 if mark.sum() <= POINTS else 12  # of a label on hover: many long ones would swell the page
    traces = []
    for part, whole, title, colour, size, opacity in (
        (mark & ~highlighted, ~highlighted, "others", BLUE, 5, 0.45),
        (highlighted, highlighted, name, VERMILLION, 6, 0.75),
    ):
        rows = np.flatnonzero(part)
        text = None if labels is None else [_text(labels[int(row)], width) for row in rows]
        label = "" if labels is None else "<br>label %{text}"
        count = f"{whole.sum():,}" if part.sum() == whole.sum() else f"{part.sum():,} of {whole.sum():,} drawn"
        hover = f"row %{{customdata}}{label}<br>{x_name} %{{x:.2f}}<br>score %{{y:.2f}} nats<extra></extra>"
        traces.append(
            kind(x=_small(x[rows]), y=_small(y[rows]), customdata=np.asarray(index)[rows], text=text,
                 mode="markers", name=f"{title} ({count})", hovertemplate=hover,
                 marker={"color": colour, "size": size, "opacity": opacity})
        )  # fmt: skip
    return traces


def _bars(counts: NDArray[np.integer], edges: Floats) -> go.Bar:
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    hover = "%{customdata[0]:.2f} to %{customdata[1]:.2f} nats: %{y} examples<extra></extra>"
    return go.Bar(x=middle, y=counts, width=width, customdata=np.column_stack([edges[:-1], edges[1:]]),
                  marker={"color": BLUE, "line": {"width": 0}}, opacity=0.8, name="examples",
                  hovertemplate=hover)  # fmt: skip


def _steps(counts: Floats, edges: Floats) -> go.Scatter:
    name = "expected with no memorization (placebo)"
    line = {"color": ORANGE, "width": 2.5, "shape": "hvh"}
    heights = np.where(counts > 0, counts, np.nan)  # no point at all, rather than log 0
    hover = "null, %{x:.2f} nats: %{y:.2f} examples<extra></extra>"
    middle = (edges[1:] + edges[:-1]) / 2
    return go.Scatter(x=middle, y=heights, mode="lines", line=line, name=name, hovertemplate=hover)


def _line(epochs: NDArray[np.integer], values: Floats, name: str, colour: str, null: bool = False) -> go.Scatter:
    line = {"color": colour, "width": 1.5 if null else 2.5, "dash": "dot" if null else "solid"}
    mode = "lines" if null else "lines+markers"
    look = {"mode": mode, "line": line, "marker": {"size": 6}, "showlegend": not null}
    return go.Scatter(x=epochs, y=values, name=name, hovertemplate="%{y:.2f}", **look)


def _dress(figure: go.Figure, x: str, y: str, height: int) -> go.Figure:
    """The one look of all figures."""
    clear, grid = "rgba(0,0,0,0)", "rgba(128,128,128,0.22)"
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": 16, "t": 40, "b": 48},
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        font={
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
            "size": 13,
            "color": "#6B7280",
        },
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "bgcolor": clear},
        hoverlabel={"bgcolor": "#22262B", "bordercolor": "#22262B", "font": {"color": "#FFFFFF"}},
        bargap=0,
        showlegend=True,
    )
    axis = {"gridcolor": grid, "zerolinecolor": grid, "linecolor": grid, "title": {"standoff": 8, "font": {"size": 13}}}
    figure.update_xaxes(**axis).update_yaxes(**axis)
    return figure.update_layout(xaxis_title_text=x, yaxis_title_text=y)


def _bins(score: Floats, null: Floats) -> Floats:
    values = np.concatenate([score, null])
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, 1 + int(np.clip(2 * np.sqrt(score.size), 8, 72)))


def _cycle(count: int) -> list[str]:
    return [(BLUE, VERMILLION, "#CC79A7", ORANGE, GREEN)[i % 5] for i in range(count)]


def _finite(values: Floats, needed: bool = True) -> Floats:
    flat = np.asarray(values, dtype=np.float64).ravel()
    kept = flat[np.isfinite(flat)]
    if needed and not kept.size:
        raise DataError(
            expected="at least one finite score",
            got=f"{flat.size} scores, none finite",
            do="Score the run again.",
        )
    return kept


def _small(values: Floats) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)  # half the bytes, more digits than a screen shows


def _text(value: object, width: int) -> str:
    """Text from the data, cut to `width` and escaped, for plotly reads tags.

    >>> _text("<b>bold</b>", 40)
    '&lt;b&gt;bold&lt;/b&gt;'
    """
    text = str(value)
    return escape(text if len(text) <= width else text[: width - 1] + "…")
