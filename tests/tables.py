"""Every schedule, parameterization and weighting that the theorems are tested on.

The defaults of each class come from the library's own tables, so that a new class joins by its line
there; what rises says so in `RISES_BELOW`.
"""

import math
from dataclasses import replace

import torch

from elbos.theory import adaptive, parameterizations, schedules, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.schedules import Schedule
from elbos.theory.tabulated import Tabulated


def name_of(value: object) -> str:
    """A test's name for a parameter, the same in every process."""
    return getattr(value, "__name__", repr(value))


def adapted(schedule: Adaptive) -> Adaptive:
    """The schedule after two batches of random losses, bumpy over noise levels."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        u = torch.rand(2000, generator=generator, dtype=torch.float64)
        logsnr = schedule.logsnr(u)
        schedule.update(logsnr, (1.5 + logsnr.cos()) * torch.exp(u))
    return schedule


SCHEDULES = [
    *(cls() for cls in adaptive.SCHEDULES),
    schedules.Cosine(shift=math.log(2)),
    schedules.Normal.logit_normal(mean=0.5, std=0.6),
    schedules.Flow(shift=3.0),
    schedules.Laplace(mean=1.0, scale=2.0),
    schedules.Beta(a=2.0, b=0.5),
    schedules.Mode(scale=-0.5),
    schedules.UShape(rate=1.0),
    schedules.FlowTimes(inner=schedules.Beta(), time_min=0.001),
    schedules.FlowTimes(inner=schedules.Mode(scale=0.81), shift=3.0, time_max=0.9),
    schedules.ZeroTerminal(inner=schedules.StableDiffusion(), snr_shift=3.0),
    schedules.Mixture(
        schedules=(
            schedules.Normal.logit_normal(mean=1.15),
            schedules.Normal(mean=-6.0, std=2.0),
            schedules.Normal(mean=5.36, std=2.0),
        ),
        shares=(0.79, 0.11, 0.1),
    ),
    adapted(Adaptive()),
    adapted(Adaptive(follow="root-second-moment", num_bins=7)),
]


def with_ends(schedule: Schedule, logsnr_min: float, logsnr_max: float) -> Schedule:
    """The schedule on another range; an adaptive one starts anew there, and adapts."""
    moved = replace(schedule, logsnr_min=logsnr_min, logsnr_max=logsnr_max)
    return adapted(moved) if isinstance(moved, Adaptive) else moved


PARAMETERIZATIONS = [
    *(cls() for cls in parameterizations.PARAMETERIZATIONS),
    parameterizations.EDM(sigma_data=1.7),
]

# The log-SNR below which the weighting rises with it.
RISES_BELOW = {
    weightings.IDDPM(): "0.000000",
    weightings.DDPM(): "-0.922",
    weightings.EDM(): "-3.308",
    weightings.EDM2(): "-3.16",
    weightings.EDM2(mean=1.6, std=3.2): "-8.64",
    weightings.LogitNormalFlow(): "-3.376",
    weightings.LogitNormalFlow(mean=0.5, std=0.6): "-2.06",
    weightings.P2(gamma=0.5): f"{-math.log(2):.6f}",
    weightings.P2(gamma=1.0): f"{-math.log(3):.6f}",
    weightings.MinSNR(): "0.000000",
    weightings.SoftMinSNR(): "-0.527",
    weightings.SoftMinSNR(gamma=math.exp(2)): "-0.35",
    weightings.Laplace(): "0.000000",
    weightings.Shifted(weightings.EDM(), 1.0): "-1.308",
    weightings.JiT(): "-3.83",
    weightings.JiT(noise_scale=2.0): "-5.2",
    weightings.StableDiffusion(): "-0.45",
    weightings.StableDiffusionMinSNR(): "-0.45",
}
NON_MONOTONE = list(RISES_BELOW)
# Those that rise elsewhere: in between, twice, and above.
RISING_ELSEWHERE = [
    weightings.ModeFlow(scale=1.29),
    weightings.NormalMixtureFlow(),
    weightings.BetaFlow(a=-1.0, b=1.0),
]
MONOTONE = [
    *(
        cls()
        for cls in weightings.WEIGHTINGS
        if cls() not in RISES_BELOW and cls() not in RISING_ELSEWHERE
    ),
    weightings.Sigmoid(k=-3.0),
    weightings.ShiftedFlow(shift=1 / 9 + 1e-3),
    weightings.Monotone(weightings.EDM()),
    weightings.Shifted(weightings.Sigmoid(), math.log(2)),
    Tabulated.from_function(weightings.Sigmoid(), "table"),
]
WEIGHTINGS = MONOTONE + NON_MONOTONE + RISING_ELSEWHERE
