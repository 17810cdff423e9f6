"""Checks of user-supplied arguments; each error message says in one line what to do."""

import dataclasses
import functools
import inspect
import math
import numbers
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from elbos.base.errors import MAX_SHOWN

F = TypeVar("F", bound=Callable[..., Any])
MAX_SIZE = 100.0  # largest magnitude in data: latents reach dozens, 8-bit pixels hundreds
MAX_INT = 2**63 - 1  # largest integer of a tensor
MIN_NUMBERS = 64  # data in [-1, 1] have a negative number among so many


def require_positive(**values: float) -> None:
    """Raise a ValueError unless all given values are positive numbers.

    The message names the first invalid argument.

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


class WrongTypeError(TypeError, ValueError):
    """Error: a value does not match its type annotation."""


def require_type(kind: Any, /, **values: Any) -> None:
    """Raise a WrongTypeError unless all given values are of a given type.

    The message names the first invalid argument.

    Examples:
        >>> require_type(int, num_images=1000)
        >>> require_type(int, num_images=1.5)
        Traceback (most recent call last):
        ...
        elbos.base.checks.WrongTypeError: num_images is 1.5: give an object of type int.
    """
    for name, value in values.items():
        if not _admits(kind, value):
            what = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
            is_short = len(what) <= MAX_SHOWN and what.isprintable()
            shown = what if is_short else f"of type {type(value).__name__}"
            raise WrongTypeError(f"{name} is {shown}: give an object of type {type_names(kind)}.")


class Typed:
    """Mixin for dataclasses that checks the types of field values.

    A value that does not match its field's type annotation raises a WrongTypeError. Numbers and
    sequences are stored as the annotation says: 3 and `np.float64(3)` as 3.0 for a float, a list as
    a tuple. So equal objects have equal texts and digests.
    """

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for name, kind in _field_types(cls).items():
            value = getattr(self, name)
            require_type(kind, **{name: value})
            if (stored := _as_annotated(kind, value)) is not value:
                object.__setattr__(self, name, stored)  # also of a frozen dataclass

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if own := vars(cls).get("__post_init__"):

            @functools.wraps(own)
            def checked(self: Typed) -> None:
                try:
                    Typed.__post_init__(self)
                    own(self)
                except OverflowError as error:
                    raise ValueError(
                        f"{type(self).__name__} has too large a number: {error}."
                    ) from error

            cls.__post_init__ = checked  # type: ignore[method-assign]


def typed(function: F) -> F:
    """Decorate a function so that calls check the types of the arguments.

    An argument that does not match its type annotation raises a WrongTypeError.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # an argument is missing: Python says so
            given = {}
        kinds = _argument_types(function)
        for name, value in given.items():
            if name in kinds:
                require_type(kinds[name], **{name: value})
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union type.

    `Annotated` is stripped; for any other type, the result is a tuple of that type.
    """
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(one for member in get_args(kind) for one in alternatives(member))
    return (kind,)


def type_names(kind: Any) -> str:
    names: list[str] = []
    for one in alternatives(kind):
        if get_origin(one) is Literal:
            names += map(repr, get_args(one))
        elif get_origin(one) in (tuple, Sequence):
            names.append(f"{get_origin(one).__name__} of {type_names(get_args(one)[0])}")
        else:
            one = getattr(one, "array_type", one)  # jaxtyping's
            names.append("None" if one is type(None) else getattr(one, "__name__", str(one)))
    more = f" or {len(names) - 5} more" if len(names) > 6 else ""
    return " or ".join(names[:5] if more else names) + more


def _is(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is int:
        is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return is_integer and -MAX_INT <= value <= MAX_INT
    if origin is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if origin is tuple:
        is_list = isinstance(value, tuple | list)
        kinds = inner[:1] * len(value) if is_list and ... in inner else inner
        return is_list and all(map(_admits, kinds, value)) and len(kinds) == len(value)
    if origin is Callable:
        return callable(value)
    if origin is Sequence:
        is_sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return is_sequence and all(_admits(inner[0], item) for item in value)
    origin = str | Path if origin is Path else getattr(origin, "array_type", origin)  # jaxtyping's
    is_checkable = getattr(origin, "_is_runtime_protocol", True)  # or no protocol
    if not isinstance(origin, type | UnionType) or not is_checkable:
        return True
    return isinstance(value, origin)


def _admits(kind: Any, value: Any) -> bool:
    if type(value) is kind and kind is not int:  # which has to fit in a tensor
        return True
    return any(_is(value, one) for one in alternatives(kind))


def _as_annotated(kind: Any, value: Any) -> Any:
    """Return an admitted value with Python's numbers and tuples where the annotation has them."""
    if type(value) in (str, bool, NoneType):
        return value
    one = next((one for one in alternatives(kind) if _is(value, one)), None)
    if one in (int, float):
        return one(value)
    if get_origin(one) is tuple:
        inner = get_args(one)
        kinds = inner[:1] * len(value) if ... in inner else inner
        return tuple(map(_as_annotated, kinds, value))
    return value


@functools.cache
def _field_types(cls: Any) -> dict[str, Any]:
    kinds = _types(cls)
    return {f.name: kinds[f.name] for f in dataclasses.fields(cls) if f.init and f.name in kinds}


@functools.cache
def _argument_types(function: Any) -> dict[str, Any]:
    own = {name: kind for name, kind in function.__annotations__.items() if name != "return"}
    arguments: Any = SimpleNamespace(__annotations__=own)
    try:
        return get_type_hints(arguments, inspect.unwrap(function).__globals__)
    except NameError:
        return {}


@functools.cache
def _types(annotated: Any) -> dict[str, Any]:
    try:
        return get_type_hints(annotated)
    except NameError:
        return {}


def require_floating(**tensors: Tensor) -> None:
    """Raise a ValueError unless all given tensors are floating-point.

    The message names the first invalid argument.

    Examples:
        >>> import torch
        >>> require_floating(t=torch.zeros(2))
        >>> require_floating(t=torch.tensor([0, 1]))
        Traceback (most recent call last):
        ...
        ValueError: t is torch.int64: give floating-point numbers.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):  # called in every step, also in compiled code
            require_type(Tensor, **{name: tensor})
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


def require_scaled(x: Tensor, *, stacklevel: int = 3) -> None:
    """Check that data are scaled to about [-1, 1].

    Data beyond ±100, such as 8-bit pixels, raise a ValueError; data between 0 and 1 cause a
    warning.

    Data have to be in [-1, 1], or latents of about that size. The check synchronizes the device.

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
    low, high = (float(end) for end in x.aminmax())
    if MAX_SIZE < max(-low, high) < math.inf:
        raise ValueError(
            f"the data run from {low:g} to {high:g}: give numbers from -1 to 1, 2 x / 255 - 1 of "
            "pixels."
        )
    if low >= 0 and 0.5 < high <= 1 and x.numel() >= MIN_NUMBERS:
        warnings.warn(
            f"the data run from {low:.2g} to {high:.2g}: give numbers from -1 to 1, 2 x - 1 of "
            "images; otherwise the noise levels in training differ from those stated.",
            stacklevel=stacklevel,
        )


def require_one_loss_each(logsnr: Tensor, loss: Tensor) -> None:
    """Raise a ValueError unless the losses and the noise levels both have shape `[b]`."""
    if loss.ndim != 1 or loss.shape != logsnr.shape:
        raise ValueError(
            f"losses of shape {tuple(loss.shape)} at log-SNR of shape {tuple(logsnr.shape)}: "
            "give one loss per log-SNR, [b], before their mean is taken."
        )


def require_finite(value: Any, where: str = "") -> None:
    """Raise a ValueError if a field of a dataclass is infinite or NaN.

    The message names the first such field. The field's default is exempt.

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
