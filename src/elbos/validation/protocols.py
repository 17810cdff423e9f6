r"""Validation losses as others report them, to be reproduced and compared: means over a few fixed
noise levels.

The squared error of any prediction $y = a x + b\epsilon$ is that of the noise times a factor, so
that such a mean weighs the loss $\ell = \tfrac12\|\hat\epsilon - \epsilon\|^2$ at $m$ noise levels,
and none between them:

$$\frac1m \sum_{k=1}^m \mathbb E\|\hat y - y\|^2
  = \frac2m \sum_{k=1}^m \Bigl(b - a\frac{\sigma}{\alpha}\Bigr)^2 \ell(\lambda_k).$$

Whatever a model gains elsewhere it does not see, and it is no bound on a likelihood.
"""

from dataclasses import dataclass
from typing import Any

import torch

from elbos.denoiser import Denoise
from elbos.parameterizations import Eps, Flow, Parameterization
from elbos.schedules import DDPM
from elbos.schedules import Flow as FlowSchedule
from elbos.validation.estimate import Estimate
from elbos.validation.validator import Validator


@dataclass(frozen=True, kw_only=True)
class FixedLevels:
    """The mean squared error of a prediction over fixed noise levels, on fixed noise.

    Attributes:
        name: What it is called.
        logsnr: The noise levels.
        parameterization: What the error is of.
    """

    name: str
    logsnr: tuple[float, ...]
    parameterization: Parameterization

    @property
    def weights(self) -> tuple[float, ...]:
        r"""What it multiplies $\ell$ with at each level."""
        levels = torch.tensor(self.logsnr, dtype=torch.float64)
        eps_error_per_error = self.parameterization.eps_error_per_error(levels)
        return tuple((2 / eps_error_per_error / len(levels)).tolist())

    def __call__(self, validator: Validator, denoiser: Denoise, **options: Any) -> Estimate:
        """The number of a denoiser, with its standard error over samples and noise.

        Args:
            validator: The held-out set, and the seed of the noise.
            denoiser: Estimates data and noise.
            options: As those of `Validator.at_levels`.
        """
        losses = validator.at_levels(denoiser, self.logsnr, **options)
        values = losses @ torch.tensor(self.weights, dtype=torch.float64)
        error = values.std().item() / len(values) ** 0.5
        return Estimate(values.mean().item(), error, float("nan"), len(values))


def equispaced_times(num: int = 8) -> FixedLevels:
    """The velocity's error at equispaced times of flow matching, (k + 1/2) / num: what benchmarks
    of training stop at.
    """
    times = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    levels = FlowSchedule().logsnr(times)
    name = f"velocity, {num} equispaced times"
    return FixedLevels(name=name, logsnr=tuple(levels.tolist()), parameterization=Flow())


def fixed_steps(*steps: int) -> FixedLevels:
    """The noise's error at fixed steps of DDPM's 1,000. Default: 200, 400, 600 and 800."""
    times = torch.tensor(steps or (200, 400, 600, 800), dtype=torch.float64) / 1000
    levels = DDPM().logsnr(times)
    name = f"noise, {len(times)} fixed steps"
    return FixedLevels(name=name, logsnr=tuple(levels.tolist()), parameterization=Eps())
