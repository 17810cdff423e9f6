r"""The objective of a weighting: monotone or not, which ELBOs it mixes, and the theorem itself.

With $L(\lambda)$ the loss of the ELBO of noisy data, $L(\lambda_\min)$ the prior's and
$dL/d\lambda = \tfrac12\mathbb E\|\hat\epsilon - \epsilon\|^2$, integration by parts gives

$$\tfrac12\int w\,\mathbb E\|\hat\epsilon - \epsilon\|^2 d\lambda
  = \int -w'(\lambda)\, L(\lambda)\, d\lambda
  + w(\lambda_\max) L(\lambda_\max) - w(\lambda_\min) L(\lambda_\min).$$

If $w$ never rises, $-w'$ and the mass $w(\lambda_\max)$ at the clean end are, over
$w(\lambda_\min)$, a probability distribution over noise levels: the loss is the ELBO of data with
Gaussian noise added. If $w$ rises somewhere they are a signed measure: still a weighted integral of
ELBOs, no longer a likelihood objective.

See docs/theory.md, section 3.

References:
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.checks import Typed, typed
from elbos.theory.extrema import rising_intervals
from elbos.theory.weightings import WeightFunction

__all__ = [
    "Mixture",
    "TheoremSides",
    "elbo_mixture",
    "is_monotone",
    "noisy_elbo_losses",
    "rising_intervals",
    "theorem_sides",
]


def is_monotone(weighting: WeightFunction, logsnr_min: float, logsnr_max: float) -> bool:
    r"""Return whether a weighting is non-increasing in log-SNR.

    The weighted loss is then a maximum-likelihood objective. Plateaus and rounding errors are no
    rise; see `extrema.rising_intervals`.

    Examples:
        >>> from elbos import weightings
        >>> is_monotone(weightings.Sigmoid(), -20, 20), is_monotone(weightings.EDM(), -20, 20)
        (True, False)
    """
    return not rising_intervals(weighting, logsnr_min, logsnr_max)


@dataclass(frozen=True)
class Mixture(Typed):
    r"""Signed measure that expresses a weighted loss as a mixture of ELBOs.

    It is normalized by $w(\lambda_\min)$. It is a density $-w'(\lambda)$ on the range and a point
    mass at $\lambda_\max$; its total is one.

    Args:
        weighting: $w$, differentiable by torch.
        logsnr_min: $\lambda_\min$.
        logsnr_max: $\lambda_\max$.

    Raises:
        ValueError: If $w(\lambda_\min)$ is not above 0: there is nothing to normalize by.
    """

    weighting: WeightFunction
    logsnr_min: float
    logsnr_max: float

    def __post_init__(self) -> None:
        if not self._end_weights[0] > 0:
            raise ValueError(
                f"The weight at logsnr_min={self.logsnr_min} is {self._end_weights[0]}: "
                "the mixture is measured in units of it, so give a range on which it is above 0."
            )

    @cached_property
    def _end_weights(self) -> tuple[float, float]:
        ends = torch.tensor([self.logsnr_min, self.logsnr_max], dtype=torch.float64)
        with torch.no_grad():
            w_min, w_max = self.weighting(ends).tolist()
        return w_min, w_max

    def density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Return the density of the mixture of ELBOs at given log-SNRs.

        It is $-w'(\lambda) / w(\lambda_\min)$, by autograd, and negative where $w$ increases. Zero
        outside the range. A jump of $w$ is a point mass, which a density does not show.
        """
        with torch.enable_grad():
            leaf = logsnr.detach().requires_grad_()
            # `+ 0 * leaf` gives a constant weighting a derivative, 0.
            (slope,) = torch.autograd.grad((self.weighting(leaf) + 0 * leaf).sum(), leaf)
        is_inside = (logsnr >= self.logsnr_min) & (logsnr <= self.logsnr_max)
        return torch.where(is_inside, -slope / self._end_weights[0], 0.0)

    @property
    def mass_at_max(self) -> float:
        r"""Weight of the ELBO at the highest log-SNR.

        This is the share of the ELBO of almost clean data, $w(\lambda_\max) / w(\lambda_\min)$.
        """
        return self._end_weights[1] / self._end_weights[0]

    @cached_property
    def negative_mass(self) -> float:
        r"""Total increase of a weighting relative to its value at $\lambda_\min$.

        It is zero if and only if the loss is a mixture of ELBOs.
        """
        rises = rising_intervals(self.weighting, self.logsnr_min, self.logsnr_max)
        w = self.weighting(torch.tensor(rises, dtype=torch.float64).reshape(-1, 2))
        return (w[:, 1] - w[:, 0]).sum().item() / self._end_weights[0]

    @property
    def positive_mass(self) -> float:
        """Sum of the positive weights in the mixture of ELBOs.

        It is one plus the negative mass, since the total is one.
        """
        return 1 + self.negative_mass

    def sample(self, num: int, generator: torch.Generator | None = None) -> Float[Tensor, " num"]:
        r"""Draw noise levels in proportion to the weights of their ELBOs.

        The survival function $w(\lambda)/w(\lambda_\min)$ is inverted by bisection.

        Args:
            num: How many.
            generator: Source of randomness. Default: torch's global one.

        Returns:
            float64 log-SNRs, `[num]`, accurate to $(\lambda_\max - \lambda_\min) 2^{-50}$.

        Raises:
            ValueError: If the weighting is not monotone: a signed measure cannot be sampled.
        """
        if self.negative_mass > 0:
            raise ValueError(
                f"{self.weighting!r} rises on [{self.logsnr_min}, {self.logsnr_max}], so its "
                "mixture is a signed measure and cannot be sampled: take Monotone of it."
            )
        survival = torch.rand(num, dtype=torch.float64, generator=generator)
        low = torch.full_like(survival, self.logsnr_min)
        high = torch.full_like(survival, self.logsnr_max)
        for _ in range(50):
            middle = (low + high) / 2
            is_above = self.weighting(middle) > survival * self._end_weights[0]
            low, high = torch.where(is_above, middle, low), torch.where(is_above, high, middle)
        return torch.where(survival < self.mass_at_max, self.logsnr_max, high)


@typed
def elbo_mixture(weighting: WeightFunction, logsnr_min: float, logsnr_max: float) -> Mixture:
    r"""Return the measure that expresses a weighted loss as a mixture of ELBOs.

    See `Mixture`.

    Examples:
        >>> from elbos import weightings
        >>> mixture = elbo_mixture(weightings.Sigmoid(k=2.0), -20.0, 20.0)
        >>> mixture.density(torch.tensor([2.0]))  # Logistic(2, 1) at its centre
        tensor([0.2500])
    """
    return Mixture(weighting, logsnr_min, logsnr_max)


class TheoremSides(NamedTuple):
    """Weighted loss, computed directly and as an integral over ELBOs.

    Both are in nats per dimension.
    """

    weighted_loss: float
    elbo_integral: float


@typed
def theorem_sides(
    weighting: WeightFunction,
    logsnr: Float[Tensor, " n"],
    loss: Float[Tensor, " n"],
    prior_loss: float = 0.0,
) -> TheoremSides:
    r"""Compute a weighted loss directly and as an integral over ELBOs.

    The left side weighs the loss, $\int w\,\ell\,d\lambda$. The right side never weighs a loss: it
    integrates $\ell$ to the ELBOs $L(\lambda)$ and mixes those, $-\int L\,dw + [wL]$, as a
    Stieltjes integral, so that kinks and jumps of $w$ count in full. Between the levels measured,
    $\ell$ is interpolated by monotone cubics.

    Args:
        weighting: $w$.
        logsnr: Noise levels in increasing order; the first is $\lambda_\min$, the last
            $\lambda_\max$.
        loss: $\ell(\lambda) = \tfrac12\mathbb E\|\hat\epsilon - \epsilon\|^2$ there, nats per
            dimension.
        prior_loss: $L(\lambda_\min)$, nats per dimension; it cancels between the terms. Default 0.
    """
    curve = _interpolated(logsnr, loss)
    elbo = curve.antiderivative()
    fine = np.linspace(curve.x[0], curve.x[-1], 200_001)
    middle = (fine[1:] + fine[:-1]) / 2
    with torch.no_grad():
        w = weighting(torch.from_numpy(fine)).numpy()
        w_middle = weighting(torch.from_numpy(middle)).numpy()
    step = fine[1] - fine[0]
    simpson = (
        w[:-1] * curve(fine[:-1]) + 4 * w_middle * curve(middle) + w[1:] * curve(fine[1:])
    ) / 6
    losses = prior_loss + elbo(middle)
    boundary = w[-1] * (prior_loss + elbo(fine[-1])) - w[0] * prior_loss
    return TheoremSides(float(simpson.sum() * step), float(boundary - (np.diff(w) * losses).sum()))


def noisy_elbo_losses(
    logsnr: Float[Tensor, " n"], loss: Float[Tensor, " n"], prior_loss: float = 0.0
) -> Float[Tensor, " n"]:
    r"""Compute the negative ELBO $L(\lambda)$ of noisy data at each noise level.

    The measured loss is integrated from $\lambda_\min$.

    Args:
        logsnr: Noise levels in increasing order.
        loss: $\tfrac12\mathbb E\|\hat\epsilon - \epsilon\|^2$ there, nats per dimension.
        prior_loss: $L(\lambda_\min)$, nats per dimension.

    Returns:
        float64, `[n]`, on the CPU.
    """
    curve = _interpolated(logsnr, loss)
    return torch.from_numpy(curve.antiderivative()(curve.x)) + prior_loss


def _interpolated(
    logsnr: Float[Tensor, " n"], loss: Float[Tensor, " n"]
) -> "scipy.interpolate.PchipInterpolator":
    nodes, values = (part.detach().cpu().double().numpy() for part in (logsnr, loss))
    if len(nodes) < 2 or not (np.diff(nodes) > 0).all() or values.shape != nodes.shape:
        raise ValueError(
            f"losses of shape {values.shape} at log-SNRs {nodes}: give one loss for each of two or "
            "more log-SNRs that increase."
        )
    return scipy.interpolate.PchipInterpolator(nodes, values)
