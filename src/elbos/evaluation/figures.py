"""Plotly figures of an evaluation: curves over log-SNR and over the number of network
evaluations.
"""

import math
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
    names = (name.replace("_", " ") for name in result.results)
    return {name: Swatch(color) for name, color in zip(names, cycle(COLORS), strict=False)}


def curves_figure(result: Evaluation) -> Figure:
    found = zip(swatches(result), result.results.values(), strict=True)
    return by_level_figure({name: (one.curve, one.elbo) for name, one in found})


def floor_figure(result: Evaluation) -> Figure:
    traces: list[Scatter] = []
    floors = result.floors or {}
    for (title, swatch), name in zip(swatches(result).items(), floors, strict=True):
        curve, floor = result.results[name].curve, floors[name]
        for levels, losses, errors, label, dash in (
            (curve.logsnr, curve.nats_per_dim, curve.standard_error, title, "solid"),
            (floor.logsnr, floor.loss, floor.standard_error, f"floor, {title}", "dash"),
        ):
            y, band = np.array(losses), 2 * np.array(errors)
            line = Scatter(
                x=levels,
                y=y,
                name=escape(label, quote=False),
                mode="lines",
                line={"color": swatch.color, "width": 2.5, "dash": dash, "simplify": False},
                customdata=band,
                hovertemplate="%{y:.3e} ± %{customdata:.1e}",
            )
            low = np.maximum(y - band, 1e-3 * np.abs(y))  # above zero, for the logarithmic axis
            traces += [area(np.array(levels), low, y + band, swatch.color), line]
    values = np.concatenate([trace.y for trace in traces])
    axis = log_axis(values[values > LEAST_FLOOR * values.max()])
    panel = Panel("<b>Loss and floor</b> in nats/dim, ±2 standard errors", 300, traces, axis)
    every_level = [level for floor in floors.values() for level in floor.logsnr]
    axis = logsnr_axis(min(every_level), max(every_level))
    return stacked([panel], axis, has_legend=True)


def sweep_lines(sweep: Sweep) -> dict[tuple[str, str], list[SweepPoint]]:
    lines: dict[tuple[str, str], list[SweepPoint]] = {}
    for point in sorted(sweep.points, key=lambda point: point.protocol.num_evaluations):
        key = point.protocol.sampler_label, point.protocol.grid_label
        lines.setdefault(key, []).append(point)
    return dict(sorted(lines.items()))


def sweep_styles(sweep: Sweep) -> tuple[dict[str, Swatch], dict[str, Swatch]]:
    samplers = sorted({point.protocol.sampler_label for point in sweep.points})
    grids = sorted({point.protocol.grid_label for point in sweep.points})
    dashes = zip(grids, cycle(["solid", *DASHES]), strict=False)
    colors = zip(samplers, cycle(COLORS), strict=False)
    return (
        {sampler: Swatch(color) for sampler, color in colors},
        {grid: Swatch("currentColor", dash) for grid, dash in dashes},
    )


def sweep_baseline(sweep: Sweep) -> float | None:
    """Return the Fréchet distance of real test images to the training images.

    None if there are fewer test images than samples.
    """
    baseline = sweep.baseline.scores[FRECHET_DISTANCE].value
    return None if sweep.baseline.num < sweep.num_samples else baseline


def sweep_figure(sweep: Sweep) -> Figure:
    evaluations = [point.protocol.num_evaluations for point in sweep.points]
    low, high = (math.log2(f(evaluations)) for f in (min, max))
    ends = [2 ** (low - 0.2), 2 ** (high + 0.2)]
    samplers, grids = sweep_styles(sweep)
    traces = [
        Scatter(
            x=[point.protocol.num_evaluations for point in points],
            y=[point.scores[FRECHET_DISTANCE].value for point in points],
            name=escape(f"{sampler}, {grid}", quote=False),
            mode="lines+markers",
            line={"color": samplers[sampler].color, "width": 2.5, "dash": grids[grid].dash},
            marker={"size": 8},
            hovertemplate="%{y:.4g} at %{x} evaluations<extra></extra>",
        )
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
    least, greatest = yaxis["range"]
    powers = range(math.floor(least), math.ceil(greatest))
    tickvals = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    ticks = {"tickvals": tickvals, "tickformat": "~g"}
    panel = Panel("<b>Fréchet distance</b>", 300, traces, yaxis | ticks)
    return stacked([panel], xaxis, has_legend=True).update_layout(hovermode="closest")
