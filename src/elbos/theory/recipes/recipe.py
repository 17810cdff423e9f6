"""A recipe: a noise schedule, a prediction type and a loss coefficient, and the weighting they
imply.
"""

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
    r"""Training loss of a published method.

    It consists of noise schedule, prediction type and loss coefficient.

    Attributes:
        title: The method, in a few words.
        schedule: The distribution $p$ of log-SNR in training.
        parameterization: The prediction type of the network output $y$.
        coefficient: $c(\lambda)$, the factor of $\|\hat y - y\|^2$ in the loss. Default: 1.
        closed_form: The implied weighting, up to a constant.
        reference: Publication of the method, or the origin of its settings, such as "as set by
            trainers".
    """

    title: str
    schedule: Schedule
    parameterization: Parameterization
    coefficient: Callable[[Tensor], Tensor] = torch.ones_like
    closed_form: Weighting
    reference: str

    def weighting(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Return the unnormalized weighting that the loss implies.

        It is density times loss coefficient times error ratio. Beyond the ends of the schedule,
        where the recipe samples nothing, its formula continues.
        """
        error_ratio = 1 / self.parameterization.eps_error_per_error(logsnr)
        return self.schedule.log_density(logsnr).exp() * self.coefficient(logsnr) * error_ratio


def exact(
    weighting: Weighting, schedule: Schedule, parameterization: Parameterization
) -> Callable[[Tensor], Tensor]:
    """Return the loss coefficient that realizes a given weighting.

    It depends on the schedule and the prediction type.
    """
    return lambda logsnr: (
        weighting(logsnr)
        * torch.exp(-schedule.log_density(logsnr))
        * parameterization.eps_error_per_error(logsnr)
    )
