r"""The density of noise levels, from the levels that were drawn.

At the ends of its range a weighting is known as well as the density there, so a histogram is not
enough. In order of exactness:

- **a table**: if the levels are $T$ values, equally likely, then with $\lambda_i$ the $i$-th of
  them $p(\lambda_i) = 1 / (T\,|d\lambda/di|)$;
- **a function of a random number** (`drawn`): if the level is a monotone function of one number
  that was seen when it was drawn, then $p(\lambda) = p(u)\,|du/d\lambda|$, read off from the pairs
  $(u, \lambda)$ without sampling error; **a named schedule** (`fits`) if it has that shape;
- **a named schedule** that fits levels whose random number was not seen;
- **a smooth density** (`smooth`) of such levels; of the steps of a table, where there is one.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import median_filter

from elbos.arrays import Array
from elbos.audit.drawn import StepCurve, function_density, monotone_draw
from elbos.audit.fits import named_schedule, schedule_of_shape
from elbos.audit.smooth import Smooth, Splines
from elbos.schedules import Schedule

_TELLING = 0.05  # mean error up to which a curve tells one schedule from another
_SHARP = 0.02  # and up to which the schedule may stand for the curve, without error
_GAIN = 8.0  # in log-likelihood over equally likely steps: chance gave it to 3 of 2,000 tables


@dataclass(frozen=True)
class Levels:
    """Noise levels that were drawn independently of each other.

    Attributes:
        logsnr: Finite log-SNR.
        error: Of each, by rounding.
        quantiles: Random numbers that were drawn for each, by the logit of their quantile.
    """

    logsnr: Float[Array, " n"]
    error: Float[Array, " n"]
    quantiles: Float[Array, "n draws"]

    def at(self, index: NDArray[np.int64]) -> "Levels":
        """Some of them."""
        return Levels(self.logsnr[index], self.error[index], self.quantiles[index])


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
    values, counts = distinct_levels(levels)
    table = _Table.of(values, counts)
    draw = monotone_draw(levels.logsnr, levels.error, levels.quantiles)
    if draw is not None:
        read = _of_draw(levels, draw, table, grid)
        if read is not None:
            return read
    if table is not None and table.is_uniform:
        density = _of_table(table, grid)
        return replace(density, covariance=density.covariance + table.tilt_covariance(grid))
    return _of_levels(levels.logsnr, table, grid)


def _of_draw(
    levels: Levels, draw: Float[Array, " n"], table: "_Table | None", grid: Float[Array, " g"]
) -> Density | None:
    """Of levels that are a rising function of a number; None if they are known too badly."""
    if table is None:
        read = function_density(levels.logsnr, levels.error, draw, grid)
        return read and _of_shape(*read, levels.logsnr, None, grid)
    ends = StepCurve.of(table.steps_of(levels.logsnr), draw)
    if ends.is_uniform:
        return _of_table(table, grid)
    if not ends.curve.is_enough:
        return None
    log_probability, step_error = ends.log_probability()
    log_p = table_log_density(table.levels, table.steps, log_probability, grid)
    error = np.interp(grid, table.levels, step_error)
    error = np.hypot(error, spacing_error(table.levels, table.steps, grid))
    return _of_shape(log_p, error, levels.logsnr, len(table), grid)


def _of_table(table: "_Table", grid: Float[Array, " g"]) -> Density:
    """Of equally likely steps."""
    name = named_schedule(table.levels, None)
    covariance = np.diag(spacing_error(table.levels, table.steps, grid) ** 2)
    log_probability = np.full(len(table.levels), -np.log(len(table)))
    log_p = table_log_density(table.levels, table.steps, log_probability, grid)
    schedule = name.schedule if name else None
    return Density("table", log_p, covariance, schedule, len(table))


def _of_shape(
    log_p: Float[Array, " g"],
    error: Float[Array, " g"],
    logsnr: Float[Array, " n"],
    num_steps: int | None,
    grid: Float[Array, " g"],
) -> Density:
    """Of a curve that was read off; instead of it that of a published schedule of this shape."""
    p = np.exp(log_p - log_p.max())
    mean_error = (p * error).sum() / p.sum()
    schedule, is_published = None, False
    if mean_error < _TELLING:
        schedule, is_published = schedule_of_shape(grid, log_p, error, logsnr)
    if schedule is None or not is_published or mean_error > _SHARP:
        return Density("function", log_p, np.diag(error**2), schedule, num_steps)
    log_p = schedule.log_density(torch.from_numpy(grid)).numpy()
    return Density("named", log_p, np.zeros((len(grid), len(grid))), schedule, num_steps)


def _of_levels(
    logsnr: Float[Array, " n"], table: "_Table | None", grid: Float[Array, " g"]
) -> Density:
    """Of levels alone, by name if a schedule fits."""
    num_steps = len(table) if table else None
    smooth = Smooth.fit(logsnr)
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


def distinct_levels(levels: Levels) -> tuple[Float[Array, " t"], NDArray[np.int64]]:
    """The distinct values among the levels and how often each was drawn.

    Values are the same if they are much closer than levels drawn from a continuous density, or from
    a table, would be; or within their errors.
    """
    order = np.argsort(levels.logsnr)
    ordered, error = levels.logsnr[order], levels.error[order]
    low, high = np.quantile(ordered, [0.25, 0.75])
    gaps = np.diff(ordered)
    inner = gaps[(ordered[1:] > low) & (ordered[1:] < high)]
    tiny = max(2e-6, 0.02 * (high - low) / max(len(inner), 1))
    if len(inner) == 0 or (inner < tiny).mean() > 0.4:
        wide = inner[inner >= tiny]
        tiny = np.median(wide) / 10 if len(wide) else 1e-4
    is_start = gaps > np.maximum(tiny, 8 * error[1:])
    starts = np.flatnonzero(np.concatenate([[True], is_start]))
    counts = np.diff(np.append(starts, len(ordered)))
    return np.add.reduceat(ordered, starts) / counts, counts


@dataclass(frozen=True)
class _Table:
    """A table of levels: the probability of a step over the spacing of the steps.

    Attributes:
        levels: Those that were drawn, increasing.
        steps: Their places in the table; steps that were never drawn leave a gap.
        counts: How often each was drawn.
    """

    levels: Float[Array, " t"]
    steps: Float[Array, " t"]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, levels: Array, counts: NDArray[np.int64]) -> "_Table | None":
        """The table that the levels come from; None if they hardly repeat."""
        if len(levels) < 3 or counts.mean() < 2:
            return None
        gaps = np.diff(levels)
        usual = median_filter(gaps, size=min(9, len(gaps)), mode="nearest")
        missing = np.clip(np.rint(gaps / usual), 1, 4) if counts.mean() < 30 else np.ones(len(gaps))
        return cls(levels, np.concatenate([[0.0], np.cumsum(missing)]), counts)

    def __len__(self) -> int:
        return int(self.steps[-1]) + 1

    def steps_of(self, logsnr: Float[Array, " n"]) -> Float[Array, " n"]:
        """The number of the step of each sample."""
        place = np.searchsorted((self.levels[1:] + self.levels[:-1]) / 2, logsnr)
        return np.asarray(self.steps[place])

    @property
    def is_uniform(self) -> bool:
        """Whether all steps are equally likely: by the chi-squared test, and because no smooth
        change of the probability, of which that hardly takes note, makes the counts more likely.
        """
        mean = self.counts.sum() / len(self)
        never = len(self) - len(self.counts)
        chi2 = ((self.counts - mean) ** 2).sum() / mean + never * mean
        degrees = len(self) - 1
        if chi2 - degrees > 5 * (2 * degrees) ** 0.5:
            return False
        even = -float(self.counts.sum()) * np.log(len(self))
        return bool(self._spline.score - even < _GAIN)

    @cached_property
    def _spline(self) -> Splines:
        counts = np.zeros(len(self))
        counts[self.steps.astype(int)] = self.counts
        return Splines.of_counts(np.arange(len(self), dtype=np.float64), counts)

    def tilt_covariance(self, logsnr: Array) -> Array:
        """Of the log-probability of equally likely steps: what few samples cannot exclude."""
        fewest_knots = self._spline.splines[0]
        return fewest_knots.covariance(np.interp(logsnr, self.levels, self.steps))

    def log_p(self, logsnr: Array) -> Array:
        """The log-density, smooth in the number of the step."""
        log_probability = self._spline(self.steps)
        return table_log_density(self.levels, self.steps, log_probability, logsnr)

    def covariance(self, logsnr: Array) -> Array:
        """Of `log_p`."""
        spacing = np.diag(spacing_error(self.levels, self.steps, logsnr) ** 2)
        return spacing + self._spline.covariance(np.interp(logsnr, self.levels, self.steps))


def table_log_density(
    levels: Float[Array, " t"],
    steps: Float[Array, " t"],
    log_probability: Float[Array, " t"],
    logsnr: Float[Array, " g"],
) -> Float[Array, " g"]:
    """The log-density of increasing levels: the probability of a step over the spacing of steps."""
    log_p = log_probability - np.log(np.gradient(levels, steps))
    return np.asarray(PchipInterpolator(levels, log_p)(logsnr))


def spacing_error(
    levels: Float[Array, " t"], steps: Float[Array, " t"], logsnr: Float[Array, " g"]
) -> Float[Array, " g"]:
    """How uncertain the log-density of a table is by being one.

    The spacing of levels is defined only up to its change from one step to the next: five standard
    errors, which a rise has to exceed (`rises`), are half of that change.
    """
    change = np.abs(np.diff(np.log(np.diff(levels) / np.diff(steps)))) / 10
    return np.asarray(np.interp(logsnr, levels, np.concatenate([change[:1], change, change[-1:]])))
