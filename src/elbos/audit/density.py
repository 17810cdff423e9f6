r"""The density of noise levels, from the levels that were drawn.

At the ends of its range a weighting is known as well as the density there, so a histogram is not
enough. In order of exactness:

- **a table** (`levels`): if the levels are $T$ values, equally likely, then with $\lambda_i$ the
  $i$-th of them $p(\lambda_i) = 1 / (T\,|d\lambda/di|)$;
- **a function of a random number**: most losses draw one number per sample, which was recorded, and
  compute the level from it. With $u$ its quantile and $s = \operatorname{logit} u$, which loses no
  digits near 1 and is smooth where $u$ is flat,

  $$p(\lambda) = \Bigl|\frac{du}{d\lambda}\Bigr| = u\,(1 - u)\,\Bigl|\frac{ds}{d\lambda}\Bigr|,$$

  and the pairs $(s, \lambda)$ of the samples give the derivative without sampling error. Where the
  levels are a table, a step's probability is the length of the interval of $u$ that leads to it:
  an end lies between the samples of two steps, known up to their distance; so ends are taken that
  are many samples apart, and a curve through them. **A named schedule** (`families`) stands for the
  curve if it has that shape;
- **a named schedule** that fits levels whose random number was not recorded;
- **a smooth density** (`curves`) of such levels; of the steps of a table, where there is one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import chain
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import maximum_filter1d
from scipy.special import expit, log_expit, logit

from elbos.audit.curves import SmoothDensity, scatter
from elbos.audit.families import named_schedule, schedule_of_shape
from elbos.audit.levels import Levels, Table, table_log_density
from elbos.base.arrays import Array
from elbos.theory.schedules import Schedule

_MAX_ERROR_TO_NAME = 0.05  # mean error up to which a curve tells one schedule from another
_MAX_ERROR_TO_REPLACE = 0.02  # and up to which the schedule may stand for the curve, without error
_NUM_POINTS = 500  # of a curve
_POINT_DISTANCES = (100, 30, 10, 3)  # in errors: slopes are then known to 1 % to 30 %
_MIN_POINTS = 12
_MIN_SAMPLES_AT_END = 20
_NUM_IN_TAILS = 1024
_MAX_BISECTIONS = 12
_MAX_END_ERROR = 1e-3  # of the end of a step of a table, over its width
_MISFIT_WINDOW = 25  # points of a grid over which the largest misfit is taken


@dataclass(frozen=True)
class Density:
    r"""An estimate of $p(\lambda)$ on a grid.

    If something was fitted to levels alone, the covariance is that of chance, and leaves out what
    the fit itself may be wrong about.
    """

    kind: Literal["table", "named", "function", "smooth"]
    log_p: Float[Array, " g"]
    covariance: Float[Array, "g g"]  # of log_p
    schedule: Schedule | None = None  # that fits
    num_steps: int | None = None  # of a table
    is_fitted: bool = False
    spacing_error: float | Float[Array, " g"] = 0.0  # of log_p, since a table is none of a density


@dataclass(frozen=True)
class Request:
    """Quantiles of a draw at which more noise levels would make the density more exact."""

    column: int  # of the quantiles of the levels
    quantiles: Float[Array, " k"]


@dataclass(frozen=True)
class Evidence:
    """Independent noise levels, and more of them at chosen quantiles of the draw behind them.

    Its user draws what it requests, joins that, and asks again, until nothing is requested.
    """

    levels: Levels
    draw: "DecidingDraw | None"
    table: Table | None
    chosen: tuple[Levels, ...] = ()  # one for each request

    @classmethod
    def from_levels(cls, levels: Levels) -> "Evidence":
        return cls(levels, DecidingDraw.find(levels), Table.from_levels(levels))

    def joined(self, chosen: Levels) -> "Evidence":
        """Add the levels at the quantiles of the last request."""
        return replace(self, chosen=(*self.chosen, chosen))

    @cached_property
    def all_levels(self) -> Levels:
        """The independent levels and the chosen ones."""
        return reduce(Levels.joined, self.chosen, self.levels)

    @cached_property
    def all_steps(self) -> tuple[Table, "StepCurve"]:
        """The table of all levels and the quantiles at which its steps end."""
        assert self.table is not None and self.draw is not None
        table = (self.chosen and Table.from_levels(self.all_levels)) or self.table
        return table, StepCurve.from_levels(self.all_levels, table, self.draw)

    @property
    def request(self) -> Request | None:
        """Return the draws needed next: in the tails, where samples are rare, or near ends of
        steps.
        """
        if self.draw is None or (self.table is None and self.chosen):
            return None
        if self.table is None:
            s = self.draw.of(self.levels)
            at = np.linspace(s.min(), s.max(), _NUM_IN_TAILS)
        elif len(self.chosen) == _MAX_BISECTIONS or self.has_uniform_steps:
            return None
        else:
            at = self.all_steps[1].uncertain_middles()
        return Request(self.draw.column, self.draw.at(at)) if len(at) else None

    @property
    def has_uniform_steps(self) -> bool:
        """Return whether the draw shows equally likely steps, so that no more need be drawn."""
        return not self.chosen and self.all_steps[1].is_uniform

    def density(self, grid: Float[Array, " g"]) -> Density:
        """Estimate the density on a grid from the smallest to the largest level."""
        density, table = self._of_draw(grid), self.table
        if density is not None:
            return density
        if table is not None and table.is_uniform:
            return replace(_of_uniform(table, grid), covariance=table.tilt_covariance(grid))
        return _of_levels(self.levels, table, grid)

    def _of_draw(self, grid: Float[Array, " g"]) -> Density | None:
        """The density of a rising function of the draw; None if it is known too badly."""
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
            return _of_uniform(self.table, grid)
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


def _of_uniform(table: Table, grid: Float[Array, " g"]) -> Density:
    """The density of equally likely steps."""
    name = named_schedule(table.levels)
    log_probability = np.full(len(table.levels), -np.log(len(table)))
    log_p, spacing = table_log_density(table.levels, table.steps, log_probability, grid)
    exact = np.zeros((len(grid), len(grid)))
    return Density("table", log_p, exact, name, len(table), spacing_error=spacing)


def _of_levels(levels: Levels, table: Table | None, grid: Float[Array, " g"]) -> Density:
    """The density of levels alone."""
    if table:
        log_p, spacing = table.log_density(grid)
        covariance = table.covariance(grid)
        density = Density(
            "smooth", log_p, covariance, None, len(table), is_fitted=True, spacing_error=spacing
        )
    else:
        smooth = SmoothDensity.fit(levels.logsnr, levels.block)
        density = Density("smooth", smooth.log_p(grid), smooth.covariance(grid), is_fitted=True)
    return _named(density, levels.logsnr, grid)


def _named(density: Density, logsnr: Float[Array, " n"], grid: Float[Array, " g"]) -> Density:
    """Name the schedule that has the same shape.

    One that is published stands for the curve, without error; any other for a curve that was fitted
    to levels alone, with that curve's error.
    """
    error = np.hypot(np.sqrt(np.diag(density.covariance)), density.spacing_error)
    p = np.exp(density.log_p - density.log_p.max())
    mean_error = (p * error).sum() / p.sum()
    if mean_error > _MAX_ERROR_TO_NAME:
        return density
    schedule, is_published = schedule_of_shape(grid, density.log_p, error, logsnr)
    is_exact = is_published and mean_error < _MAX_ERROR_TO_REPLACE
    if schedule is None or not (is_exact or density.is_fitted):
        return replace(density, schedule=schedule)
    log_p = schedule.log_density(torch.from_numpy(grid)).numpy()
    covariance = np.zeros((len(grid), len(grid))) if is_exact else density.covariance
    num_steps, is_fitted = density.num_steps, not is_exact
    return Density("named", log_p, covariance, schedule, num_steps, is_fitted=is_fitted)


# --- a function of a random number ---------------------------------------------------------------


@dataclass(frozen=True)
class DecidingDraw:
    """The random number that decides the level."""

    column: int  # of the quantiles
    sign: float  # -1 if the level falls with it

    @classmethod
    def find(cls, levels: Levels) -> "DecidingDraw | None":
        """The number of which the level is a rising or a falling function, up to rounding."""
        logsnr, error = levels.logsnr, levels.error
        for column, draw in enumerate(levels.quantiles.T):
            is_finite = np.isfinite(draw)
            if not is_finite.any() or np.isnan(draw).any() or np.ptp(draw[is_finite]) == 0:
                continue
            order = np.argsort(_within(draw), kind="stable")
            steps, is_tied = np.diff(logsnr[order]), np.diff(draw[order]) == 0
            sign = 1.0 if steps.sum() > 0 else -1.0
            allowed = 1e-5 + 8 * (error[order][1:] + error[order][:-1])
            is_decided = np.where(is_tied, np.abs(steps) <= allowed, sign * steps >= -allowed)
            if is_decided.all():
                return cls(column, sign)
        return None

    def of(self, levels: Levels) -> Float[Array, " n"]:
        """The numbers, of which the level is a rising function: logits of quantiles."""
        return self.sign * _within(levels.quantiles[:, self.column])

    def at(self, s: Float[Array, " n"]) -> Float[Array, " n"]:
        return np.asarray(expit(self.sign * s))


def _within(draw: Float[Array, " n"]) -> Float[Array, " n"]:
    """Logits without infinities: a uniform number may be exactly 0."""
    is_finite = np.isfinite(draw)
    return np.clip(draw, draw[is_finite].min() - 1, draw[is_finite].max() + 1)


@dataclass(frozen=True)
class RisingCurve:
    """$s$ or $u$ as a rising function of a place: a level, or the end of a step of a table."""

    places: Float[Array, " m"]  # increasing
    s: Float[Array, " m"]  # increasing
    error: Float[Array, " m"]  # of s

    def thinned(self, min_distance: float = 0.0) -> "RisingCurve":
        """Some of the points, many errors apart: from the middle outwards, and the fewer errors the
        nearer to the ends, where points are rare; none nearer than a share of the way along both
        axes.
        """
        way = (self.s / np.ptp(self.s) + self.places / np.ptp(self.places)) / 2
        middle = len(way) // 2
        left, right = range(middle - 1, -1, -1), range(middle + 1, len(way))
        sides = (self._outwards(middle, side, way, min_distance) for side in (left, right))
        return self.at(sorted({middle, *chain(*sides)}))

    def _outwards(
        self, last: int, side: range, way: Float[Array, " m"], min_distance: float
    ) -> Iterator[int]:
        for num_errors in _POINT_DISTANCES:
            for i in range(last + side.step, side.stop, side.step):
                far = num_errors * (self.error[i] + self.error[last])
                is_far = abs(self.s[i] - self.s[last]) > far
                is_far = is_far and abs(way[i] - way[last]) > min_distance
                if is_far and self.places[i] != self.places[last]:
                    yield i
                    last = i

    @property
    def is_enough(self) -> bool:
        """Return whether there are enough points for the curve and for its halves."""
        return len(self.s) >= _MIN_POINTS

    def at(self, index: list[int] | slice) -> "RisingCurve":
        return RisingCurve(self.places[index], self.s[index], self.error[index])

    def __call__(self, place: Float[Array, " g"]) -> Float[Array, " g"]:
        return np.asarray(PchipInterpolator(self.places, self.s)(place))

    def log_slope(self, place: Float[Array, " g"]) -> Float[Array, " g"]:
        r"""Return $\log(ds/d\mathrm{place})$ of the curve."""
        slope = PchipInterpolator(self.places, self.s)(place, 1)
        return np.log(np.maximum(slope, 1e-300))

    def slope_error(self, place: Float[Array, " g"]) -> Float[Array, " g"]:
        """The error of `log_slope`: by the errors of the points, and by there being so few, which
        the difference of the curves through every other point shows.
        """
        relative = (self.error[1:] + self.error[:-1]) / np.diff(self.s)
        middle = (self.places[1:] + self.places[:-1]) / 2
        halves = (self.at(slice(start, None, 2)).log_slope(place) for start in (0, 1))
        misfit = maximum_filter1d(np.abs(np.subtract(*halves)), _MISFIT_WINDOW)
        return np.hypot(np.interp(place, middle, relative), misfit) + 1e-5


def inverse_cdf_density(
    all_levels: Levels, draw: Float[Array, " n"], grid: Float[Array, " g"]
) -> tuple[Float[Array, " g"], Float[Array, " g"]] | None:
    """The log-density of levels that are a rising function of `draw`, and its error; None if they
    are known too badly.

    From the slope of $s$, which is smooth where levels go on for ever, or from that of $u$, which
    is where they end; whichever is known better.
    """
    s, order = np.unique(draw, return_index=True)  # of numbers that were rounded to one, one
    error = all_levels.error[order]
    levels = np.maximum.accumulate(all_levels.logsnr[order])
    # of levels that equal the first, or the last, as where they are clamped, one of each is kept
    is_above = levels - levels[0] > 1e-5 + 8 * error
    is_below = levels[-1] - levels > 1e-5 + 8 * error
    inner = slice(int(is_above.argmax()) - 1, len(levels) - int(is_below[::-1].argmax()) + 1)
    s, levels, error = s[inner], levels[inner], error[inner]
    error = np.maximum(error, scatter(s, levels))  # the loss itself rounds, too
    slope = np.gradient(s, levels + 1e-12 * np.arange(len(s)))
    curve = RisingCurve(levels, s, np.minimum(slope, 1e6) * error).thinned(1 / _NUM_POINTS)
    if not curve.is_enough:
        return None
    at = curve(grid)
    by_s = log_expit(at) + log_expit(-at) + curve.log_slope(grid), curve.slope_error(grid)
    u = expit(curve.s)
    curve = RisingCurve(curve.places, u, u * (1 - u) * curve.error)
    by_u = curve.log_slope(grid), curve.slope_error(grid)
    is_better = by_u[1] < by_s[1]
    return np.where(is_better, by_u[0], by_s[0]), np.where(is_better, by_u[1], by_s[1])


@dataclass(frozen=True)
class StepCurve:
    """The quantiles at which the steps of a table end."""

    steps: Float[Array, " t"]  # the numbers of those that were drawn, increasing
    ends: RisingCurve  # through the ends between them
    num: int  # of samples
    are_options: bool  # drawn with known probabilities, so that ends are exact
    outside: tuple[float, float] = (0.0, 0.0)  # quantile below all steps; 1 less that above them

    @classmethod
    def from_levels(cls, levels: Levels, table: Table, draw: DecidingDraw) -> "StepCurve":
        """The curve of the steps of a table, which are a rising function of the draw."""
        steps, s = table.steps_of(levels.logsnr), draw.of(levels)
        order = np.lexsort((s, steps))
        steps, s = steps[order], s[order]
        first = np.flatnonzero(np.diff(steps, prepend=-1.0))
        lowest, highest = s[first], s[np.append(first[1:], len(s)) - 1]
        gaps = lowest[1:] - highest[:-1]
        are_options = bool((lowest == highest).all()) and len(first) < len(s)
        error = np.zeros_like(gaps) if are_options else gaps / 2
        at = steps[first]
        # the logit of the mean of the quantiles on both sides
        log_u = np.logaddexp(log_expit(highest[:-1]), log_expit(lowest[1:]))
        ends = log_u - np.logaddexp(log_expit(-highest[:-1]), log_expit(-lowest[1:]))
        curve = RisingCurve((at[1:] + at[:-1]) / 2, ends, error)
        outer, inner = expit([s[0], -s[-1]]), expit([ends[0], -ends[-1]])
        # up to the other side of an option, whose quantile is its middle
        half = inner - outer if are_options else np.diff(np.unique(expit(s))).min() / 2
        low, high = ((outer - half) * np.array(levels.has_infinite)).tolist()
        return cls(at, curve, len(s), are_options, (low, high))

    def uncertain_middles(self) -> Float[Array, " k"]:
        """The middles of the intervals in which ends lie that are wide beside the steps."""
        u = expit(self.ends.s)
        half = u * (1 - u) * self.ends.error
        width = np.diff(u, prepend=0.0, append=1.0)
        return self.ends.s[half > _MAX_END_ERROR * np.minimum(width[1:], width[:-1])]

    @property
    def is_uniform(self) -> bool:
        """Return whether the ends are evenly spaced, up to their errors. Only the inner 90 % count
        where samples are so few that the numbers of the steps are guesses.
        """
        inner = (self.ends.s > logit(0.05)) & (self.ends.s < logit(0.95))
        kept = inner if self.num < 12 * len(self.steps) else np.ones_like(inner)
        u, places = expit(self.ends.s), self.ends.places
        if inner.sum() < 3:
            return False
        off = u - np.polyval(np.polyfit(places[inner], u[inner], 1), places)
        allowed = 2 * u * (1 - u) * self.ends.error
        return bool((np.abs(off) < np.maximum(allowed, 1 / self.num))[kept].all())

    @cached_property
    def curve(self) -> RisingCurve:
        """A smooth curve through the ends."""
        return self.ends.thinned()

    def log_probability(self) -> tuple[Float[Array, " t"], Float[Array, " t"]]:
        """The log-probability of each step, and its error."""
        curve, steps, places = self.curve, self.steps, self.ends.places
        u = expit(curve(places))
        width = np.maximum(np.diff(u), 1e-300)
        log_p = log_expit(curve(steps)) + log_expit(-curve(steps)) + curve.log_slope(steps)
        log_p[1:-1] = np.log(width / np.diff(places))
        error = curve.slope_error(steps)
        end_error = u * (1 - u) * self.ends.error
        is_kept = np.isin(places, curve.places)
        own = (end_error[1:] + end_error[:-1]) / width + 1e-5
        error[1:-1] = np.where(is_kept[1:] & is_kept[:-1], own, error[1:-1])
        for end, probability in ((0, u[0] - self.outside[0]), (-1, 1 - u[-1] - self.outside[1])):
            if self.num * probability > _MIN_SAMPLES_AT_END:  # an end, and not a tail cut off
                log_p[end] = np.log(probability)
                error[end] = 1e-3 if self.are_options else 1 / (self.num * probability)
            else:
                error[end] += 1
        return log_p, error
