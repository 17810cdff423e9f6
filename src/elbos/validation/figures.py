r"""Plotly figures of validations: the loss by noise level, and the ELBO of noisy data.

Over log-SNR: the loss $\ell(\lambda) = \frac12 E\|\hat\epsilon - \epsilon\|^2$, and the ELBO of
data noised to $\lambda$, as a loss,

$$L(\lambda) = \int_{\lambda_\min}^\lambda \ell(\lambda')\, d\lambda' + \text{prior},$$

in nats per dimension: the upper curve, per unit of log-SNR, is the slope of the lower.
"""

from collections.abc import Mapping
from html import escape
from itertools import cycle

import numpy as np
from plotly.graph_objects import Figure, Scatter

from elbos.base.colors import COLORS
from elbos.base.figures import Panel, area, logsnr_axis, stacked
from elbos.validation.result import Curve


def by_level_figure(curves: Mapping[str, tuple[Curve, Curve]]) -> Figure:
    """Plot curves of the loss by noise level and of the ELBO of noisy data."""
    losses, elbos = [], []
    for (name, (loss, elbo)), color in zip(curves.items(), cycle(COLORS), strict=False):
        losses += _curve(loss, "loss", name, color)
        elbos += _curve(elbo, "ELBO", name, color)
    panels = [
        Panel(
            "<b>Loss</b> in nats/dim per unit of log-SNR, ±2 standard errors",
            260,
            losses,
            {"rangemode": "tozero"},
        ),
        Panel("<b>ELBO of noisy data</b>, as a loss", 260, elbos, {"rangemode": "tozero"}),
    ]
    levels = [level for _, elbo in curves.values() for level in elbo.logsnr]
    axis = logsnr_axis(min(levels), max(levels))
    return stacked(panels, axis, has_legend=len(curves) > 1)


def _curve(curve: Curve, symbol: str, name: str, color: str) -> list[Scatter]:
    levels, values = np.array(curve.logsnr), np.array(curve.nats_per_dim)
    errors = np.array(curve.standard_error)
    line = Scatter(
        x=levels,
        y=values,
        name=escape(name, quote=False),
        mode="lines",
        line={"color": color, "width": 2.5, "simplify": False},
        customdata=2 * errors,
        hovertemplate=f"{symbol} %{{y:.4f}} ± %{{customdata:.4f}}<extra></extra>",
        showlegend=symbol == "loss",
    )
    return [area(levels, values - 2 * errors, values + 2 * errors, color), line]
