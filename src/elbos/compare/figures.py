r"""The curves of a comparison, as plotly figures.

While training, the validation ELBO of every row. Over log-SNR, the ELBO of data noised to
$\lambda$, as a loss, minus the mean of all rows,

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
from numpy.typing import NDArray
from plotly.graph_objects import Figure, Scatter

from elbos.compare.names import family
from elbos.pages.panels import COLORS, Panel, area, log_axis, logsnr_axis, stacked

Array = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]
SCORES = {
    "bits_per_dim": "clean ELBO, bits/dim",
    "frechet_ancestral": "Fréchet distance, ancestral",
    "frechet_heun": "Fréchet distance, Heun",
}
_ABOVE = 0.35  # of the learning curves' range, for what comes before the last half


def styles(rows: Rows) -> dict[str, tuple[str, str]]:
    """Each row's colour, and its dash."""
    families = dict.fromkeys(family(row["weighting"]) for row in rows)
    colors = dict(zip(families, cycle(COLORS), strict=False))
    return {
        row["name"]: (colors[family(row["weighting"])], "solid" if row["is_monotone"] else "dash")
        for row in rows
    }


def learning_figure(rows: Rows) -> Figure | None:
    """The validation ELBO over images seen, or none."""
    look = styles(rows)
    known = [row for row in rows if row["learning"]]
    if not known:
        return None
    traces = [
        _line(row, row["learning"]["images"], row["learning"]["bits_per_dim"], look, ".4g")
        for row in known
    ]
    images = [num for row in known for num in row["learning"]["images"]]
    xaxis = {"title": {"text": "images seen", "standoff": 8}, "range": [0, 1.02 * max(images)]}
    panel = Panel("<b>Validation ELBO</b>, bits/dim", 340, traces, {"range": _late(known)})
    return _finished(stacked([panel], xaxis, has_legend=True))


def _late(rows: Rows) -> list[float]:
    """A range in which the last half of the curves is told apart."""
    curves = [row["learning"]["bits_per_dim"] for row in rows]
    low = min(min(curve) for curve in curves)
    high = max(max(curve[len(curve) // 2 :]) for curve in curves)
    span = max(high - low, 1e-3 * abs(high))
    return [low - 0.06 * span, high + _ABOVE * span]


def levels_figure(rows: Rows) -> Figure | None:
    """The ELBO of noisy data and the loss, both against the mean of all rows, and the loss."""
    look = styles(rows)
    panels = [panel for key in _PANELS if (panel := _panel(rows, key, look))]
    if any(row["curve"] for row in rows):
        panels.append(_loss_panel(rows, look))
    if not panels:
        return None
    levels = [level for panel in panels for trace in panel.traces for level in trace.x]
    fig = stacked(panels, logsnr_axis(min(levels), max(levels)), has_legend=True)
    return _finished(fig)


_PANELS = {
    "elbo": ("<b>ELBO</b> of noisy data, minus the mean of all rows", 300),
    "curve": ("<b>Loss</b>, relative to the mean of all rows", 260),
}


def _panel(rows: Rows, key: str, look: Mapping[str, tuple[str, str]]) -> Panel | None:
    known = [row for row in rows if row[key]]
    if not known:
        return None
    title, height = _PANELS[key]
    grid = np.array(known[0][key]["logsnr"], dtype=float)
    values = [_on(grid, row[key]) for row in known]
    mean = np.mean(values, axis=0)
    is_share = key == "curve"
    ys = [value / mean - 1 if is_share else value - mean for value in values]
    format_ = "+.1%" if is_share else "+.4f"
    traces = [
        _line(row, grid, y, look, format_, showlegend=not is_share)
        for row, y in zip(known, ys, strict=True)
    ]
    axis = {"tickformat": "+.0%" if is_share else "+~g", "zeroline": True}
    return Panel(title, height, traces, axis)


def _loss_panel(rows: Rows, look: Mapping[str, tuple[str, str]]) -> Panel:
    traces = [
        _line(
            row,
            row["curve"]["logsnr"],
            row["curve"]["nats_per_dim"],
            look,
            ".3g",
            showlegend=False,
        )
        for row in rows
        if row["curve"]
    ]
    values = np.concatenate([np.array(trace.y, dtype=float) for trace in traces])
    return Panel("<b>Loss</b> as it is, nats/dim", 180, traces, log_axis(values))


def _on(grid: Float[Array, " g"], curve: Mapping[str, Any]) -> Float[Array, " g"]:
    values: Array = np.interp(grid, curve["logsnr"], curve["nats_per_dim"])
    return values


def _line(
    row: Mapping[str, Any],
    x: Any,
    y: Any,
    look: Mapping[str, tuple[str, str]],
    digits: str,
    **options: Any,
) -> Scatter:
    color, dash = look[row["name"]]
    name = escape(row["name"], quote=False)
    return Scatter(
        x=x,
        y=y,
        name=name,
        meta=row["name"],
        mode="lines",
        line={"color": color, "width": 2.25, "dash": dash, "simplify": False},
        hovertemplate=f"<b>%{{fullData.name}}</b> %{{y:{digits}}}<extra></extra>",
        **options,
    )


def _finished(fig: Figure) -> Figure:
    """With a label of the curve that is pointed at: a label of all would cover them."""
    return fig.update_layout(hovermode="closest", hoversubplots="single")


def ranking_figure(ranking: Mapping[str, Any]) -> Figure:
    """Rank correlation of the ELBO at a noise level with each score, over log-SNR."""
    levels = np.array(ranking["logsnr"], dtype=float)
    axis = {"range": [-1.05, 1.05], "tickvals": [-1, -0.5, 0, 0.5, 1], "zeroline": True}
    panels = [
        Panel(f"with <b>{title}</b>", 150, _band(levels, ranking[key], color), axis)
        for (key, title), color in zip(SCORES.items(), COLORS, strict=False)
        if ranking.get(key)
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
