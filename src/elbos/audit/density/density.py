r"""Estimation of the density of noise levels from sampled noise levels.

A weighting is known as exactly as the density, at the ends of its range too, so a histogram does
not suffice. In order of exactness:

- **a table** (`levels`) of $T$ equally likely levels $\lambda_i$: $p(\lambda_i) =
  1 / (T\,|d\lambda/di|)$;
- **a function of a random number**: most losses compute the level from one number per sample,
  which was recorded. With $u$ its quantile and $s = \operatorname{logit} u$,

  $$p(\lambda) = \Bigl|\frac{du}{d\lambda}\Bigr| = u\,(1 - u)\,\Bigl|\frac{ds}{d\lambda}\Bigr|,$$

  and the pairs $(s, \lambda)$ of the samples give the derivative without sampling error. If the
  levels are a table, the probability of a step is the length of its interval of $u$. **A named
  schedule** (`families`) of the same shape replaces the curve;
- **a named schedule** that fits levels whose random number was not recorded;
- **a smooth density** (`curves`) of such levels or, for a table, of its steps.
"""

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from elbos.audit.density.curves import Splines, counts_by_block
from elbos.audit.density.families import schedule_of_shape
from elbos.audit.density.levels import Levels, Table, table_log_density
from elbos.audit.density.quantiles import DecidingDraw, StepCurve, inverse_cdf_density
from elbos.audit.density.tables import MIN_STEPS, schedule_of_table
from elbos.base.arrays import Array
from elbos.theory.schedules import Schedule

_MAX_ERROR_TO_NAME = 0.05  # mean error up to which a curve distinguishes schedules
_MAX_ERROR_TO_REPLACE = 0.02  # mean error up to which a published schedule replaces the curve
_MAX_STEP_ERROR = 1e-3  # of the log-SNR of a step in float32; 1.7e-4 is the largest seen
_NUM_IN_TAILS = 1024
_NUM_BINS = 1024
_MAX_BISECTIONS = 12


@dataclass(frozen=True)
class Density:
    r"""An estimate of the density $p(\lambda)$ of log-SNR on a grid."""

    kind: Literal["table", "named", "function", "smooth"]
    log_p: Float[Array, " g"]
    covariance: Float[Array, "g g"]  # sampling covariance of log_p, without bias of a fit
    schedule: Schedule | None = None  # named schedule of the same shape
    num_steps: int | None = None  # number of steps if the levels are a table
    is_fitted: bool = False
    spacing_error: float | Float[Array, " g"] = 0.0  # error of log_p because levels are discrete


@dataclass(frozen=True)
class Evidence:
    """Measured noise levels from which the density of log-SNR is estimated.

    The caller measures the levels of each `request`, adds them to `requested`, and repeats until
    `request` is None.
    """

    levels: Levels
    draw: DecidingDraw | None
    table: Table | None
    requested: tuple[Levels, ...] = ()  # one per request

    @classmethod
    def from_levels(cls, levels: Levels) -> "Evidence":
        draw = DecidingDraw.find(levels)
        levels = draw.averaged(levels) if draw else levels
        return cls(levels, draw, Table.from_levels(levels))

    @cached_property
    def all_levels(self) -> Levels:
        levels = reduce(Levels.joined, self.requested, self.levels)
        return self.draw.averaged(levels) if self.draw and self.requested else levels

    @cached_property
    def all_steps(self) -> tuple[Table, StepCurve]:
        assert self.table is not None and self.draw is not None
        table = (self.requested and Table.from_levels(self.all_levels)) or self.table
        return table, StepCurve(self.all_levels, table, self.draw)

    @property
    def request(self) -> tuple[int, Float[Array, " k"]] | None:
        """Column and quantiles of the draw at which the density estimate needs further levels."""
        if self.draw is None or (self.table is None and self.requested):
            return None
        if self.table is None:
            s = self.draw.of(self.levels)
            at = np.linspace(s.min(), s.max(), _NUM_IN_TAILS)
        elif len(self.requested) == _MAX_BISECTIONS or self.has_uniform_steps:
            return None
        else:
            at = self.all_steps[1].uncertain_middles()
        return (self.draw.column, self.draw.at(at)) if len(at) else None

    @property
    def has_uniform_steps(self) -> bool:
        return not self.requested and self.all_steps[1].is_uniform

    def density(self, grid: Float[Array, " g"]) -> Density:
        density, table = self._of_draw(grid), self.table
        if density is not None:
            return density
        if table is not None:
            steps = np.interp(grid, table.levels, table.steps)
            if table.is_uniform:
                with_fewest_knots = table.spline.splines[0]
                covariance = with_fewest_knots.covariance(steps)
                return replace(self._of_uniform(table, grid), covariance=covariance)
            log_probability = table.spline(table.steps)
            log_p, spacing = table_log_density(table.levels, table.steps, log_probability, grid)
            covariance = table.spline.covariance(steps)
            density = Density("smooth", log_p, covariance, None, len(table), True, spacing)
        else:
            logsnr = self.levels.logsnr
            edges = np.linspace(logsnr.min(), logsnr.max(), _NUM_BINS + 1)
            place = np.searchsorted(edges[1:-1], logsnr)
            counts = counts_by_block(place, self.levels.block, _NUM_BINS)
            spline = Splines.of_counts((edges[1:] + edges[:-1]) / 2, counts)
            log_p = spline(grid) - np.log(edges[1] - edges[0])
            density = Density("smooth", log_p, spline.covariance(grid), is_fitted=True)
        return _named(density, self.levels.logsnr, grid)

    def _of_draw(self, grid: Float[Array, " g"]) -> Density | None:
        if self.draw is None:
            return None
        levels = self.all_levels
        if self.table is None:
            curve = inverse_cdf_density(levels, self.draw.of(levels), grid)
            if curve is None:
                return None
            density = Density("function", curve[0], np.diag(curve[1] ** 2))
            return _named(density, self.levels.logsnr, grid)
        if self.has_uniform_steps:
            return self._of_uniform(self.table, grid)
        table, ends = self.all_steps
        if not ends.curve.is_enough:
            return None
        log_probability, step_error = ends.log_probability()
        log_p, spacing = table_log_density(table.levels, table.steps, log_probability, grid)
        error = np.interp(grid, table.levels, step_error)
        density = Density(
            "function", log_p, np.diag(error**2), num_steps=len(table), spacing_error=spacing
        )
        return _named(density, levels.logsnr, grid)

    def _of_uniform(self, table: Table, grid: Float[Array, " g"]) -> Density:
        log_probability = np.full(len(table.levels), -np.log(len(table)))
        log_p, spacing = table_log_density(table.levels, table.steps, log_probability, grid)
        error = _MAX_STEP_ERROR + 8 * float(np.median(self.levels.error))
        schedule = schedule_of_table(table, error)
        exact = np.zeros((len(grid), len(grid)))
        return Density("table", log_p, exact, schedule, len(table), spacing_error=spacing)


def _named(density: Density, logsnr: Float[Array, " n"], grid: Float[Array, " g"]) -> Density:
    """Label an estimated density of log-SNR with the noise schedule that matches it.

    A published schedule replaces the estimated curve, without error; a schedule with fitted
    parameters replaces only a curve fitted to levels alone, with the error of that curve.
    """
    error = np.hypot(np.sqrt(np.diag(density.covariance)), density.spacing_error)
    p = np.exp(density.log_p - density.log_p.max())
    mean_error = (p * error).sum() / p.sum()
    is_short = density.num_steps is not None and density.num_steps < MIN_STEPS
    if is_short or mean_error > _MAX_ERROR_TO_NAME:
        return density
    schedule, is_published = schedule_of_shape(grid, density.log_p, error, logsnr)
    is_exact = is_published and mean_error < _MAX_ERROR_TO_REPLACE
    if schedule is None or not (is_exact or density.is_fitted):
        return replace(density, schedule=schedule)
    log_p = schedule.log_density(torch.from_numpy(grid)).numpy()
    covariance = np.zeros((len(grid), len(grid))) if is_exact else density.covariance
    num_steps, is_fitted = density.num_steps, not is_exact
    return Density("named", log_p, covariance, schedule, num_steps, is_fitted=is_fitted)
