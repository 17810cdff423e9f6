"""Figures of a comparison: curves in plotly, and small SVG plots.

Each family of weightings has a colour; non-monotone weightings are dashed. Each curve stores its
objective's name as `meta`, by which the page highlights it.
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
from elbos.base.figures import Panel, area, log_axis, logsnr_axis, stacked
from elbos.comparison.objective_result import ObjectiveResult
from elbos.comparison.result import Comparison, RankCorrelation

Objectives = Sequence[ObjectiveResult]
Curves = Mapping[str, tuple[Any, Any]]
"""Coordinates x and y of a curve, by the objective's name."""

_FAR = 10.0  # times the height of the median curve
_WIDTH, _HEIGHT = 200, 80  # of an SVG
_FAINTEST = 0.15  # opacity of the first density


def family(weighting: str) -> str:
    """Return the name of a weighting without wrappers such as `Monotone`.

    Examples:
        >>> family("Monotone(inner=EDM(mean=2.4))"), family("Tabulated('mine', '1f2e3d4c')")
        ('EDM', "Tabulated('mine', '1f2e3d4c')")
    """
    inner = re.sub(r"^(\w+\(inner=)+", "", weighting)
    found = re.match(r"Tabulated\([^)]*\)|\w+", inner)
    return found[0] if found else weighting


def swatches(objectives: Objectives) -> dict[str, Swatch]:
    """Return the curve style of each objective.

    Colour shows the class of the weighting, dashes the monotonicity.
    """
    families = dict.fromkeys(family(o.weighting) for o in objectives)
    colors = dict(zip(families, cycle(COLORS), strict=False))
    return {
        o.name: Swatch(colors[family(o.weighting)], "solid" if o.is_monotone else "dash")
        for o in objectives
    }


def learning_figure(comparison: Comparison) -> Figure | None:
    """Return a figure of the validation ELBO over training images.

    The deviation from the median curve is also shown. None without data.
    """
    every = comparison.objectives
    known = {o.name: (o.learning.images, o.learning.bits_per_dim) for o in every if o.learning}
    if not known:
        return None
    traces = _traces(comparison, known, ".4g")
    panels = [
        Panel("<b>Validation ELBO</b>, bits/dim", 180, traces, _range(traces)),
        _difference(comparison, known, "<b>Minus the median</b> of all objectives", 260),
    ]
    most = max(max(images) for images, _ in known.values())
    xaxis = {"title": {"text": "images seen", "standoff": 8}, "range": [0, 1.02 * most]}
    return _finished(stacked(panels, xaxis, has_legend=True))


def levels_figure(comparison: Comparison) -> Figure | None:
    """Return a figure of ELBO and loss over log-SNR.

    The ELBO is that of noisy data; None without data. Both are shown as deviations from the median
    over objectives, and the loss also as values.
    """
    every, panels = comparison.objectives, []
    elbos = {o.name: (o.elbo.logsnr, o.elbo.nats_per_dim) for o in every if o.elbo}
    losses = {o.name: (o.curve.logsnr, o.curve.nats_per_dim) for o in every if o.curve}
    if elbos:
        title = "<b>ELBO</b> of noisy data, minus the median"
        panels.append(_difference(comparison, elbos, title, 300))
    if losses:
        title = "<b>Loss</b>, relative to the median"
        panels.append(_difference(comparison, losses, title, 260, is_share=True))
        traces = _traces(comparison, losses, ".3g")
        values = np.concatenate([np.array(trace.y, dtype=float) for trace in traces])
        panels.append(Panel("<b>Loss</b>, nats/dim", 180, traces, log_axis(values)))
    if not panels:
        return None
    levels = [level for panel in panels for trace in panel.traces for level in trace.x]
    return _finished(stacked(panels, logsnr_axis(min(levels), max(levels)), has_legend=True))


def _traces(comparison: Comparison, curves: Curves, digits: str) -> list[Scatter]:
    looks = swatches(comparison.objectives)
    return [
        Scatter(
            x=x,
            y=y,
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
        for name, (x, y) in curves.items()
    ]


def _difference(
    comparison: Comparison, curves: Curves, title: str, height: int, *, is_share: bool = False
) -> Panel:
    grid = _floats(next(iter(curves.values()))[0])
    values = np.array([np.interp(grid, _floats(x), _floats(y)) for x, y in curves.values()])
    median = np.median(values, axis=0)
    known = np.where(median > 0, median, np.nan)  # an estimate from few images may be negative
    values = values / known - 1 if is_share else values - median
    differences = {name: (grid, value) for name, value in zip(curves, values, strict=True)}
    traces = _traces(comparison, differences, "+.1%" if is_share else "+.4f")
    axis = {"tickformat": "+~p" if is_share else "+~g", **_range(traces)}
    return Panel(title, height, traces, axis)


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


def ranking_figure(logsnr: Sequence[float], correlations: Mapping[str, RankCorrelation]) -> Figure:
    """Return a figure of the rank correlation between scores and ELBO over log-SNR.

    The ELBO is that of noisy data.
    """
    levels = _floats(logsnr)
    axis = {"range": [-1.05, 1.05], "tickvals": [-1, -0.5, 0, 0.5, 1], "zeroline": True}
    panels = []
    for (title, found), color in zip(correlations.items(), COLORS, strict=False):
        low, high = _floats(found.low), _floats(found.high)
        is_known = np.isfinite(low) & np.isfinite(high)
        line = Scatter(
            x=levels,
            y=_floats(found.rho),
            mode="lines",
            line={"color": color, "width": 2.5},
            customdata=np.stack([low, high], axis=1),
            hovertemplate="%{y:+.2f} (%{customdata[0]:+.2f} to %{customdata[1]:+.2f})"
            "<extra></extra>",
        )
        band = area(levels[is_known], low[is_known], high[is_known], color)
        panels.append(Panel(f"with <b>{escape(title)}</b>", 150, [band, line], axis))
    return stacked(panels, logsnr_axis(levels[0], levels[-1]), has_legend=False)


# --- small pictures, which need no script and can be printed --------------------------------------


def weights_svg(comparison: Comparison, objective: ObjectiveResult, swatch: Swatch) -> Markup:
    weights = objective.weights
    assert weights is not None
    low, scale = comparison.logsnr_min, _WIDTH / (comparison.logsnr_max - comparison.logsnr_min)
    x = scale * (_floats(weights.logsnr) - low)
    rising = Markup('<rect class="rising" x="{:.1f}" width="{:.1f}" height="{}"/>')
    shapes = [
        rising.format(scale * (start - low), scale * (end - start), _HEIGHT)
        for start, end in objective.rising
    ]
    if weights.p is not None:
        outline = f"{_path(x, _floats(weights.p))}V{_HEIGHT}H{x[0]:.1f}Z"
        shapes.append(Markup('<path class="density" d="{}"/>').format(outline))
    line = Markup('<path class="line" stroke="{}" stroke-dasharray="{}" d="{}"/>')
    path = _path(x, _floats(weights.w))
    shapes.append(line.format(swatch.color, DASHES.get(swatch.dash, ""), path))
    return Markup("").join(shapes)


def density_svg(objective: ObjectiveResult, swatch: Swatch) -> Markup:
    curves = [_floats(one.p) for one in objective.density or ()]
    top = max(curve.max() for curve in curves)
    x = np.linspace(0, _WIDTH, len(curves[0]))
    opacities = np.linspace(_FAINTEST, 1, len(curves) + 1)[1:]
    line = Markup('<path class="line" stroke="{}" opacity="{:.2f}" d="{}"/>')
    return Markup("").join(
        line.format(swatch.color, opacity, _path(x, p, top))
        for p, opacity in zip(curves, opacities, strict=True)
    )


def _path(x: Float[Array, " n"], y: Float[Array, " n"], top: float | None = None) -> str:
    up = (_HEIGHT - 3) * (1 - y / ((y.max() if top is None else top) or 1.0)) + 2
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, up, strict=True))
