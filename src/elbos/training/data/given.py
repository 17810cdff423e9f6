"""A dataset of the user's own, given in Python: whatever has a length and `dataset[i]`.

An item is `x` or `(x,)`, or `(x, cond)` with what it is conditioned on: a class label, a tensor or
a dict of tensors, in the shape of one sample. Batches are made by torch's `default_collate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import default_collate

from elbos.codec import digest
from elbos.conditions import Condition, is_alike, map_tensors
from elbos.errors import flat
from elbos.training.data.dataset import Dataset, DataSpec

NUM_MEANS = 16  # samples in the identifier of the data
_TOLERANCE = 1e-3  # beyond [-1, 1], for rounding


@dataclass(frozen=True, kw_only=True)
class Given:
    """The name of a dataset that was given in Python: a configuration holds no more of it."""

    name: str
    """Its class."""

    def load(self) -> Dataset:
        """Raise a ValueError: only the user has it."""
        raise ValueError(
            f"{self.name} was given to `elbos.fit` in Python and is not stored. "
            "`Run.likelihood(dataset)` measures the run on any dataset."
        )


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
            x, cond = _collated([self.dataset[row] for row in rows.tolist()])
        if not isinstance(x, Tensor):
            kind = type(x).__name__
            raise ValueError(f"the dataset's x is a {kind}: give x or (x, cond), x a tensor.")
        if not x.is_floating_point():
            raise ValueError(f"the dataset's x is {x.dtype}: give numbers from -1 to 1.")
        if x.ndim < 2:
            raise ValueError("the dataset's x is one number: give a tensor, [c, h, w] or [d].")
        if self.is_bounded and not x.abs().max() <= 1 + _TOLERANCE:
            raise ValueError(
                f"the dataset's x runs from {x.min():.4g} to {x.max():.4g}: give numbers from -1 "
                "to 1 (2 * x / 255 - 1 of 8-bit pixels), or is_bounded=False for latents."
            )
        return x.to(torch.float32), cond


def _collated(items: Sequence[Any]) -> tuple[Any, Condition]:
    """A batch of items, `x` or `(x, cond)`.

    Raises:
        ValueError: If they do not fit each other, or are not made of numbers.
    """
    parts = items[0] if isinstance(items[0], tuple | list) else ()
    xs, conds = zip(*items, strict=True) if len(parts) == 2 else (items, (None,))
    if len(parts) == 1:  # of a TensorDataset
        xs = tuple(x for (x,) in items)
    try:
        return default_collate(list(xs)), None if conds[0] is None else default_collate(list(conds))
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"the dataset's items cannot be put in a batch ({flat(error)[:200]}): give x or "
            "(x, cond), tensors of one shape for all items."
        ) from error


@dataclass(frozen=True)
class GivenData:
    """The data of a run that was given a dataset, and perhaps another one for validation.

    Attributes:
        spec: What samples are like.
        training: For training.
        validation: Held out, or None.
        null_cond: The condition of one sample that stands for none, or None.
    """

    spec: DataSpec
    training: Items
    validation: Items | None
    null_cond: Condition = None

    @classmethod
    def from_datasets(
        cls,
        dataset: Any,
        validation: Any = None,
        *,
        num_levels: int | None = None,
        is_bounded: bool = True,
        null_cond: Condition = None,
        needs_null: bool = False,
    ) -> "GivenData":
        """The data of two datasets; the second may be None.

        Raises:
            ValueError: If a dataset has no length or is empty, an item is none, the two do not fit
                each other, or the null condition is needed and unlike those of the data.
        """
        if num_levels is not None and not (isinstance(num_levels, int) and num_levels >= 2):
            raise ValueError(f"num_levels is {num_levels}: give 2 or more, or None.")
        training = Items(dataset, is_bounded)
        x, cond = _first(training)
        if needs_null and not is_alike(cond, null_cond):
            raise ValueError(
                f"null_cond is a {type(null_cond).__name__} that cannot stand for the condition, a "
                f"{type(cond).__name__}: give one in the form, shape and dtype of a batch of one."
            )
        held_out = None if validation is None else Items(validation, is_bounded)
        if held_out is not None:
            other, other_cond = _first(held_out)
            if other.shape != x.shape or (other_cond is None) != (cond is None):
                raise ValueError(
                    f"the validation set's samples have shape {tuple(other.shape[1:])}, the "
                    f"dataset's {tuple(x.shape[1:])}: give both alike, with or without conditions."
                )
        spec = DataSpec(type(dataset).__name__, tuple(x.shape[1:]), num_levels, None)
        return cls(spec, training, held_out, null_cond)

    def fingerprint(self) -> dict[str, Any]:
        """The identifier of the data: sizes, the means of 16 samples and their conditions, and a
        digest of the null condition.

        Means are the same on every machine, to the digits that are kept. Torch's random numbers,
        with which a dataset may augment, are seeded; where it augments with others, samples cannot
        be known again, and there are no means.
        """
        sizes = {"train": len(self.training), "val": len(self.validation or ())}
        held_out = [] if self.validation is None else [self.validation]
        means = [_means(items) for items in (self.training, *held_out)]
        again = [_means(items) for items in (self.training, *held_out)]
        return {
            "name": self.spec.name,
            "shape": list(self.spec.shape),
            **sizes,
            "means": digest(means) if again == means else None,
            "null_cond": null_digest(self.null_cond),
        }

    sampled_fingerprint = fingerprint


def null_digest(null_cond: Condition) -> str:
    """The identifier of a null condition."""
    return digest(repr(map_tensors(lambda part: part.tolist(), null_cond)))


def _means(items: Items) -> list[Any]:
    """The means of some samples and of their conditions, to three decimals."""

    def mean(part: Tensor) -> float:
        return round(part.double().mean().item(), 3) + 0.0  # no minus before zero

    rows = torch.linspace(0, len(items) - 1, min(len(items), NUM_MEANS)).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = [items.batch(row[None]) for row in rows]
    return [[mean(x), repr(map_tensors(mean, cond))] for x, cond in samples]


def _first(items: Items) -> tuple[Float[Tensor, "1 *d"], Condition]:
    """The first sample; raises a ValueError if there is none."""
    if not (hasattr(items.dataset, "__len__") and hasattr(items.dataset, "__getitem__")):
        kind = type(items.dataset).__name__
        raise ValueError(f"a {kind} is no dataset: give one with a length and dataset[i].")
    if len(items) == 0:
        raise ValueError("the dataset is empty.")
    return items.batch(torch.zeros(1, dtype=torch.int64))
