r"""The distance between the weightings, or the densities, of two losses.

$$d = \operatorname{std}_{\lambda \sim \bar p}\,[\log w_1(\lambda) - \log w_2(\lambda)],$$

with $\bar p$ the mean of the two densities of noise levels: 0.02 is a difference of 2 %. A constant
factor makes no difference.
"""

from collections.abc import Sequence
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
    def between(cls, one: Curves, other: Curves, curve: CurveName) -> "Distance | None":
        """Compute the distance between the weightings or densities of two losses.

        None if the losses have no noise level in common.
        """
        levels, log_ratio, p = log_ratio_of(one, other, curve)
        if not len(levels):
            return None
        variance = sum(
            np.interp(levels, audit.logsnr.numpy(), audit.weight_error.numpy()) ** 2
            for audit in (one, other)
        )
        value = float(np.sqrt((p * log_ratio**2).sum()))
        return cls(
            value if np.isfinite(log_ratio).all() else float("inf"),
            float(np.sqrt((p * variance).sum())),
        )


def log_ratio_of(
    one: Curves, other: Curves, curve: CurveName = "weight"
) -> tuple[Float[Array, " g"], Float[Array, " g"], Float[Array, " g"]]:
    r"""Compute the log-ratio of the weightings of two losses.

    Returns log-SNR, $\log w_1 - \log w_2$ (with mean 0) and probability; empty arrays if the losses
    share no noise levels.
    """
    levels = common_levels([one, other])
    logs, p = [], np.zeros(len(levels))
    for audit in (one, other):
        grid = audit.logsnr.numpy()
        logs.append(PchipInterpolator(grid, getattr(audit, curve).log().numpy())(levels))
        p += np.interp(levels, grid, audit.density.numpy())
    p /= p.sum() if len(p) else 1.0
    log_ratio = logs[0] - logs[1]
    return levels, log_ratio - (p * log_ratio).sum(), p


def common_levels(audits: Sequence[Curves]) -> Float[Array, " g"]:
    """Return a grid of log-SNRs that lie within the measured range of every loss.

    Empty if there is no such range.
    """
    low = max(audit.logsnr[0].item() for audit in audits)
    high = min(audit.logsnr[-1].item() for audit in audits)
    return np.linspace(low, high, len(audits[0].logsnr)) if low < high else np.empty(0)
