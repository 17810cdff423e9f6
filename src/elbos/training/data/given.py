"""Training data that the user passes in Python, as tensors or map-style datasets."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from elbos.base.checks import require_scaled
from elbos.base.codec import digest
from elbos.base.conditions import Condition, is_alike, map_tensors
from elbos.base.items import Items, first_item
from elbos.training.data.dataset import Dataset, DataSpec

NUM_MEANS = 16  # samples whose means identify the data
NUM_SCALED = 64  # samples whose range is checked: of single numbers, too, enough for a verdict


@dataclass(frozen=True, kw_only=True)
class Given:
    """Placeholder in a configuration for a dataset passed in Python, which cannot be stored."""

    name: str
    """Class name of the dataset."""

    def load(self) -> Dataset:
        raise ValueError(
            f"{self.name} was given to `elbos.fit` in Python and is not stored. "
            "`Run.likelihood(dataset)` evaluates the run on any dataset."
        )


@dataclass(frozen=True)
class GivenData:
    """Training data, and optional validation data and null condition, passed in Python."""

    spec: DataSpec
    train: Items
    val: Items | None
    has_cond: bool
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
        """Check a user's datasets and return them as training data, or raise a ValueError."""
        if num_levels is not None and num_levels < 2:
            raise ValueError(f"num_levels is {num_levels}: give 2 or more, or None.")
        training = Items(dataset, is_bounded)
        x, cond = first_item(training)
        require_scaled(training.batch(_spread(training, NUM_SCALED))[0])
        if needs_null and cond is None:
            raise ValueError(
                "the dataset's items have no condition to drop: give (x, cond), or no cond_dropout."
            )
        if needs_null and not is_alike(cond, null_cond):
            raise ValueError(
                f"null_cond, a {type(null_cond).__name__}, does not fit the condition, a "
                f"{type(cond).__name__}: give it in the form, shape and dtype of a batch of one."
            )
        held_out = None if validation is None else Items(validation, is_bounded)
        if held_out is not None:
            other, other_cond = first_item(held_out)
            if other.shape != x.shape or (other_cond is None) != (cond is None):
                raise ValueError(
                    f"the validation set's samples have shape {tuple(other.shape[1:])}, the "
                    f"dataset's {tuple(x.shape[1:])}: give equal shapes, both with or without "
                    "conditions."
                )
        spec = DataSpec(type(dataset).__name__, tuple(x.shape[1:]), num_levels, None)
        return cls(spec, training, held_out, cond is not None, null_cond)

    def augmented(self, x: Float[Tensor, "b *d"], *_: Any) -> Float[Tensor, "b *d"]:
        return x

    def fingerprint(self) -> dict[str, Any]:
        """Return sizes and digests, of 16 sample means and the null condition, of the user's data.

        Means are rounded to three decimals, to be equal on every machine. If they are not equal
        when they are computed again, as of a dataset that augments, their digest is None.
        """
        parts = [self.train] if self.val is None else [self.train, self.val]
        means, again = ([_means(items) for items in parts] for _ in range(2))
        return {
            "name": self.spec.name,
            "shape": list(self.spec.shape),
            "train": len(self.train),
            "val": len(self.val or ()),
            "means": digest(means) if again == means else None,
            "has_cond": self.has_cond,
            "null_cond": null_digest(self.null_cond),
        }


def null_digest(null_cond: Condition) -> str:
    return digest(repr(map_tensors(lambda part: part.tolist(), null_cond)))


def _spread(items: Items, num: int) -> Int64[Tensor, " n"]:
    return torch.linspace(0, len(items) - 1, min(len(items), num)).long()


def _means(items: Items) -> list[Any]:
    def mean(part: Tensor) -> float:
        return round(part.double().mean().item(), 3) + 0.0  # avoids -0.0

    rows = _spread(items, NUM_MEANS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = [items.batch(row[None]) for row in rows]
    return [[mean(x), repr(map_tensors(mean, cond))] for x, cond in samples]
