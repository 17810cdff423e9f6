"""Tensors in files of safetensors, of which no more is read than is asked for."""

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor


class Stored:
    """A tensor whose rows are in one file or, one part after the other, in several.

    `stored[...]` reads it, and `stored[2:5]` rows of it, into memory of their own.

    Args:
        parts: What safetensors calls slices.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts
        shapes = [part.get_shape() for part in parts]
        num_rows = [sum(shape[0] for shape in shapes)] if shapes[0] else []
        self.shape = torch.Size([*num_rows, *shapes[0][1:]])
        if any(shape[1:] != shapes[0][1:] for shape in shapes):
            raise ValueError(f"parts of one tensor have shapes {shapes}")

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Its type of numbers."""
        found: torch.dtype = self._parts[0][... if self.ndim == 0 else slice(0, 0)].dtype
        return found

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor:
        """The whole tensor, or rows `start` to `stop` of it."""
        if self.ndim == 0:
            whole: Tensor = self._parts[0][...]
            return whole.clone()
        start, stop, _ = (slice(None) if rows is ... else rows).indices(self.shape[0])
        found, begin = [self._parts[0][0:0]], 0
        for part in self._parts:
            end = begin + part.get_shape()[0]
            if max(start, begin) < min(stop, end):
                found.append(part[max(start, begin) - begin : min(stop, end) - begin])
            begin = end
        return torch.cat(found)
