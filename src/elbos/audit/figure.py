r"""The curves of audits, over log-SNR, as a plotly figure.

Three panels: the weighting $w(\lambda)$ with two standard errors; the density $p(\lambda)$ of the
noise levels; and the mixture of ELBOs,

$$L_w = \int -w'(\lambda)\, L(\lambda)\, d\lambda + w(\lambda_\max) L(\lambda_\max) + \dots,$$

scaled such that what is added sums to 1: for a likelihood objective it is a probability
distribution over noise levels, else what lies below 0 sums to the negative share. With two audits
there is a fourth, the ratio of their weightings.
"""

from collections.abc import Iterator, Sequence
from html import escape
from itertools import cycle
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from plotly.graph_objects import Figure, Scatter

from elbos.arrays import Array
from elbos.audit.names import named_weighting
from elbos.audit.result import Audit
from elbos.audit.words import central_weights, common_levels, nearest, shortened
from elbos.report.panels import (
    COLORS,
    DASHES,
    Panel,
    area,
    faint,
    log_axis,
    logsnr_axis,
    stacked,
)

_RISING = "#b97a00"  # amber: that is no fault


def figure(audits: Sequence[Audit]) -> Figure:
    """The weighting, the density and the mixture of ELBOs, a colour for each audit."""
    audits = shortened(audits)
    panels = [_weights(audits), _densities(audits), _mixtures(audits)]
    if len(audits) == 2 and len(common_levels(audits)):
        panels.append(_ratio(*audits))
    low = min(audit.logsnr[0].item() for audit in audits)
    high = max(audit.logsnr[-1].item() for audit in audits)
    return stacked(panels, logsnr_axis(low, high), has_legend=len(audits) > 1)


def _shaded(audits: Sequence[Audit]) -> list[tuple[float, float, str]]:
    """Where weightings rise: in amber, or of several in their own colours."""
    return [
        (start, end, faint(_RISING if len(audits) == 1 else color))
        for audit, color in colored(audits)
        for start, end in audit.rising
    ]


def colored(audits: Sequence[Audit]) -> Iterator[tuple[Audit, str]]:
    return zip(audits, cycle(COLORS), strict=False)


def _line(audit: Audit, values: Float[Array, " g"], color: str, **options: Any) -> Scatter:
    """A curve of an audit, which is nameless in hover labels: its colour tells."""
    title = audit.title if len(audit.title) <= 40 else audit.title[:39] + "…"
    name = escape(title, quote=False)
    line = {"color": color, "width": 2.5, "simplify": False}
    return Scatter(x=audit.logsnr.numpy(), y=values, name=name, line=line, **options)


def _weights(audits: Sequence[Audit]) -> Panel:
    traces = []
    for audit, color in colored(audits):
        w, error = audit.weight.numpy(), 2 * audit.weight_error.numpy()
        plus_minus = " ± %{customdata:.1%}" if error.any() else ""
        hover = f"w %{{y:.3g}}{plus_minus}<extra></extra>"
        traces += [
            area(audit.logsnr.numpy(), w * np.exp(-error), w * np.exp(error), color),
            _line(audit, w, color, customdata=error, hovertemplate=hover),
        ]
    if len(audits) == 1:
        shown = audits[0].weight.numpy()
    else:  # not flattened by the tails of another
        shown = np.concatenate([central_weights(audit) for audit in audits])
    axis = log_axis(shown)
    is_exact = not any(audit.weight_error.any() for audit in audits)
    title = "<b>Weighting w</b>" + ("" if is_exact else ", ±2 standard errors")
    return Panel(title, 300, traces, axis, _shaded(audits))


def _densities(audits: Sequence[Audit]) -> Panel:
    hover = {"hovertemplate": "p %{y:.3g}<extra></extra>", "showlegend": False}
    traces = []
    for audit, color in colored(audits):
        p = audit.density.numpy()
        traces += [
            area(audit.logsnr.numpy(), 0 * p, p, color),
            _line(audit, p, color, **hover),
        ]
    return Panel("<b>Density p</b> of the noise levels", 120, traces, {"rangemode": "tozero"})


def _mixtures(audits: Sequence[Audit]) -> Panel:
    traces = [trace for audit, color in colored(audits) for trace in _mixture(audit, color)]
    title = "<b>Mixture of ELBOs</b>, what is added sums to 1"
    return Panel(title, 200, traces, {}, _shaded(audits))


def _mixture(audit: Audit, color: str) -> list[Scatter]:
    """What is added, what is subtracted, both as a line, and the mass at the clean end."""
    scale = 1 + audit.negative_mass
    levels, density = audit.logsnr.numpy(), audit.mixture_density.numpy() / scale
    end, mass = levels[-1], audit.mass_at_max / scale
    is_rising = np.zeros(len(levels), dtype=bool)  # beyond the sampling error
    for start, stop in audit.rising:
        is_rising |= (start <= levels) & (levels <= stop)
    added, subtracted = np.where(is_rising, 0, density), np.where(is_rising, density, 0)
    hatching = {"shape": "/", "fgcolor": _RISING, "bgcolor": faint(_RISING, 0.25), "size": 6}
    hover = {"hovertemplate": "ELBOs %{y:+.3f} per unit<extra></extra>", "showlegend": False}
    return [
        area(levels, 0 * added, added.clip(min=0), color),
        area(levels, subtracted.clip(max=0), 0 * subtracted, _RISING, fillpattern=hatching),
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


def _ratio(audit: Audit, other: Audit) -> Panel:
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
        line={"color": COLORS[-1], "width": 2.5, "simplify": False},
        hovertemplate="ratio %{y:.3g}<extra></extra>",
        showlegend=False,
    )
    traces = [area(levels, ratio / factor, ratio * factor, COLORS[-1]), line]
    title = "<b>Ratio of the weightings</b>, first over second"
    return Panel(title, 160, traces, log_axis(ratio))


def named_curves(audit: Audit, color: str, *, is_alone: bool) -> list[Scatter]:
    """The nearest named weightings, in colours of their own, or else dashed in the audit's."""
    colors = COLORS[1:] if is_alone else [color]
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
