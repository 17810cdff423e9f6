"""Checks of arguments that users give, each failing with one line that says what to do."""

import dataclasses
import math
import numbers
from types import UnionType
from typing import Any

from torch import Tensor

from elbos.errors import MAX_SHOWN


def require_positive(**values: float) -> None:
    """Raise a ValueError that names the first argument that is not a number above 0.

    Examples:
        >>> require_positive(std=1.0)
        >>> require_positive(std=0.0)
        Traceback (most recent call last):
        ...
        ValueError: std is 0.0: give a number above 0.
    """
    for name, value in values.items():
        if not (isinstance(value, numbers.Real) and value > 0):
            raise ValueError(f"{name} is {value!r}: give a number above 0.")


def require_type(kind: type | UnionType, /, **values: Any) -> None:
    """Raise a TypeError that names the first argument that is no object of this class.

    Examples:
        >>> require_type(int, num_images=1000)
        >>> require_type(int, num_images=1.5)
        Traceback (most recent call last):
        ...
        TypeError: num_images is 1.5: give an object of type int.
    """
    for name, value in values.items():
        if not isinstance(value, kind):
            what = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
            shown = what if len(what) <= MAX_SHOWN else f"of type {type(value).__name__}"
            wanted = kind.__name__ if isinstance(kind, type) else str(kind)
            raise TypeError(f"{name} is {shown}: give an object of type {wanted}.")


def require_floating(**tensors: Tensor) -> None:
    """Raise an error that names the first argument that is no tensor of floating-point numbers.

    Examples:
        >>> import torch
        >>> require_floating(t=torch.zeros(2))
        >>> require_floating(t=torch.tensor([0, 1]))
        Traceback (most recent call last):
        ...
        ValueError: t is torch.int64: give floating-point numbers.
    """
    require_type(Tensor, **tensors)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}: give floating-point numbers.")


def require_one_loss_each(logsnr: Tensor, loss: Tensor) -> None:
    """Raise a ValueError unless there is one loss for each noise level, `[b]`."""
    if loss.ndim != 1 or loss.shape != logsnr.shape:
        raise ValueError(
            f"losses of shape {tuple(loss.shape)} at log-SNR of shape {tuple(logsnr.shape)}: "
            "give one loss per log-SNR, [b], before their mean is taken."
        )


def require_finite(value: Any, where: str = "") -> None:
    """Raise a ValueError that names the first number in a dataclass, or below it, that is not
    finite; an infinity that is the default of its field may stay.

    Examples:
        >>> from elbos.weightings import Sigmoid
        >>> require_finite(Sigmoid(k=2.0))
        >>> require_finite(Sigmoid(k=float("nan")))
        Traceback (most recent call last):
        ...
        ValueError: k is nan: give a finite number.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: give a finite number.")
    if isinstance(value, tuple):
        for item in value:
            require_finite(item, where)
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if field.init and inner != field.default:
                require_finite(inner, f"{where}.{field.name}" if where else field.name)
