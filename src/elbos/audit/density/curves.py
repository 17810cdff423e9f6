r"""Smooth curves fitted to samples, with uncertainties: a log-density, or the log of a mean.

Both are natural cubic splines, linear beyond their outer knots. A log-density is fitted to the
counts in narrow bins as a Poisson regression, without the bias of kernels at the ends; the log-mean
of a positive quantity with the likelihood of the gamma distribution, in which errors are relative.
Fits with different numbers of knots are averaged with Akaike's weights; their spread counts as
error.

References:
    Lindsey's method: Efron & Tibshirani (1996), https://doi.org/10.1214/aos/1032181161
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float
from numpy.typing import NDArray

from elbos.base.arrays import Array

_NUM_BINS = 1024
_OUTER_KNOTS = (0.0005, 0.9995)  # quantiles of the places
_NUM_KNOTS = (3, 4, 5, 6, 8, 10, 13, 16, 20, 26, 34, 44, 56)
_MIN_BETWEEN_KNOTS = 20  # values, for an estimate of their variance
_NUM_CELLS = 40  # cells in which the counts of blocks are compared
_MIN_DISPERSION = 0.01
_MIN_BLOCKS = 8  # least number for an estimate of a variance
_NUM_NEIGHBOURS = 25  # points that scatter alike
_MAX_NEWTON_STEPS = 50
MAX_SCATTER = 5e-3  # relative scatter of values that are a function of the noise level
_NUM_IN_TAIL, _TAIL_ERROR = 10, 0.01  # points at each end, and their least error: rounding hides it
_MIN_MISSING, _NUM_BESIDE = 30, 100  # positive values expected in a range of zeros, and near it
_MAX_OUTLIERS = 5e-3  # share of values, as at bends or jumps of a curve


@dataclass(frozen=True)
class _Spline:
    knots: Float[Array, " k"]  # places where the polynomial pieces meet
    coefficients: Float[Array, " k"]  # values of the spline at the knots
    coefficient_covariance: Float[Array, "k k"]
    origin: Float[Array, " k"]  # subtracted from basis functions for the covariance
    constant: float  # subtracted from the spline
    score: float  # log-likelihood minus the number of parameters

    @classmethod
    def of_counts(
        cls,
        places: Float[Array, " m"],
        counts: Float[Array, "r m"],
        knots: Float[Array, " k"],
        dispersion: float,
    ) -> "_Spline":
        """Fit a spline to the log-probabilities of bins by maximum likelihood.

        The covariance is the mean of two estimates: the sandwich estimate from the blocks, which is
        noisy, and that of independent samples times the dispersion, which is constant.
        """
        basis = _natural_basis(knots, places)
        sizes, all_counts = counts.sum(1), counts.sum(0)
        total = sizes.sum()
        theta = np.zeros(len(knots))
        for _ in range(_MAX_NEWTON_STEPS):
            log_p = basis @ theta
            p = np.exp(log_p - log_p.max())
            p /= p.sum()
            mean = p @ basis
            information = total * ((basis.T * p) @ basis - np.outer(mean, mean))
            information += 1e-8 * total * np.eye(len(knots))  # a constant changes nothing
            step = np.linalg.solve(information, all_counts @ basis - total * mean)
            theta += step * min(1.0, 2.0 / np.abs(step).max())
            if np.abs(step).max() < 1e-8:
                break
        log_p = basis @ theta
        constant = float(np.logaddexp.reduce(log_p))
        score = float(all_counts @ (log_p - constant)) / dispersion - (len(knots) - 1)
        inverse, scores = np.linalg.inv(information), counts @ basis - np.outer(sizes, mean)
        of_blocks = inverse @ (scores.T @ scores) @ inverse * len(sizes) / (len(sizes) - 1)
        of_blocks *= (scipy.stats.t.ppf(0.975, len(sizes) - 1) / scipy.stats.norm.ppf(0.975)) ** 2
        covariance = (of_blocks + dispersion * inverse) / 2
        return cls(knots, theta, covariance, mean, constant, score)

    @classmethod
    def of_values(
        cls,
        places: Float[Array, " m"],
        counts: Float[Array, " m"],
        means: Float[Array, " m"],
        squares: Float[Array, " m"],
        knots: Float[Array, " k"],
        start: Float[Array, " k"],
    ) -> "_Spline":
        basis = _natural_basis(knots, places)
        total = counts.sum()
        inverse = np.linalg.inv((basis.T * counts) @ basis + 1e-8 * total * np.eye(len(knots)))
        theta = start.copy()
        for _ in range(_MAX_NEWTON_STEPS):
            relative = means * np.exp(-basis @ theta) - 1
            step = inverse @ (basis.T @ (counts * relative))
            theta += step * min(1.0, 1.0 / np.abs(step).max())
            if np.abs(step).max() < 1e-6:
                break
        log_mean = basis @ theta
        square = squares * np.exp(-2 * log_mean) - 2 * relative - 1
        square = counts * np.maximum(square, 0)  # negative only by rounding
        covariance = inverse @ ((basis.T * square) @ basis) @ inverse
        deviance = float((counts * (relative + log_mean)).sum())
        score = -deviance / max(float(square.sum() / total), 1e-12) - len(knots)
        return cls(knots, theta, covariance, np.zeros(len(knots)), 0.0, score)

    def __call__(self, places: Array) -> Array:
        return np.asarray(_natural_basis(self.knots, places) @ self.coefficients - self.constant)

    def covariance(self, places: Array) -> Array:
        centered = _natural_basis(self.knots, places) - self.origin
        return np.asarray(centered @ self.coefficient_covariance @ centered.T)


def _natural_basis(knots: Float[Array, " k"], at: Float[Array, " m"]) -> Float[Array, "m k"]:
    spline = scipy.interpolate.CubicSpline(knots, np.eye(len(knots)), bc_type="natural")
    inside = np.clip(at, knots[0], knots[-1])
    beyond = (at - inside)[:, None]
    return np.asarray(spline(inside) + beyond * spline(inside, 1))


@dataclass(frozen=True)
class Splines:
    """Spline fit averaged over several numbers of knots."""

    splines: list[_Spline]
    weights: Float[Array, " s"]  # proportional to exp(-AIC / 2), summing to 1
    dispersion: float = 1.0  # overdispersion of the counts; divides log-likelihoods

    @classmethod
    def of_counts(cls, places: Float[Array, " m"], counts: Float[Array, "r m"]) -> "Splines":
        share = np.cumsum(counts.sum(0)) / counts.sum()
        low, high = (float(places[np.searchsorted(share, end)]) for end in _OUTER_KNOTS)
        knots = [np.linspace(low, high, num) for num in _NUM_KNOTS]
        even = _dispersion(counts)
        return cls._averaged([_Spline.of_counts(places, counts, k, even) for k in knots], even)

    @classmethod
    def of_values(cls, places: Float[Array, " n"], values: Float[Array, " n"]) -> "Splines":
        """Fit splines to the logarithm of the mean of non-negative values."""
        low, high = (float(np.quantile(places, end)) for end in _OUTER_KNOTS)
        groups = np.array_split(np.arange(len(places)), min(50, max(2, len(places) // 20)))
        at = [places[group].mean() for group in groups]
        # Newton's method overflows if it starts far below values that are next to zeros.
        floor = 1e-12 * values.mean() or 1e-300
        log_mean = np.log([max(values[group].mean(), floor) for group in groups])
        edges = np.linspace(places[0], places[-1], _NUM_BINS + 1)
        index = np.searchsorted(edges[1:-1], places)
        counts = np.bincount(index).astype(float)
        is_filled = counts > 0
        sums = (np.bincount(index, by)[is_filled] for by in (places, values, values**2))
        bin_places, means, squares = (total / counts[is_filled] for total in sums)
        binned = (bin_places, counts[is_filled], means, squares)
        most = max(_NUM_KNOTS[0], len(places) // _MIN_BETWEEN_KNOTS)
        knots = [np.linspace(low, high, num) for num in _NUM_KNOTS if num <= most]
        return cls._averaged(
            [_Spline.of_values(*binned, k, np.interp(k, at, log_mean)) for k in knots]
        )

    @classmethod
    def _averaged(cls, splines: list[_Spline], dispersion: float = 1.0) -> "Splines":
        scores = np.array([spline.score for spline in splines])
        weights = np.exp(scores - scores.max())
        return cls(splines, weights / weights.sum(), dispersion)

    def __call__(self, places: Array) -> Array:
        return np.asarray(self.weights @ [spline(places) for spline in self.splines])

    def covariance(self, places: Array) -> Array:
        """Add up the errors by sampling, the number of knots, and extrapolation, from the largest
        curvature.
        """
        mean = self(places)
        low, high = self.splines[0].knots[[0, -1]]
        inside = np.linspace(low, high, 100)
        bend = np.abs(np.gradient(np.gradient(self(inside), inside), inside)).max()
        extrapolated = np.asarray(bend / 2 * (places - np.clip(places, low, high)) ** 2)
        total = np.outer(extrapolated, extrapolated)
        for weight, spline in zip(self.weights, self.splines, strict=True):
            away = spline(places) - mean
            total += weight * (spline.covariance(places) + np.outer(away, away))
        return np.asarray(total)


def _dispersion(counts: Float[Array, "r m"]) -> float:
    """Compute the variance of bin counts relative to independent samples: below 1 if stratified."""
    sizes, shares = counts.sum(1), counts.sum(0) / counts.sum()
    edges = np.searchsorted(np.cumsum(shares), np.linspace(0, 1, _NUM_CELLS, endpoint=False))
    edges = np.unique(edges)
    cells = np.add.reduceat(counts, edges, axis=1)
    expected = np.outer(sizes, np.add.reduceat(shares, edges))
    chi2 = ((cells - expected) ** 2 / expected.clip(min=1e-12)).sum()
    return float(max(chi2 / ((len(sizes) - 1) * max(len(edges) - 1, 1)), _MIN_DISPERSION))


def spread(log_ratio: Float[Array, " g"], p: Float[Array, " g"]) -> float:
    """Compute the standard deviation of a log-ratio; infinite if the log-ratio is somewhere."""
    if not np.isfinite(log_ratio).all():
        return math.inf
    return float(np.sqrt((p * (log_ratio - (p * log_ratio).sum()) ** 2).sum()))


def is_central(log_p: Float[Array, " g"], tail: float) -> NDArray[np.bool_]:
    below = np.cumsum(np.exp(log_p - log_p.max()))
    return np.asarray((below > tail * below[-1]) & (below < (1 - tail) * below[-1]))


def counts_by_block(
    place: NDArray[np.int64], block: Float[Array, " n"], num_places: int
) -> Float[Array, "r m"]:
    """Count the samples in each bin by block, or by 8 interleaved groups if blocks are fewer."""
    names, index = np.unique(block, return_inverse=True)
    num = len(names)
    if num < _MIN_BLOCKS:
        num, index = _MIN_BLOCKS, np.arange(len(place)) % _MIN_BLOCKS
    counts = np.bincount(index * num_places + place, minlength=num * num_places)
    return counts.reshape(num, num_places).astype(float)


def scatter(x: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, " n"]:
    """Estimate the local standard deviation of noisy points around a smooth curve."""
    square = np.pad(residuals(x, y) ** 2, 1, mode="edge")
    near = scipy.ndimage.uniform_filter1d(square, min(_NUM_NEIGHBOURS, len(square)), mode="nearest")
    return np.asarray(np.maximum(near, 0) ** 0.5)


def residuals(x: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, " m"]:
    """Compute the standardized residuals of linear interpolation between neighbours."""
    left, right = x[:-2], x[2:]
    share = np.divide(x[1:-1] - left, right - left, out=np.full(len(left), 0.5), where=right > left)
    line = (1 - share) * y[:-2] + share * y[2:]
    return np.asarray(np.abs(y[1:-1] - line) / 1.5**0.5)


@dataclass(frozen=True)
class Curve:
    """Mean of a positive quantity as a function of log-SNR."""

    log: Float[Array, " g"]  # log-mean at the grid
    covariance: Float[Array, "g g"]  # sampling covariance of the log-mean
    scatter: float  # relative, of single values around the curve
    is_fitted: bool  # single values do not lie on a curve

    @classmethod
    def from_samples(cls, logsnr: Array, value: Array, grid: Array) -> "Curve":
        """Estimate the log-mean of a quantity: interpolated if the samples lie on a curve, else by
        splines.
        """
        order = np.argsort(logsnr, kind="stable")
        logsnr, value = logsnr[order], np.maximum(value[order], 0)
        floor = 1e-12 * np.median(value[value > 0]) if value.any() else 1.0
        log_value = np.log(np.maximum(value, floor))
        residual = residuals(logsnr, log_value)
        usual = float(np.quantile(residual, 0.8) / 1.28)
        if usual < MAX_SCATTER and (residual > 10 * MAX_SCATTER).mean() < _MAX_OUTLIERS:
            off = scatter(logsnr, log_value)
            for tail in (slice(None, _NUM_IN_TAIL), slice(-_NUM_IN_TAIL, None)):
                off[tail] = np.maximum(off[tail], _TAIL_ERROR)
            error = np.interp(grid, logsnr, off)
            return cls(np.interp(grid, logsnr, log_value), np.diag(error**2), usual, False)
        log_mean, covariance = np.full(len(grid), np.log(floor)), np.zeros((len(grid), len(grid)))
        relative = list[Array]()
        for rows in _ranges(value > 0):
            x, y = logsnr[rows], value[rows]
            i = (grid >= x[0]) & (grid <= x[-1])
            curve = Splines.of_values(x, y)
            log_mean[i], covariance[np.ix_(i, i)] = curve(grid[i]), curve.covariance(grid[i])
            relative.append(y * np.exp(-curve(x)) - 1)
        spread = float((np.concatenate(relative) ** 2).mean() ** 0.5)
        return cls(log_mean, covariance, spread, True)


def _ranges(is_positive: NDArray[np.bool_]) -> list[slice]:
    """Split the places at which a quantity is no constant 0, because a spline cannot jump.

    A run of zeros divides if, at the share of positive values beside it, many are missing. Ranges
    of few values are left out.
    """
    at = np.flatnonzero(is_positive)
    before, after = np.append(-1, at), np.append(at, len(is_positive))
    start, ranges = 0, list[slice]()
    for first, end in zip(before + 1, after, strict=True):
        if end - first < _MIN_MISSING:
            continue
        left, right = (
            is_positive[max(0, first - _NUM_BESIDE) : first],
            is_positive[end:][:_NUM_BESIDE],
        )
        share = min((side.mean() for side in (left, right) if len(side) == _NUM_BESIDE), default=0)
        if share * (end - first) < _MIN_MISSING:
            continue
        ranges.append(slice(start, first))
        start = end
    ranges.append(slice(start, len(is_positive)))
    return [rows for rows in ranges if rows.stop - rows.start >= _NUM_BESIDE] or [slice(None)]
