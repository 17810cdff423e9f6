"""Losses on tables of 1,000 time steps: ranges of steps, Stable Diffusion's betas, and flow
matching.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters import diffusers
from elbos.adapters.trainers.flow import logsnr_of, shifted, time_of
from elbos.adapters.trainers.settings import Settings
from elbos.audit import LossTable
from elbos.theory.parameterizations import Eps, Flow, V

NUM_STEPS = 1000
MAX_SNR = 1000.0
"""The largest SNR in the coefficients that trainers derive from it, Min-SNR's excepted."""

_TAIL = 1e-5  # probability cut off at either end


def steps_between(
    settings: Settings, low: str, high: str, *, is_share: bool = False
) -> tuple[int, int]:
    """Read the lower and upper limit of time steps from a trainer's settings.

    Returns the first step, and the last step plus one. `low` and `high` name the settings, as
    fractions of all steps if `is_share`.
    """
    if is_share:
        ends = [settings.number(n, default, low=0, high=1) for n, default in ((low, 0), (high, 1))]
        first, end = (int(NUM_STEPS * value) for value in ends)
    else:
        first = settings.integer(low, 0, high=NUM_STEPS)
        end = settings.integer(high, NUM_STEPS, high=NUM_STEPS)
    if not first < end:
        limit, upper = settings.text(low, "0"), settings.text(high, "left out")
        raise ValueError(f"{high} is {upper}: raise it above {low}, {limit}, or lower that.")
    return first, end


def even_times(shift: float = 1.0, last: float = 1 / NUM_STEPS) -> Float[Tensor, " steps"]:
    """Return evenly spaced flow-matching times after a time shift.

    There are 1,000. The times run from noise to data.
    """
    return shifted(torch.linspace(1, last, NUM_STEPS, dtype=torch.float64), shift)


def flow_table(
    title: str,
    t: Float[Tensor, " steps"],
    probability: Float[Tensor, " steps"],
    coefficient: Float[Tensor, " steps"] | None = None,
) -> LossTable:
    """Return a flow-matching loss as a table over times.

    Probabilities are normalized.
    """
    return LossTable(
        title=title,
        logsnr=logsnr_of(t),
        probability=probability / probability.sum(),
        coefficient=torch.ones_like(t) if coefficient is None else coefficient,
        parameterization=Flow(),
    )


def fine_table(
    title: str,
    log_density: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]],
    coefficient: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]] = torch.ones_like,
) -> LossTable:
    """Return a flow-matching loss with a given density of log-SNR.

    The loss is a table with a spacing of 0.01 in log-SNR.
    """
    logsnr = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    p = torch.softmax(log_density(logsnr), 0)
    is_shown = (p.cumsum(0) > _TAIL) & (p.flip(0).cumsum(0).flip(0) > _TAIL)
    logsnr, t = logsnr[is_shown], time_of(logsnr[is_shown])
    table = flow_table(title, t, p[is_shown], coefficient(t))
    return replace(table, logsnr=logsnr)


def stable_diffusion_logsnr(*, is_zero_terminal: bool = False) -> Float[Tensor, " steps"]:
    """Return the log-SNRs of Stable Diffusion's 1,000 time steps.

    The order is from clean to noisy.
    """
    config = {
        "_class_name": "DDPMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "rescale_betas_zero_snr": is_zero_terminal,
    }
    return diffusers.loss_table(config, diffusers.Training()).logsnr


def stable_diffusion(
    title: str,
    coefficient: Float[Tensor, " steps"] | None = None,
    probability: Float[Tensor, " steps"] | None = None,
    *,
    is_v: bool = False,
    is_zero_terminal: bool = False,
) -> LossTable:
    """Return a loss as a table over the time steps of Stable Diffusion.

    By default the loss is unweighted, and time steps are uniform.
    """
    logsnr = stable_diffusion_logsnr(is_zero_terminal=is_zero_terminal)
    ones = torch.ones_like(logsnr)
    return LossTable(
        title=title,
        logsnr=logsnr,
        probability=ones / NUM_STEPS if probability is None else probability,
        coefficient=ones if coefficient is None else coefficient,
        parameterization=V() if is_v else Eps(),
    )


def min_snr(snr: Float[Tensor, " n"], gamma: float, *, is_v: bool = False) -> Float[Tensor, " n"]:
    r"""Return the Min-SNR coefficient at the SNR $\rho$.

    It is $\min(\rho, \gamma)/\rho$ for noise prediction, $\min(\rho, \gamma)/(\rho + 1)$ for v.
    """
    return snr.clamp(max=gamma) / (snr + is_v)


def debiased(snr: Float[Tensor, " n"], *, is_v: bool) -> Float[Tensor, " n"]:
    r"""Return the debiased-estimation coefficient at the SNR $\rho$.

    It is $\rho^{-1/2}$ for noise prediction, $1/(\rho + 1)$ for v.
    """
    capped = snr.clamp(max=MAX_SNR)
    return 1 / (capped + 1) if is_v else capped.rsqrt()
