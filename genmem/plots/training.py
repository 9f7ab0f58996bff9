"""Figures of memorization over training, and of groups of examples."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from plotly.subplots import make_subplots

from genmem.plots.look import BLUE, GREEN, GREY, ORANGE, PINK, VERMILLION, Floats, dress, label_text
from genmem.regions import Group

CYCLE = (BLUE, VERMILLION, PINK, ORANGE, GREEN)
WIDE = 20  # the epoch axis is logarithmic if the last epoch is at least this many times the first


def trajectory(
    epochs: NDArray[np.integer],
    levels: Floats,
    score_quantiles: Floats,
    null_quantiles: Floats,
    mean_in: Floats,
    mean_out: Floats,
    *,
    quantiles_null_low: Floats | None = None,
    quantiles_null_high: Floats | None = None,
    quantiles_first_epoch: ArrayLike | None = None,
    gap_first_epoch: ArrayLike | None = None,
    best_epoch: ArrayLike | None = None,
) -> go.Figure:
    """Quantiles of the score and of its null over epochs, above the training and the held-out loss.

    The arguments are arrays of `MemorizationCurve.to_arrays`. A ring marks the first epoch at which a quantile is
    above its null, or the held-out loss above the training loss; a vertical line marks where early stopping would stop.

    Args:
        epochs: (E,) scored epochs, ascending.
        levels: (Q,) quantile levels, each in (0, 1).
        score_quantiles: (E, Q) quantiles of the score over examples, nats.
        null_quantiles: (E, Q) the mean of the same quantiles of placebo scores, nats.
        mean_in: (E,) mean log_prob_in over examples, nats.
        mean_out: (E,) mean log_prob_out over examples, nats.
        quantiles_null_low: (E, Q) lower end of the null's band, nats.
        quantiles_null_high: (E, Q) upper end of the null's band, nats.
        quantiles_first_epoch: (Q,) first significant epoch of each quantile, -1 for none.
        gap_first_epoch: first epoch with a significant generalization gap, -1 for none.
        best_epoch: the epoch with the lowest held-out loss.
    """
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.58, 0.42], vertical_spacing=0.08)
    firsts = np.full(len(levels), -1) if quantiles_first_epoch is None else np.asarray(quantiles_first_epoch)
    for q in range(len(levels))[::-1]:  # the outermost first, as they stand in the figure
        name, colour = _quantile(levels[q]), CYCLE[q % len(CYCLE)]
        if quantiles_null_low is not None and quantiles_null_high is not None:
            figure.add_traces(_band(epochs, quantiles_null_low[:, q], quantiles_null_high[:, q], colour), 1, 1)
        figure.add_trace(_line(epochs, null_quantiles[:, q], f"{name}, null", colour, null=True), 1, 1)
        figure.add_trace(_line(epochs, score_quantiles[:, q], name, colour), 1, 1)
        figure.add_traces(_ring(epochs, score_quantiles[:, q], int(firsts[q]), f"{name}: first above its null"), 1, 1)
    figure.add_trace(_line(epochs, -np.asarray(mean_out), "held-out loss", ORANGE, symbol="diamond"), 2, 1)
    figure.add_trace(_line(epochs, -np.asarray(mean_in), "training loss", GREEN, symbol="square"), 2, 1)
    if gap_first_epoch is not None:
        figure.add_traces(_ring(epochs, -np.asarray(mean_out), int(np.asarray(gap_first_epoch)), "first gap"), 2, 1)
    dress(figure, "", "score (nats)", 560).update_layout(legend_traceorder="normal")
    if best_epoch is not None:
        _mark_best(figure, int(np.asarray(best_epoch)), _is_wide(epochs))
    figure.update_xaxes(**_axis(epochs)).update_xaxes(title_text="epoch", row=2, col=1)
    return figure.update_yaxes(title_text="loss (nats)", row=2, col=1).update_layout(hovermode="x unified")


def _quantile(level: float) -> str:
    return "median score" if level == 0.5 else f"{100 * level:g}% quantile"


def _line(
    epochs: NDArray[np.integer], values: Floats, name: str, colour: str, null: bool = False, symbol: str = "circle"
) -> go.Scatter:
    line = {"color": colour, "width": 1.5 if null else 2.5, "dash": "dot" if null else "solid"}
    mode = "lines" if null else "lines+markers"
    look = {"mode": mode, "line": line, "marker": {"size": 6, "symbol": symbol}, "showlegend": not null}
    return go.Scatter(x=epochs, y=values, name=name, hovertemplate="%{y:.2f}", **look)


def _band(epochs: NDArray[np.integer], low: Floats, high: Floats, colour: str) -> list[go.Scatter]:
    """Return two edges without a line, the space between them filled."""
    edge = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    fill = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.2)"}
    return [go.Scatter(x=epochs, y=low, **edge), go.Scatter(x=epochs, y=high, name="null, 95% band", **edge, **fill)]


def _ring(epochs: NDArray[np.integer], values: Floats, first: int, name: str) -> list[go.Scatter]:
    """Return a ring at the first significant epoch, or nothing."""
    at = np.flatnonzero(np.asarray(epochs) == first)
    marker = {"symbol": "circle-open", "size": 15, "color": GREY, "line": {"width": 2.5}}
    look = {"mode": "markers", "marker": marker, "showlegend": False, "hovertemplate": "epoch %{x}"}
    return [go.Scatter(x=np.asarray(epochs)[at], y=np.asarray(values)[at], name=name, **look)] if len(at) else []


def _mark_best(figure: go.Figure, epoch: int, log: bool) -> None:
    figure.add_vline(x=epoch, line={"color": GREY, "width": 1.5, "dash": "dash"})
    x = np.log10(epoch) if log else epoch  # an annotation on a log axis is placed by the logarithm
    figure.add_annotation(
        x=x, xref="x2", xanchor="right", y=1, yref="y2 domain", yanchor="top", showarrow=False,
        text=f"best held-out loss: epoch {epoch} ",
    )  # fmt: skip


def _is_wide(epochs: NDArray[np.integer]) -> bool:
    return len(epochs) > 2 and 0 < epochs[0] * WIDE <= epochs[-1]


def _axis(epochs: NDArray[np.integer]) -> dict[str, object]:
    """Return a log axis with a tick at each scored epoch if they span a wide range, else a plain axis."""
    if not _is_wide(epochs):
        return {}
    values = [int(epoch) for epoch in epochs]
    return {"type": "log", "tickmode": "array", "tickvals": values, "ticktext": [str(v) for v in values]}


# --- groups of examples


def group_intervals(groups: Sequence[Group]) -> go.Figure:
    """Mean score of each group with its interval, highest on top; a tick marks the mean of the rest.

    Args:
        groups: each with its name, n, mean, interval and rest; nats.
    """
    groups = sorted(groups, key=lambda group: group.mean)
    rows = np.arange(len(groups))
    bounds = np.array([group.interval for group in groups]).reshape(-1, 2)
    mean = np.array([group.mean for group in groups])
    rest = np.array([group.rest for group in groups])
    error = {"array": bounds[:, 1] - mean, "arrayminus": mean - bounds[:, 0], "thickness": 2, "width": 0}
    names = [label_text(group.name, 60) for group in groups]
    tick = {"symbol": "line-ns-open", "size": 13, "color": GREY, "line": {"width": 2}}
    figure = go.Figure(
        [
            go.Scatter(x=rest, y=rows, mode="markers", marker=tick, name="mean of the rest", text=names),
            go.Scatter(x=mean, y=rows, error_x=error, mode="markers", marker={"color": BLUE, "size": 9},
                       name="mean, 95% interval", text=names, customdata=[group.n for group in groups]),
        ]
    )  # fmt: skip
    figure.data[0].hovertemplate = "all but %{text}: %{x:.2f} nats<extra></extra>"
    figure.data[1].hovertemplate = "%{text}: %{x:.2f} nats, n = %{customdata}<extra></extra>"
    dress(figure, "mean memorization score (nats)", "", 110 + 26 * max(len(groups), 2))
    short = [label_text(group.name, 22) for group in groups]
    return figure.update_yaxes(
        tickvals=rows, ticktext=short, showgrid=False, zeroline=False, automargin=True, range=[-0.7, len(groups) - 0.3]
    )
