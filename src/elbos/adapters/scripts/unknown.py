"""Placeholders for values that a script would load, or compute in lines that are not run.

A value computed from an unknown value is unknown too, and records the names of its origins, so that
the values on which a loss depends can be reported. All unknown values obey three rules: their
shape, dtype and device are those of the clean data, since noise is drawn with `randn_like`; a
condition on an unknown value is false, and its line is recorded; an unknown value called on noisy
data is the network.
"""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LIKE_DATA = ("shape", "device", "dtype", "ndim")
_LIKE = (torch.randn_like, torch.rand_like, torch.zeros_like, torch.ones_like, torch.empty_like)
_JOINED = (torch.cat, torch.concat)
_NUM_BLOCKS = 4  # of VAEs of latent models; scripts count their resolutions in a configuration
_NETWORKS = ("model", "module", "net", "transformer", "denoise", "forward")


@dataclass
class Stage:
    file: str
    attributes: frozenset[str] = frozenset()  # that the script reads from the network's output
    network: Any = None
    x: Tensor = field(default_factory=lambda: torch.zeros(1, 1))
    networks: set[str] = field(default_factory=set)  # names that were called with noisy data
    wrapping: set[str] = field(default_factory=set)  # names that were called with the clean data
    conditions: set[int] = field(default_factory=set)  # lines of conditions taken as false
    deciding: set[str] = field(default_factory=set)  # names that those conditions depend on
    decisive: frozenset[str] = frozenset()  # names of the last such condition
    item: tuple[str, Any] | None = None  # the item of an unknown that is the clean data

    def answer(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the network with only those arguments whose values are known.

        The output has the form that the script expects.
        """
        self.networks.add(name)
        output = self.network(*_known(args), **_known(kwargs))
        if any(_is_batch(one, self.x) for one in [*args, *kwargs.values()]):
            return (list(output[0]),) if isinstance(output, tuple) else list(output)
        if isinstance(output, Tensor):
            for attribute in self.attributes:
                if not hasattr(output, attribute):
                    setattr(output, attribute, output.view_as(output))
        return output

    def stand_in(self, name: str) -> "Unknown":
        return Unknown(self, frozenset({name}), name)

    def line(self) -> int:
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename != self.file:
            frame = frame.f_back
        return frame.f_lineno


class Unknown:
    """Placeholder for an unknown value in a script.

    It has the names of the unknown variables on which the value depends.
    """

    def __init__(
        self, stage: Stage, origins: frozenset[str], name: str = "", *, is_method: bool = False
    ) -> None:
        vars(self).update(_stage=stage, _origins=origins, _name=name, _is_method=is_method)

    def _made(self, *others: Any, name: str = "", is_method: bool = False) -> "Unknown":
        return Unknown(self._stage, origins([self, *others]), name, is_method=is_method)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if name in _LIKE_DATA:
            return getattr(self._stage.x, name)
        is_method = not any(part in name.lower() for part in _NETWORKS)
        return self._made(name=f"{self._name}.{name}", is_method=is_method)

    def __setattr__(self, name: str, value: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._name.endswith(".size") and self._is_method:
            return self._stage.x.size(*args)
        given = [*args, *kwargs.values()]
        noisy = [value for value in given if _is_noisy(value, self._stage.x)]
        if noisy and all(value is self._stage.x for value in noisy):
            self._stage.wrapping |= {self._name.partition(".")[0]}
            return self._made()
        if self._is_method:
            return self._made(*given)
        if noisy:
            return self._stage.answer(self._name, args, kwargs)
        unknown = next(_unknowns(given), self)  # output on unknown input is unknown
        return Unknown(self._stage, unknown._origins)

    def __getitem__(self, key: Any) -> Any:
        name = f"{self._name}[{key!r}]" if isinstance(key, str | int) else ""
        if name and self._stage.item == (self._name, key):
            return self._stage.x
        return self._made(name=name, is_method=True)

    def __bool__(self) -> bool:
        self._stage.conditions.add(self._stage.line())
        self._stage.deciding |= self._origins
        self._stage.decisive = self._origins
        return False

    def __len__(self) -> int:
        return _NUM_BLOCKS if ".config." in self._name else len(self._stage.x)

    def __iter__(self) -> Iterator["Unknown"]:
        yield self._made()  # one item represents a list of unknown length

    def __contains__(self, _: object) -> bool:
        return bool(self)

    def __instancecheck__(self, _: object) -> bool:
        return bool(self)

    def __enter__(self) -> "Unknown":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        unknown = next(_unknowns([args, kwargs]))
        if func in _LIKE and args:
            return func(unknown._stage.x, *args[1:], **kwargs)
        if func in _JOINED and (given := args[0] if args else kwargs.get("tensors")):
            parts = [part for part in given if not isinstance(part, Unknown)]
            if parts:  # drops unknown conditions beside the noisy data
                return func(parts, *args[1:], **{k: v for k, v in kwargs.items() if k != "tensors"})
        return Unknown(unknown._stage, origins([args, kwargs]))


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
_OTHERS = ("lt", "le", "gt", "ge", "eq", "ne", "neg", "abs")
for _name in (*_BINARY, *(f"r{name}" for name in _BINARY), *_OTHERS):
    setattr(Unknown, f"__{_name}__", lambda self, *others: self._made(*others))


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(item) for key, item in value.items() if not isinstance(item, Unknown)}
    if isinstance(value, list | tuple):
        return type(value)([_known(item) for item in value if not isinstance(item, Unknown)])
    return value


def _unknowns(value: Any) -> Iterator[Unknown]:
    if isinstance(value, Unknown):
        yield value
    elif isinstance(value, dict):
        yield from _unknowns(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _unknowns(item)


def origins(value: Any) -> frozenset[str]:
    """Return the unknown variables on which a value depends.

    The set of names is empty for a known value.
    """
    return frozenset().union(*(one._origins for one in _unknowns(value)))


def _is_noisy(value: Any, x: Tensor) -> bool:
    if isinstance(value, list | tuple):
        return _is_batch(value, x) or any(_is_noisy(item, x) for item in value)
    is_float = isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1
    return is_float and value.numel() >= x.numel()


def _is_batch(value: Any, x: Tensor) -> bool:
    if not isinstance(value, list | tuple) or len(value) != len(x):
        return False
    with torch._C.DisableTorchFunction():  # __torch_function__ is slow
        num = x[0].numel()
        return all(isinstance(item, Tensor) and item.numel() == num for item in value)


class OnOneDevice(TorchFunctionMode):
    """Context manager that runs a script on the device of the data.

    Every device named in the script is replaced.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

        def nowhere(*_: object, **__: object) -> contextlib.nullcontext[None]:
            return contextlib.nullcontext()

        self.patch = mock.patch.multiple("torch.cuda", device=nowhere, stream=nowhere)

    def __enter__(self) -> Any:
        self.patch.start()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.patch.stop()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.cuda:
            return args[0].to(self.device)
        if kwargs.get("device") is not None:
            kwargs["device"] = self.device
        if func is Tensor.to:
            is_device = [type(one) in (str, int, torch.device) for one in args]
            args = [self.device if is_it else a for a, is_it in zip(args, is_device, strict=True)]
        return func(*args, **kwargs)
