"""A map of the training examples with the regions that were named."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from genmem.plots.look import GREY, dress, label_text, small

MOST = 4000  # points outside regions that are drawn


def region_map(points: ArrayLike, names: ArrayLike, regions: Sequence[str]) -> go.Figure:
    """Training examples in two dimensions, with the regions that were named in colour.

    Args:
        points: (n, 2) coordinates, or (n, 1).
        names: (n,) the region of each example, "" for none.
        regions: the names of the regions, in order.
    """
    xy, of = np.asarray(points, np.float64), np.asarray(names).astype(str)
    xy = np.column_stack([xy, np.zeros(len(xy))])[:, :2] if xy.shape[1] < 2 else xy
    figure = go.Figure()
    others = np.flatnonzero(~np.isin(of, regions))
    others = others[:: max(1, -(-len(others) // MOST))]
    figure.add_trace(_points(xy[others], "elsewhere", 3, 0.35, GREY))
    for name in regions:
        figure.add_trace(_points(xy[of == name], label_text(f"region {name}", 30), 8, 0.9, None))
    dress(figure, "first dimension", "second dimension", 460)
    return figure


def _points(xy: NDArray[np.float64], name: str, size: int, opacity: float, color: str | None) -> go.Scattergl:
    marker = {"size": size, "opacity": opacity, **({} if color is None else {"color": color})}
    return go.Scattergl(x=small(xy[:, 0]), y=small(xy[:, 1]), mode="markers", name=name, marker=marker)
