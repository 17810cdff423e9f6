"""The loss of an evaluation beside the floor of the training images, as table and figure."""

import math
from dataclasses import dataclass
from html import escape

import numpy as np
from plotly.graph_objects import Figure, Scatter

from elbos.base.figures import Panel, area, log_axis, logsnr_axis, stacked
from elbos.base.numbers import fixed, percent, plus_minus
from elbos.base.tables import Table, evenly
from elbos.evaluation.figures import swatches
from elbos.evaluation.result import Evaluation, Likelihood
from elbos.theory.floor import Floor

LEAST = 1e-6  # of the largest loss: floors fall to nothing, and the figure ends here


def floor_tables(result: Evaluation, num_rows: int) -> list[Table]:
    """Loss, floor and excess at some noise levels, of each condition."""
    return [
        _table(result.results[name], floor, name.replace("_", " "), num_rows)
        for name, floor in (result.floors or {}).items()
    ]


def _table(one: Likelihood, floor: Floor, name: str, num_rows: int) -> Table:
    curve = one.curve
    rows = []
    for i in evenly(len(curve.logsnr), num_rows):
        loss, error = curve.nats_per_dim[i], curve.standard_error[i]
        least, least_error = floor.loss[i], floor.standard_error[i]
        excess = plus_minus(loss - least, math.hypot(error, least_error) if error else None)
        cells = (plus_minus(loss, error), plus_minus(least, least_error), excess)
        rows.append((fixed(curve.logsnr[i], 2), *cells))
    heads = ["log-SNR", "loss", "floor", "loss − floor"]
    if found := underfitting(one, floor):
        name += f"; {percent(found.excess)} ± {percent(found.error)} above it"
        name += f" up to log-SNR {fixed(found.logsnr, 1)}"
    return Table(heads, rows, name)


@dataclass(frozen=True)
class Underfitting:
    """What a loss is above its floor, where a tenth of the training images has the same floor.

    Attributes:
        logsnr: Up to this noise level.
        excess: The area between loss and floor over that under the floor.
        error: Its standard error at most: as if the errors at all noise levels were one.
    """

    logsnr: float
    excess: float
    error: float


def underfitting(one: Likelihood, floor: Floor) -> Underfitting | None:
    """The excess where the floor is resolved, or None if it is so at no noise level.

    Levels at which the loss has no error are left out: no image was measured there, and the loss is
    what the pilot's curve says.
    """
    curve = one.curve
    levels = [i for i in range(floor.num_resolved) if curve.standard_error[i] > 0]
    if not levels:
        return None
    area = sum(floor.loss[i] for i in levels)
    errors = [math.hypot(curve.standard_error[i], floor.standard_error[i]) for i in levels]
    excess = sum(curve.nats_per_dim[i] for i in levels) / area - 1
    return Underfitting(floor.logsnr[levels[-1]], excess, sum(errors) / area)


def floor_figure(result: Evaluation) -> Figure:
    """The loss by noise level, and the floor dashed, on a logarithmic axis."""
    traces: list[Scatter] = []
    floors = result.floors or {}
    for (title, swatch), (name, floor) in zip(
        swatches(result).items(), floors.items(), strict=True
    ):
        curve = result.results[name].curve
        loss = np.array(curve.nats_per_dim), np.array(curve.standard_error)
        traces += _curve(np.array(curve.logsnr), *loss, title, swatch.color, "solid")
        least = np.array(floor.loss), np.array(floor.standard_error)
        title = f"floor, {title}"
        traces += _curve(np.array(floor.logsnr), *least, title, swatch.color, "dash")
    values = np.concatenate([trace.y for trace in traces])
    axis = log_axis(values[values > LEAST * values.max()])
    panel = Panel("<b>Loss and floor</b> in nats/dim, ±2 standard errors", 300, traces, axis)
    levels = [level for floor in floors.values() for level in floor.logsnr]
    return stacked([panel], logsnr_axis(min(levels), max(levels)), has_legend=True)


def _curve(
    levels: np.ndarray, values: np.ndarray, errors: np.ndarray, name: str, color: str, dash: str
) -> list[Scatter]:
    """A curve with its error, as far as it is above nothing."""
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
