"""Calls of networks from other libraries, with checks of the arguments and the output."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elbos.base.conditions import Condition
from elbos.theory.denoiser import signature

ForeignNetwork = Callable[..., Any]

_ROUNDING = 1e-4  # tolerance of log-SNR at the ends of a range, in float32


def output(
    network: ForeignNetwork,
    z: Float[Tensor, "b *d"],
    *levels: Tensor,
    cond: Condition = None,
    **named: Any,
) -> Tensor:
    """Call a network and return the output in the dtype of `z`.

    The input has the dtype of the network's parameters. A mapping as condition is passed as
    keywords, any other condition as the last argument. Output and errors are those of `called`.
    """
    is_named = isinstance(cond, Mapping)
    arguments = [z.to(input_dtype(network, z), copy=True), *levels]  # it may be changed in place
    arguments += [] if cond is None or is_named else [cond]
    return called(network, arguments, named | (cond if is_named else {})).to(z.dtype)


def called(
    network: ForeignNetwork,
    arguments: Sequence[Any],
    named: Mapping[str, Any],
) -> Tensor:
    """Call a network and return the output tensor.

    Of an object with `.sample`, or of a tuple, the first tensor is returned.

    Raises:
        ValueError: If the network does not take these arguments, or returns no tensor.
    """
    try:
        output = network(*arguments, **named)
    except TypeError as error:
        try:
            signature(network).bind(*arguments, **named)
        except (TypeError, ValueError) as reason:
            raise ValueError(
                f"the network cannot be called: {reason}; it is given data, their noise level, and "
                "cond, of which a dict is its keywords."
            ) from error
        raise
    output = getattr(output, "sample", output)
    output = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the network returned {type(output).__name__}: it has to return a tensor, a tuple "
            "that begins with one, or an object that has one as .sample."
        )
    return output


def input_dtype(network: ForeignNetwork, z: Tensor) -> torch.dtype:
    """Return the dtype in which a network takes its input.

    It is that of the network's floating-point parameters; if there are none, that of `z`.
    """
    parameters = network.parameters() if isinstance(network, nn.Module) else ()
    return next(
        (parameter.dtype for parameter in parameters if parameter.is_floating_point()), z.dtype
    )


def require_output(
    y: Tensor, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, " b"]
) -> Float[Tensor, "b *d"]:
    """Return a network's output after checking its shape and values.

    A ValueError is raised unless it is finite and has the shape of `z`.
    """
    if y.shape != z.shape:
        raise ValueError(
            f"the network returned shape {tuple(y.shape)} for data of shape {tuple(z.shape)}: "
            "give a network and data of matching shapes."
        )
    if not torch.isfinite(y).all():
        is_finite = torch.isfinite(y).flatten(1).all(1)
        level = float(logsnr[int(is_finite.int().argmin())])
        raise ValueError(
            f"the network returned NaN or infinity at log-SNR {level:.4g}: check its weights, and "
            "run it in float32 or bfloat16 if it is in float16."
        )
    return y


def require_logsnr(logsnr: Float[Tensor, " b"], low: float, high: float, of: str) -> None:
    """Raise a ValueError if a log-SNR is outside the range of a network.

    `of` names the noise levels in the message.
    """
    if math.isinf(low) and math.isinf(high):  # no need to wait for the device
        return
    least, most = torch.stack(torch.aminmax(logsnr)).tolist()
    if not (least >= low - _ROUNDING and most <= high + _ROUNDING):
        raise ValueError(
            f"log-SNR {most if most > high else least:.4g} is outside of {of}, {low:.4g} to "
            f"{high:.4g}: give logsnr_min and logsnr_max within them."
        )
