"""Checks of user-supplied arguments; each error message says in one line what to do."""

import dataclasses
import functools
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from elbos.base.codec import decode, hints
from elbos.base.errors import warn

F = TypeVar("F", bound=Callable[..., Any])
MAX_SIZE = 100.0  # largest magnitude in data: latents reach dozens, 8-bit pixels hundreds
MIN_NUMBERS = 64  # data in [-1, 1] have a negative number among so many


def require_positive(**values: float) -> None:
    """Raise a ValueError that names the first given value which is not above 0.

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


class Typed:
    """Mixin for dataclasses that checks the types of field values.

    A value that does not match its field's type annotation raises a WrongTypeError, an infinite or
    NaN one that is not the field's default a ValueError. Numbers and sequences are stored as the
    annotation says: 3 and `np.float64(3)` as 3.0 for a float, a list as a tuple, a path as an
    absolute one. So equal objects have equal texts and digests.
    """

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for f in dataclasses.fields(cls):
            if f.init and (kind := hints(cls).get(f.name)) is not None:
                value = getattr(self, f.name)
                if (stored := decode(kind, value, f.name)) is not value:
                    object.__setattr__(self, f.name, stored)  # works on frozen dataclasses
                items = stored if isinstance(stored, tuple) else (stored,)
                infinite = [i for i in items if isinstance(i, float) and not math.isfinite(i)]
                if infinite and stored != f.default and f.metadata.get("is_finite", True):
                    raise ValueError(f"{f.name} is {infinite[0]}: give a finite number.")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if (post_init := vars(cls).get("__post_init__")) is not None:

            @functools.wraps(post_init)
            def checked(self: Typed) -> None:
                Typed.__post_init__(self)
                post_init(self)

            cls.__post_init__ = checked  # type: ignore[method-assign]


def typed(function: F) -> F:
    """Decorate a function to raise a WrongTypeError for arguments that its annotations exclude."""
    signature = inspect.signature(function)
    several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    names = {name for name, p in signature.parameters.items() if p.kind not in several}

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # pytest shows the caller's line, not this one
        kinds = hints(inspect.unwrap(function))
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in names and name in kinds:
                decode(kinds[name], value, name)
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


def require_floating(**tensors: Tensor) -> None:
    """Raise a ValueError that names the first given tensor which is not floating-point."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}: give floating-point numbers.")


def require_single(**tensors: Tensor) -> None:
    """Raise a ValueError if a tensor is in half precision, where close noise levels are equal."""
    require_floating(**tensors)
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{name} is {tensor.dtype}: give float32; the network may be in half precision."
            )


def require_scaled(x: Tensor) -> None:
    """Check that data are scaled to about [-1, 1], or are latents of about that size.

    Data between 0 and 1 cause a warning. The check synchronizes the device.

    Raises:
        ValueError: If a number is above 100 or below -100.

    Examples:
        >>> import torch
        >>> require_scaled(4 * torch.randn(2, 3))
        >>> require_scaled(torch.tensor([[0.0, 255.0]]))
        Traceback (most recent call last):
        ...
        ValueError: the data run from 0 to 255: give numbers from -1 to 1, 2 x / 255 - 1 of pixels.
    """
    low, high = (float(end) for end in x.detach().aminmax())
    if MAX_SIZE < max(-low, high) < math.inf:
        raise ValueError(
            f"the data run from {low:g} to {high:g}: give numbers from -1 to 1, 2 x / 255 - 1 of "
            "pixels."
        )
    if low >= 0 and 0.5 < high <= 1 and x.numel() >= MIN_NUMBERS:
        warn(
            f"the data run from {low:.2g} to {high:.2g}: give numbers from -1 to 1, 2 x - 1 of "
            "images; otherwise the noise levels in training differ from those stated."
        )


def require_one_loss_each(logsnr: Tensor, loss: Tensor) -> None:
    """Raise a ValueError unless the losses and the noise levels both have shape `[b]`."""
    if loss.ndim != 1 or loss.shape != logsnr.shape:
        raise ValueError(
            f"losses of shape {tuple(loss.shape)} at log-SNR of shape {tuple(logsnr.shape)}: "
            "give one loss per log-SNR, [b], before their mean is taken."
        )
