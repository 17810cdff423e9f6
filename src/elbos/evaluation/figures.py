r"""The curves of an evaluation, as plotly figures.

Over log-SNR, for each condition: the loss $\ell(\lambda) = \frac12 E\|\hat\epsilon - \epsilon\|^2$,
and the ELBO of data noised to $\lambda$, as a loss,

$$L(\lambda) = \int_{\lambda_\min}^\lambda \ell(\lambda')\, d\lambda' + \text{prior},$$

both in nats per dimension: the upper curve is the slope of the lower. And over network evaluations,
for each sampler, the Fréchet distance of its samples.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import cycle, product
from typing import Any

import numpy as np
from plotly.graph_objects import Figure, Scatter

from elbos.pages.panels import COLORS, DASHES, Panel, area, log_axis, logsnr_axis, stacked

FLOOR_COLOR = COLORS[-1]


def colored(results: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Each condition's name in words, results and colour."""
    for (name, row), color in zip(results.items(), cycle(COLORS), strict=False):
        yield name.replace("_", " "), row, color


def curves_figure(results: Mapping[str, Any]) -> Figure | None:
    """The loss by noise level, above the ELBO of noisy data, with two standard errors; or none."""
    titles = {
        "curve": "<b>Loss</b> in nats/dim, ±2 standard errors",
        "elbo": "<b>ELBO of noisy data</b>, as a loss",
    }
    panels = [
        Panel(title, 260, traces, {"rangemode": "tozero"})
        for key, title in titles.items()
        if (traces := _curves(results, key))
    ]
    if not panels:
        return None
    levels = [level for panel in panels for trace in panel.traces for level in trace.x]
    return stacked(panels, logsnr_axis(min(levels), max(levels)), has_legend=len(results) > 1)


def _curves(results: Mapping[str, Any], key: str) -> list[Scatter]:
    symbol = {"curve": "loss", "elbo": "ELBO"}[key]
    traces = []
    for name, row, color in colored(results):
        if not (curve := row.get(key)):
            continue
        levels, values = (np.array(curve[k], dtype=float) for k in ("logsnr", "nats_per_dim"))
        errors = np.array(curve.get("standard_error") or 0 * values, dtype=float)
        traces += [
            area(levels, values - 2 * errors, values + 2 * errors, color),
            Scatter(
                x=levels,
                y=values,
                name=escape(name, quote=False),
                mode="lines",
                line={"color": color, "width": 2.5, "simplify": False},
                customdata=2 * errors,
                hovertemplate=f"{symbol} %{{y:.4f}} ± %{{customdata:.4f}}<extra></extra>",
                showlegend=key == "curve",
            ),
        ]
    return traces


def sweep_lines(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The points of each sampler, on each grid if there are several, by increasing evaluations."""
    is_same_grid = len({point.get("grid") for point in points}) == 1
    keys = ("sampler",) if is_same_grid else ("sampler", "grid")
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for point in sorted(points, key=lambda point: point["num_evaluations"]):
        name = ", ".join(str(point[key]) for key in keys if point.get(key))
        lines.setdefault(name, []).append(point)
    return {name: lines[name] for name in sorted(lines)}


def sweep_styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a dash (of plotly, or "solid") for each line, no two of 42 alike."""
    styles = cycle(product(("solid", *DASHES), COLORS[:-1]))
    return {name: (color, dash) for name, (dash, color) in zip(names, styles, strict=False)}


def sweep_figure(points: Sequence[Mapping[str, Any]], floor: float | None) -> Figure:
    """The Fréchet distance against network evaluations, both logarithmic; the floor is dashed."""
    evaluations = [point["num_evaluations"] for point in points]
    low, high = (math.log2(f(evaluations)) for f in (min, max))
    powers = [2**k for k in range(math.floor(low), math.ceil(high) + 1)]
    lines = sweep_lines(points)
    styles = sweep_styles(lines)
    traces = [_line(name, line, *styles[name]) for name, line in lines.items()]
    values = [point["frechet_distance"] for point in points]
    if floor is not None:
        values.append(floor)
        traces.append(_floor([powers[0] / 2, 2 * powers[-1]], floor))
    ends = [(low - 0.2) * math.log10(2), (high + 0.2) * math.log10(2)]
    xaxis: dict[str, Any] = {"type": "log", "range": ends, "tickvals": powers}
    xaxis["title"] = {"text": "network evaluations per sample", "standoff": 8}
    yaxis = log_axis(np.array(values, dtype=float))
    ticks = {"tickvals": _ticks(*yaxis["range"]), "tickformat": "~g"}
    panel = Panel("<b>Fréchet distance</b>", 300, traces, yaxis | ticks)
    fig = stacked([panel], xaxis, has_legend=True)
    return fig.update_layout(hovermode="closest")


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... of what is between two powers of 10."""
    powers = range(math.floor(low), math.ceil(high))
    return [digit * 10.0**power for power in powers for digit in (1, 2, 5)]


def _line(name: str, points: Sequence[Mapping[str, Any]], color: str, dash: str) -> Scatter:
    return Scatter(
        x=[point["num_evaluations"] for point in points],
        y=[point["frechet_distance"] for point in points],
        name=escape(name, quote=False),
        mode="lines+markers",
        line={"color": color, "width": 2.5, "dash": dash},
        marker={"size": 8},
        hovertemplate="%{y:.4g} at %{x} evaluations<extra></extra>",
    )


def _floor(ends: Sequence[float], floor: float) -> Scatter:
    line = {"color": FLOOR_COLOR, "width": 2, "dash": "dash"}
    return Scatter(
        x=ends, y=[floor, floor], name="floor", mode="lines", line=line, hoverinfo="skip"
    )
