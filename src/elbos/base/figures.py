"""Plotly figures of panels one above the other, which share the horizontal axis and the hover
label.

Figures have a white background, as saved images need; on an HTML page the style sheet adapts
background and text to the reader's colour scheme. The colours of curves suit both.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.io
from jaxtyping import Float
from plotly.graph_objects import Figure, Scatter
from plotly.graph_objs.layout import Template

from elbos.base.arrays import Array
from elbos.base.colors import COLORS, faint

_GAP, _TOP, _AXIS, _LEGEND = 46, 24, 56, 30  # pixels between, above and below the panels
_AXES = ("y", "y2", "y3", "y4")

plotly.io.templates["elbos"] = Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "colorway": COLORS,
        "hovermode": "x unified",
        "legend": {"orientation": "h", "yanchor": "top"},
        "xaxis": {"gridcolor": "#e5e8eb", "zeroline": False},
        "yaxis": {"gridcolor": "#e5e8eb", "zerolinecolor": "#9198a1", "fixedrange": True},
    }
)


class Panel(NamedTuple):
    """Panel of a figure: curves that share one vertical axis.

    Args:
        title: Title of the panel.
        height: In pixels.
        traces: The curves.
        axis: Settings of the axis.
        shaded: Intervals of the horizontal axis to mark, each with a colour.
    """

    title: str
    height: int
    traces: list[Scatter]
    axis: dict[str, Any]
    shaded: Sequence[tuple[float, float, str]] = ()


def stacked(panels: Sequence[Panel], xaxis: dict[str, Any], *, has_legend: bool) -> Figure:
    inner = sum(panel.height + _GAP for panel in panels) - _GAP
    below = _AXIS + (_LEGEND if has_legend else 0)
    xaxis = {"anchor": _AXES[len(panels) - 1]} | xaxis
    layout = {
        "template": "elbos",
        "height": inner + _TOP + below,
        "margin": {"l": 58, "r": 14, "t": _TOP, "b": below},
        "showlegend": has_legend,
        "legend_y": -_AXIS / inner,
        "hoversubplots": "axis",
        "xaxis": xaxis,
    }
    fig = Figure(layout=layout)
    top = inner
    for name, panel in zip(_AXES, panels, strict=False):
        domain = [(top - panel.height) / inner, top / inner]
        fig.update_layout({name.replace("y", "yaxis"): panel.axis | {"domain": domain}})
        fig.add_traces([trace.update(xaxis="x", yaxis=name) for trace in panel.traces])
        place = {"x": 0, "xref": "paper", "xanchor": "left", "yref": "paper", "yanchor": "bottom"}
        fig.add_annotation(text=panel.title, y=domain[1], showarrow=False, **place)
        for start, end, color in panel.shaded:
            place = {"x0": start, "x1": end, "y0": 0, "y1": 1, "yref": f"{name} domain"}
            fig.add_shape(type="rect", fillcolor=color, line_width=0, layer="below", **place)
        top -= panel.height + _GAP
    return fig


def logsnr_axis(low: float, high: float) -> dict[str, Any]:
    return {
        "title": {"text": "noisy ← log-SNR → clean", "standoff": 8},
        "range": [low, high + 0.01 * (high - low)],
        "unifiedhovertitle": {"text": "log-SNR %{x:.2f}"},
    }


def log_axis(values: Float[Array, " n"]) -> dict[str, Any]:
    logs = np.log10(values[values > 0])
    low, high = (logs.min(), logs.max()) if logs.size else (0.0, 1.0)
    margin = max(0.06 * (high - low), 0.15)
    ticks = {"dtick": math.ceil((high - low) / 7)} if high - low > 1.5 else {"nticks": 5}
    span = [low - margin, high + margin]
    return {"type": "log", "exponentformat": "power", "range": span, **ticks}


def area(
    x: Float[Array, " g"],
    low: Float[Array, " g"],
    high: Float[Array, " g"],
    color: str,
    **options: Any,
) -> Scatter:
    return Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        fillcolor=faint(color, 0.25),
        line_width=0,
        hoverinfo="skip",
        showlegend=False,
        **options,
    )
