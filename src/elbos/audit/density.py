r"""The density of noise levels, from the levels that were drawn.

At the ends of its range a weighting is known as well as the density there, so a histogram is not
enough. In order of exactness:

- **a table** (`levels`): if the levels are $T$ values, equally likely, then with $\lambda_i$ the
  $i$-th of them $p(\lambda_i) = 1 / (T\,|d\lambda/di|)$;
- **a function of a random number** (`inverse_cdf`): if the level is a monotone function of one
  number that was recorded when it was drawn, then $p(\lambda) = p(u)\,|du/d\lambda|$, read off from
  the pairs $(u, \lambda)$ without sampling error; **a named schedule** (`families`) if it has that
  shape;
- **a named schedule** that fits levels whose random number was not recorded;
- **a smooth density** (`splines`) of such levels; of the steps of a table, where there is one.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from elbos.arrays import Array
from elbos.audit.families import named_schedule, schedule_of_shape
from elbos.audit.inverse_cdf import StepCurve, deciding_draw, inverse_cdf_density
from elbos.audit.levels import Levels, Table, spacing_error, table_log_density
from elbos.audit.splines import SmoothDensity
from elbos.schedules import Schedule

_MAX_ERROR_TO_NAME = 0.05  # mean error up to which a curve tells one schedule from another
_MAX_ERROR_TO_REPLACE = 0.02  # and up to which the schedule may stand for the curve, without error


@dataclass(frozen=True)
class Density:
    r"""An estimate of $p(\lambda)$ on a grid.

    Attributes:
        kind: "table", "named", "function" or "smooth".
        log_p: $\log p$ at the grid.
        covariance: Of the estimate of `log_p`.
        schedule: The schedule that fits, or None.
        num_steps: Number of values in the table, or None.
        is_fitted: Whether something was fitted to levels alone, so that `covariance` is that of
            chance, and leaves out what the fit itself may be wrong about.
    """

    kind: Literal["table", "named", "function", "smooth"]
    log_p: Float[Array, " g"]
    covariance: Float[Array, "g g"]
    schedule: Schedule | None
    num_steps: int | None
    is_fitted: bool = False


def estimate_density(levels: Levels, grid: Float[Array, " g"]) -> Density:
    """The density of independent noise levels.

    Args:
        levels: The levels.
        grid: Where to give the density, from the smallest level to the largest.
    """
    table = Table.from_levels(levels)
    draw = deciding_draw(levels.logsnr, levels.error, levels.quantiles)
    if draw is not None:
        density = _of_draw(levels, draw, table, grid)
        if density is not None:
            return density
    if table is not None and table.is_uniform:
        density = _of_uniform(table, grid)
        return replace(density, covariance=density.covariance + table.tilt_covariance(grid))
    return _of_levels(levels.logsnr, table, grid)


def _of_draw(
    levels: Levels, draw: Float[Array, " n"], table: Table | None, grid: Float[Array, " g"]
) -> Density | None:
    """The density of a rising function of a recorded number; None if it is known too badly."""
    if table is None:
        curve = inverse_cdf_density(levels.logsnr, levels.error, draw, grid)
        return curve and _of_shape(*curve, levels.logsnr, None, grid)
    ends = StepCurve.from_samples(table.steps_of(levels.logsnr), draw)
    if ends.is_uniform:
        return _of_uniform(table, grid)
    if not ends.curve.is_enough:
        return None
    log_probability, step_error = ends.log_probability()
    log_p = table_log_density(table.levels, table.steps, log_probability, grid)
    error = np.interp(grid, table.levels, step_error)
    error = np.hypot(error, spacing_error(table.levels, table.steps, grid))
    return _of_shape(log_p, error, levels.logsnr, len(table), grid)


def _of_uniform(table: Table, grid: Float[Array, " g"]) -> Density:
    """The density of equally likely steps."""
    name = named_schedule(table.levels, None)
    covariance = np.diag(spacing_error(table.levels, table.steps, grid) ** 2)
    log_probability = np.full(len(table.levels), -np.log(len(table)))
    log_p = table_log_density(table.levels, table.steps, log_probability, grid)
    return Density("table", log_p, covariance, name.schedule if name else None, len(table))


def _of_shape(
    log_p: Float[Array, " g"],
    error: Float[Array, " g"],
    logsnr: Float[Array, " n"],
    num_steps: int | None,
    grid: Float[Array, " g"],
) -> Density:
    """The density that was read off, or the published schedule of the same shape."""
    p = np.exp(log_p - log_p.max())
    mean_error = (p * error).sum() / p.sum()
    schedule, is_published = None, False
    if mean_error < _MAX_ERROR_TO_NAME:
        schedule, is_published = schedule_of_shape(grid, log_p, error, logsnr)
    if schedule is None or not is_published or mean_error > _MAX_ERROR_TO_REPLACE:
        return Density("function", log_p, np.diag(error**2), schedule, num_steps)
    log_p = schedule.log_density(torch.from_numpy(grid)).numpy()
    return Density("named", log_p, np.zeros((len(grid), len(grid))), schedule, num_steps)


def _of_levels(
    logsnr: Float[Array, " n"], table: Table | None, grid: Float[Array, " g"]
) -> Density:
    """The density of levels alone, by name if a schedule fits."""
    num_steps = len(table) if table else None
    smooth = SmoothDensity.fit(logsnr)
    name = named_schedule(logsnr, smooth)
    if name is None:
        best = table or smooth
        covariance = best.covariance(grid)
        return Density("smooth", best.log_p(grid), covariance, None, num_steps, is_fitted=True)
    log_p = name.schedule.log_density(torch.from_numpy(grid)).numpy()
    covariance = name.covariance(grid)
    if not name.is_published:
        covariance = covariance + np.diag((log_p - smooth.log_p(grid)) ** 2)
    is_fitted = not name.is_published
    return Density("named", log_p, covariance, name.schedule, num_steps, is_fitted=is_fitted)
