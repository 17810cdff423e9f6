r"""The curves of a comparison, as plotly figures.

While training, the validation ELBO of every row. Over log-SNR, the ELBO of data noised to
$\lambda$, as a loss, minus the median of all rows,

$$L_i(\lambda) - \frac1n \sum_j L_j(\lambda),$$

its slope, the loss at a noise level, likewise and as it is; and the rank correlation of
$L(\lambda)$ with the scores. A weighting's family has a colour; weightings that are not monotone
are dashed. Each curve holds its row's name as `meta`, by which the page brings it out.
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from plotly.graph_objects import Figure, Scatter

from elbos.arrays import Array
from elbos.comparison.names import family
from elbos.report.panels import COLORS, Panel, area, log_axis, logsnr_axis, stacked

Rows = Sequence[Mapping[str, Any]]
_LEVELS = ("logsnr", "nats_per_dim")
_FAR = 10.0  # times the height of the median curve


def styles(rows: Rows) -> dict[str, tuple[str, str]]:
    """Each row's colour, and its dash."""
    families = dict.fromkeys(family(row["weighting"]) for row in rows)
    colors = dict(zip(families, cycle(COLORS), strict=False))
    return {
        row["name"]: (colors[family(row["weighting"])], "solid" if row["is_monotone"] else "dash")
        for row in rows
    }


def learning_figure(rows: Rows) -> Figure | None:
    """The validation ELBO over images seen, as it is and against the median of rows, or none."""
    if not any(row["learning"] for row in rows):
        return None
    axes = ("learning", "images", "bits_per_dim")
    absolute = _absolute(rows, axes, ".4g")
    panels = [
        Panel("<b>Validation ELBO</b>, bits/dim", 180, absolute, _range(absolute)),
        _relative(rows, axes, "<b>Minus the median</b> of all rows", 260),
    ]
    most = max(num for trace in panels[0].traces for num in trace.x)
    xaxis = {"title": {"text": "images seen", "standoff": 8}, "range": [0, 1.02 * most]}
    return _finished(stacked(panels, xaxis, has_legend=True))


def levels_figure(rows: Rows) -> Figure | None:
    """The ELBO of noisy data and the loss, both against the median of all rows, and the loss."""
    panels = []
    if any(row["elbo"] for row in rows):
        title = "<b>ELBO</b> of noisy data, minus the median"
        panels.append(_relative(rows, ("elbo", *_LEVELS), title, 300))
    if any(row["curve"] for row in rows):
        axes = ("curve", *_LEVELS)
        title = "<b>Loss</b>, relative to the median"
        panels.append(_relative(rows, axes, title, 260, is_share=True))
        traces = _absolute(rows, axes, ".3g")
        values = np.concatenate([np.array(trace.y, dtype=float) for trace in traces])
        panels.append(Panel("<b>Loss</b> as it is, nats/dim", 180, traces, log_axis(values)))
    if not panels:
        return None
    levels = [level for panel in panels for trace in panel.traces for level in trace.x]
    fig = stacked(panels, logsnr_axis(min(levels), max(levels)), has_legend=True)
    return _finished(fig)


def _absolute(rows: Rows, axes: tuple[str, str, str], digits: str) -> list[Scatter]:
    look, (key, x, y) = styles(rows), axes
    return [
        _line(row, row[key][x], row[key][y], look[row["name"]], digits) for row in rows if row[key]
    ]


def _relative(
    rows: Rows, axes: tuple[str, str, str], title: str, height: int, *, is_share: bool = False
) -> Panel:
    """Differences to the median of all rows, or quotients."""
    look, (key, x, y) = styles(rows), axes
    shown = [row for row in rows if row[key]]
    grid = np.array(shown[0][key][x], dtype=float)
    values = np.array([np.interp(grid, row[key][x], row[key][y]) for row in shown])
    median = np.median(values, axis=0)
    known = np.where(median > 0, median, np.nan)  # an estimate of few images may be below zero
    values = values / known - 1 if is_share else values - median
    traces = [
        _line(row, grid, value, look[row["name"]], "+.1%" if is_share else "+.4f")
        for row, value in zip(shown, values, strict=True)
    ]
    axis = {"tickformat": "+.0%" if is_share else "+~g", **_range(traces)}
    return Panel(title, height, traces, axis)


def _range(traces: Sequence[Scatter]) -> dict[str, list[float]]:
    """Of most curves: a few that are far from all others leave the panel."""
    tops = [np.nanmax(np.abs(trace.y)) for trace in traces]
    middle = np.median(tops)
    most = [t.y for t, top in zip(traces, tops, strict=True) if top <= _FAR * middle]
    if middle == 0 or len(most) == len(traces):  # or half of the rows are alike
        return {}
    low, high = np.nanmin(most), np.nanmax(most)
    return {"range": [low - 0.05 * (high - low), high + 0.05 * (high - low)]}


def _line(
    row: Mapping[str, Any], x: ArrayLike, y: ArrayLike, style: tuple[str, str], digits: str
) -> Scatter:
    color, dash = style
    name = escape(row["name"], quote=False)
    return Scatter(
        x=x,
        y=y,
        name=name,
        meta=row["name"],
        mode="lines",
        line={"color": color, "width": 2.25, "dash": dash, "simplify": False},
        hovertemplate=f"<b>%{{fullData.name}}</b> %{{y:{digits}}}<extra></extra>",
    )


def _finished(fig: Figure) -> Figure:
    """Each row once in the legend; a label of the curve pointed at: one of all would cover them."""
    for trace in fig.data:
        trace.showlegend = trace.yaxis == "y"
    return fig.update_layout(hovermode="closest", hoversubplots="single")


def ranking_figure(ranking: Mapping[str, Any], titles: Mapping[str, str]) -> Figure:
    """Rank correlation of the ELBO at a noise level with each score, over log-SNR.

    Args:
        ranking: Of a report.
        titles: Of the scores, by key.
    """
    levels = np.array(ranking["logsnr"], dtype=float)
    axis = {"range": [-1.05, 1.05], "tickvals": [-1, -0.5, 0, 0.5, 1], "zeroline": True}
    panels = [
        Panel(f"with <b>{title}</b>", 150, _band(levels, ranking[key], color), axis)
        for (key, title), color in zip(titles.items(), COLORS, strict=False)
    ]
    return stacked(panels, logsnr_axis(levels[0], levels[-1]), has_legend=False)


def _band(
    levels: Float[Array, " g"], curve: Mapping[str, Sequence[float | None]], color: str
) -> list[Scatter]:
    rho, low, high = (np.array(curve[key], dtype=float) for key in ("rho", "low", "high"))
    is_known = np.isfinite(low) & np.isfinite(high)
    line = Scatter(
        x=levels,
        y=rho,
        mode="lines",
        line={"color": color, "width": 2.5},
        customdata=np.stack([low, high], axis=1),
        hovertemplate="%{y:+.2f} (%{customdata[0]:+.2f} to %{customdata[1]:+.2f})<extra></extra>",
    )
    return [area(levels[is_known], low[is_known], high[is_known], color), line]
