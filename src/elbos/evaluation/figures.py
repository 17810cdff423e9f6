r"""The curves of an evaluation, as plotly figures.

Over log-SNR, for each condition: the loss $\ell(\lambda) = \frac12 E\|\hat\epsilon - \epsilon\|^2$,
and the ELBO of data noised to $\lambda$, as a loss,

$$L(\lambda) = \int_{\lambda_\min}^\lambda \ell(\lambda')\, d\lambda' + \text{prior},$$

both in nats per dimension: the upper curve is the slope of the lower. And over network evaluations,
for each sampler, the Fréchet distance of its samples.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from plotly.graph_objects import Figure, Scatter

from elbos.report.panels import COLORS, DASHES, Panel, area, log_axis, logsnr_axis, stacked

BASELINE_COLOR = COLORS[-1]


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


class SweepLine(NamedTuple):
    """The points of a sampler on a grid, by increasing evaluations."""

    sampler: str
    grid: str
    color: str
    dash: str
    points: list[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """Sampler and grid."""
        return f"{self.sampler}, {self.grid}" if self.grid else self.sampler


def sweep_lines(points: Sequence[Mapping[str, Any]]) -> list[SweepLine]:
    """A line for each sampler, which has a colour, and each grid, which has a dash."""
    grids = sorted({str(point.get("grid") or "") for point in points})
    samplers = sorted({str(point["sampler"]) for point in points})
    dashes = dict(zip(grids, cycle(["solid", *DASHES]), strict=False))
    colors = dict(zip(samplers, cycle(COLORS), strict=False))
    lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for point in sorted(points, key=lambda point: point["num_evaluations"]):
        key = str(point["sampler"]), str(point.get("grid") or "")
        lines.setdefault(key, []).append(point)
    return [SweepLine(*key, colors[key[0]], dashes[key[1]], lines[key]) for key in sorted(lines)]


def sweep_figure(points: Sequence[Mapping[str, Any]], baseline: float | None) -> Figure:
    """The Fréchet distance against network evaluations, both logarithmic; real data are dashed."""
    evaluations = [point["num_evaluations"] for point in points]
    low, high = (math.log2(f(evaluations)) for f in (min, max))
    powers = [2**k for k in range(math.floor(low), math.ceil(high) + 1)]
    ends = [2 ** (low - 0.2), 2 ** (high + 0.2)]
    traces = [_line(line) for line in sweep_lines(points)]
    values = [point["frechet_distance"] for point in points]
    if baseline is not None:
        values.append(baseline)
        traces.append(_baseline(ends, baseline))
    logs = [math.log10(end) for end in ends]
    xaxis: dict[str, Any] = {"type": "log", "range": logs, "tickvals": powers}
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


def _line(line: SweepLine) -> Scatter:
    return Scatter(
        x=[point["num_evaluations"] for point in line.points],
        y=[point["frechet_distance"] for point in line.points],
        name=escape(line.name, quote=False),
        mode="lines+markers",
        line={"color": line.color, "width": 2.5, "dash": line.dash},
        marker={"size": 8},
        hovertemplate="%{y:.4g} at %{x} evaluations<extra></extra>",
    )


def _baseline(ends: Sequence[float], value: float) -> Scatter:
    line = {"color": BASELINE_COLOR, "width": 2, "dash": "dash"}
    return Scatter(
        x=ends, y=[value, value], name="real data", mode="lines", line=line, hoverinfo="skip"
    )
