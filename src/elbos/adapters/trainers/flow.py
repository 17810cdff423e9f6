r"""Losses of trainers: flow matching's times, shifts by resolution, weights and targets; and tables
of 1,000 time steps, of flow matching and of Stable Diffusion.

On the path $z = (1 - t)x + t\epsilon$ log-SNR is $\lambda = 2\ln\frac{1 - t}{t}$. A shift $s$,
$t' = \frac{st}{1 + (s - 1)t}$, lowers it by $2\ln s$, so that logit-normal times of mean $m$ are
logit-normal with mean $m + \ln s$. A shift by resolution is $s = e^\mu$, with $\mu$ linear in the
number of tokens.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.diffusers import Scheme, Training, loss_table
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss
from elbos.audit import DeclaredLoss, LossTable
from elbos.audit import diagnostics as kinds
from elbos.theory.parameterizations import Flow, Parameterization
from elbos.theory.schedules import Schedule

NUM_STEPS = 1000
MAX_SNR = 1000.0
"""The largest SNR in the coefficients that trainers derive from it, Min-SNR's excepted."""

FLUX, QWEN, KREA = (4096, 1.15), (8192, 0.9), (6400, 1.15)
"""The second point (tokens, mu) of the line by which a model's times are shifted; see `mu_of`."""

_RESOLUTION = 1024  # default of FLUX.1, Qwen-Image and SD3


def time_of(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Return the flow-matching time $t = \mathrm{sigmoid}(-\lambda/2)$ at log-SNR $\lambda$."""
    return torch.sigmoid(-logsnr / 2)


def logsnr_of(t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Return the log-SNR $\lambda = 2\ln\frac{1 - t}{t}$ at flow-matching time $t$."""
    return -2 * torch.logit(t)


def shifted(t: Float[Tensor, "*b"], shift: float) -> Float[Tensor, "*b"]:
    """Return shifted flow-matching times, $st / (1 + (s - 1)t)$, noisier if $s > 1$."""
    return shift * t / (1 + (shift - 1) * t)


def unshifted(t: Float[Tensor, "*b"], shift: float) -> Float[Tensor, "*b"]:
    return t / (shift - (shift - 1) * t)


def mu_of(
    height: float, width: float, *, high: tuple[float, float] = FLUX, pixels: int = 16
) -> float:
    r"""Return the log-shift $\mu$, linear in the number of tokens, of sides of `pixels`, through
    (256 tokens, 0.5) and `high`.
    """
    (x1, y1), (x2, y2) = (256, 0.5), high
    tokens = (height // pixels) * (width // pixels)
    return y1 + (y2 - y1) * (tokens - x1) / (x2 - x1)


def sides(settings: Settings, name: str = "resolution", default: int | None = None) -> list[float]:
    """Read image side lengths in pixels from a trainer's settings."""
    text = settings.text(name)
    if not text and default is None:
        shown = f"{_RESOLUTION} x {_RESOLUTION}"
        settings.diagnostics.append(kinds.DeclaredResolution(resolution=shown))
    if not text:
        return [default or _RESOLUTION]
    numbers = [float(number) for number in re.findall(r"\d+\.?\d*", text)]
    is_other = re.search(r"[^\d\s.,x()\[\]]", text) is not None
    if is_other or not numbers or not all(16 <= side <= 100_000 for side in numbers):
        raise ValueError(f"{name} is {text[:40]!r}: give sides in pixels, 16 or more, as 1024.")
    return numbers


def resolution(settings: Settings, default: int | None = None) -> tuple[float, float]:
    """Return image height and width in pixels from the setting `resolution`."""
    numbers = sides(settings, default=default)
    if len(numbers) > 2:
        raise ValueError(f"resolution holds {len(numbers)} numbers: give one or two, as 1024.")
    return numbers[0], numbers[-1]


def shifts_by_resolution(
    settings: Settings, name: str, *, high: tuple[float, float] = FLUX, pixels: int = 16
) -> list[float]:
    r"""Return the flow-matching time shift $e^\mu$ for each image resolution in the settings."""
    numbers = sides(settings, name)
    return [math.exp(mu_of(side, side, high=high, pixels=pixels)) for side in numbers]


def read_scheme(settings: Settings, default: Scheme = "none") -> Training:
    if settings.values("weighting_scheme") in (["none"], ["uniform"]):
        return Training()
    scheme = settings.one_of("weighting_scheme", default, get_args(Scheme))
    if scheme == "logit_normal":
        mean, std = settings.number("logit_mean", 0), settings.number("logit_std", 1, above=0)
        return Training(weighting_scheme="logit_normal", logit_mean=mean, logit_std=std)
    if scheme == "mode":
        scale = settings.number("mode_scale", 1.29, low=-1, high=1.75)
        return Training(weighting_scheme="mode", mode_scale=scale)
    return Training(weighting_scheme=scheme)


def flow_loss(title: str, schedule: Schedule, *, factor: float = 1.0) -> DeclaredLoss:
    r"""Return the squared error of the flow-matching target $\epsilon - x$ as a declared loss."""
    return DeclaredLoss(
        title=title,
        schedule=schedule,
        parameterization=Flow(),
        coefficient=torch.ones_like,
        factor=factor,
    )


def weighted(loss: Loss, coefficient: Callable[[Tensor], Tensor], **changes: Any) -> Loss:
    """Return a copy of a loss with another coefficient of log-SNR, and other fields replaced."""
    if isinstance(loss, LossTable):
        return replace(loss, coefficient=coefficient(loss.logsnr), **changes)
    return replace(loss, coefficient=coefficient, **changes)


@dataclass(frozen=True)
class Residual(Parameterization):
    r"""Prediction type of a flow-matching network whose scaled output is added to its input.

    The flow-matching target is estimated by $z + y$ or $z - ty$. Adding the network's input changes
    the prediction, not the weight of its error.
    """

    is_scaled: bool = False  # the estimate is z - t y
    sign: float = 1.0  # -1: the target is x - eps

    def coefficients(self, logsnr: Float[Tensor, "*b"]) -> tuple[Tensor, Tensor]:
        t = time_of(logsnr)
        a, b = Flow().coefficients(logsnr)
        a, b = self.sign * a - (1 - t), self.sign * b - t
        return (-a / t, -b / t) if self.is_scaled else (a, b)


# --- tables of time steps ------------------------------------------------------------------------


def steps_between(
    settings: Settings, low: str, high: str, *, is_share: bool = False
) -> tuple[int, int]:
    """Read a range of time steps: the first, and the last plus one, as fractions of all if
    `is_share`.
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
    """Return 1,000 even flow-matching times, from noise to data, after a time shift."""
    return shifted(torch.linspace(1, last, NUM_STEPS, dtype=torch.float64), shift)


def flow_table(
    title: str,
    t: Float[Tensor, " steps"],
    probability: Float[Tensor, " steps"],
    coefficient: Float[Tensor, " steps"] | None = None,
) -> LossTable:
    """Return a flow-matching loss as a table over times; probabilities are normalized."""
    return LossTable(
        title=title,
        logsnr=logsnr_of(t),
        probability=probability / probability.sum(),
        coefficient=torch.ones_like(t) if coefficient is None else coefficient,
        parameterization=Flow(),
    )


def stable_diffusion(
    title: str = "", *, is_v: bool = False, is_zero_terminal: bool = False
) -> LossTable:
    """Return the uniform, unweighted loss over Stable Diffusion's 1,000 time steps, first clean."""
    config = {
        "_class_name": "DDPMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "rescale_betas_zero_snr": is_zero_terminal,
    }
    table = loss_table(config, Training(prediction="v" if is_v else "eps"))
    return replace(table, title=title)


def min_snr(snr: Float[Tensor, " n"], gamma: float, *, is_v: bool = False) -> Float[Tensor, " n"]:
    r"""Return Min-SNR's coefficient at the SNR $\rho$: $\min(\rho, \gamma)$ over $\rho$ for eps,
    $\rho + 1$ for v.
    """
    return snr.clamp(max=gamma) / (snr + is_v)


def debiased(snr: Float[Tensor, " n"], *, is_v: bool) -> Float[Tensor, " n"]:
    r"""Return the debiased-estimation coefficient, $\rho^{-1/2}$ for eps, $1/(\rho + 1)$ for v."""
    capped = snr.clamp(max=MAX_SNR)
    return 1 / (capped + 1) if is_v else capped.rsqrt()
