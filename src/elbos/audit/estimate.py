r"""From samples to curves: $w(\lambda) \propto p(\lambda)\,k(\lambda)$ with its uncertainty."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from elbos.arrays import Array
from elbos.audit.density import Levels, distinct_levels, estimate_density
from elbos.audit.measure import Samples
from elbos.audit.names import Nearest, code, coefficient_name, nearest_weightings, prediction_of
from elbos.audit.oddity import Oddity
from elbos.audit.result import Audit
from elbos.audit.rises import significant_rises
from elbos.audit.smooth import Splines, residuals, scatter

NUM_POINTS = 401
_MIN_LEVELS = 8
_NEAR = 25  # samples that count as near to each other
_ON_A_CURVE = 5e-3  # relative scatter of values that are a function of the noise level
_OFF_IT = 5e-3  # share of values that may be far off, as where a curve bends or jumps


def audit_of(samples: Samples, *, title: str) -> Audit:
    """Everything there is to say about the samples of a loss.

    Raises:
        ValueError: If there are fewer than two noise levels.
    """
    is_finite = samples.logsnr.isfinite()
    logsnr = samples.logsnr[is_finite].numpy()
    _require_levels(logsnr, len(is_finite))
    grid = np.linspace(logsnr.min(), logsnr.max(), NUM_POINTS)
    drawn, oddities = _independent(samples)
    oddities = [*samples.oddities, *oddities]
    values, _ = distinct_levels(drawn)
    if len(values) < _MIN_LEVELS:
        raise ValueError(
            f"The loss draws only {len(values)} noise levels, at log-SNR "
            f"{', '.join(f'{value:.2f}' for value in values)}: too few for a curve."
        )
    density = estimate_density(drawn, grid)
    k = Curve.of(logsnr, samples.eps_coefficient[is_finite].numpy(), grid)
    c = Curve.of(logsnr, samples.coefficient[is_finite].numpy(), grid)
    oddities += _about_coefficients(samples, c)
    covariance = density.covariance + k.covariance
    log_w = density.log_p + k.log
    probability = np.exp(density.log_p - density.log_p.max())
    probability /= probability.sum()
    log_w = log_w - (probability * log_w).sum()
    log_c = c.log - (probability * c.log).sum()
    is_fitted = density.is_fitted or k.is_fitted
    rises = rising_measured(grid, log_w, covariance, density.log_p, is_fitted=is_fitted)
    share = _share_used(logsnr, samples.coefficient[is_finite].numpy(), grid)
    used = probability * (share > (0.05 if c.is_fitted else 0.95))
    rtol = samples.logsnr_error
    is_asked = is_finite & (samples.coefficient != 0)  # the others have no target
    prediction = prediction_of(
        samples.logsnr[is_asked], samples.a[is_asked], samples.b[is_asked], rtol=rtol
    )
    if prediction is None and not any(oddity.is_fatal for oddity in oddities):
        text = "The target is none of the usual ones: see its coefficients a and b."
        oddities.append(Oddity("unknown-target", text))
    process, is_pure = samples.process, samples.logsnr == -torch.inf
    sigma_data = prediction.sigma_data if prediction else None
    return Audit(
        title=title,
        source="measured",
        num_samples=len(samples.logsnr),
        logsnr=torch.from_numpy(grid),
        weight=torch.from_numpy(np.exp(log_w)),
        weight_error=torch.from_numpy(_relative_error(covariance, probability)),
        density=torch.from_numpy(np.exp(density.log_p)),
        coefficient=torch.from_numpy(np.exp(log_c)),
        a=torch.from_numpy(_median_curve(samples.logsnr[is_asked], samples.a[is_asked], grid)),
        b=torch.from_numpy(_median_curve(samples.logsnr[is_asked], samples.b[is_asked], grid)),
        schedule=code(density.schedule) if density.schedule else None,
        density_kind=density.kind,
        num_steps=density.num_steps,
        process=process.name,
        data_scale=process.scale,
        data_offset=samples.data_offset,
        parameterization=prediction.name if prediction else None,
        parameterization_factor=prediction.factor if prediction else 1.0,
        sigma_data=sigma_data or process.sigma_data,
        coefficient_name=coefficient_name(grid, log_c, used),
        rising=rises,
        closest=closest(grid, log_w, used),
        share_pure_noise=is_pure.double().mean().item(),
        weight_pure_noise=_mean_ratio(samples.coefficient[is_pure], samples.coefficient),
        share_clean=(samples.logsnr == torch.inf).double().mean().item(),
        oddities=oddities,
    )


def _require_levels(logsnr: Array, num: int) -> None:
    """There is a weighting to measure if there are noise levels with both signal and noise."""
    if len(logsnr) < 100:
        raise ValueError(
            f"Of {num} samples, all but {len(logsnr)} are pure noise or clean data: there is no "
            "weighting to measure."
        )
    if np.ptp(logsnr) < 1e-4:
        raise ValueError(
            f"The loss draws a single noise level, log-SNR {logsnr[0]:.2f}: there is no weighting "
            "to measure."
        )


def _share_used(logsnr: Array, coefficient: Array, grid: Array) -> Array:
    """The share of coefficients that are not 0; names are found by the levels that count."""
    order = np.argsort(logsnr)
    share = uniform_filter1d((coefficient[order] != 0).astype(float), _NEAR, mode="nearest")
    return np.asarray(np.interp(grid, logsnr[order], share))


def rising(
    grid: Array, log_w: Array, covariance: Array, num_errors: float = 5.0
) -> list[tuple[float, float]]:
    """Where the weight rises beyond its error, as intervals of log-SNR."""
    rises = significant_rises(log_w, covariance, num_errors=num_errors)
    return [(float(grid[i]), float(grid[j])) for i, j in rises]


def rising_measured(
    grid: Array, log_w: Array, covariance: Array, log_p: Array, *, is_fitted: bool
) -> list[tuple[float, float]]:
    """The same where something may have been fitted: then on the inner 99 % of the samples, and
    with eight standard errors for five, since a fit is off by more than chance alone.

    In simulations of 20,000 levels from normal mixtures, t, Gumbel, skewed and generalized normal
    distributions (30 to 60 each) the largest of all differences was 7.6 standard errors.
    """
    if not is_fitted:
        return rising(grid, log_w, covariance)
    below = np.cumsum(np.exp(log_p))
    inner = (below > 0.005 * below[-1]) & (below < 0.995 * below[-1])
    return rising(grid[inner], log_w[inner], covariance[np.ix_(inner, inner)], num_errors=8.0)


def closest(grid: Array, log_w: Array, probability: Array) -> list[Nearest]:
    """The nearest named weightings, as code."""
    found = nearest_weightings(grid, log_w, probability)
    return [Nearest(code(weighting), distance) for weighting, distance in found]


def _relative_error(covariance: Float[Array, "g g"], p: Float[Array, " g"]) -> Float[Array, " g"]:
    """Standard error of log w, its mean under `p` taken out, since a constant does not count."""
    mean = covariance @ p
    variance = np.diag(covariance) - 2 * mean + p @ mean
    return np.sqrt(np.maximum(variance, 0))


def _mean_ratio(part: Tensor, whole: Tensor) -> float:
    return (part.mean() / whole.mean()).item() if len(part) else 0.0


@dataclass(frozen=True)
class Curve:
    """The mean of a positive quantity as a function of the noise level.

    Attributes:
        log: Its logarithm at the grid.
        covariance: Of that.
        scatter: Relative scatter of single values around the curve.
        is_fitted: Whether it was fitted, since they do not lie on one.
    """

    log: Float[Array, " g"]
    covariance: Float[Array, "g g"]
    scatter: float
    is_fitted: bool

    @classmethod
    def of(cls, logsnr: Array, value: Array, grid: Array) -> "Curve":
        """If single values lie on a curve it is interpolated; else one is fitted (`smooth`)."""
        order = np.argsort(logsnr, kind="stable")
        logsnr, value = logsnr[order], np.maximum(value[order], 0)
        floor = 1e-12 * np.median(value[value > 0]) if value.any() else 1.0
        log_value = np.log(np.maximum(value, floor))
        residual = residuals(logsnr, log_value)
        usual = float(np.quantile(residual, 0.8) / 1.28)
        if usual < _ON_A_CURVE and (residual > 10 * _ON_A_CURVE).mean() < _OFF_IT:
            error = np.interp(grid, logsnr, scatter(logsnr, log_value))
            return cls(np.interp(grid, logsnr, log_value), np.diag(error**2), usual, False)
        curve = Splines.of_values(logsnr, value)
        relative = value * np.exp(-curve(logsnr)) - 1
        spread = float((relative**2).mean() ** 0.5)
        return cls(curve(grid), curve.covariance(grid), spread, True)


def _median_curve(levels: Tensor, values: Tensor, grid: Array) -> Array:
    """A curve through single values, by the median of neighbours."""
    logsnr, value = levels.numpy(), values.numpy()
    order = np.argsort(logsnr, kind="stable")
    groups = np.array_split(order, min(NUM_POINTS, len(order)))
    at = np.array([np.median(logsnr[i]) for i in groups])
    medians = np.array([np.median(value[i]) for i in groups])
    return np.asarray(np.interp(grid, at, medians))


def _independent(samples: Samples) -> tuple[Levels, list[Oddity]]:
    """The noise levels that were drawn independently, without atoms."""
    is_finite = samples.logsnr.isfinite()
    levels = Levels(
        *(part[is_finite].numpy() for part in (samples.logsnr, samples.rounding, samples.quantiles))
    )
    batch = samples.batch[is_finite].numpy()
    firsts = np.flatnonzero(np.diff(batch, prepend=-1))
    sizes = np.diff(np.append(firsts, len(batch)))
    logsnr = levels.logsnr
    spread = np.maximum.reduceat(logsnr, firsts) - np.minimum.reduceat(logsnr, firsts)
    if sizes.max() > 1 and (spread < 1e-4 + 8 * samples.logsnr_error).all():
        text = (
            f"All samples of a batch share one noise level, so only {len(firsts):,} levels were "
            "drawn: the gradient is noisier than it has to be, and so is this audit (more samples "
            "in smaller batches help)."
        )
        return levels.at(firsts), [Oddity("one-level-per-batch", text)]
    values, counts = distinct_levels(levels)
    apart = _first_of_groups(levels, values, counts, batch)
    if apart is not None:
        text = (
            "Samples of a batch share noise levels in groups, as frames of a clip, so only "
            f"{len(apart):,} levels were drawn."
        )
        return levels.at(apart), [Oddity("shared-levels", text)]
    is_atom = counts > np.maximum(0.005 * len(logsnr), 20 * np.median(counts))
    is_table = np.median(counts) > 1
    if is_table or not is_atom.any() or is_atom.sum() > 5:
        return levels, []
    places = ", ".join(f"{value:.3g}" for value in values[is_atom])
    share = counts[is_atom].sum() / len(logsnr)
    text = (
        f"{share:.1%} of the samples have exactly log-SNR {places}, as where noise levels are "
        "clamped; the weighting is that of the others."
    )
    rest = np.abs(logsnr[:, None] - values[is_atom]).min(1) > 1e-5 + 8 * levels.error
    return levels.at(np.flatnonzero(rest)), [Oddity("clamped", text)]


def _first_of_groups(
    levels: Levels, values: Array, counts: NDArray[np.int64], batch: Array
) -> NDArray[np.int64] | None:
    """The first sample of each level in each batch, if a batch has far fewer levels than as many
    independent draws would have.
    """
    place = np.searchsorted((values[1:] + values[:-1]) / 2, levels.logsnr)
    _, firsts = np.unique(batch * len(values) + place, return_index=True)
    sizes = np.unique(batch, return_counts=True)[1]
    probability = counts / counts.sum()
    expected = sum((1 - (1 - probability) ** size).sum() for size in sizes[:32])
    seen = np.isin(batch[firsts], np.unique(batch)[:32]).sum()
    return np.sort(firsts) if seen < 0.75 * expected else None


def _about_coefficients(samples: Samples, curve: Curve) -> list[Oddity]:
    """Whether the coefficient is a positive function of the noise level."""
    found = []
    c = samples.coefficient.numpy()
    if (c < 0).any():
        share = (c < 0).mean()
        text = f"The coefficient is negative for {share:.1%} of the samples: there the error grows."
        found.append(Oddity("negative", text, is_fatal=True))
    is_unused = (c == 0) & samples.logsnr.isfinite().numpy()
    if is_unused.mean() > 5e-4:
        levels = samples.logsnr.numpy()[is_unused]
        text = f"{is_unused.mean():.1%} of the samples have no weight at all, at log-SNR "
        text += f"{levels.min():.2f} to {levels.max():.2f}."
        found.append(Oddity("unused", text))
    is_explained = any(o.is_fatal or o.kind == "data-dependent" for o in samples.oddities)
    if curve.scatter < _ON_A_CURVE or is_explained:
        return found
    batch = samples.batch.numpy()
    firsts = np.flatnonzero(np.diff(batch, prepend=-1))
    largest, smallest = np.maximum.reduceat(c, firsts), np.minimum.reduceat(c, firsts)
    if np.median(largest - smallest) < 1e-3 * np.median(largest):
        text = (
            "Every sample of a batch has the same coefficient, which changes from batch to batch: "
            "the mean of the weights times the mean of the errors. A weight of shape [b] was "
            "broadcast against a loss of another shape, so the weighting has no effect."
        )
        return [*found, Oddity("batch-mean", text)]
    text = (
        f"The coefficient is not a function of the noise level: it scatters by {curve.scatter:.0%} "
        "at one level, as where it depends on the rest of the batch or on a random number; its "
        "mean is shown."
    )
    return [*found, Oddity("scattered", text)]
