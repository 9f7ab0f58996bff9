"""A figure of two audits: the score of every example in one against its score in the other."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from genmem.plots.look import BLUE, GREEN, GREY, ORANGE, PINK, VERMILLION, Floats, dress, label_text, small
from genmem.plots.scores import SVG_POINTS, drawn

COLOURS = (BLUE, GREEN, ORANGE, PINK, VERMILLION)
WIDTH = 30  # characters of a name or label
MOST, FAR = 0.995, 3.0  # axes show most scores if the highest is so many times as far as those


def score_against_score(
    one: Floats,
    other: Floats,
    names: tuple[str, str],
    part: NDArray[np.integer],
    parts: Sequence[str],
    index: NDArray[np.integer],
    labels: Sequence[object] | None = None,
) -> go.Figure:
    """Scatter of the scores of one audit against those of another, with the line on which they are equal.

    All examples of parts other than the first are drawn, and others up to 20,000 points in total. Infinite scores are
    left out. Axes end above most scores if a few are much higher; a double click shows all.

    Args:
        one: (n,) memorization scores of the first, nats.
        other: (n,) of the second, nats.
        names: of both.
        part: (n,) the part of each example, below 5; 0 are those that are not highlighted.
        parts: the name of each part.
        index: (n,) row in the source, shown on hover.
        labels: (n,) labels, shown on hover.
    """
    known = np.isfinite(one) & np.isfinite(other)
    shown = drawn(part > 0) & known
    kind = go.Scattergl if shown.sum() > SVG_POINTS else go.Scatter
    x_name, y_name = (label_text(name, WIDTH) for name in names)
    figure = go.Figure()
    for at, name in enumerate(parts):
        rows, whole = np.flatnonzero(shown & (part == at)), int((part == at).sum())
        text = ["" if labels is None else f"<br>label {label_text(labels[int(row)], WIDTH)}" for row in rows]
        count = f"{whole:,}" if len(rows) == whole else f"{len(rows):,} of {whole:,} drawn"
        figure.add_trace(
            kind(x=small(one[rows]), y=small(other[rows]), customdata=np.asarray(index)[rows], text=text,
                 mode="markers", name=f"{label_text(name, 2 * WIDTH)} ({count})",
                 marker={"color": COLOURS[at], "size": 6, "opacity": 0.75 if at else 0.45},
                 hovertemplate=f"row %{{customdata}}%{{text}}<br>{x_name} %{{x:.2f}}<br>{y_name} %{{y:.2f}} nats"
                 "<extra></extra>")
        )  # fmt: skip
    values = np.concatenate([one[known], other[known]])
    ends = [float(values.min()), float(values.max())] if len(values) else [0.0, 1.0]
    line = {"color": GREY, "width": 1.5, "dash": "dot"}
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=line, name="equal scores", hoverinfo="skip"))
    dress(figure, f"score of {x_name} (nats)", f"score of {y_name} (nats)", 460)
    return figure.update_xaxes(range=_range(one[known])).update_yaxes(range=_range(other[known]))


def _range(score: Floats) -> list[float] | None:
    """Return where an axis ends if a few scores are much higher than all others, which would be one spot; else None.

    >>> _range(np.arange(1000.0)), _range(np.array([0.0] * 300 + [1.0] * 699 + [100.0]))
    (None, [-0.05, 1.5])
    """
    if not len(score):
        return None
    low, high = float(score.min()), float(np.quantile(score, MOST))
    return [low - 0.05 * (high - low), high + 0.5 * (high - low)] if score.max() - low > FAR * (high - low) else None
