"""Operations on the conditions of a network, such as class labels, for a batch of samples.

A condition is whatever the network understands: class labels `[b]`, embeddings `[b, ...]`, a dict
of them, or None. The functions here act on the tensors in it, whose first axis is the batch; any
other value holds for the whole batch and is kept unchanged.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

Condition = Any


def map_tensors(f: Callable[..., Any], cond: Condition, *others: Condition) -> Condition:
    """Apply a function to every tensor among the conditioning inputs of a network.

    The tensors at the same places of `others` are further arguments of the function.

    Examples:
        >>> map_tensors(torch.clone, {"text": torch.zeros(2), "style": "plain"})
        {'text': tensor([0., 0.]), 'style': 'plain'}
    """
    if isinstance(cond, Tensor):
        return f(cond, *others)
    if isinstance(cond, Mapping):
        return {
            name: map_tensors(f, part, *(other[name] for other in others))
            for name, part in cond.items()
        }
    return cond


def cond_at(cond: Condition, index: slice | Tensor) -> Condition:
    """Select the conditioning inputs of some samples of a batch.

    Examples:
        >>> cond_at({"label": torch.tensor([5, 6, 7])}, slice(1, 3))
        {'label': tensor([6, 7])}
    """
    return map_tensors(lambda part: part[index], cond)


def to_device(cond: Condition, device: torch.device) -> Condition:
    is_sent = device.type != "cpu"  # a copy to the host has to be synchronous
    return map_tensors(lambda part: part.to(device, non_blocking=is_sent), cond)


def replace_conds(cond: Condition, null: Condition, is_replaced: Bool[Tensor, " b"]) -> Condition:
    """Replace the conditioning inputs of selected samples by those of the unconditional model.

    Examples:
        >>> replace_conds(torch.tensor([5, 6]), torch.tensor([-1]), torch.tensor([False, True]))
        tensor([ 5, -1])
    """

    def replace(part: Tensor, null: Tensor) -> Tensor:
        mask = is_replaced.to(part.device).view(-1, *(1,) * (part.ndim - 1))
        # the type of bool or uint8 labels cannot hold the null label -1
        dtype = part.dtype if part.is_floating_point() else null.dtype
        return torch.where(mask, null.to(part.device, dtype), part)

    return map_tensors(replace, cond, null)


def is_alike(cond: Condition, other: Condition) -> bool:
    """Return whether conditioning inputs have the same structure, shapes and kinds of numbers.

    Values that are not tensors hold for a whole batch, and have to be equal.
    """
    if isinstance(cond, Tensor):
        is_tensor = isinstance(other, Tensor) and other.shape == cond.shape
        return is_tensor and other.is_floating_point() == cond.is_floating_point()
    if isinstance(cond, Mapping):
        is_mapping = isinstance(other, Mapping) and cond.keys() <= other.keys()
        return is_mapping and all(is_alike(part, other[name]) for name, part in cond.items())
    return not isinstance(other, Tensor) and bool(cond == other)


def require_tensors(cond: Condition, num: int | None = None) -> None:
    """Raise a ValueError unless conditioning inputs are tensors, of `num` samples if that is given.

    Values that hold for a whole batch may be of other types, but not sequences or arrays.
    """
    if isinstance(cond, Mapping):
        for part in cond.values():
            require_tensors(part, num)
    elif isinstance(cond, list | tuple | np.ndarray):
        raise ValueError(
            f"cond holds a {type(cond).__name__}: give tensors, [b, ...], or a dict of them."
        )
    elif isinstance(cond, Tensor) and num is not None and cond.shape[:1] != (num,):
        raise ValueError(
            f"cond has shape {tuple(cond.shape)} for {num} samples: give one for each, "
            f"[{num}, ...]."
        )
