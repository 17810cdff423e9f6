"""Plotly figures of an evaluation: curves over log-SNR."""

from html import escape
from itertools import cycle

import numpy as np
from plotly.graph_objects import Figure, Scatter

from elbos.base.colors import COLORS, Swatch
from elbos.base.figures import Panel, area, log_axis, logsnr_axis, stacked
from elbos.evaluation.result import Evaluation
from elbos.validation.figures import by_level_figure

LEAST_FLOOR = 1e-6  # relative to the largest loss; the figure omits lower values


def swatches(result: Evaluation) -> dict[str, Swatch]:
    names = (name.replace("_", " ") for name in result.results)
    return {name: Swatch(color) for name, color in zip(names, cycle(COLORS), strict=False)}


def curves_figure(result: Evaluation) -> Figure:
    named = zip(swatches(result), result.results.values(), strict=True)
    return by_level_figure({name: (bound.curve, bound.elbo) for name, bound in named})


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
    panel = Panel(
        "<b>Loss and floor</b> in nats/dim per unit of log-SNR, ±2 standard errors",
        300,
        traces,
        axis,
    )
    every_level = [level for floor in floors.values() for level in floor.logsnr]
    axis = logsnr_axis(min(every_level), max(every_level))
    return stacked([panel], axis, has_legend=True)
