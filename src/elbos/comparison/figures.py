"""Plotly figures of a comparison."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float
from plotly.graph_objects import Figure, Scatter

from elbos.base.arrays import Array
from elbos.base.figures import Panel, logsnr_axis, stacked
from elbos.comparison.result import Comparison, Curve
from elbos.comparison.tables import line_styles

Curves = Mapping[str, Curve]  # by the objective's name


def learning_figure(comparison: Comparison) -> Figure | None:
    """Return a figure of the validation ELBO over training images; None without data."""
    curves = {o.name: o.learning for o in comparison.objectives if o.learning}
    if not curves:
        return None
    traces = _traces(comparison, curves, ".4g")
    panels = [
        Panel("<b>Validation ELBO</b>, bits/dim", 180, traces, {}),
        *_difference(comparison, curves, "<b>Minus {}</b>", 260),
    ]
    most = max(max(curve.x) for curve in curves.values())
    xaxis = {"title": {"text": "images seen", "standoff": 8}, "range": [0, 1.02 * most]}
    return _finished(stacked(panels, xaxis, has_legend=True))


def levels_figure(comparison: Comparison) -> Figure | None:
    """Return a figure of the ELBO of noisy data and the loss over log-SNR; None without data."""
    elbos = {o.name: o.elbo for o in comparison.objectives if o.elbo}
    losses = {o.name: o.loss for o in comparison.objectives if o.loss}
    panels = [
        *_difference(comparison, elbos, "<b>ELBO</b> of noisy data, minus {}", 300),
        *_difference(comparison, losses, "<b>Loss</b>, relative to {}", 260, is_share=True),
    ]
    if not panels:
        return None
    axis = logsnr_axis(comparison.logsnr_min, comparison.logsnr_max)
    return _finished(stacked(panels, axis, has_legend=True))


def weightings_figure(comparison: Comparison) -> Figure:
    """Return a figure of the weightings and densities of noise levels."""
    weights = {o.name: o.w for o in comparison.objectives}
    densities = {o.name: o.p for o in comparison.objectives if o.p}
    panels = [
        Panel("<b>Weighting w</b>", 220, _traces(comparison, weights, ".3g"), {}),
        Panel("<b>Density p</b>", 160, _traces(comparison, densities, ".3g"), {}),
    ]
    axis = logsnr_axis(comparison.logsnr_min, comparison.logsnr_max)
    return _finished(stacked(panels, axis, has_legend=True))


def _traces(comparison: Comparison, curves: Curves, digits: str) -> list[Scatter]:
    styles = line_styles(comparison.objectives)
    return [
        Scatter(
            x=curve.x,
            y=curve.y,
            name=escape(name, quote=False),
            mode="lines",
            line={
                "color": styles[name].color,
                "dash": styles[name].dash,
                "width": 2.25,
                "simplify": False,
            },
            hovertemplate=f"<b>%{{fullData.name}}</b> %{{y:{digits}}}<extra></extra>",
        )
        for name, curve in curves.items()
    ]


def _difference(
    comparison: Comparison, curves: Curves, title: str, height: int, *, is_share: bool = False
) -> list[Panel]:
    if len(curves) < 2:  # for example, one of two objectives has failed
        return []
    name, first = next(iter(curves.items()))
    grid = _floats(first.x)
    values = np.array([np.interp(grid, _floats(c.x), _floats(c.y)) for c in curves.values()])
    title = title.format(escape(name, quote=False))
    positive = np.where(values[0] > 0, values[0], np.nan)  # estimates of few images may be below 0
    values = values / positive - 1 if is_share else values - values[0]
    x = tuple(grid.tolist())
    differences = {
        name: Curve(x=x, y=tuple(y)) for name, y in zip(curves, values.tolist(), strict=True)
    }
    traces = _traces(comparison, differences, "+.1%" if is_share else "+.4f")
    return [Panel(title, height, traces, {"tickformat": "+~p" if is_share else "+~g"})]


def _floats(values: Any) -> Float[Array, " n"]:
    return np.array(values, dtype=float)


def _finished(figure: Figure) -> Figure:
    for trace in figure.data:
        trace.showlegend = trace.yaxis == "y"
    return figure.update_layout(hovermode="closest", hoversubplots="single")
