r"""The density of noise levels, from the levels that were drawn.

At the ends of its range a weighting is known as well as the density there, so a histogram is not
enough. In order of exactness:

- **a table**: if the levels are $T$ values, equally likely, then with $\lambda_i$ the $i$-th of
  them $p(\lambda_i) = 1 / (T\,|d\lambda/di|)$;
- **a named schedule**, if one fits (`fits`);
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

from elbos.audit.fits import named_schedule
from elbos.audit.smooth import LogSplines, Smooth
from elbos.schedules import Schedule

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Density:
    r"""An estimate of $p(\lambda)$ on a grid.

    Attributes:
        kind: "table", "named" or "smooth".
        log_p: $\log p$ at the grid.
        covariance: Of the estimate of `log_p`.
        schedule: The schedule that fits, or None.
        num_steps: Number of values in the table, or None.
    """

    kind: Literal["table", "named", "smooth"]
    log_p: Float[Array, " g"]
    covariance: Float[Array, "g g"]
    schedule: Schedule | None
    num_steps: int | None


def estimate_density(
    logsnr: Float[Array, " n"], error: Float[Array, " n"], grid: Float[Array, " g"]
) -> Density:
    """The density of independent noise levels.

    Args:
        logsnr: Finite levels, as they were drawn.
        error: Of each of them, by rounding.
        grid: Where to give the density, from the smallest level to the largest.
    """
    levels, counts = distinct_levels(logsnr, error)
    table = _Table.of(levels, counts)
    if table and table.is_uniform:
        named = named_schedule(levels, None)
        covariance = table.covariance(grid)
        return Density("table", table.log_p(grid), covariance, named and named[0], table.num_steps)
    num_steps = table.num_steps if table else None
    smooth = Smooth.fit(logsnr)
    named = named_schedule(logsnr, smooth)
    if named:
        schedule, covariance_of = named
        log_p = schedule.log_density(torch.from_numpy(grid)).numpy()
        return Density("named", log_p, covariance_of(grid), schedule, num_steps)
    best = table or smooth
    return Density("smooth", best.log_p(grid), best.covariance(grid), None, num_steps)


def distinct_levels(
    logsnr: Float[Array, " n"], error: Float[Array, " n"]
) -> tuple[Float[Array, " t"], NDArray[np.int64]]:
    """The distinct values among the levels and how often each was drawn.

    Values are the same if they are much closer than levels drawn from a continuous density, or from
    a table, would be; or within their errors.
    """
    order = np.argsort(logsnr)
    ordered, error = logsnr[order], error[order]
    low, high = np.quantile(ordered, [0.25, 0.75])
    gaps = np.diff(ordered)
    inner = gaps[(ordered[1:] > low) & (ordered[1:] < high)]
    tiny = max(2e-6, 0.02 * (high - low) / max(len(inner), 1))
    if len(inner) == 0 or (inner < tiny).mean() > 0.4:
        wide = inner[inner >= tiny]
        tiny = np.median(wide) / 10 if len(wide) else 1e-4
    starts = np.flatnonzero(np.concatenate([[True], gaps > np.maximum(tiny, 8 * error[1:])]))
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

    @property
    def num_steps(self) -> int:
        return int(self.steps[-1]) + 1

    @property
    def is_uniform(self) -> bool:
        """Whether all steps are equally likely, by the chi-squared test."""
        mean = self.counts.sum() / self.num_steps
        never = self.num_steps - len(self.counts)
        chi2 = ((self.counts - mean) ** 2).sum() / mean + never * mean
        degrees = self.num_steps - 1
        return bool(chi2 - degrees < 5 * (2 * degrees) ** 0.5)

    @cached_property
    def _spline(self) -> LogSplines:
        counts = np.zeros(self.num_steps)
        counts[self.steps.astype(int)] = self.counts
        return LogSplines.fit(np.arange(self.num_steps, dtype=np.float64), counts)

    def log_p(self, logsnr: Array) -> Array:
        if self.is_uniform:
            log_probability = np.full(len(self.levels), -np.log(self.num_steps))
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
