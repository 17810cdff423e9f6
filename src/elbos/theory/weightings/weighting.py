"""The base class of weightings, and functions shared by closed forms."""

import abc
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.base.checks import Typed

WeightFunction = Callable[[Tensor], Tensor]


def weights_at(
    weighting: WeightFunction, logsnr: Float[Tensor, "*b"], name: str | None = None
) -> Float[Tensor, "*b"]:
    """Return the weights at noise levels, without their gradient.

    Args:
        weighting: A function of log-SNR.
        logsnr: The noise levels.
        name: Its name in messages. Default: the name of the function, or the object's text.

    Raises:
        ValueError: If the function does not return one real weight for each, finite and not below
            0; the message names the weighting and a noise level.
    """
    name = name or str(getattr(weighting, "__name__", weighting))
    with torch.no_grad():
        w: Any = weighting(logsnr)
    is_plain = isinstance(w, Tensor) and w.layout == torch.strided and not w.is_meta
    if not is_plain or w.shape != logsnr.shape or w.is_complex():
        what = f"{w.dtype} {list(w.shape)}" if isinstance(w, Tensor) else type(w).__name__
        raise ValueError(
            f"The weighting {name} returns {what} for log-SNRs {list(logsnr.shape)}: return a "
            "tensor with a real weight for each."
        )
    is_invalid = ~(w.isfinite() & (w >= 0))
    if is_invalid.any():
        value, level = w[is_invalid][0], logsnr[is_invalid][0]
        raise ValueError(
            f"The weighting {name} is {value:.4g} at log-SNR {level:.4g}: give finite weights, "
            "none below 0."
        )
    return w  # type: ignore[no-any-return]


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
