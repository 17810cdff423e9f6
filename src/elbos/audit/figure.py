r"""The curves of audits, over log-SNR, as a plotly figure.

Three panels: the weighting $w(\lambda)$ with two standard errors; the density $p(\lambda)$ of the
noise levels; and the mixture of ELBOs,

$$L_w = \int -w'(\lambda)\, L(\lambda)\, d\lambda + w(\lambda_\max) L(\lambda_\max) + \dots,$$

scaled such that what is added sums to 1: for a likelihood objective it is a probability
distribution over noise levels, else what lies below 0 sums to the negative share. With two audits
there is a fourth, the ratio of their weightings.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from plotly.graph_objects import Figure, Scatter

from elbos.audit.names import named_weighting
from elbos.audit.result import Audit
from elbos.audit.words import central_weights, common_levels, nearest, shortened

Array = NDArray[np.float64]

# Each has a contrast of 3 or more to white and to the page's black.
_COLORS = ["#3b7dd8", "#cf6a12", "#2b9a66", "#a35bd0", "#1592a5", "#a98012", "#c4548c", "#7d8590"]
_RISING = "#b97a00"  # amber: that is no fault
_GRID = "#e5e8eb"
DASHES = {  # plotly's name, and the same for a swatch
    "dash": "7 4",
    "dot": "2 3",
    "dashdot": "7 3 2 3",
    "longdash": "11 4",
    "longdashdot": "10 3 2 3",
}
_GAP, _TOP, AXIS, LEGEND = 46, 24, 56, 30  # pixels between, above and below the panels
_AXES = ("y", "y2", "y3", "y4")


class _Panel(NamedTuple):
    """Curves over log-SNR with a vertical axis of their own.

    Args:
        title: What they are.
        height: In pixels.
        traces: The curves.
        axis: Settings of the axis.
        is_shaded: Whether to shade where the weightings rise.
    """

    title: str
    height: int
    traces: list[Scatter]
    axis: dict[str, Any]
    is_shaded: bool = False


def figure(audits: Sequence[Audit]) -> Figure:
    """The weighting, the density and the mixture of ELBOs, a colour for each audit."""
    audits = shortened(audits)
    panels = [_weights(audits), _densities(audits), _mixtures(audits)]
    if len(audits) == 2 and len(common_levels(audits)):
        panels.append(_ratio(*audits))
    inner = sum(panel.height + _GAP for panel in panels) - _GAP
    fig = Figure(layout=_layout(inner, audits, num_panels=len(panels)))
    top = inner
    for name, panel in zip(_AXES, panels, strict=False):
        domain = [(top - panel.height) / inner, top / inner]
        axis = {"gridcolor": _GRID, "zerolinecolor": "#9198a1", "fixedrange": True} | panel.axis
        fig.update_layout({name.replace("y", "yaxis"): axis | {"domain": domain}})
        fig.add_traces([trace.update(xaxis="x", yaxis=name) for trace in panel.traces])
        place = {"x": 0, "xref": "paper", "xanchor": "left", "yref": "paper", "yanchor": "bottom"}
        fig.add_annotation(text=panel.title, y=domain[1], showarrow=False, **place)
        if panel.is_shaded:
            _shade(fig, audits, f"{name} domain")
        top -= panel.height + _GAP
    return fig


def _layout(inner: int, audits: Sequence[Audit], *, num_panels: int) -> dict[str, Any]:
    """Settings of the whole: one horizontal axis, hence one hover label, for all panels."""
    low = min(audit.logsnr[0].item() for audit in audits)
    high = max(audit.logsnr[-1].item() for audit in audits)
    return {
        "template": "none",
        "height": inner + _TOP + AXIS + LEGEND,
        "margin": {"l": 58, "r": 14, "t": _TOP, "b": AXIS + LEGEND},
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "showlegend": len(audits) > 1,
        "legend": {"orientation": "h", "y": -AXIS / inner, "yanchor": "top"},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "xaxis": {
            "title": {"text": "noisy ← log-SNR → clean", "standoff": 8},
            "anchor": _AXES[num_panels - 1],
            "range": [low, high + 0.01 * (high - low)],
            "unifiedhovertitle": {"text": "log-SNR %{x:.2f}"},
            "gridcolor": _GRID,
            "zeroline": False,
        },
    }


def _shade(fig: Figure, audits: Sequence[Audit], yref: str) -> None:
    """Mark where weightings rise: in amber, or of several in their own colours."""
    for audit, color in colored(audits):
        fill = _faint(_RISING if len(audits) == 1 else color)
        for start, end in audit.rising:
            place = {"x0": start, "x1": end, "y0": 0, "y1": 1, "yref": yref}
            fig.add_shape(type="rect", fillcolor=fill, line_width=0, layer="below", **place)


def colored(audits: Sequence[Audit]) -> Iterator[tuple[Audit, str]]:
    return zip(audits, cycle(_COLORS), strict=False)


def _faint(color: str, opacity: float = 0.13) -> str:
    red, green, blue = bytes.fromhex(color[1:])
    return f"rgba({red},{green},{blue},{opacity})"


def _line(audit: Audit, values: Float[Array, " g"], color: str, **options: Any) -> Scatter:
    """A curve of an audit, which is nameless in hover labels: its colour tells."""
    title = audit.title if len(audit.title) <= 40 else audit.title[:39] + "…"
    name = escape(title, quote=False)
    line = {"color": color, "width": 2.5, "simplify": False}
    return Scatter(x=audit.logsnr.numpy(), y=values, name=name, line=line, **options)


def _area(
    levels: Float[Array, " g"],
    low: Float[Array, " g"],
    high: Float[Array, " g"],
    color: str,
    **options: Any,
) -> Scatter:
    """What is between two curves."""
    return Scatter(
        x=np.concatenate([levels, levels[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        fillcolor=_faint(color, 0.25),
        line_width=0,
        hoverinfo="skip",
        showlegend=False,
        **options,
    )


def _weights(audits: Sequence[Audit]) -> _Panel:
    traces = []
    for audit, color in colored(audits):
        w, error = audit.weight.numpy(), 2 * audit.weight_error.numpy()
        plus_minus = " ± %{customdata:.1%}" if error.any() else ""
        hover = f"w %{{y:.3g}}{plus_minus}<extra></extra>"
        traces += [
            _area(audit.logsnr.numpy(), w * np.exp(-error), w * np.exp(error), color),
            _line(audit, w, color, customdata=error, hovertemplate=hover),
        ]
    if len(audits) == 1:
        shown = audits[0].weight.numpy()
    else:  # not flattened by the tails of another
        shown = np.concatenate([central_weights(audit) for audit in audits])
    axis = _log_axis(shown)
    is_exact = not any(audit.weight_error.any() for audit in audits)
    title = "<b>Weighting w</b>" + ("" if is_exact else ", ±2 standard errors")
    return _Panel(title, 300, traces, axis, is_shaded=True)


def _log_axis(values: Float[Array, " n"]) -> dict[str, Any]:
    """An axis for the values, whatever else is drawn, with ticks at powers of 10 if there are."""
    low, high = np.log10(values.min()), np.log10(values.max())
    margin = max(0.06 * (high - low), 0.15)
    ticks = {"dtick": math.ceil((high - low) / 7)} if high - low > 1.5 else {"nticks": 5}
    span = [low - margin, high + margin]
    return {"type": "log", "exponentformat": "power", "range": span, **ticks}


def _densities(audits: Sequence[Audit]) -> _Panel:
    hover = {"hovertemplate": "p %{y:.3g}<extra></extra>", "showlegend": False}
    traces = []
    for audit, color in colored(audits):
        p = audit.density.numpy()
        traces += [
            _area(audit.logsnr.numpy(), 0 * p, p, color),
            _line(audit, p, color, **hover),
        ]
    return _Panel("<b>Density p</b> of the noise levels", 120, traces, {"rangemode": "tozero"})


def _mixtures(audits: Sequence[Audit]) -> _Panel:
    traces = [trace for audit, color in colored(audits) for trace in _mixture(audit, color)]
    title = "<b>Mixture of ELBOs</b>, what is added sums to 1"
    return _Panel(title, 200, traces, {}, is_shaded=True)


def _mixture(audit: Audit, color: str) -> list[Scatter]:
    """What is added, what is subtracted, both as a line, and the mass at the clean end."""
    scale = 1 + audit.negative_mass
    levels, density = audit.logsnr.numpy(), audit.mixture_density.numpy() / scale
    end, mass = levels[-1], audit.mass_at_max / scale
    is_rising = np.zeros(len(levels), dtype=bool)  # beyond the sampling error
    for start, stop in audit.rising:
        is_rising |= (start <= levels) & (levels <= stop)
    added, subtracted = np.where(is_rising, 0, density), np.where(is_rising, density, 0)
    hatching = {"shape": "/", "fgcolor": _RISING, "bgcolor": _faint(_RISING, 0.25), "size": 6}
    hover = {"hovertemplate": "ELBOs %{y:+.3f} per unit<extra></extra>", "showlegend": False}
    return [
        _area(levels, 0 * added, added.clip(min=0), color),
        _area(levels, subtracted.clip(max=0), 0 * subtracted, _RISING, fillpattern=hatching),
        _line(audit, density, color, **hover),
        Scatter(
            x=[end, end],
            y=[0, mass],
            mode="lines+markers+text",
            line={"color": color, "width": 3},
            marker={"symbol": "diamond", "size": [0, 9], "opacity": 1, "line": {"width": 0}},
            text=["", f"{mass:.0%} on clean data " if mass > 0.05 else ""],
            textposition="middle left",
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
        ),
    ]


def _ratio(audit: Audit, other: Audit) -> _Panel:
    """The ratio of two weightings, with a geometric mean of 1, and two standard errors."""
    levels = common_levels([audit, other])
    at = torch.from_numpy(levels)
    log_ratio = (audit.weighting(at).log() - other.weighting(at).log()).numpy()
    ratio = np.exp(log_ratio - log_ratio.mean())
    errors = [np.interp(levels, a.logsnr.numpy(), a.weight_error.numpy()) for a in (audit, other)]
    factor = np.exp(2 * np.hypot(*errors))
    line = Scatter(
        x=levels,
        y=ratio,
        line={"color": _COLORS[-1], "width": 2.5, "simplify": False},
        hovertemplate="ratio %{y:.3g}<extra></extra>",
        showlegend=False,
    )
    traces = [_area(levels, ratio / factor, ratio * factor, _COLORS[-1]), line]
    title = "<b>Ratio of the weightings</b>, first over second"
    return _Panel(title, 160, traces, _log_axis(ratio))


def named_curves(audit: Audit, color: str, *, is_alone: bool) -> list[Scatter]:
    """The nearest named weightings, in colours of their own, or else dashed in the audit's."""
    colors = _COLORS[1:] if is_alone else [color]
    styles = zip(nearest(audit), cycle(colors), DASHES, strict=False)
    return [_named_curve(audit, name, color, dash) for (name, _), color, dash in styles]


def _named_curve(audit: Audit, name: str, color: str, dash: str) -> Scatter:
    """A named weighting as a hidden curve, with a geometric mean of 1 under $p$ as well."""
    log_v = named_weighting(name)(audit.logsnr).log()
    p = torch.where(log_v.isfinite(), audit.density, 0.0)
    mean = (p * log_v.nan_to_num()).sum() / p.sum()
    return Scatter(
        x=audit.logsnr.numpy(),
        y=(log_v - mean).exp().numpy(),
        name=name,
        line={"color": color, "width": 2, "dash": dash},
        hovertemplate="w %{y:.3g}",
        visible=False,
    )
