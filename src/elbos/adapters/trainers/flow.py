r"""Flow matching in trainers: times, time shifts by resolution, loss weights and targets.

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

from elbos.adapters.diffusers import Scheme, Training
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss
from elbos.audit import DeclaredLoss, LossTable
from elbos.audit import diagnostics as kinds
from elbos.theory.parameterizations import Flow, Parameterization
from elbos.theory.schedules import Schedule

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
    """Return shifted flow-matching times, $st / (1 + (s - 1)t)$ with $s$ = `shift`.

    Times are noisier if $s > 1$.
    """
    return shift * t / (1 + (shift - 1) * t)


def unshifted(t: Float[Tensor, "*b"], shift: float) -> Float[Tensor, "*b"]:
    return t / (shift - (shift - 1) * t)


def mu_of(
    height: float, width: float, *, high: tuple[float, float] = FLUX, pixels: int = 16
) -> float:
    r"""Return the log-shift $\mu$ of flow-matching times for an image size.

    The log-shift is linear in the image's number of tokens. The line passes through (256 tokens,
    0.5) and `high`. `pixels` is the side of a token. Default: 8 of the autoencoder times patches of
    2.
    """
    (x1, y1), (x2, y2) = (256, 0.5), high
    tokens = (height // pixels) * (width // pixels)
    return y1 + (y2 - y1) * (tokens - x1) / (x2 - x1)


def sides(settings: Settings, name: str = "resolution", default: int | None = None) -> list[float]:
    """Read image side lengths in pixels from a trainer's settings.

    The default is used if the setting is missing.
    """
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
    r"""Return the flow-matching time shift for each image resolution in a trainer's settings.

    The shift is $e^\mu$.
    """
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


def flow_loss(
    title: str,
    schedule: Schedule,
    *,
    coefficient: Callable[[Tensor], Tensor] = torch.ones_like,
    factor: float = 1.0,
) -> DeclaredLoss:
    r"""Return the squared error of the flow-matching target as a loss.

    The target is $\epsilon - x$; the loss is given by formulas.
    """
    return DeclaredLoss(
        title=title,
        schedule=schedule,
        parameterization=Flow(),
        coefficient=coefficient,
        factor=factor,
    )


def weighted(loss: Loss, coefficient: Callable[[Tensor], Tensor], **changes: Any) -> Loss:
    """Return a copy of a loss with another coefficient.

    The coefficient is a function of log-SNR; the fields in `changes` are replaced, too.
    """
    if isinstance(loss, LossTable):
        return replace(loss, coefficient=coefficient(loss.logsnr), **changes)
    return replace(loss, coefficient=coefficient, **changes)


@dataclass(frozen=True)
class Residual(Parameterization):
    r"""Prediction type of a flow-matching network whose scaled output is added to its input.

    The flow-matching target is estimated by $z + y$ or $z - ty$. Adding the network's input changes
    the prediction, not the weight of its error.

    Attributes:
        is_scaled: Whether the estimate is $z - ty$ rather than $z + y$.
        sign: Sign of the target $\epsilon - x$.
    """

    is_scaled: bool = False
    sign: float = 1.0

    def coefficients(self, logsnr: Float[Tensor, "*b"]) -> tuple[Tensor, Tensor]:
        t = time_of(logsnr)
        a, b = Flow().coefficients(logsnr)
        a, b = self.sign * a - (1 - t), self.sign * b - t
        return (-a / t, -b / t) if self.is_scaled else (a, b)
