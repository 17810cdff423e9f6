"""Plots as panels above each other that share one horizontal axis, hence one hover label.

Figures are for white paper, as pictures saved from them need; on a page the style sheet turns
their paper and words to the reader's scheme. The colours of curves are for both.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from plotly.graph_objects import Figure, Scatter

from elbos.arrays import Array

# Each has a contrast of 3 or more to white and to the page's black.
COLORS = ["#3b7dd8", "#cf6a12", "#2b9a66", "#a35bd0", "#1592a5", "#a98012", "#c4548c", "#7d8590"]
_GRID = "#e5e8eb"
DASHES = {  # plotly's name, and the same for a swatch
    "dash": "7 4",
    "dot": "2 3",
    "dashdot": "7 3 2 3",
    "longdash": "11 4",
    "longdashdot": "10 3 2 3",
}
_GAP, _TOP, _AXIS, _LEGEND = 46, 24, 56, 30  # pixels between, above and below the panels
_AXES = ("y", "y2", "y3", "y4")


class Panel(NamedTuple):
    """Curves with a vertical axis of their own.

    Args:
        title: What they are.
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
    """The panels as one figure, over a horizontal axis of the given settings."""
    inner = sum(panel.height + _GAP for panel in panels) - _GAP
    xaxis = {"anchor": _AXES[len(panels) - 1], "gridcolor": _GRID, "zeroline": False} | xaxis
    fig = Figure(layout=_layout(inner, xaxis, has_legend=has_legend))
    top = inner
    for name, panel in zip(_AXES, panels, strict=False):
        domain = [(top - panel.height) / inner, top / inner]
        axis = {"gridcolor": _GRID, "zerolinecolor": "#9198a1", "fixedrange": True} | panel.axis
        fig.update_layout({name.replace("y", "yaxis"): axis | {"domain": domain}})
        fig.add_traces([trace.update(xaxis="x", yaxis=name) for trace in panel.traces])
        place = {"x": 0, "xref": "paper", "xanchor": "left", "yref": "paper", "yanchor": "bottom"}
        fig.add_annotation(text=panel.title, y=domain[1], showarrow=False, **place)
        for start, end, color in panel.shaded:
            place = {"x0": start, "x1": end, "y0": 0, "y1": 1, "yref": f"{name} domain"}
            fig.add_shape(type="rect", fillcolor=color, line_width=0, layer="below", **place)
        top -= panel.height + _GAP
    return fig


def _layout(inner: int, xaxis: dict[str, Any], *, has_legend: bool) -> dict[str, Any]:
    return {
        "template": "none",
        "height": inner + _TOP + _AXIS + _LEGEND,
        "margin": {"l": 58, "r": 14, "t": _TOP, "b": _AXIS + _LEGEND},
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "showlegend": has_legend,
        "legend": {"orientation": "h", "y": -_AXIS / inner, "yanchor": "top"},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "xaxis": xaxis,
    }


def hide_legend(fig: Figure) -> None:
    """Leave it, and its room, out: on a page there are swatches beside the names."""
    fig.update_layout(showlegend=False, height=fig.layout.height - _LEGEND, margin_b=_AXIS)


def logsnr_axis(low: float, high: float) -> dict[str, Any]:
    """Settings of the horizontal axis of curves over log-SNR."""
    return {
        "title": {"text": "noisy ← log-SNR → clean", "standoff": 8},
        "range": [low, high + 0.01 * (high - low)],
        "unifiedhovertitle": {"text": "log-SNR %{x:.2f}"},
    }


def log_axis(values: Float[Array, " n"]) -> dict[str, Any]:
    """An axis for the positive values, whatever else is drawn, with ticks at powers of 10."""
    logs = np.log10(values[values > 0])
    low, high = (logs.min(), logs.max()) if logs.size else (0.0, 1.0)
    margin = max(0.06 * (high - low), 0.15)
    ticks = {"dtick": math.ceil((high - low) / 7)} if high - low > 1.5 else {"nticks": 5}
    span = [low - margin, high + margin]
    return {"type": "log", "exponentformat": "power", "range": span, **ticks}


def faint(color: str, opacity: float = 0.13) -> str:
    """The colour, as of an area."""
    red, green, blue = bytes.fromhex(color[1:])
    return f"rgba({red},{green},{blue},{opacity})"


def area(
    x: Float[Array, " g"],
    low: Float[Array, " g"],
    high: Float[Array, " g"],
    color: str,
    **options: Any,
) -> Scatter:
    """What is between two curves."""
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
