r"""From samples to an audit: $w(\lambda) \propto p(\lambda)\,k(\lambda)$ with its uncertainty."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from elbos.arrays import Array
from elbos.audit.curves import MAX_SCATTER, Curve
from elbos.audit.density import estimate_density
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.levels import independent_levels
from elbos.audit.matching import Prediction, coefficient_name, nearest_weightings, prediction_of
from elbos.audit.measure import Samples
from elbos.audit.result import Audit
from elbos.codec import code
from elbos.extrema import rises

NUM_POINTS = 401
_NUM_NEIGHBOURS = 25  # samples
_MIN_RISE = 2e-3  # of a log-weight: what float32 arithmetic in a loss can leave


def audit_of_samples(samples: Samples, *, title: str) -> Audit:
    """The audit of a measured loss.

    Raises:
        ValueError: If there are too few noise levels.
    """
    levels, found = independent_levels(samples)
    is_finite = samples.logsnr.isfinite()
    logsnr, c_values, k_values = (
        values[is_finite].numpy()
        for values in (samples.logsnr, samples.coefficient, samples.eps_coefficient)
    )
    grid = np.linspace(logsnr.min(), logsnr.max(), NUM_POINTS)
    density = estimate_density(levels, grid)
    k, c = (Curve.from_samples(logsnr, values, grid) for values in (k_values, c_values))
    log_w, covariance = density.log_p + k.log, density.covariance + k.covariance
    is_fitted = density.is_fitted or k.is_fitted
    has_target = is_finite & (samples.coefficient != 0)
    target = [part[has_target] for part in (samples.logsnr, samples.a, samples.b)]
    prediction = prediction_of(*target, rtol=samples.logsnr_error)
    if prediction.sigma_data is None:
        prediction = prediction._replace(sigma_data=samples.process.sigma_data)
    diagnostics = [*samples.diagnostics, *found, *_of_the_coefficient(samples, c)]
    if prediction.name is None and not any(one.is_fatal for one in diagnostics):
        diagnostics.append(Diagnostic("unknown-target"))
    is_pure, c_mean = samples.logsnr == -torch.inf, samples.coefficient.mean()
    c_pure = (samples.coefficient[is_pure].mean() / c_mean).item() if is_pure.any() else 0.0
    return assembled(
        title=title,
        source="measured",
        num_samples=len(samples.logsnr),
        grid=grid,
        log_p=density.log_p,
        log_w=log_w,
        log_c=c.log,
        covariance=covariance,
        is_used=_share_used(logsnr, c_values, grid) > (0.05 if c.is_fitted else 0.95),
        rising=rising_measured(grid, log_w, covariance, density.log_p, is_fitted=is_fitted),
        prediction=prediction,
        a=_median_curve(target[0], target[1], grid),
        b=_median_curve(target[0], target[2], grid),
        schedule=code(density.schedule) if density.schedule else None,
        density_kind=density.kind,
        num_steps=density.num_steps,
        process=samples.process.name,
        data_scale=samples.process.scale,
        data_offset=samples.data_offset,
        share_pure_noise=is_pure.double().mean().item(),
        weight_pure_noise=c_pure,
        share_clean=(samples.logsnr == torch.inf).double().mean().item(),
        diagnostics=diagnostics,
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
    """The audit with these curves, with names for what is in them.

    The covariance is that of `log_w`, by default exact; `log_w` and `log_c` count up to a constant.
    Names fit where `is_used`, by default everywhere. `fields` are the others of the audit.
    """
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    log_w, log_c = (log - (p * log).sum() for log in (log_w, log_c))  # a geometric mean of 1
    used = p if is_used is None else p * is_used
    error = np.zeros_like(grid) if covariance is None else _relative_error(covariance, p)
    curves = {
        "logsnr": grid,
        "weight": np.exp(log_w),
        "weight_error": error,
        "density": np.exp(log_p),
        "coefficient": np.exp(log_c),
        "a": a,
        "b": b,
    }
    fields |= {name: torch.from_numpy(curve) for name, curve in curves.items()}
    return Audit(
        parameterization=prediction.name,
        parameterization_factor=prediction.factor,
        sigma_data=prediction.sigma_data,
        coefficient_name=coefficient_name(grid, log_c, used),
        closest=nearest_weightings(grid, log_w, used),
        **fields,
    )


def _share_used(logsnr: Array, coefficient: Array, grid: Array) -> Array:
    """The share of coefficients that are not 0, near each point of the grid."""
    order = np.argsort(logsnr)
    is_used = (coefficient[order] != 0).astype(float)
    share = uniform_filter1d(is_used, _NUM_NEIGHBOURS, mode="nearest")
    return np.asarray(np.interp(grid, logsnr[order], share))


def significant_rises(
    grid: Array, log_w: Array, covariance: Array, num_errors: float = 5.0
) -> list[tuple[float, float]]:
    """Intervals of log-SNR on which a log-weight rises beyond its error.

    A turn counts once two points differ by more than `num_errors` standard errors of their
    difference, and what float32 can leave. Of five, since some thousands of pairs of points are
    compared: noise is then called a rise in less than one of a thousand curves.
    """
    variance = np.diag(covariance)

    def tolerance(i: int, others: slice) -> Array:
        of_difference = variance[i] + variance[others] - 2 * covariance[i, others]
        return np.asarray(num_errors * np.sqrt(np.maximum(of_difference, 0)) + _MIN_RISE)

    found = []
    for start, end in rises(log_w, tolerance):
        is_level = log_w[start:end] <= log_w[start] + _MIN_RISE
        start += int(np.flatnonzero(is_level)[-1])
        found.append((float(grid[start]), float(grid[end])))
    return found


def rising_measured(
    grid: Array, log_w: Array, covariance: Array, log_p: Array, *, is_fitted: bool
) -> list[tuple[float, float]]:
    """`significant_rises` where something may have been fitted: then on the inner 99 % of the
    samples, and with eight standard errors for five, since a fit is off by more than chance alone.

    In simulations of 20,000 levels from normal mixtures, t, Gumbel, skewed and generalized normal
    distributions (30 to 60 each) the largest of all differences was 7.6 standard errors.
    """
    if not is_fitted:
        return significant_rises(grid, log_w, covariance)
    below = np.cumsum(np.exp(log_p))
    inner = (below > 0.005 * below[-1]) & (below < 0.995 * below[-1])
    covariance = covariance[np.ix_(inner, inner)]
    return significant_rises(grid[inner], log_w[inner], covariance, num_errors=8.0)


def _relative_error(covariance: Float[Array, "g g"], p: Float[Array, " g"]) -> Float[Array, " g"]:
    """Standard error of log w, its mean under `p` taken out, since a constant does not count."""
    mean = covariance @ p
    variance = np.diag(covariance) - 2 * mean + p @ mean
    return np.sqrt(np.maximum(variance, 0))


def _median_curve(levels: Tensor, values: Tensor, grid: Array) -> Array:
    """A curve through single values, by the median of neighbours."""
    logsnr, value = levels.numpy(), values.numpy()
    order = np.argsort(logsnr, kind="stable")
    groups = np.array_split(order, min(NUM_POINTS, len(order)))
    at = np.array([np.median(logsnr[i]) for i in groups])
    medians = np.array([np.median(value[i]) for i in groups])
    return np.asarray(np.interp(grid, at, medians))


def _of_the_coefficient(samples: Samples, curve: Curve) -> list[Diagnostic]:
    """Whether the coefficient is a positive function of the noise level."""
    found = []
    c = samples.coefficient.numpy()
    if (c < 0).any():
        found.append(Diagnostic("negative", {"share": float((c < 0).mean())}))
    is_unused = (c == 0) & samples.logsnr.isfinite().numpy()
    if is_unused.mean() > 5e-4:
        levels = samples.logsnr.numpy()[is_unused]
        ends = {"low": float(levels.min()), "high": float(levels.max())}
        found.append(Diagnostic("unused", {"share": float(is_unused.mean()), **ends}))
    is_explained = any(one.is_fatal or one.kind == "data-dependent" for one in samples.diagnostics)
    if curve.scatter < MAX_SCATTER or is_explained:
        return found
    firsts = np.flatnonzero(np.diff(samples.batch.numpy(), prepend=-1))
    largest, smallest = np.maximum.reduceat(c, firsts), np.minimum.reduceat(c, firsts)
    if np.median(largest - smallest) < 1e-3 * np.median(largest):
        return [*found, Diagnostic("batch-mean")]
    return [*found, Diagnostic("scattered", {"scatter": curve.scatter})]
