"""Checks of arguments that users give, each failing with one line that says what to do."""

import dataclasses
import math
from typing import Any

from torch import Tensor


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
        if not value > 0:
            raise ValueError(f"{name} is {value}: give a number above 0.")


def require_floating(**tensors: Tensor) -> None:
    """Raise a ValueError that names the first tensor that is not of floating-point numbers.

    Examples:
        >>> import torch
        >>> require_floating(t=torch.zeros(2))
        >>> require_floating(t=torch.tensor([0, 1]))
        Traceback (most recent call last):
        ...
        ValueError: t is torch.int64: give floating-point numbers.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}: give floating-point numbers.")


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
