"""A recipe: what is sampled, predicted and multiplied, and the weighting that this comes to."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.theory.parameterizations import Parameterization
from elbos.theory.schedules import Schedule
from elbos.theory.weightings import Weighting


@dataclass(frozen=True, kw_only=True)
class Recipe:
    r"""The training loss of a published method: noise schedule, prediction type and loss
    coefficient.

    Attributes:
        title: The method, in a few words.
        schedule: The distribution $p$ it draws log-SNR from.
        parameterization: What its network predicts, $y$.
        coefficient: $c(\lambda)$, what it multiplies $\|\hat y - y\|^2$ with.
        closed_form: The weighting this comes to, up to a constant.
        reference: Where it was published; or who chose it, "as set by trainers".
    """

    title: str
    schedule: Schedule
    parameterization: Parameterization
    coefficient: Callable[[Tensor], Tensor]
    closed_form: Weighting
    reference: str

    def weighting(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Return the implied weighting: density times coefficient times error ratio, unnormalized.

        Beyond the ends of the schedule, where the recipe samples nothing, its formula continues.
        """
        error_ratio = 1 / self.parameterization.eps_error_per_error(logsnr)
        return self.schedule.log_density(logsnr).exp() * self.coefficient(logsnr) * error_ratio


def exact(
    weighting: Weighting, schedule: Schedule, parameterization: Parameterization
) -> Callable[[Tensor], Tensor]:
    """Return the loss coefficient that realizes `weighting` exactly under a schedule and
    parameterization.
    """
    return lambda logsnr: (
        weighting(logsnr)
        * torch.exp(-schedule.log_density(logsnr))
        * parameterization.eps_error_per_error(logsnr)
    )


def one(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Return the coefficient one at every noise level."""
    return torch.ones_like(logsnr)
