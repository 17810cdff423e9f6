r"""The density of noise levels, from the levels that were drawn.

At the ends of its range a weighting is known as well as the density there, so a histogram is not
enough. In order of exactness:

- **a table**: if the levels are $T$ values, equally likely, then with $\lambda_i$ the $i$-th of
  them $p(\lambda_i) = 1 / (T\,|d\lambda/di|)$;
- **a published schedule**, if one fits (`fits`);
- **a function of a random number**: if the level is a monotone function of one number that torch
  drew for the sample, then $p(\lambda) = p(u)\,|du/d\lambda|$, read off from the pairs
  $(u, \lambda)$ without sampling error;
- **a fitted schedule**, if one fits;
- **a smooth density** (`smooth`); of the steps of a table, where there is one.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import median_filter

from elbos.audit.drawn import DrawnDensity, monotone_draw, step_probabilities
from elbos.audit.fits import named_schedule
from elbos.audit.smooth import LogSplines, Smooth
from elbos.schedules import Schedule

Array = NDArray[np.float64]
_STEP_ERROR = 0.2  # of the probability of a step read off from samples, in units of one of them


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
    """

    kind: Literal["table", "named", "function", "smooth"]
    log_p: Float[Array, " g"]
    covariance: Float[Array, "g g"]
    schedule: Schedule | None
    num_steps: int | None


def estimate_density(levels: Levels, grid: Float[Array, " g"]) -> Density:
    """The density of independent noise levels.

    Args:
        levels: The levels.
        grid: Where to give the density, from the smallest level to the largest.
    """
    values, counts = distinct_levels(levels)
    table = _Table.of(values, counts)
    if table and table.is_uniform:
        name = named_schedule(values, None)
        covariance = table.covariance(grid)
        schedule = name.schedule if name else None
        return Density("table", table.log_p(grid), covariance, schedule, len(table))
    num_steps = len(table) if table else None
    smooth = Smooth.fit(levels.logsnr)
    name = named_schedule(levels.logsnr, smooth)
    schedule = name.schedule if name else None
    is_published = name is not None and name.is_published
    draw = monotone_draw(levels.logsnr, levels.error, levels.quantiles)
    if not is_published and draw is not None:
        log_p, covariance = _of_function(levels.logsnr, draw, table, grid)
        return Density("function", log_p, covariance, schedule, num_steps)
    if name:
        log_p = name.schedule.log_density(torch.from_numpy(grid)).numpy()
        return Density("named", log_p, name.covariance(grid), schedule, num_steps)
    best = table or smooth
    return Density("smooth", best.log_p(grid), best.covariance(grid), None, num_steps)


def _of_function(
    logsnr: Float[Array, " n"], draw: Float[Array, " n"], table: "_Table | None", grid: Array
) -> tuple[Float[Array, " g"], Float[Array, "g g"]]:
    """The log-density of levels that are a function of a random number, and its covariance."""
    if table is None:
        density = DrawnDensity.of(logsnr, draw)
        return density.log_p(grid), np.diag(np.full(len(grid), density.error**2))
    probability = step_probabilities(table.levels, table.steps, logsnr, draw)
    log_p = table_log_density(table.levels, table.steps, np.log(probability), grid)
    covariance = spacing_covariance(table.levels, table.steps, grid)
    error = np.interp(grid, table.levels, _STEP_ERROR / (len(logsnr) * probability))
    return log_p, covariance + np.diag(error**2)


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

    @property
    def is_uniform(self) -> bool:
        """Whether all steps are equally likely, by the chi-squared test."""
        mean = self.counts.sum() / len(self)
        never = len(self) - len(self.counts)
        chi2 = ((self.counts - mean) ** 2).sum() / mean + never * mean
        degrees = len(self) - 1
        return bool(chi2 - degrees < 5 * (2 * degrees) ** 0.5)

    @cached_property
    def _spline(self) -> LogSplines:
        counts = np.zeros(len(self))
        counts[self.steps.astype(int)] = self.counts
        return LogSplines.fit(np.arange(len(self), dtype=np.float64), counts)

    def log_p(self, logsnr: Array) -> Array:
        if self.is_uniform:
            log_probability = np.full(len(self.levels), -np.log(len(self)))
        else:
            log_probability = self._spline.log_p(self.steps)
        return table_log_density(self.levels, self.steps, log_probability, logsnr)

    def covariance(self, logsnr: Array) -> Array:
        spacing = spacing_covariance(self.levels, self.steps, logsnr)
        if self.is_uniform:
            return spacing
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


def spacing_covariance(
    levels: Float[Array, " t"], steps: Float[Array, " t"], logsnr: Float[Array, " g"]
) -> Float[Array, "g g"]:
    """How uncertain the density of a table is by being one.

    The spacing of levels is defined only up to its change from one step to the next: five standard
    errors, which a rise has to exceed (`rises`), are half of that change.
    """
    change = np.abs(np.diff(np.log(np.diff(levels) / np.diff(steps)))) / 10
    error = np.concatenate([change[:1], change, change[-1:]])
    return np.diag(np.interp(logsnr, levels, error) ** 2)
