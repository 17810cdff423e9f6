"""The base class of weightings, and functions shared by closed forms."""

import abc
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.base.checks import Typed

WeightFunction = Callable[[Tensor], Tensor]


def sech_half(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Compute $\mathrm{sech}(\lambda/2)$ without overflow at large arguments.

    It is computed through `logsigmoid`, since `1 / cosh` overflows.
    """
    return 2 * torch.exp((logsigmoid(logsnr) + logsigmoid(-logsnr)) / 2)


def normal(logsnr: Float[Tensor, "*b"], mean: float, std: float) -> Float[Tensor, "*b"]:
    return torch.exp(-(((logsnr - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


class Weighting(Typed, abc.ABC):
    r"""Weighting function $w(\lambda) \ge 0$ of a diffusion loss."""

    @abc.abstractmethod
    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Return the weight $w(\lambda)$ in the shape and dtype of `logsnr`."""
