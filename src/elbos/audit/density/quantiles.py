"""Density of noise levels that are a monotone function of one uniform random draw, of quantile u
and s = logit u (`density`).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy
from jaxtyping import Float

from elbos.audit.density.curves import scatter
from elbos.audit.density.levels import Levels, Table
from elbos.base.arrays import Array

_NUM_POINTS = 500  # points that remain of a curve
_POINT_DISTANCES = (100, 30, 10, 3)  # standard errors apart: slopes have errors of 1 to 30 %
_MIN_POINTS = 12
_MIN_SAMPLES_AT_END = 20
_MAX_END_ERROR = 1e-3  # error of a step's end as a share of the step's width
_MISFIT_WINDOW = 25  # points of a grid over which the largest misfit is taken


@dataclass(frozen=True)
class DecidingDraw:
    """The uniform random number that determines the noise level."""

    column: int  # column of `Levels.quantiles`
    sign: float  # -1 if log-SNR decreases with the draw

    @classmethod
    def find(cls, levels: Levels) -> "DecidingDraw | None":
        """Find the uniform draw of which log-SNR is a monotone function, up to rounding."""
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
        return self.sign * _within(levels.quantiles[:, self.column])

    def at(self, s: Float[Array, " n"]) -> Float[Array, " n"]:
        return np.asarray(scipy.special.expit(self.sign * s))

    def averaged(self, levels: Levels) -> Levels:
        """Average the levels of equal draws if rounding hides how many levels there are."""
        draws, place, counts = np.unique(self.of(levels), return_inverse=True, return_counts=True)
        if not len(levels.distinct[0]) < len(draws) < len(place) / 2:
            return levels
        mean = np.bincount(place, levels.logsnr) / counts
        return replace(levels, logsnr=mean[place], error=levels.error / np.sqrt(counts[place]))


def _within(draw: Float[Array, " n"]) -> Float[Array, " n"]:
    is_finite = np.isfinite(draw)
    return np.clip(draw, draw[is_finite].min() - 1, draw[is_finite].max() + 1)


@dataclass(frozen=True)
class RisingCurve:
    """Monotone map from log-SNR, or the index of a step, to the logit of a uniform draw."""

    places: Float[Array, " m"]  # increasing
    s: Float[Array, " m"]  # increasing
    error: Float[Array, " m"]  # standard error of s

    def thinned(self, min_distance: float = 0.0) -> "RisingCurve":
        """Remove points close together relative to their errors, from the middle outwards, where
        the mean distance along both axes stays below `min_distance` of their lengths.
        """
        way = (self.s / np.ptp(self.s) + self.places / np.ptp(self.places)) / 2
        middle = len(way) // 2
        chosen = {middle}
        for side in (range(middle - 1, -1, -1), range(middle + 1, len(way))):
            last = middle
            for num_errors in _POINT_DISTANCES:
                for i in range(last + side.step, side.stop, side.step):
                    far = num_errors * (self.error[i] + self.error[last])
                    is_far = abs(self.s[i] - self.s[last]) > far
                    is_far = is_far and abs(way[i] - way[last]) > min_distance
                    if is_far and self.places[i] != self.places[last]:
                        chosen.add(i)
                        last = i
        return self.at(sorted(chosen))

    @property
    def is_enough(self) -> bool:
        return len(self.s) >= _MIN_POINTS

    def at(self, index: list[int] | slice) -> "RisingCurve":
        return RisingCurve(self.places[index], self.s[index], self.error[index])

    def __call__(self, place: Float[Array, " g"]) -> Float[Array, " g"]:
        return np.asarray(scipy.interpolate.PchipInterpolator(self.places, self.s)(place))

    def log_slope(self, place: Float[Array, " g"]) -> Float[Array, " g"]:
        slope = scipy.interpolate.PchipInterpolator(self.places, self.s)(place, 1)
        return np.log(np.maximum(slope, 1e-300))

    def slope_error(self, place: Float[Array, " g"]) -> Float[Array, " g"]:
        relative = (self.error[1:] + self.error[:-1]) / np.diff(self.s)
        middle = (self.places[1:] + self.places[:-1]) / 2
        halves = (self.at(slice(start, None, 2)).log_slope(place) for start in (0, 1))
        misfit = scipy.ndimage.maximum_filter1d(np.abs(np.subtract(*halves)), _MISFIT_WINDOW)
        return np.hypot(np.interp(place, middle, relative), misfit) + 1e-5


def inverse_cdf_density(
    all_levels: Levels, draw: Float[Array, " n"], grid: Float[Array, " g"]
) -> tuple[Float[Array, " g"], Float[Array, " g"]] | None:
    """Compute a log-density from the inverse of the distribution function.

    Also returns the error; None if there are too few distinct points. At each point, the slope of
    $s$, which is smooth in unbounded tails, or the slope of $u$, which is smooth at finite ends, is
    used: the one with the smaller error.
    """
    s, order = np.unique(draw, return_index=True)  # one sample for each rounded number
    error = all_levels.error[order]
    levels = np.maximum.accumulate(all_levels.logsnr[order])
    # Levels clamped at an end are one level, which counts once.
    is_above = levels - levels[0] > 1e-5 + 8 * error
    is_below = levels[-1] - levels > 1e-5 + 8 * error
    inner = slice(int(is_above.argmax()) - 1, len(levels) - int(is_below[::-1].argmax()) + 1)
    s, levels, error = s[inner], levels[inner], error[inner]
    error = np.maximum(error, scatter(s, levels))  # the loss itself rounds, too
    slope = np.gradient(s, levels + 1e-12 * np.arange(len(s)))
    curve = RisingCurve(levels, s, np.minimum(slope, 1e6) * error).thinned(1 / _NUM_POINTS)
    if not curve.is_enough:
        return None
    log_expit, at = scipy.special.log_expit, curve(grid)
    by_s = log_expit(at) + log_expit(-at) + curve.log_slope(grid), curve.slope_error(grid)
    u = scipy.special.expit(curve.s)
    curve = RisingCurve(curve.places, u, u * (1 - u) * curve.error)
    by_u = curve.log_slope(grid), curve.slope_error(grid)
    is_better = by_u[1] < by_s[1]
    return np.where(is_better, by_u[0], by_s[0]), np.where(is_better, by_u[1], by_s[1])


class StepCurve:
    """Intervals of a uniform random number that select the time steps."""

    def __init__(self, levels: Levels, table: Table, draw: DecidingDraw) -> None:
        middles = (table.levels[1:] + table.levels[:-1]) / 2
        steps, s = table.steps[np.searchsorted(middles, levels.logsnr)], draw.of(levels)
        order = np.lexsort((s, steps))
        steps, s = steps[order], s[order]
        first = np.flatnonzero(np.diff(steps, prepend=-1.0))
        lowest, highest = s[first], s[np.append(first[1:], len(s)) - 1]
        gaps = lowest[1:] - highest[:-1]
        are_options = bool((lowest == highest).all()) and len(first) < len(s)
        error = np.zeros_like(gaps) if are_options else gaps / 2
        # the numbers of the steps that were drawn, increasing; the number of samples; and whether
        # steps are drawn with known probabilities, so that ends are exact
        self.steps, self.num, self.are_options = steps[first], len(s), are_options
        # A step ends at the mean of the quantiles on both sides.
        expit, log_expit = scipy.special.expit, scipy.special.log_expit
        log_u = np.logaddexp(log_expit(highest[:-1]), log_expit(lowest[1:]))
        ends = log_u - np.logaddexp(log_expit(-highest[:-1]), log_expit(-lowest[1:]))
        # through the ends between the steps
        self.ends = RisingCurve((self.steps[1:] + self.steps[:-1]) / 2, ends, error)
        outer, inner = expit([s[0], -s[-1]]), expit([ends[0], -ends[-1]])
        # The quantile of an option is its middle; the range ends at its far side.
        half = inner - outer if are_options else np.diff(np.unique(expit(s))).min() / 2
        # probability below and above all steps, and of the first and the last one
        self.outside = ((outer - half) * np.array(levels.has_infinite)).tolist()
        self.of_ends = (2 * half if are_options else inner - self.outside).tolist()

    def uncertain_middles(self) -> Float[Array, " k"]:
        u = scipy.special.expit(self.ends.s)
        half = u * (1 - u) * self.ends.error
        width = np.diff(u, prepend=0.0, append=1.0)
        return self.ends.s[half > _MAX_END_ERROR * np.minimum(width[1:], width[:-1])]

    @property
    def is_uniform(self) -> bool:
        """True if all time steps are equally likely."""
        logit = scipy.special.logit
        inner = (self.ends.s > logit(0.05)) & (self.ends.s < logit(0.95))
        # With few samples per step, step numbers are uncertain in the tails.
        is_compared = inner if self.num < 12 * len(self.steps) else np.ones_like(inner)
        u, places = scipy.special.expit(self.ends.s), self.ends.places
        if inner.sum() < 3:
            return False
        off = u - np.polyval(np.polyfit(places[inner], u[inner], 1), places)
        allowed = 2 * u * (1 - u) * self.ends.error
        return bool((np.abs(off) < np.maximum(allowed, 1 / self.num))[is_compared].all())

    @cached_property
    def curve(self) -> RisingCurve:
        return self.ends.thinned()

    def log_probability(self) -> tuple[Float[Array, " t"], Float[Array, " t"]]:
        """Return the log-probability of each time step and its standard error."""
        curve, steps, places = self.curve, self.steps, self.ends.places
        expit, log_expit = scipy.special.expit, scipy.special.log_expit
        u = expit(curve(places))
        width = np.maximum(np.diff(u), 1e-300)
        log_p = log_expit(curve(steps)) + log_expit(-curve(steps)) + curve.log_slope(steps)
        log_p[1:-1] = np.log(width / np.diff(places))
        error = curve.slope_error(steps)
        end_error = u * (1 - u) * self.ends.error
        is_kept = np.isin(places, curve.places)
        inner = (end_error[1:] + end_error[:-1]) / width + 1e-5
        error[1:-1] = np.where(is_kept[1:] & is_kept[:-1], inner, error[1:-1])
        for end, probability in zip((0, -1), self.of_ends, strict=True):
            # an end, and not a tail cut off
            if self.are_options or self.num * probability > _MIN_SAMPLES_AT_END:
                log_p[end] = np.log(probability)
                error[end] = 1e-3 if self.are_options else 1 / (self.num * probability)
            else:
                error[end] += 1
        return log_p, error
