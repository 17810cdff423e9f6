r"""Common parts of trainers with tables of times: shifts, steps, Stable Diffusion's table,
findings.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters import diffusers
from elbos.adapters.trainers.flow import logsnr_of, mu_of, sides, time_of
from elbos.adapters.trainers.settings import Settings
from elbos.audit import Diagnostic, LossTable
from elbos.theory.parameterizations import Flow
from elbos.theory.schedules import Mixture, Schedule

_TAIL = 1e-5  # of the samples, which are not shown


def shifted(t: Float[Tensor, " n"], shift: float) -> Float[Tensor, " n"]:
    """Times after a shift, above 1 towards noise."""
    return shift * t / (1 + (shift - 1) * t)


def shifts_by_resolution(
    settings: Settings,
    name: str,
    *,
    high: tuple[float, float] = (4096, 1.15),
    pixels: int = 16,
) -> tuple[list[float], tuple[Diagnostic, ...]]:
    r"""The shifts $e^\mu$ for square images of each of the sides in a setting (`flow.mu_of`), and a
    finding where the resolution is assumed.

    Raises:
        ValueError: If the setting holds no sides.
    """
    found, assumed = sides(settings, name)
    shifts = [math.exp(mu_of(side, side, high=high, pixels=pixels)) for side in found]
    return shifts, tuple(assumed)


def mixed(parts: Sequence[Schedule]) -> Schedule:
    """One of several schedules, each as likely."""
    if len(parts) == 1:
        return parts[0]
    return Mixture(schedules=tuple(parts), shares=(1.0,) * len(parts))


def flow_table(
    title: str,
    t: Float[Tensor, " steps"],
    probability: Float[Tensor, " steps"],
    coefficient: Float[Tensor, " steps"] | None = None,
    diagnostics: tuple[Diagnostic, ...] = (),
) -> LossTable:
    """The loss of noise minus data on a table of times; probabilities up to a factor."""
    return LossTable(
        title=title,
        logsnr=logsnr_of(t),
        probability=probability / probability.sum(),
        coefficient=torch.ones_like(t) if coefficient is None else coefficient,
        parameterization=Flow(),
        diagnostics=diagnostics,
    )


def fine_table(
    title: str,
    log_density: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]],
    coefficient: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]] = torch.ones_like,
    diagnostics: tuple[Diagnostic, ...] = (),
) -> LossTable:
    """The loss of noise minus data at times with any density of log-SNR, as even steps, 0.01 apart,
    on the noise levels that 100,000 samples would show.
    """
    logsnr = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    p = torch.softmax(log_density(logsnr), 0)
    is_shown = (p.cumsum(0) > _TAIL) & (p.flip(0).cumsum(0).flip(0) > _TAIL)
    logsnr, t = logsnr[is_shown], time_of(logsnr[is_shown])
    table = flow_table(title, t, p[is_shown], coefficient(t), diagnostics)
    return replace(table, logsnr=logsnr)


def stable_diffusion_logsnr(*, is_zero_terminal: bool = False) -> Float[Tensor, " steps"]:
    """The 1,000 steps of Stable Diffusion's scaled-linear betas, from clean to noisy."""
    config = {
        "_class_name": "DDPMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "rescale_betas_zero_snr": is_zero_terminal,
    }
    return diffusers.loss_table(config, diffusers.Training()).logsnr


def findings(
    settings: Settings, kinds: Mapping[str, Callable[[str], Diagnostic]]
) -> tuple[Diagnostic, ...]:
    """A finding of its kind for each setting that is on: given, and neither false nor 0."""
    found = (name for name in kinds if settings.is_on(name))
    return tuple(kinds[name](name) for name in found)
