"""Figures of a comparison: curves in plotly, and small SVG plots.

Each curve stores its objective's name as `meta`, by which the page highlights it.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from plotly.graph_objects import Figure, Scatter

from elbos.base.arrays import Array
from elbos.base.colors import COLORS, DASHES, Swatch
from elbos.base.figures import Panel, log_axis, logsnr_axis, stacked
from elbos.comparison.result import Comparison, Curve, ObjectiveResult

Curves = Mapping[str, Curve]
"""Curves by the objective's name."""

_FAR = 10.0  # times the height of the median curve
_WIDTH, _HEIGHT = 200, 80  # size of an SVG


def family(weighting: str) -> str:
    """Return the name of a built-in weighting without wrappers such as `Monotone`.

    Examples:
        >>> family("Monotone(inner=EDM(mean=2.4))"), family("Tabulated('mine', '1f2e3d4c')")
        ('EDM', "Tabulated('mine', '1f2e3d4c')")
    """
    match = re.match(r"(\w+\(inner=)*(\w+)", weighting)
    return match[2] if match and match[2] != "Tabulated" else weighting


def swatches(objectives: Sequence[ObjectiveResult]) -> dict[str, Swatch]:
    """Return the curve style of each objective.

    Each objective has a colour, or each class of weightings if there are more objectives than
    colours. Dashes show that a weighting is not monotone.
    """
    are_few = len(objectives) <= len(COLORS)
    groups = {o.name: o.name if are_few else family(o.weighting) for o in objectives}
    colors = dict(zip(dict.fromkeys(groups.values()), cycle(COLORS), strict=False))
    return {
        o.name: Swatch(colors[groups[o.name]], "solid" if o.is_monotone else "dash")
        for o in objectives
    }


def reference(comparison: Comparison) -> str:
    """Return what curves are shown relative to: the first of two objectives, else the median."""
    objectives = comparison.objectives
    return objectives[0].name if len(objectives) == 2 else "the median"


def learning_figure(comparison: Comparison) -> Figure | None:
    """Return a figure of the validation ELBO over training images; None without data."""
    curves = {o.name: o.learning for o in comparison.objectives if o.learning}
    if not curves:
        return None
    traces = _traces(comparison, curves, ".4g")
    panels = [
        Panel("<b>Validation ELBO</b>, bits/dim", 180, traces, _range(traces)),
        *_difference(comparison, curves, "<b>Minus {}</b>", 260),
    ]
    most = max(max(curve.x) for curve in curves.values())
    xaxis = {"title": {"text": "images seen", "standoff": 8}, "range": [0, 1.02 * most]}
    return _finished(stacked(panels, xaxis, has_legend=True))


def levels_figure(comparison: Comparison) -> Figure | None:
    """Return a figure of the ELBO of noisy data and the loss over log-SNR; None without data."""
    elbos = {o.name: o.elbo for o in comparison.objectives if o.elbo}
    losses = {o.name: o.loss for o in comparison.objectives if o.loss}
    panels = _difference(comparison, elbos, "<b>ELBO</b> of noisy data, minus {}", 300)
    if losses:
        title = "<b>Loss</b>, relative to {}"
        panels += _difference(comparison, losses, title, 260, is_share=True)
        traces = _traces(comparison, losses, ".3g")
        values = np.concatenate([np.array(trace.y, dtype=float) for trace in traces])
        panels.append(
            Panel("<b>Loss</b>, nats/dim per unit of log-SNR", 180, traces, log_axis(values))
        )
    if not panels:
        return None
    levels = [level for panel in panels for trace in panel.traces for level in trace.x]
    return _finished(stacked(panels, logsnr_axis(min(levels), max(levels)), has_legend=True))


def _traces(comparison: Comparison, curves: Curves, digits: str) -> list[Scatter]:
    looks = swatches(comparison.objectives)
    return [
        Scatter(
            x=curve.x,
            y=curve.y,
            name=escape(name, quote=False),
            meta=name,
            mode="lines",
            line={
                "color": looks[name].color,
                "dash": looks[name].dash,
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
    grid = _floats(next(iter(curves.values())).x)
    values = np.array([np.interp(grid, _floats(c.x), _floats(c.y)) for c in curves.values()])
    title = title.format(escape(reference(comparison), quote=False))
    median = values[0] if len(comparison.objectives) == 2 else np.median(values, axis=0)
    positive = np.where(median > 0, median, np.nan)  # an estimate from few images may be negative
    values = values / positive - 1 if is_share else values - median
    x = tuple(grid.tolist())
    differences = {
        name: Curve(x=x, y=tuple(y)) for name, y in zip(curves, values.tolist(), strict=True)
    }
    traces = _traces(comparison, differences, "+.1%" if is_share else "+.4f")
    axis = {"tickformat": "+~p" if is_share else "+~g", **_range(traces)}
    return [Panel(title, height, traces, axis)]


def _floats(values: Any) -> Float[Array, " n"]:
    return np.array(values, dtype=float)


def _range(traces: Sequence[Scatter]) -> dict[str, list[float]]:
    tops = [np.nanmax(np.abs(_floats(trace.y))) for trace in traces]
    middle = np.median(tops)
    most = [_floats(t.y) for t, top in zip(traces, tops, strict=True) if top <= _FAR * middle]
    if middle == 0 or len(most) == len(traces):  # `middle` is 0 if half of the objectives agree
        return {}
    low, high = min(map(np.nanmin, most)), max(map(np.nanmax, most))
    return {"range": [low - 0.05 * (high - low), high + 0.05 * (high - low)]}


def _finished(figure: Figure) -> Figure:
    for trace in figure.data:
        trace.showlegend = trace.yaxis == "y"
    return figure.update_layout(hovermode="closest", hoversubplots="single")


# --- small pictures, which need no script and can be printed --------------------------------------


def weights_svg(comparison: Comparison, objective: ObjectiveResult, swatch: Swatch) -> Markup:
    low, scale = comparison.logsnr_min, _WIDTH / (comparison.logsnr_max - comparison.logsnr_min)
    x = scale * (_floats(objective.w.x) - low)
    rising = Markup('<rect class="rising" x="{:.1f}" width="{:.1f}" height="{}"/>')
    shapes = [
        rising.format(scale * (start - low), scale * (end - start), _HEIGHT)
        for start, end in objective.rising
    ]
    if objective.p is not None:
        outline = f"{_path(x, _floats(objective.p.y))}V{_HEIGHT}H{x[0]:.1f}Z"
        shapes.append(Markup('<path class="density" d="{}"/>').format(outline))
    line = Markup('<path class="line" stroke="{}" stroke-dasharray="{}" d="{}"/>')
    path = _path(x, _floats(objective.w.y))
    shapes.append(line.format(swatch.color, DASHES.get(swatch.dash, ""), path))
    return Markup("").join(shapes)


def _path(x: Float[Array, " n"], y: Float[Array, " n"]) -> str:
    up = (_HEIGHT - 3) * (1 - y / (y.max() or 1.0)) + 2
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, up, strict=True))
