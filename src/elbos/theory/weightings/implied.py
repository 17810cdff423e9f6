"""Weightings that a loss implies by what it samples, predicts and multiplies with."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.theory.formulas import evaluate_at
from elbos.theory.parameterizations import Parameterization
from elbos.theory.schedules import Schedule
from elbos.theory.weightings.weighting import Weighting


@dataclass(frozen=True)
class Implied(Weighting):
    r"""Weighting that a loss implies by its schedule, prediction type and coefficient.

    $$w(\lambda) = p(\lambda)\; c(\lambda)\;
      \frac{\|\hat y - y\|^2}{\|\hat\epsilon - \epsilon\|^2}.$$

    It is computed in float64 and through logarithms, so that a small density and a large error
    ratio have a finite product. Beyond the ends of the schedule, where the loss samples nothing,
    the formula continues.

    Args:
        schedule: The distribution $p$ of log-SNR in training.
        parameterization: The prediction type of the network output $y$.
        coefficient: $c(\lambda)$, the factor of $\|\hat y - y\|^2$ in the loss: a formula in `snr`
            and the time of rectified flow, `t = 1/(1 + sqrt(snr))`, such as `min(snr, 5)`.
            Default: 1.

    Raises:
        ValueError: If the coefficient is not a formula.

    Examples:
        Velocity prediction with logit-normal times (Stable Diffusion 3):

        >>> from elbos.theory.parameterizations import Flow
        >>> from elbos.theory.schedules import Normal
        >>> Implied(Normal(mean=0.0, std=2.0), Flow())(torch.tensor([0.0]))
        tensor([0.7979])
    """

    schedule: Schedule
    parameterization: Parameterization
    coefficient: str = "1"

    def __post_init__(self) -> None:
        evaluate_at(self.coefficient, torch.zeros(1, dtype=torch.float64))  # a formula, or an error

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        level = logsnr.double()
        log_ratio = -self.parameterization.eps_error_per_error(level).log()
        log_c = evaluate_at(self.coefficient, level).log()
        return torch.exp(self.schedule.log_density(level) + log_c + log_ratio).to(logsnr.dtype)
