"""Figures of the scores at the end of training: their distribution, and scatters against possible explanations."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from scipy.stats import hypergeom

from genmem.plots.look import BLUE, GREY, ORANGE, VERMILLION, Floats, dress, finite, label_text, small
from genmem.seeding import stream

FLAGGED = 0.05  # an example is flagged if its q-value is below this
TOP = 0.05  # the share of examples called highly memorized, as in van den Burg & Williams (2021)
POINTS = 20_000  # a scatter draws all highlighted examples, and others up to this total
SVG_POINTS = 2_000  # scatters of more points are drawn with WebGL


def score_distribution(score: Floats, placebo: Floats | None = None) -> go.Figure:
    """Histogram of memorization scores, counts on a log axis so that the tail shows.

    Args:
        score: (n,) memorization scores, nats.
        placebo: (m, n) scores of folds treated as held out but trained on, nats: the null, drawn as the mean count.

    Raises:
        DataError: no score is finite.
    """
    score = finite(score)
    null = np.empty(0) if placebo is None else finite(placebo, needed=False)
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
    dress(figure, "memorization score (nats)", "examples per bin, log scale", 340)
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

    All flagged examples are drawn, and others up to 20,000 points in total; the legend counts both.

    Args:
        score: (n,) memorization scores, nats.
        log_prob_in: (n,) log-probability of each example under models trained on it, nats.
        q_value: (n,) Benjamini-Hochberg q-values; NaN if undefined (not flagged).
        index: (n,) row in the source, shown on hover.
        labels: (n,) labels, shown on hover.
    """
    flagged = np.asarray(q_value) < FLAGGED
    figure = go.Figure(_points("log_prob_in", log_prob_in, score, flagged, f"q < {FLAGGED:g}", index, labels))
    return dress(figure, "log_prob_in (nats)", "memorization score (nats)", 440)


def score_against_distance(
    score: Floats,
    distance: Floats,
    index: NDArray[np.integer] | None = None,
    labels: NDArray[np.generic] | Sequence[object] | None = None,
) -> go.Figure:
    """Scatter of score against the distance to other examples, the highest 5% of scores in vermillion.

    Args:
        score: (n,) memorization scores, nats.
        distance: (n,) distance of each example to its nearest neighbours, in units of the data.
        index: (n,) row in the source, shown on hover; by default 0 .. n - 1.
        labels: (n,) labels, shown on hover.
    """
    index = np.arange(len(score)) if index is None else index
    figure = go.Figure(_points("distance", distance, score, highest(score), "highest 5% of scores", index, labels))
    return dress(figure, "distance to other examples", "memorization score (nats)", 440)


def self_influence_against_score(
    self_influence: Floats,
    score: Floats,
    index: NDArray[np.integer] | None = None,
    labels: NDArray[np.generic] | Sequence[object] | None = None,
) -> go.Figure:
    """Scatter of self-influence against the memorization score, the highest 5% of scores in vermillion.

    Args:
        self_influence: (n,) influence of each example on itself, nats.
        score: (n,) memorization scores, nats.
        index: (n,) row in the source, shown on hover; by default 0 .. n - 1.
        labels: (n,) labels, shown on hover.
    """
    index = np.arange(len(score)) if index is None else index
    top, name = highest(score), "highest 5% of scores"
    figure = go.Figure(_points("score", score, self_influence, top, name, index, labels, "self-influence"))
    return dress(figure, "memorization score (nats)", "self-influence (nats)", 440)


def memorized_by_log_prob(score: Floats, log_prob_in: Floats) -> go.Figure:
    """Bar chart: how many of the highest 5% of scores fall in each tenth of log_prob_in, least likely tenth first.

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
    dress(figure, "tenth of log_prob_in, least likely first", "examples", 260)
    return figure.update_layout(bargap=0.25, margin_t=16, showlegend=False)


def highest(score: Floats) -> NDArray[np.bool_]:
    """Return a mask of the highest 5% of scores (at least one example), never of NaN.

    >>> int(highest(np.arange(100.0)).sum())
    5
    """
    ranked = np.where(np.isfinite(score), score, -np.inf)
    mark = np.zeros(len(ranked), dtype=bool)
    mark[np.argsort(-ranked, kind="stable")[: max(1, int(TOP * len(ranked)))]] = True
    return mark & np.isfinite(score)


def drawn(highlighted: NDArray[np.bool_], limit: int = POINTS) -> NDArray[np.bool_]:
    """Return a mask of the examples to draw: all highlighted, and others up to `limit`, but at least a tenth of it.

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
    y_name: str = "score",
) -> list[go.Scatter | go.Scattergl]:
    """Return two traces, the highlighted above the others; names say how many of how many are drawn."""
    mark = drawn(highlighted)
    kind = go.Scattergl if mark.sum() > SVG_POINTS else go.Scatter
    width = 40 if mark.sum() <= POINTS else 12  # of a label on hover: many long ones would swell the page
    traces = []
    for part, whole, title, colour, size, opacity in (
        (mark & ~highlighted, ~highlighted, "others", BLUE, 5, 0.45),
        (highlighted, highlighted, name, VERMILLION, 6, 0.75),
    ):
        rows = np.flatnonzero(part)
        text = None if labels is None else [label_text(labels[int(row)], width) for row in rows]
        label = "" if labels is None else "<br>label %{text}"
        count = f"{whole.sum():,}" if part.sum() == whole.sum() else f"{part.sum():,} of {whole.sum():,} drawn"
        hover = f"row %{{customdata}}{label}<br>{x_name} %{{x:.2f}}<br>{y_name} %{{y:.2f}} nats<extra></extra>"
        traces.append(
            kind(x=small(x[rows]), y=small(y[rows]), customdata=np.asarray(index)[rows], text=text,
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
    name = "expected without memorization (placebo)"
    line = {"color": ORANGE, "width": 2.5, "shape": "hvh"}
    heights = np.where(counts > 0, counts, np.nan)  # no point, since log 0 is undefined
    hover = "null, %{x:.2f} nats: %{y:.2f} examples<extra></extra>"
    middle = (edges[1:] + edges[:-1]) / 2
    return go.Scatter(x=middle, y=heights, mode="lines", line=line, name=name, hovertemplate=hover)


def _bins(score: Floats, null: Floats) -> Floats:
    values = np.concatenate([score, null])
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, 1 + int(np.clip(2 * np.sqrt(score.size), 8, 72)))
