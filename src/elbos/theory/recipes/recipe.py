"""A recipe: a noise schedule, a prediction type and a loss coefficient, and the weighting they
imply.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.theory.formulas import evaluate_at
from elbos.theory.parameterizations import Parameterization
from elbos.theory.schedules import Schedule
from elbos.theory.weightings import Implied, Weighting


@dataclass(frozen=True, kw_only=True)
class Recipe:
    r"""Training loss of a published method.

    It consists of noise schedule, prediction type and loss coefficient.

    Attributes:
        title: The method, in a few words.
        schedule: The distribution $p$ of log-SNR in training.
        parameterization: The prediction type of the network output $y$.
        coefficient: $c(\lambda)$, the factor of $\|\hat y - y\|^2$ in the loss, as a formula
            (`weightings.Implied`). Default: 1.
        exact: The weighting of a loss whose coefficient is derived from it, which is the paper's
            way. Default: the weighting follows from the coefficient.
        reference: Publication of the method, or the origin of its settings, such as "as set by
            trainers".
    """

    title: str
    schedule: Schedule
    parameterization: Parameterization
    coefficient: str = "1"
    exact: Weighting | None = None
    reference: str

    @property
    def weighting(self) -> Weighting:
        """The weighting that the loss implies, up to a constant."""
        return self.exact or Implied(self.schedule, self.parameterization, self.coefficient)

    def coefficient_at(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Return the factor of the squared error in the loss."""
        if self.exact is None:
            return evaluate_at(self.coefficient, logsnr)
        error_ratio = self.parameterization.eps_error_per_error(logsnr)
        return self.exact(logsnr) * torch.exp(-self.schedule.log_density(logsnr)) * error_ratio
