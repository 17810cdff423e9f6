r"""A noise schedule is a distribution over log-SNR.

A schedule is a strictly decreasing function $\lambda = f(t)$ of time, $t = 0$ data and $t = 1$
noise. With
$t \sim U(0, 1)$ it draws $\lambda$ with density

$$p(\lambda) = -\frac{dt}{d\lambda},$$

and $t(\lambda)$ is the survival function of that distribution. In a training loss the schedule is
an importance-sampling density and nothing more: given the weighting and the end points it changes
the variance of the loss, not its value.

Every schedule is truncated to $[\lambda_\min, \lambda_\max]$, here and only here,

$$\tilde f(t) = f(t_0 + (t_1 - t_0)\,t), \quad t_0 = f^{-1}(\lambda_\max), \quad
  t_1 = f^{-1}(\lambda_\min), \quad \tilde p = p / (t_1 - t_0),$$

so that no end point is infinite. A range beyond a schedule's own ends continues its formula.

See docs/theory.md, section 1.

References:
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

from elbos.theory.schedules.composed import FlowTimes, Mixture, ZeroTerminal
from elbos.theory.schedules.diffusion import (
    DDPM,
    Cosine,
    EDMSampling,
    Laplace,
    Linear,
    Normal,
    StableDiffusion,
)
from elbos.theory.schedules.flow import Beta, Flow, Mode, UShape
from elbos.theory.schedules.schedule import ROUNDING, Schedule, low_discrepancy_times

SCHEDULES: tuple[type[Schedule], ...] = (
    *(Cosine, Normal, EDMSampling, Flow, DDPM, Linear, Laplace),
    *(Beta, Mode, UShape, StableDiffusion),
)
"""Every closed-form schedule; `adaptive.SCHEDULES` adds the adaptive one."""

WRAPPERS: tuple[type[Schedule], ...] = (Mixture, FlowTimes, ZeroTerminal)
"""The schedules that wrap other schedules."""

__all__ = [
    "DDPM",
    "ROUNDING",
    "SCHEDULES",
    "WRAPPERS",
    "Beta",
    "Cosine",
    "EDMSampling",
    "Flow",
    "FlowTimes",
    "Laplace",
    "Linear",
    "Mixture",
    "Mode",
    "Normal",
    "Schedule",
    "StableDiffusion",
    "UShape",
    "ZeroTerminal",
    "low_discrepancy_times",
]
