r"""The nearest likelihood objective of a loss that is none: the factor $\mathrm{Monotone}(w) / w$.

It is the least factor after which the weighting never rises, and 1 above the last rise. That is
another objective, not a repair of a bug.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from elbos.arrays import Array
from elbos.audit.matching import SAME, Nearest
from elbos.codec import parse
from elbos.extrema import rising_intervals
from elbos.weightings import Monotone, Weighting

_MAX_DIFFERENCE = 0.05  # between the factors of what is named and of what was found, anywhere
_MAX_LOG_FACTOR = 24.0  # more has to be lifted only from nothing
_MAX_LINE_ERROR = 5e-4  # of the log of the factor, between the points of its table


@dataclass(frozen=True)
class MonotoneFactor:
    """The factor, as a function of log-SNR and as code.

    Attributes:
        name: The named weighting that the loss has, as code; None if it has none.
        end: The log-SNR above which the factor is 1.
        at: Log-SNR of the points between which the log of the factor is linear, if without a name.
        log_factor: At these points.
    """

    name: str | None
    end: float
    at: Float[Array, " k"]
    log_factor: Float[Array, " k"]

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        if self.name is not None:
            w: Weighting = parse(Weighting, self.name)
            return Monotone(w)(logsnr) / w(logsnr)
        at, log_factor = logsnr.new_tensor(self.at), logsnr.new_tensor(self.log_factor)
        i = torch.searchsorted(at, logsnr.contiguous()).clamp(1, len(at) - 1)
        share = ((logsnr - at[i - 1]) / (at[i] - at[i - 1])).clamp(0, 1)
        return torch.exp(log_factor[i - 1] + share * (log_factor[i] - log_factor[i - 1]))

    @property
    def code(self) -> str:
        """Python code of the function, to be pasted into a training script."""
        if self.name is not None:
            classes = sorted({"Monotone", *re.findall(r"[A-Z]\w*", self.name)})
            return _NAMED_CODE.format(classes=", ".join(classes), name=self.name)
        return _TABLE_CODE.format(
            at=", ".join(f"{value:.3f}" for value in self.at),
            log_factor=", ".join(f"{value:.4f}" for value in self.log_factor),
        )


def monotone_weight(
    logsnr: Float[Tensor, " g"], weight: Float[Tensor, " g"], rising: list[tuple[float, float]]
) -> Float[Tensor, " g"]:
    """The least weighting that is nowhere below `weight` and does not rise where that is `rising`.

    That is `Monotone` of it without its sampling error: above the last rise it is the weight.
    """
    lifted = weight
    for start, end in rising:
        first, after = torch.searchsorted(logsnr, logsnr.new_tensor([start, end]))
        top = weight[first : after + 1].max()  # it may lie between two points
        lifted = torch.where(logsnr <= end, lifted.clamp(min=top), lifted)
    return lifted


def find_factor(
    logsnr: Float[Tensor, " g"],
    weight: Float[Tensor, " g"],
    weight_error: Float[Tensor, " g"],
    rising: list[tuple[float, float]],
    nearest: Nearest,
) -> MonotoneFactor | None:
    """The factor; None where there is no rise, or where no factor lifts levels without any weight.

    It is named if the named weighting rises as the measured one does, and so needs the same factor.
    """
    log_factor = (monotone_weight(logsnr, weight, rising) / weight).log()
    if not rising or log_factor.max() > _MAX_LOG_FACTOR:
        return None
    end = rising[-1][1]
    if nearest.distance < SAME:
        w: Weighting = parse(Weighting, nearest.name)
        rises = rising_intervals(w, logsnr[0].item(), logsnr[-1].item())
        off = ((Monotone(w)(logsnr) / w(logsnr)).log() - log_factor).abs()
        if rises and (off < _MAX_DIFFERENCE + 3 * weight_error).all():
            return MonotoneFactor(nearest.name, max(end, rises[-1][1]), np.empty(0), np.empty(0))
    is_needed = logsnr < end
    at = np.append(logsnr[is_needed].numpy(), end)
    values = np.append(log_factor[is_needed].numpy(), 0.0)
    kept = _corners(at, values)
    return MonotoneFactor(None, end, at[kept], values[kept])


def _corners(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[int]:
    """About the fewest points between which straight lines are close to a curve."""
    first, last = 0, len(x) - 1
    distance = np.abs(y - np.interp(x, x[[first, last]], y[[first, last]]))
    middle = int(distance.argmax())
    if distance[middle] < _MAX_LINE_ERROR:
        return [first, last]
    rest = _corners(x[middle:], y[middle:])
    return [*_corners(x[: middle + 1], y[: middle + 1])[:-1], *(middle + i for i in rest)]


_NAMED_CODE = """\
from elbos.weightings import {classes}

w = {name}
monotone = Monotone(w)

def monotone_factor(logsnr):  # [batch], log(alpha**2 / sigma**2)
    return monotone(logsnr) / w(logsnr)

# loss per sample: loss = loss * monotone_factor(logsnr)
"""
_TABLE_CODE = """\
import torch

def monotone_factor(logsnr):  # [batch], log(alpha**2 / sigma**2)
    at = logsnr.new_tensor([{at}])
    log_factor = logsnr.new_tensor([{log_factor}])
    i = torch.searchsorted(at, logsnr.contiguous()).clamp(1, len(at) - 1)
    share = ((logsnr - at[i - 1]) / (at[i] - at[i - 1])).clamp(0, 1)
    return torch.exp(log_factor[i - 1] + share * (log_factor[i] - log_factor[i - 1]))

# loss per sample: loss = loss * monotone_factor(logsnr)
"""
