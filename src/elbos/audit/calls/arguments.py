"""The arguments of a network call, and which of them is the noisy data."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Slot = int | str
"""An argument of a network call: its position, or its name if it is given by name."""


@dataclass(frozen=True)
class Arguments:
    num: int  # samples
    noisy: Slot | None  # the argument that is the noisy data; None if they are part of one
    rest: Mapping[Slot, Any]
    varying: frozenset[Slot] = frozenset()  # those that another call has other values of

    @classmethod
    def of_call(cls, z: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "Arguments":
        named = dict[Slot, Any]([*enumerate(args), *kwargs.items()])
        noisy = next((slot for slot, value in named.items() if value is z), None)
        rest = {slot: value for slot, value in named.items() if value is not z}
        return cls(len(z), noisy, rest)

    def beside(self, other: "Arguments") -> "Arguments":
        pairs = {slot: (value, other.rest.get(slot)) for slot, value in self.rest.items()}
        varying = {slot for slot, pair in pairs.items() if not _equal(*pair)}
        return replace(self, varying=other.varying | varying)

    def numbers(self) -> dict[Slot, Float[Tensor, " b"]]:
        columns = {}
        for slot, value in self.rest.items():
            if isinstance(value, Tensor) and value.numel() in (1, self.num):
                if not value.is_complex():
                    flat = value.detach().flatten().double().cpu()
                    columns[slot] = flat.expand(self.num).clone()
            elif type(value) in (int, float) or isinstance(value, np.integer | np.floating):
                columns[slot] = torch.full((self.num,), float(value), dtype=torch.float64)
        return columns


def _equal(value: object, other: object) -> bool:
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return value.shape == other.shape and torch.equal(value, other)
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return value.keys() == other.keys() and all(
            _equal(value[name], other[name]) for name in value
        )
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(_equal, value, other))
    if value is other:
        return True
    with suppress(Exception):  # comparison or truth may be undefined for this type
        return type(value) is type(other) and bool(np.all(value == other))
    return False


def shown(slot: Slot) -> str:
    """Format the name or position of an argument for a message."""
    return f"the positional argument {slot}" if isinstance(slot, int) else f"the argument {slot}"


def has_rows(value: object, num: int) -> bool:
    """Return whether a network argument is, or contains, a tensor with one row per sample."""
    if isinstance(value, Mapping):
        return any(has_rows(item, num) for item in value.values())
    if isinstance(value, list | tuple):
        return any(has_rows(item, num) for item in value)
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == num


def noisy_data(arguments: Sequence[object], x: Tensor) -> Tensor:
    """Find the tensor, possibly in a list or dict, whose shape is most similar to the data's."""
    candidates = [tensor for argument in arguments for tensor in tensors(argument, x)]
    if not candidates:
        raise ValueError("the network is called without any tensor of floating-point data")
    return max(
        candidates,
        key=lambda value: (
            value.shape[1:] == x.shape[1:],
            value.numel() == x.numel(),
            value.ndim > 2 and wider_axis(value, x) is not None,
            value.numel(),
        ),
    )


def tensors(value: Any, x: Tensor | None = None) -> Iterator[Tensor]:
    """Yield floating-point tensors in a value; a list of samples like those of `x` is one."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        is_batch = (
            x is not None
            and len(value) == len(x)
            and all(isinstance(item, Tensor) and item.numel() == x[0].numel() for item in value)
        )
        if is_batch:
            yield torch.stack(list(value))
        else:
            for item in value:
                yield from tensors(item, x)
    elif isinstance(value, Tensor):
        if value.is_floating_point() and value.ndim > 1:
            yield value
    elif hasattr(value, "sample"):
        yield from tensors(value.sample, x)


def wider_axis(z: Tensor, x: Tensor) -> int | None:
    """Find the only axis along which the network's input is longer than the data, if any."""
    if z.ndim != x.ndim:
        return None
    axes = [i for i in range(1, x.ndim) if z.shape[i] != x.shape[i]]
    return axes[0] if len(axes) == 1 and z.shape[axes[0]] > x.shape[axes[0]] else None
