"""Plotly figure of audits: weightings, densities and mixtures of ELBOs over log-SNR."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float
from plotly.graph_objects import Figure, Scatter

from elbos.audit.density.curves import is_central
from elbos.audit.result import Audit
from elbos.audit.words import View, views
from elbos.base.arrays import Array
from elbos.base.colors import faint
from elbos.base.figures import Panel, area, log_axis, logsnr_axis, stacked

_RISING = "#8250df"  # no warning colour: an increase of w is not an error
_UNDECIDED = "#7d8590"
_TAIL = 0.005  # share of the samples at either end, where curves vary by orders of magnitude


def figure(audits: Sequence[Audit]) -> Figure:
    """Plot the weightings with two standard errors, the densities of the noise levels, and the
    mixtures of ELBOs (`Audit.mixture_density`), as functions of log-SNR.
    """
    shown = views(audits)
    weights, densities = [], []
    for view in shown:
        audit, x = view.audit, view.audit.logsnr.numpy()
        w, error, p = audit.weight.numpy(), 2 * audit.weight_error.numpy(), audit.density.numpy()
        plus_minus = " ± %{customdata:.1%}" if error.any() else ""
        hover = {"hovertemplate": f"w %{{y:.3g}}{plus_minus}<extra></extra>"}
        weights += [
            area(x, w * np.exp(-error), w * np.exp(error), view.color),
            _line(view, w, customdata=error, **hover),
        ]
        hover = {"hovertemplate": "p %{y:.3g}<extra></extra>"}
        densities += [area(x, 0 * p, p, view.color), _line(view, p, showlegend=False, **hover)]
    # With several audits, the tails of one weighting must not flatten another.
    is_alone = len(shown) == 1
    tail = -1.0 if is_alone else _TAIL
    in_range = [a.weight.numpy()[is_central(a.density.log().numpy(), tail)] for a in audits]
    is_exact = not any(audit.weight_error.any() for audit in audits)
    title = "<b>Weighting w</b>" + ("" if is_exact else ", ±2 standard errors")
    shaded = [
        (*ends, faint(_RISING if is_alone else view.color))
        for view in shown
        for ends in view.audit.rising
    ]
    shaded += [
        (start, end, faint(_UNDECIDED, 0.2) if is_alone else faint(view.color, 0.07))
        for view in shown
        for start, end, _ in view.audit.undecided
    ]
    mixtures = [trace for view in shown for trace in _mixture(view)]
    panels = [
        Panel(title, 300, weights, log_axis(np.concatenate(in_range)), shaded),
        Panel("<b>Density p</b> of the noise levels", 120, densities, {"rangemode": "tozero"}),
        Panel("<b>Mixture of ELBOs</b>, what is added sums to 1", 200, mixtures, {}, shaded),
    ]
    low = min(audit.logsnr[0].item() for audit in audits)
    high = max(audit.logsnr[-1].item() for audit in audits)
    return stacked(panels, logsnr_axis(low, high), has_legend=not is_alone)


def _line(view: View, values: Float[Array, " g"], **options: Any) -> Scatter:
    title = view.title if len(view.title) <= 40 else view.title[:39] + "…"
    name = escape(title, quote=False)
    line = {"color": view.color, "width": 2.5, "simplify": False}
    return Scatter(x=view.audit.logsnr.numpy(), y=values, name=name, line=line, **options)


def _mixture(view: View) -> list[Scatter]:
    audit, color = view.audit, view.color
    scale = 1 + audit.negative_mass
    levels, density = audit.logsnr.numpy(), audit.mixture_density.numpy() / scale
    end, mass = levels[-1], audit.mass_at_max / scale
    is_rising = np.zeros(len(levels), dtype=bool)  # whether a rise is significant
    for start, stop in audit.rising:
        is_rising |= (start <= levels) & (levels <= stop)
    added, subtracted = np.where(is_rising, 0, density), np.where(is_rising, density, 0)
    hatching = {"shape": "/", "fgcolor": _RISING, "bgcolor": faint(_RISING, 0.25), "size": 6}
    hover = {"hovertemplate": "ELBOs %{y:+.3f} per unit<extra></extra>", "showlegend": False}
    return [
        area(levels, 0 * added, added.clip(min=0), color),
        area(levels, subtracted.clip(max=0), 0 * subtracted, _RISING, fillpattern=hatching),
        _line(view, density, **hover),
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
