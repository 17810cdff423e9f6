r"""Validation: the ELBO of any denoiser on held-out data, at every noise level, with its error.

$$-\log p(x) \le \text{decoder}
  + \int_{\lambda_\min}^{\lambda_\max} \tfrac12\,\mathbb E\|\hat\epsilon - \epsilon\|^2\,d\lambda
  + \text{prior}.$$

A training loss depends on its weighting, noise schedule and prediction type; this number does not.
Under any weighting that never increases, the weighted loss is an average of ELBOs of noisy data, so
that the bound at every noise level is meaningful, too.

| file | what it holds |
|---|---|
| `draws` | noise levels and noise of each sample, by (seed, round, index) |
| `estimate` | a mean over samples, with standard errors |
| `measurements` | losses at noise levels, their integrals, and `fit`, which makes these precise |
| `result` | `Validation`: the bound of each sample, by noise level, by class, and differences |
| `saved` | a `Validation` as a file |
| `execution` | batches, devices, sharing among processes, storage of finished parts |
| `diagnostics` | checks of data and denoiser for mistakes that the bound would not reveal |
| `validator` | `Validator` |
| `by_level` | `LossByLevel`: the loss of a training by noise level, from its own batches |
| `protocols` | validation losses in common use, at a few fixed noise levels |

References:
    Kingma et al. (2021), https://arxiv.org/abs/2107.00630
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

from elbos.validation.by_level import BinnedLoss, LossByLevel
from elbos.validation.estimate import Estimate
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
    "Validator",
    "fit",
]
