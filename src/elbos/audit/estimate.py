r"""Estimate of a weighting $w(\lambda) \propto p(\lambda)\,k(\lambda)$ from samples, with
uncertainty.
"""

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from elbos.audit import diagnostics as kinds
from elbos.audit.convention import Convention
from elbos.audit.density.curves import MAX_SCATTER, Curve, is_central
from elbos.audit.density.density import Density, Evidence
from elbos.audit.density.levels import Levels, independent_levels
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.diagnostics.scatter import batch_factors, changes_with_time
from elbos.audit.names.matching import (
    Prediction,
    coefficient_name,
    nearest_weightings,
    prediction_of,
)
from elbos.audit.probing.measure import Measurement, Samples
from elbos.audit.probing.noise import is_summed
from elbos.audit.result import Audit, Undecided
from elbos.base.arrays import Array
from elbos.theory.extrema import rises
from elbos.theory.names import code
from elbos.theory.parameterizations import Eps, Flow, V, X

NUM_POINTS = 401
_NUM_NEIGHBOURS = 25  # samples
_MORE_SAMPLES = (2, 4, 8)  # multiples of the number of samples while the verdict is undecided
_MAX_ERROR = 0.025  # relative error of w above which more samples are drawn
_TAIL_SHARE, _NUM_IN_TAIL = 5e-4, 10  # share and least number of samples in each tail
_TAIL_ERROR = 0.2  # error of a log-weight in the tails
_NEGLIGIBLE_RISE = 0.05  # in log w; if a larger rise is possible, the verdict is undecided
_MIN_RISE = 2e-3  # in log w; float32 arithmetic in a loss causes smaller rises


def audit_of(measurement: Measurement, num_samples: int, *, title: str) -> Audit:
    """Audit samples of a loss, up to 8 times `num_samples` if fewer leave the verdict open."""
    nums = [num_samples]
    if measurement.is_cheap:
        nums += [num_samples * more for more in _MORE_SAMPLES]
    if measurement.batch_size == 1:  # many calls; a quarter of the samples often suffices
        nums.insert(0, max(100, num_samples // 4))
    for num in nums:
        samples = measurement.samples(num)
        estimate = Estimate.from_samples(samples, measurement)
        if estimate.is_decided or any(diagnostic.is_fatal for diagnostic in samples.diagnostics):
            break
    return estimate.audit(samples, title=title)


@dataclass(frozen=True)
class Estimate:
    """Estimates of noise-level density, loss coefficient and weighting on a log-SNR grid."""

    num_samples: int
    grid: Float[Array, " g"]
    density: Density
    k: Curve  # coefficient of the squared error of the noise
    c: Curve  # coefficient of the squared error of the target
    diagnostics: list[Diagnostic]  # about the noise levels
    is_variance_preserving: bool

    @classmethod
    def from_samples(cls, samples: Samples, measurement: Measurement | None = None) -> "Estimate":
        """Estimate the curves of a loss from samples; a `Measurement` adds the levels that the
        density needs.
        """
        levels, diagnostics = independent_levels(samples)
        evidence = Evidence.from_levels(levels)
        while measurement is not None and (request := evidence.request) is not None:
            column, at = request
            place = samples.places[column]
            if place is None:
                break
            more = measurement.at(place, at, samples.process.scale)
            further = Levels.from_samples(more)
            quantiles = further.quantiles[:, : levels.quantiles.shape[1]]
            requested = (*evidence.requested, replace(further, quantiles=quantiles))
            evidence = replace(evidence, requested=requested)
        is_finite = samples.logsnr.isfinite()
        logsnr, c, k = (
            values[is_finite].numpy()
            for values in (samples.logsnr, samples.coefficient, samples.eps_coefficient)
        )
        grid = np.linspace(logsnr.min(), logsnr.max(), NUM_POINTS)
        k_curve, c_curve = (Curve.from_samples(logsnr, values, grid) for values in (k, c))
        density = evidence.density(grid)
        is_vp = samples.process.name == "variance preserving"
        return cls(len(logsnr), grid, density, k_curve, c_curve, diagnostics, is_vp)

    @cached_property
    def log_w(self) -> Float[Array, " g"]:
        return np.asarray(self.density.log_p + self.k.log)

    @cached_property
    def sampling_covariance(self) -> Float[Array, "g g"]:
        return np.asarray(self.density.covariance + self.k.covariance)

    @cached_property
    def covariance(self) -> Float[Array, "g g"]:
        """Covariance of the log-weighting with the error from the spacing of discrete levels."""
        spacing = self.density.spacing_error**2 + 0 * self.grid
        return np.asarray(self.sampling_covariance + np.diag(spacing))

    @cached_property
    def inner(self) -> NDArray[np.bool_]:
        """Mask of the grid points within the central 99 % of the training noise levels."""
        return is_central(self.density.log_p, 0.005)

    @cached_property
    def rising(self) -> list[tuple[float, float]]:
        """Intervals of log-SNR on which the weighting increases significantly.

        If the density or the coefficient was fitted, only the central 99 % of the samples count,
        and at least ten are in each tail; the threshold is eight standard errors instead of five,
        because a fit is biased.
        """
        tail = max(_TAIL_SHARE, _NUM_IN_TAIL / self.num_samples)
        if self.density.is_fitted or self.k.is_fitted:
            i = self.inner & is_central(self.density.log_p, tail)
            covariance = self.covariance[np.ix_(i, i)]
            return significant_rises(self.grid[i], self.log_w[i], covariance, num_errors=8.0)
        # The loss itself rounds in the tails, and 1 - sigma**2 has few digits in float32.
        variance: Array = 0 * self.grid
        if self.density.kind == "function":
            variance = np.asarray(_TAIL_ERROR**2 * ~is_central(self.density.log_p, tail))
        if self.is_variance_preserving:
            level_error = 2**-24 * np.exp(np.abs(self.grid))
            slope = np.abs(np.gradient(self.log_w, self.grid))
            variance = variance + (level_error * slope) ** 2
        return significant_rises(self.grid, self.log_w, self.covariance + np.diag(variance))

    @cached_property
    def undecided(self) -> list[Undecided]:
        """Intervals on which an increase above 5 % is possible; empty if some increase is
        significant.
        """
        if self.rising:
            return []
        i = self.inner
        covariance = self.sampling_covariance[np.ix_(i, i)]
        return possible_rises(self.grid[i], self.log_w[i], covariance)

    @property
    def is_decided(self) -> bool:
        """True if more samples would hardly change the estimated weighting."""
        error = np.sqrt(np.diag(self.sampling_covariance).clip(min=0))[self.inner]
        return not self.undecided and bool(np.quantile(error, 0.95) < _MAX_ERROR)

    def audit(self, samples: Samples, *, title: str) -> Audit:
        grid, density = self.grid, self.density
        is_finite = samples.logsnr.isfinite()
        has_target = is_finite & (samples.coefficient != 0)
        target = [part[has_target] for part in (samples.logsnr, samples.a, samples.b)]
        prediction = prediction_of(*target, rtol=samples.logsnr_error)
        if prediction.sigma_data is None:
            prediction = prediction._replace(sigma_data=samples.process.sigma_data)
        diagnostics = [
            *samples.diagnostics,
            *self.diagnostics,
            *_of_the_coefficient(samples, self.c),
        ]
        has_weighting = not any(diagnostic.is_fatal for diagnostic in diagnostics)
        if has_weighting and prediction.name is None:
            diagnostics.append(kinds.UnknownTarget())
        if has_weighting and abs(prediction.factor) != 1 and not is_summed(diagnostics):
            diagnostics.append(kinds.ScaledTarget(abs(prediction.factor)))
        # Where few samples have a coefficient, its mean tells nothing about a formula.
        logsnr, c = samples.logsnr[is_finite].numpy(), samples.coefficient[is_finite].numpy()
        order = np.argsort(logsnr)
        has_coefficient = (c[order] != 0).astype(float)
        share = scipy.ndimage.uniform_filter1d(has_coefficient, _NUM_NEIGHBOURS, mode="nearest")
        share_used = np.interp(grid, logsnr[order], share)
        is_pure, is_clean = samples.logsnr == -torch.inf, samples.logsnr == torch.inf
        num_ends = int(is_pure.any()) + int(is_clean.any())
        c_mean = samples.coefficient.mean()
        c_pure = (samples.coefficient[is_pure].mean() / c_mean).item() if is_pure.any() else 0.0
        try:
            time_name = Convention.from_samples(samples, prediction.sigma_data).time_name
        except ValueError:  # no single argument has the time, or the loss has no denoiser
            time_name = None
        return assembled(
            title=title,
            source="measured",
            time_name=time_name,
            num_samples=len(samples.logsnr),
            grid=grid,
            log_p=density.log_p,
            log_w=self.log_w,
            log_c=self.c.log,
            covariance=self.covariance,
            is_used=share_used > (0.05 if self.c.is_fitted else 0.95),
            rising=self.rising,
            undecided=self.undecided,
            prediction=prediction,
            a=_median_curve(target[0], target[1], grid),
            b=_median_curve(target[0], target[2], grid),
            schedule=code(density.schedule) if density.schedule else None,
            density_kind=density.kind,
            num_steps=density.num_steps and density.num_steps + num_ends,
            process=samples.process.name,
            time_sign=samples.time_sign,
            hidden_share=samples.hidden_share,
            data_scale=samples.process.scale,
            data_offset=samples.data_offset,
            share_pure_noise=is_pure.double().mean().item(),
            weight_pure_noise=c_pure,
            share_clean=is_clean.double().mean().item(),
            diagnostics=diagnostics,
            samples=samples,
        )


def assembled(
    *,
    grid: Array,
    log_p: Array,
    log_w: Array,
    log_c: Array,
    a: Array,
    b: Array,
    prediction: Prediction,
    covariance: Array | None = None,
    is_used: NDArray[np.bool_] | None = None,
    **fields: Any,
) -> Audit:
    """Construct an audit from curves on a grid, `log_w` and `log_c` up to a constant, with names
    matched where `is_used`.
    """
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    log_w, log_c = (log - (p * log).sum() for log in (log_w, log_c))  # a geometric mean of 1
    used = p if is_used is None else p * is_used
    error = np.zeros_like(grid)
    if covariance is not None:  # the covariance of log w minus its mean under p
        mean = covariance @ p
        error = np.sqrt(np.maximum(np.diag(covariance) - 2 * mean + p @ mean, 0))
    return Audit(
        logsnr=torch.from_numpy(grid),
        weight=torch.from_numpy(np.exp(log_w)),
        weight_error=torch.from_numpy(error),
        density=torch.from_numpy(np.exp(log_p)),
        coefficient=torch.from_numpy(np.exp(log_c)),
        a=torch.from_numpy(a),
        b=torch.from_numpy(b),
        parameterization=prediction.name,
        parameterization_factor=prediction.factor,
        sigma_data=prediction.sigma_data,
        coefficient_name=coefficient_name(grid, log_c, used),
        closest=nearest_weightings(grid, log_w, used),
        **fields,
    )


def significant_rises(
    grid: Array, log_w: Array, covariance: Array, num_errors: float = 5.0
) -> list[tuple[float, float]]:
    """Find the intervals of log-SNR on which a log-weight increases significantly.

    An increase is significant if it exceeds `num_errors` standard errors and the rounding error of
    float32. Five standard errors account for thousands of compared pairs of points: fewer than one
    in a thousand curves shows a false increase.
    """
    variance = np.diag(covariance)

    def tolerance(i: int, rest: slice) -> Array:
        of_difference = variance[i] + variance[rest] - 2 * covariance[i, rest]
        return np.asarray(num_errors * np.sqrt(np.maximum(of_difference, 0)) + _MIN_RISE)

    intervals = []
    for start, end in rises(log_w, tolerance):
        is_level = log_w[start:end] <= log_w[start] + _MIN_RISE
        start += int(np.flatnonzero(is_level)[-1])
        intervals.append((float(grid[start]), float(grid[end])))
    return intervals


def possible_rises(grid: Array, log_w: Array, covariance: Array) -> list[Undecided]:
    """Find intervals of log-SNR on which an increase of more than 5 % cannot be excluded."""
    if len(grid) < 2:
        return []
    variance = np.diag(covariance)
    of_difference = variance[:, None] + variance - 2 * covariance
    highest = log_w - log_w[:, None] + 3 * np.sqrt(np.maximum(of_difference, 0))
    first, last = np.unravel_index(np.triu(highest, 1).argmax(), highest.shape)
    if highest[first, last] <= _NEGLIGIBLE_RISE:
        return []
    factor = float(np.exp(highest[first, last]))
    here = Undecided(float(grid[first]), float(grid[last]), factor)
    sides = (slice(0, first + 1), slice(last, len(grid)))
    left, right = (possible_rises(grid[s], log_w[s], covariance[s, s]) for s in sides)
    return [*left, here, *right]


def _median_curve(levels: Tensor, values: Tensor, grid: Array) -> Array:
    groups = np.array_split(levels.argsort(stable=True).numpy(), min(NUM_POINTS, len(levels)))
    at, medians = (
        [np.median(curve[group]) for group in groups] for curve in (levels.numpy(), values.numpy())
    )
    return np.asarray(np.interp(grid, at, medians))


def _of_the_coefficient(samples: Samples, curve: Curve) -> list[Diagnostic]:
    diagnostics = list[Diagnostic]()
    c = samples.coefficient.numpy()
    earlier = samples.diagnostics
    is_fatal = any(d.is_fatal for d in earlier)
    if (c < 0).any() and not is_fatal:  # else it may be the other reason's effect
        diagnostics.append(kinds.Negative(float((c < 0).mean())))
    is_unused = (c == 0) & samples.logsnr.isfinite().numpy()
    if is_unused.mean() > 5e-4:
        levels = samples.logsnr.numpy()[is_unused]
        low, high = float(levels.min()), float(levels.max())
        diagnostics.append(kinds.Unused(float(is_unused.mean()), low, high))
    is_explained = is_fatal or any(isinstance(d, kinds.DataDependent) for d in earlier)
    if curve.scatter < MAX_SCATTER or is_explained:
        return diagnostics
    if changes_with_time(samples.logsnr, samples.coefficient, samples.batch):
        return [*diagnostics, kinds.ChangedCoefficient(curve.scatter)]
    if batch_factors(samples.logsnr, samples.coefficient, samples.batch) != "of levels":
        return [*diagnostics, kinds.Scattered(curve.scatter)]
    # Weights over their mean in the batch, of whichever error, have mean 1 there; a broadcast loses
    # the weights.
    numbers = np.unique(samples.batch.numpy(), return_inverse=True)[1]
    per_eps = [y.eps_error_per_error(samples.logsnr).numpy() for y in (Eps(), X(), V(), Flow())]
    is_normalized = False
    for ours, theirs in itertools.product(per_eps, per_eps):
        means = np.bincount(numbers, c * ours / theirs) / np.bincount(numbers)
        is_normalized |= bool(np.median(np.abs(means / np.median(means) - 1)) < MAX_SCATTER)
    finding = kinds.NormalizedWeights(curve.scatter) if is_normalized else kinds.BatchMean()
    return [*diagnostics, finding]
