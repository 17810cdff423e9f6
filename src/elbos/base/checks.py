"""Checks of user-supplied arguments; each error message says in one line what to do."""

import dataclasses
import functools
import inspect
import math
import numbers
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, TypeVar, get_type_hints

import torch
from jaxtyping import jaxtyped
from torch import Tensor

from elbos.base.codec import WrongTypeError, alternatives, convert, hints
from elbos.base.errors import warn

F = TypeVar("F", bound=Callable[..., Any])
MAX_BLOCKS = 1000  # deepest network that is built
MAX_SIZE = 100.0  # largest magnitude in data: latents reach dozens, 8-bit pixels hundreds
MIN_NUMBERS = 64  # data in [-1, 1] have a negative number among so many


def require_positive(most: float = math.inf, /, **values: float) -> None:
    """Raise a ValueError that names the first given value which is not above 0, and up to `most`.

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
        if value > most:
            raise ValueError(f"{name} is {value!r}: give at most {most:g}.")


def require_type(kind: Any, /, **values: Any) -> None:
    """Raise a WrongTypeError that names the first given value of another type than `kind`.

    Examples:
        >>> require_type(int, num_images=1000)
        >>> require_type(int, num_images=1.5)
        Traceback (most recent call last):
        ...
        elbos.base.codec.WrongTypeError: num_images is 1.5: give an object of type int.
    """
    for name, value in values.items():
        convert(kind, value, name)


def diagnosed(function: F) -> F:
    """Decorate a function to name, when it fails, an argument that its annotations exclude.

    Types, dtypes and shapes are compared when a call has failed, not before: what is called in
    every step is as fast as without, and what works is admitted. Of nested calls the outermost
    decides, whose arguments are the user's.
    """

    @functools.wraps(function)
    def diagnosing(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        except (TypeError, AttributeError, LookupError, RuntimeError) as error:
            with jaxtyped("context"):  # one letter stands for one length
                _require_shapes(_arguments(function, args, kwargs), error)
            raise

    return diagnosing  # type: ignore[return-value]


class Diagnosed:
    """Mixin for classes whose methods are `diagnosed`, but for private ones."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, method in list(vars(cls).items()):
            is_method = getattr(method, "__qualname__", "") == f"{cls.__qualname__}.{name}"
            is_public = name in ("__call__", "__init__") or not name.startswith("_")
            if is_method and is_public and inspect.isfunction(method):
                setattr(cls, name, diagnosed(method))


class Typed(Diagnosed):
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
                if (stored := convert(kind, value, f.name)) is not value:
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
                try:
                    Typed.__post_init__(self)
                    post_init(self)
                except OverflowError as error:
                    raise ValueError(
                        f"{type(self).__name__} has too large a number: {error}."
                    ) from error

            cls.__post_init__ = checked  # type: ignore[method-assign]


def typed(function: F) -> F:
    """Decorate a function to raise a WrongTypeError for arguments that its annotations exclude."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name, kind, value in _arguments(function, args, kwargs):
            convert(kind, value, name)
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


def _arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Return name, annotation and value of each annotated argument of a call."""
    try:
        bound = _signature(function).bind(*args, **kwargs)
    except TypeError:  # an argument is missing: Python says so
        return []
    arguments = []
    for name, value in bound.arguments.items():
        if (annotation := _annotations(function).get(name)) is not None:
            kind = bound.signature.parameters[name].kind
            values = [(name, value)]
            if kind is inspect.Parameter.VAR_POSITIONAL:
                values = [(name, item) for item in value]
            elif kind is inspect.Parameter.VAR_KEYWORD:
                values = list(value.items())
            arguments += [(name, annotation, item) for name, item in values]
    return arguments


def _require_shapes(arguments: list[tuple[str, Any, Any]], error: Exception) -> None:
    """Raise a WrongTypeError that names the first argument with another type, dtype or shape."""
    shapes: list[str] = []
    for name, kind, value in arguments:
        try:
            convert(kind, value, name)
        except WrongTypeError as wrong:
            raise wrong from error
        if isinstance(value, Tensor):
            options = alternatives(kind)
            is_told = all(isinstance(o, type) and o is not Any for o in options)
            if is_told and not any(isinstance(value, option) for option in options):
                beside = f", beside {', '.join(shapes)}" if shapes else ""
                raise WrongTypeError(
                    f"{name} is {value.dtype} of shape {tuple(value.shape)}{beside}: give "
                    f"{' or '.join(option.__name__ for option in options)}."
                ) from error
            shapes.append(f"{name} of shape {tuple(value.shape)}")


_signature = functools.cache(inspect.signature)


@functools.cache
def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for name, kind in function.__annotations__.items():
        annotated: Any = SimpleNamespace(__annotations__={name: kind})
        with suppress(NameError):  # a name of type checkers
            kinds |= get_type_hints(annotated, inspect.unwrap(function).__globals__)
    return kinds


def require_floating(**tensors: Tensor) -> None:
    """Raise a ValueError that names the first given tensor which is not floating-point.

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


def require_single(**tensors: Tensor) -> None:
    """Raise a ValueError if a tensor is in half precision, in which close noise levels are equal.

    Examples:
        >>> import torch
        >>> require_single(z=torch.zeros(2))
        >>> require_single(z=torch.zeros(2).half())
        Traceback (most recent call last):
        ...
        ValueError: z is torch.float16: give float32; the network may be in half precision.
    """
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
