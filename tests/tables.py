"""Every schedule, parameterization and weighting that the theorems are tested on.

The defaults of each class come from the library's own tables, so that a new class joins by its line
there; what rises says so in `RISES_BELOW`.
"""

import math
from dataclasses import replace

import torch

from elbos.theory import adaptive, parameterizations, schedules, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.recipes import RECIPES
from elbos.theory.schedules import Schedule
from elbos.theory.weightings import Tabulated, Weighting


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


def implied(name: str) -> Weighting:
    return RECIPES[name].weighting


# The log-SNR below which the weighting rises with it.
RISES_BELOW = {
    weightings.IDDPM(): "0.000000",
    weightings.EDM(): "-3.308",
    weightings.EDM(mean=0.8, std=2.0): "-3.16",
    weightings.EDM(mean=1.6, std=3.2): "-8.64",
    weightings.P2(gamma=0.5): f"{-math.log(2):.6f}",
    weightings.P2(gamma=1.0): f"{-math.log(3):.6f}",
    weightings.MinSNR(): "0.000000",
    weightings.Shifted(weightings.EDM(), 1.0): "-1.308",
    implied("ddpm"): "-0.922",
    implied("sd3"): "-3.376",
    implied("sd3-logit-normal-0.5-0.6"): "-2.06",
    implied("soft-min-snr-4"): "-0.527",
    implied("sigmoid-2-slip"): "-0.35",
    implied("laplace"): "0.000000",
    implied("jit"): "-3.83",
    implied("jit-512"): "-5.2",
    implied("sd"): "-0.45",
    implied("sd-min-snr-5"): "-0.45",
}
NON_MONOTONE = list(RISES_BELOW)
# Those that rise elsewhere: in between, twice, and above.
RISING_ELSEWHERE = [implied(name) for name in ("mode-1.29", "three-densities", "sigma-sqrt")]
MONOTONE = [
    *(cls() for cls in weightings.WEIGHTINGS if cls() not in RISES_BELOW),
    *map(implied, ("truncated-snr", "indi", "sd3-cosmap", "flow-shift-3", "mode-0.81", "pi0")),
    *map(implied, ("u-shape", "bell", "sd-v", "cogvideox-2b", "sd-debiased", "elbo-ve")),
    weightings.Sigmoid(k=-3.0),
    weightings.Implied(schedules.Flow(shift=1 / 9 + 1e-3), parameterizations.Flow()),
    weightings.Monotone(weightings.EDM()),
    weightings.Shifted(weightings.Sigmoid(), math.log(2)),
    Tabulated.from_function(weightings.Sigmoid(), "table"),
]
WEIGHTINGS = MONOTONE + NON_MONOTONE + RISING_ELSEWHERE
