r"""Validation losses in common use, for comparison: means over a few fixed noise levels.

The squared error of any prediction $y = a x + b\epsilon$ is that of the noise times a factor, so
that such a mean weighs the loss $\ell = \tfrac12\|\hat\epsilon - \epsilon\|^2$ at $m$ noise levels,
and none between them:

$$\frac1m \sum_{k=1}^m \mathbb E\|\hat y - y\|^2
  = \frac2m \sum_{k=1}^m \Bigl(b - a\frac{\sigma}{\alpha}\Bigr)^2 \ell(\lambda_k).$$

Such a mean ignores gains at all other noise levels, and is not a bound on the likelihood. Means
over parts of the noise levels, such as deciles, cover all levels: they are integrals of $\ell$ like
the bound, and follow from the same evaluations.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.checks import require_positive
from elbos.theory.denoiser import Denoise
from elbos.theory.parameterizations import Eps, Flow, Parameterization
from elbos.theory.schedules import Schedule
from elbos.validation.estimate import Estimate
from elbos.validation.validator import Validator

NUM_PARTS = 10
NUM_STEPS = 1000  # length of DDPM's table
CLEAN = 40.0  # log-SNR of clean data, to the last digit of float32


@dataclass(frozen=True, kw_only=True)
class FixedLevels:
    """Validation protocol: mean squared error at fixed noise levels.

    Attributes:
        name: Name of the protocol in tables.
        parameterization: The prediction type whose squared error is measured.
    """

    name: str
    logsnr: tuple[float, ...]
    parameterization: Parameterization

    @property
    def weights(self) -> tuple[float, ...]:
        r"""Weight of the loss $\ell$ at each of the fixed noise levels."""
        levels = torch.tensor(self.logsnr, dtype=torch.float64)
        eps_error_per_error = self.parameterization.eps_error_per_error(levels)
        return tuple((2 / eps_error_per_error / len(levels)).tolist())

    def __call__(self, validator: Validator, denoiser: Denoise, **options: Any) -> Estimate:
        """Measure the mean squared error of a denoiser at the fixed noise levels.

        The options are those of `Validator.at_levels`.
        """
        losses = validator.at_levels(denoiser, self.logsnr, **options)
        values = losses @ torch.tensor(self.weights, dtype=torch.float64)
        error = values.std().item() / len(values) ** 0.5
        return Estimate(values.mean().item(), error, float("nan"), len(values))


@dataclass(frozen=True, kw_only=True)
class LevelParts:
    r"""Validation protocol: mean squared error in $m = 10$ equally probable intervals of levels.

    Part $i$ is $t \in [i/m, (i+1)/m]$, from the data's end, and its mean

    $$m \int_{i/m}^{(i+1)/m} \mathbb E\|\hat y - y\|^2\,dt
      = \int_{\lambda((i+1)/m)}^{\lambda(i/m)}
        2m\,p(\lambda) \Bigl(b - a\frac{\sigma}{\alpha}\Bigr)^2 \ell(\lambda)\,d\lambda.$$

    Attributes:
        schedule: Distribution $p$ of the noise levels in training.
        parameterization: The prediction type whose squared error is measured.
    """

    schedule: Schedule
    parameterization: Parameterization

    @property
    def logsnr(self) -> tuple[float, ...]:
        """Limits of the noise-level intervals in log-SNR."""
        times = torch.linspace(0, 1, NUM_PARTS + 1, dtype=torch.float64)
        return tuple(self.schedule.logsnr(times).tolist())

    def weight(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Compute the weight of the loss $\ell$ as a function of log-SNR."""
        error = self.parameterization.eps_error_per_error(logsnr)
        return 2 * NUM_PARTS * self.schedule.log_density(logsnr).exp() / error

    def __call__(
        self, validator: Validator, denoiser: Denoise, **options: Any
    ) -> tuple[Estimate, ...]:
        """Estimate the mean squared error of a denoiser in each interval of noise levels.

        The options are those of a `Validator` call.

        Raises:
            ValueError: If the schedule's log-SNR range is not within that of the validator.
        """
        low, high = self.schedule.logsnr_min, self.schedule.logsnr_max
        if not validator.logsnr_min <= low < high <= validator.logsnr_max:
            raise ValueError(
                f"the schedule has log-SNRs from {low:.4g} to {high:.4g}, the validator from "
                f"{validator.logsnr_min:.4g} to {validator.logsnr_max:.4g}: give the same ends."
            )
        measurements = validator(denoiser, **options).measurements

        def mean(low: float, high: float) -> Estimate:
            in_part = measurements.integral(lambda v: self.weight(v) * ((v >= low) & (v < high)))
            return measurements.estimate(in_part)

        return tuple(mean(low, high) for high, low in pairwise(self.logsnr))


def deciles(schedule: Schedule, parameterization: Parameterization | None = None) -> LevelParts:
    """Return the protocol for mean squared errors, by default of the noise, in ten equal intervals
    of time.
    """
    return LevelParts(schedule=schedule, parameterization=parameterization or Eps())


def equispaced_times(num: int = 8) -> FixedLevels:
    """Return the validation protocol for velocity errors at equally spaced times.

    The times are (k + 1/2) / num, as in torchtitan's validation.
    """
    return _velocity(f"velocity, {num} equispaced times", num, 0.5)


def mlperf(num: int = 8) -> FixedLevels:
    """Return the validation protocol of MLPerf Training for text-to-image models.

    It measures velocity errors at the flow-matching times k / num, k = 0 ... num - 1. Time 0, clean
    data, is taken at log-SNR 40, where the noise has a standard deviation of 2e-9.
    """
    return _velocity(f"velocity, MLPerf's {num} times", num, 0.0)


def _velocity(name: str, num: int, shift: float) -> FixedLevels:
    require_positive(num=num)
    times = (torch.arange(num, dtype=torch.float64) + shift) / num
    levels = (2 * torch.log((1 - times) / times)).clamp(max=CLEAN)
    return FixedLevels(name=name, logsnr=tuple(levels.tolist()), parameterization=Flow())


def fixed_steps(*steps: int) -> FixedLevels:
    """Return the validation protocol for noise-prediction errors at DDPM time steps.

    Steps are counted from 0. Default: 200, 400, 600 and 800.

    Raises:
        ValueError: If a step is not in 0..999.
    """
    steps = steps or (200, 400, 600, 800)
    if not all(0 <= step < NUM_STEPS for step in steps):
        raise ValueError(f"steps are {steps}: give whole numbers from 0 to {NUM_STEPS - 1}.")
    betas = torch.linspace(1e-4, 0.02, NUM_STEPS, dtype=torch.float64)
    levels = (1 - betas).cumprod(0)[list(steps)].logit()
    name = f"noise, {len(steps)} fixed steps"
    return FixedLevels(name=name, logsnr=tuple(levels.tolist()), parameterization=Eps())
