r"""The curves of an evaluation, as plotly figures.

Over log-SNR, for each condition: the loss $\ell(\lambda) = \frac12 E\|\hat\epsilon - \epsilon\|^2$,
and the ELBO of data noised to $\lambda$, as a loss,

$$L(\lambda) = \int_{\lambda_\min}^\lambda \ell(\lambda')\, d\lambda' + \text{prior},$$

both in nats per dimension: the upper curve is the slope of the lower. And over network evaluations,
for each sampler, the Fréchet distance of its samples.
"""

import math
from collections.abc import Sequence
from html import escape
from itertools import cycle
from typing import Any

import numpy as np
from plotly.graph_objects import Figure, Scatter

from elbos.base.colors import COLORS, DASHES, Swatch
from elbos.base.figures import Panel, area, log_axis, logsnr_axis, stacked
from elbos.evaluation.metrics import FRECHET_DISTANCE
from elbos.evaluation.result import Evaluation
from elbos.evaluation.scores import Sweep, SweepPoint
from elbos.validation.figures import by_level_figure

LEAST_FLOOR = 1e-6  # relative to the largest loss; the figure omits lower values

BASELINE = Swatch(COLORS[-1], "dash")
"""How real data are drawn."""


def swatches(result: Evaluation) -> dict[str, Swatch]:
    """Assign a colour to each condition, keyed by the condition's name in words."""
    names = (name.replace("_", " ") for name in result.results)
    return {name: Swatch(color) for name, color in zip(names, cycle(COLORS), strict=False)}


def curves_figure(result: Evaluation) -> Figure:
    """Plot the loss and the ELBO of noisy data over log-SNR, with bands of two standard errors."""
    found = zip(swatches(result), result.results.values(), strict=True)
    return by_level_figure({name: (one.curve, one.elbo) for name, one in found})


def floor_figure(result: Evaluation) -> Figure:
    """Plot the loss and the irreducible loss (dashed) over log-SNR, on a logarithmic loss axis."""
    traces: list[Scatter] = []
    floors = result.floors or {}
    for (title, swatch), (name, floor) in zip(
        swatches(result).items(), floors.items(), strict=True
    ):
        curve = result.results[name].curve
        loss = np.array(curve.nats_per_dim), np.array(curve.standard_error)
        traces += _floor_curve(np.array(curve.logsnr), *loss, title, swatch.color, "solid")
        least = np.array(floor.loss), np.array(floor.standard_error)
        title = f"floor, {title}"
        traces += _floor_curve(np.array(floor.logsnr), *least, title, swatch.color, "dash")
    values = np.concatenate([trace.y for trace in traces])
    axis = log_axis(values[values > LEAST_FLOOR * values.max()])
    panel = Panel("<b>Loss and floor</b> in nats/dim, ±2 standard errors", 300, traces, axis)
    levels = [level for floor in floors.values() for level in floor.logsnr]
    return stacked([panel], logsnr_axis(min(levels), max(levels)), has_legend=True)


def _floor_curve(
    levels: np.ndarray, values: np.ndarray, errors: np.ndarray, name: str, color: str, dash: str
) -> list[Scatter]:
    """Return the traces of a curve with an error band, clipped above zero for a log axis."""
    low = np.maximum(values - 2 * errors, 1e-3 * np.abs(values))
    line = Scatter(
        x=levels,
        y=values,
        name=escape(name, quote=False),
        mode="lines",
        line={"color": color, "width": 2.5, "dash": dash, "simplify": False},
        customdata=2 * errors,
        hovertemplate="%{y:.3e} ± %{customdata:.1e}",
    )
    return [area(levels, low, values + 2 * errors, color), line]


def sweep_lines(sweep: Sweep) -> dict[tuple[str, str], list[SweepPoint]]:
    """Group the points of a sweep by sampler and grid, sorted by number of network evaluations."""
    lines: dict[tuple[str, str], list[SweepPoint]] = {}
    for point in sorted(sweep.points, key=lambda point: point.protocol.num_evaluations):
        key = point.protocol.sampler_label, point.protocol.grid_label
        lines.setdefault(key, []).append(point)
    return dict(sorted(lines.items()))


def sweep_styles(sweep: Sweep) -> tuple[dict[str, Swatch], dict[str, Swatch]]:
    """Assign a colour to each sampler and a dash pattern to each grid of a sweep."""
    samplers = sorted({point.protocol.sampler_label for point in sweep.points})
    grids = sorted({point.protocol.grid_label for point in sweep.points})
    dashes = zip(grids, cycle(["solid", *DASHES]), strict=False)
    colors = zip(samplers, cycle(COLORS), strict=False)
    return (
        {sampler: Swatch(color) for sampler, color in colors},
        {grid: Swatch("currentColor", dash) for grid, dash in dashes},
    )


def sweep_baseline(sweep: Sweep) -> float | None:
    """Return the Fréchet distance of the real-data baseline; None if real images are too few.

    The baseline needs as many real images as a point of the sweep has samples.
    """
    baseline = sweep.baseline.scores[FRECHET_DISTANCE].value
    return None if sweep.baseline.num < sweep.num_samples else baseline


def sweep_figure(sweep: Sweep) -> Figure:
    """Plot the Fréchet distance against network evaluations, on logarithmic axes."""
    evaluations = [point.protocol.num_evaluations for point in sweep.points]
    low, high = (math.log2(f(evaluations)) for f in (min, max))
    ends = [2 ** (low - 0.2), 2 ** (high + 0.2)]
    samplers, grids = sweep_styles(sweep)
    traces = [
        _sweep_line(f"{sampler}, {grid}", points, samplers[sampler].color, grids[grid].dash)
        for (sampler, grid), points in sweep_lines(sweep).items()
    ]
    values = [point.scores[FRECHET_DISTANCE].value for point in sweep.points]
    if (baseline := sweep_baseline(sweep)) is not None:
        values.append(baseline)
        line = {"color": BASELINE.color, "width": 2, "dash": BASELINE.dash}
        real = Scatter(x=ends, y=[baseline] * 2, name="real data", mode="lines", line=line)
        traces.append(real.update(hoverinfo="skip"))
    xaxis: dict[str, Any] = {
        "type": "log",
        "range": [math.log10(end) for end in ends],
        "tickvals": [2**k for k in range(math.floor(low), math.ceil(high) + 1)],
        "title": {"text": "network evaluations per sample", "standoff": 8},
    }
    yaxis = log_axis(np.array(values))
    ticks = {"tickvals": _ticks(*yaxis["range"]), "tickformat": "~g"}
    panel = Panel("<b>Fréchet distance</b>", 300, traces, yaxis | ticks)
    return stacked([panel], xaxis, has_legend=True).update_layout(hovermode="closest")


def _sweep_line(name: str, points: Sequence[SweepPoint], color: str, dash: str) -> Scatter:
    return Scatter(
        x=[point.protocol.num_evaluations for point in points],
        y=[point.scores[FRECHET_DISTANCE].value for point in points],
        name=escape(name, quote=False),
        mode="lines+markers",
        line={"color": color, "width": 2.5, "dash": dash},
        marker={"size": 8},
        hovertemplate="%{y:.4g} at %{x} evaluations<extra></extra>",
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return ticks at 1, 2 and 5 times every power of 10 from `10**low` to `10**high`."""
    powers = range(math.floor(low), math.ceil(high))
    return [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
