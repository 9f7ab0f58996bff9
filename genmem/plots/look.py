"""What all figures share: colours, layout, and text that is safe to draw."""

from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from genmem.errors import DataError

Floats = NDArray[np.float64]

BLUE, VERMILLION, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#8A8F98"


def dress(figure: go.Figure, x: str, y: str, height: int) -> go.Figure:
    """Apply the common layout to a figure and return it."""
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


def finite(values: Floats, needed: bool = True) -> Floats:
    """Return the finite values, flat; if there are none, raise DataError, or return an empty array if not `needed`."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    kept = flat[np.isfinite(flat)]
    if needed and not kept.size:
        raise DataError(
            expected="at least one finite score",
            got=f"{flat.size} scores, none finite",
            do="Score the run again.",
        )
    return kept


def small(values: Floats) -> NDArray[np.float32]:
    """Return float32 values: half the bytes, and still more digits than a screen shows."""
    return np.asarray(values, dtype=np.float32)


def label_text(value: object, width: int) -> str:
    """Return text from the data, cut to `width` and escaped, because plotly interprets tags.

    >>> label_text("<b>bold</b>", 40)
    '&lt;b&gt;bold&lt;/b&gt;'
    """
    text = str(value)
    return escape(text if len(text) <= width else text[: width - 1] + "…")
