"""A dataset of the user's own, given in Python: whatever has a length and `dataset[i]`.

An item is `x`, or `(x, cond)` with what it is conditioned on: a class label, a tensor or a dict of
tensors, in the shape of one sample. Batches are made by torch's `default_collate`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import default_collate

from elbos.conditions import Condition
from elbos.training.data.dataset import Dataset, DataSpec

_TOLERANCE = 1e-3  # beyond [-1, 1], for rounding


@dataclass(frozen=True, kw_only=True)
class Given:
    """The name of a dataset that was given in Python: a configuration holds no more of it."""

    name: str
    """Its class."""

    def load(self) -> Dataset:
        """Raise a ValueError: only the user has it."""
        raise ValueError(f"{self.name} was given to `elbos.fit` in Python and is not stored.")


@dataclass(frozen=True)
class Items:
    """The samples of a map-style dataset.

    Attributes:
        dataset: The dataset.
        is_bounded: Whether x has to be in [-1, 1].
    """

    dataset: Any
    is_bounded: bool = True

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, rows: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *d"], Condition]:
        """The samples of these numbers, `x` in float32, and their condition or None.

        Raises:
            ValueError: If `x` is not a tensor of floating-point numbers, or beyond [-1, 1].
        """
        with torch.autocast("cpu", enabled=False):  # the network's precision is not the data's
            items = [self.dataset[row] for row in rows.tolist()]
            is_pair = isinstance(items[0], tuple | list) and len(items[0]) == 2
            x, cond = default_collate(items) if is_pair else (default_collate(items), None)
        if not isinstance(x, Tensor):
            kind = type(items[0]).__name__
            raise ValueError(
                f"an item of the dataset is a {kind}: give x or (x, cond), x a tensor."
            )
        if not x.is_floating_point():
            raise ValueError(f"the dataset's x is {x.dtype}: give numbers from -1 to 1.")
        if self.is_bounded and not x.abs().max() <= 1 + _TOLERANCE:
            raise ValueError(
                f"the dataset's x runs from {x.min():.4g} to {x.max():.4g}: give numbers from -1 "
                "to 1 (2 * x / 255 - 1 of 8-bit pixels), or is_bounded=False for latents."
            )
        return x.to(torch.float32), cond


@dataclass(frozen=True)
class GivenData:
    """The data of a run that was given a dataset, and perhaps another one for validation."""

    spec: DataSpec
    training: Items
    validation: Items | None

    @classmethod
    def from_datasets(
        cls, dataset: Any, validation: Any, *, num_levels: int | None, is_bounded: bool
    ) -> "GivenData":
        """The data of two datasets; the second may be None.

        Raises:
            ValueError: If the dataset has no length or is empty, or an item is none.
        """
        if num_levels is not None and not (isinstance(num_levels, int) and num_levels >= 2):
            raise ValueError(f"num_levels is {num_levels}: give 2 or more, or None.")
        training = Items(dataset, is_bounded)
        x, cond = _first(training)
        if validation is not None:
            other, other_cond = _first(Items(validation, is_bounded))
            if other.shape != x.shape or (other_cond is None) != (cond is None):
                raise ValueError(
                    f"the validation set's samples have shape {tuple(other.shape[1:])}, the "
                    f"dataset's {tuple(x.shape[1:])}: give both alike, with or without conditions."
                )
        spec = DataSpec(type(dataset).__name__, tuple(x.shape[1:]), num_levels, None)
        held_out = None if validation is None else Items(validation, is_bounded)
        return cls(spec, training, held_out)

    def fingerprint(self) -> dict[str, Any]:
        """The identifier of the data: name, shape and sizes."""
        sizes = {"train": len(self.training), "val": len(self.validation or ())}
        return {"name": self.spec.name, "shape": list(self.spec.shape), **sizes}

    sampled_fingerprint = fingerprint


def _first(items: Items) -> tuple[Float[Tensor, "1 *d"], Condition]:
    """The first sample; raises a ValueError if there is none."""
    if not (hasattr(items.dataset, "__len__") and hasattr(items.dataset, "__getitem__")):
        kind = type(items.dataset).__name__
        raise ValueError(f"a {kind} is no dataset: give one with a length and dataset[i].")
    if len(items) == 0:
        raise ValueError("the dataset is empty.")
    return items.batch(torch.zeros(1, dtype=torch.int64))
