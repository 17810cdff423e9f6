r"""Validation: the ELBO of a denoiser on held-out data, with errors and with the loss by noise
level.

$$-\log p(x) \le \text{decoder}
  + \int_{\lambda_\min}^{\lambda_\max} \tfrac12\,\mathbb E\|\hat\epsilon - \epsilon\|^2\,d\lambda
  + \text{prior}.$$

A training loss depends on its weighting, noise schedule and prediction type; this number does not.
Under any weighting that never increases, the weighted loss is an average of ELBOs of noisy data, so
that the bound at every noise level is meaningful, too.

References:
    Kingma et al. (2021), https://arxiv.org/abs/2107.00630
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

from elbos.validation.by_level import BinnedLoss, LossByLevel, scalars
from elbos.validation.estimate import Estimate
from elbos.validation.history import ValidationHistory
from elbos.validation.measurements import ControlVariate, Measurements, fit
from elbos.validation.result import Curve, Validation
from elbos.validation.validator import Validator

__all__ = [
    "BinnedLoss",
    "ControlVariate",
    "Curve",
    "Estimate",
    "LossByLevel",
    "Measurements",
    "Validation",
    "ValidationHistory",
    "Validator",
    "fit",
    "scalars",
]
