r"""The distance between the weightings, or the densities, of two losses.

$$d = \operatorname{std}_{\lambda \sim \bar p}\,[\log w_1(\lambda) - \log w_2(\lambda)],$$

with $\bar p$ the mean of the two densities of noise levels: 0.02 is a difference of 2 %. A constant
factor makes no difference.
"""

import math
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from elbos.base.arrays import Array

CurveName = Literal["weight", "density"]


@runtime_checkable
class Curves(Protocol):
    """Interface of a loss that has a weighting and a noise-level density."""

    @property
    def logsnr(self) -> Tensor: ...

    @property
    def weight(self) -> Tensor: ...

    @property
    def weight_error(self) -> Tensor: ...

    @property
    def density(self) -> Tensor: ...


class Distance(NamedTuple):
    """Relative difference between two curves and its standard error."""

    value: float
    error: float

    @classmethod
    def between(cls, first: Curves, second: Curves, curve: CurveName) -> "Distance | None":
        """Compute the distance of two losses; None if they have no noise level in common."""
        levels, log_ratio, p = log_ratio_of(first, second, curve)
        if not len(levels):
            return None
        variance = sum(
            np.interp(levels, audit.logsnr.numpy(), audit.weight_error.numpy()) ** 2
            for audit in (first, second)
        )
        return cls(spread(log_ratio, p), float(np.sqrt((p * variance).sum())))


def spread(log_ratio: Float[Array, " g"], p: Float[Array, " g"]) -> float:
    """Compute the standard deviation of a log-ratio; infinite if the log-ratio is somewhere."""
    if not np.isfinite(log_ratio).all():
        return math.inf
    return float(np.sqrt((p * (log_ratio - (p * log_ratio).sum()) ** 2).sum()))


def log_ratio_of(
    first: Curves, second: Curves, curve: CurveName = "weight"
) -> tuple[Float[Array, " g"], Float[Array, " g"], Float[Array, " g"]]:
    r"""Compute log-SNRs, $\log w_1 - \log w_2$ with mean 0 (0 where both are 0) and probabilities;
    empty arrays without a common noise level.
    """
    low = max(audit.logsnr[0].item() for audit in (first, second))
    high = min(audit.logsnr[-1].item() for audit in (first, second))
    if low >= high:
        return np.empty(0), np.empty(0), np.empty(0)
    levels = np.linspace(low, high, len(first.logsnr))
    logs, p = [], np.zeros(len(levels))
    for audit in (first, second):
        grid = audit.logsnr.numpy()
        log = getattr(audit, curve).log().numpy()
        is_finite = np.isfinite(log)
        interpolated = PchipInterpolator(grid[is_finite], log[is_finite])(levels)
        logs.append(np.where(np.interp(levels, grid, is_finite) == 1, interpolated, -np.inf))
        p += np.interp(levels, grid, audit.density.numpy())
    p /= p.sum()
    with np.errstate(invalid="ignore"):
        log_ratio = np.where(logs[0] == logs[1], 0.0, logs[0] - logs[1])
    is_finite = np.isfinite(log_ratio)
    return levels, log_ratio - (p * log_ratio)[is_finite].sum() / p[is_finite].sum(), p
