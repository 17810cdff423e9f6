"""Datasets that are read by sample index, in batches, for training and validation.

A dataset is a tensor `[n, ...]`, or an object with a length and `dataset[i]`. An item is `x`,
`(x,)`, or `(x, cond)` with a condition: a class label, a tensor or a dict of tensors, in the shape
of one sample. Batches are made by torch's `default_collate`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from elbos.base.conditions import Condition, require_tensors
from elbos.base.errors import flat, message

Batch = tuple[Tensor, Condition]
"""Data in [-1, 1], `[b, ...]`, and their condition or None."""

_TOLERANCE = 1e-3  # rounding beyond [-1, 1]


@runtime_checkable
class Batched(Protocol):
    """Interface of datasets that return whole batches of samples."""

    def __len__(self) -> int: ...

    def batch(self, rows: Int64[Tensor, " b"]) -> Batch:
        """Return the batch of samples with the given indices."""


@dataclass(frozen=True)
class Items:
    """Adapter that reads a tensor or a map-style dataset in batches, and checks them.

    Attributes:
        dataset: The tensor or dataset.
        is_bounded: Whether x has to be in [-1, 1].
        dtype: What x is converted to.
        to_item: Makes `x` or `(x, cond)` of an item of the dataset. Default: the item itself.
    """

    dataset: Any
    is_bounded: bool = True
    dtype: torch.dtype = torch.float32
    to_item: Callable[[Any], Any] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, rows: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *d"], Condition]:
        """Return the data and the conditioning inputs, or None, of selected samples.

        Raises:
            ValueError: If `x` is not a tensor of floating-point numbers, not finite, or beyond
                [-1, 1].
        """
        if isinstance(self.dataset, Tensor) and self.to_item is None:
            x, cond = self.dataset[rows], None
        else:
            with torch.autocast("cpu", enabled=False):  # a network's precision, not the data's
                items = [self.dataset[row] for row in rows.tolist()]
                if self.to_item is not None:
                    try:
                        items = list(map(self.to_item, items))
                    except Exception as error:
                        raise ValueError(
                            f"to_item fails on an item of the dataset, a "
                            f"{type(items[0]).__name__}: {type(error).__name__}: {message(error)}"
                        ) from error
                x, cond = _collated(items)
        if not isinstance(x, Tensor):
            kind = type(x).__name__
            hint = " (which a Validator's to_item makes)" if isinstance(x, dict) else ""
            raise ValueError(f"the dataset's x is a {kind}: give x or (x, cond), x a tensor{hint}.")
        if not x.is_floating_point():
            raise ValueError(f"the dataset's x is {x.dtype}: give numbers from -1 to 1.")
        if x.ndim < 2 or not x.numel():
            num = "one" if x.numel() else "no"
            raise ValueError(f"the dataset's x is {num} number: give a tensor, [c, h, w] or [d].")
        low, high = map(float, x.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            first = int(x.flatten(1).isfinite().all(1).int().argmin())
            raise ValueError(f"dataset[{rows[first]}] holds NaN or infinity: repair or remove it.")
        if self.is_bounded and max(-low, high) > 1 + _TOLERANCE:
            raise ValueError(
                f"the dataset's x runs from {low:.4g} to {high:.4g}: give numbers from -1 "
                "to 1 (2 * x / 255 - 1 of 8-bit pixels), or is_bounded=False for latents."
            )
        return x.to(self.dtype), cond

    stored = batch  # training moves the samples to its device without conversion


def _collated(items: Sequence[Any]) -> tuple[Any, Condition]:
    parts = items[0] if isinstance(items[0], tuple | list) else ()
    xs, conds = zip(*items, strict=True) if len(parts) == 2 else (items, (None,))
    if len(parts) == 1:  # as a TensorDataset has them
        xs = tuple(x for (x,) in items)
    try:
        x, cond = default_collate(list(xs)), None
        if conds[0] is not None:
            cond = default_collate(list(conds))
        require_tensors(cond)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"the dataset's items cannot be put in a batch ({flat(error)[:200]}): give x or "
            "(x, cond), tensors of one shape for all items."
        ) from error
    return x, cond


def first_item(items: Items) -> tuple[Float[Tensor, "1 *d"], Condition]:
    """Return the first sample of a dataset as a batch of one.

    Raises:
        ValueError: If the dataset is empty, or has no length or no indexing.
    """
    kind = type(items.dataset)
    indexing = getattr(kind, "__getitem__", Dataset.__getitem__)  # torch's default only raises
    if not hasattr(kind, "__len__") or indexing is Dataset.__getitem__:
        raise ValueError(f"a {kind.__name__} is no dataset: give one with a length and dataset[i].")
    if len(items) == 0:
        raise ValueError("the dataset is empty.")
    return items.batch(torch.zeros(1, dtype=torch.int64))
