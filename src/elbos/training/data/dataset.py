r"""Datasets, and the map between pixel values and the interval $[-1, 1]$.

The likelihood of discrete data is a probability of values $k \in \{0, \dots, K-1\}$, so integers
are stored. The network is given

$$x = \frac{2k}{K-1} - 1 \in [-1, 1].$$
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from elbos.base.conditions import Condition
from elbos.base.items import Batch, Batched
from elbos.training.data.source import Source, digest_of
from elbos.training.randomness import Visits

SPLITS = ("train", "val", "test")
MAX_CLASSES = 1_000_000
"""Limit of the number of classes, since a network has weights for each."""


@dataclass(frozen=True)
class Split:
    """Samples and labels for training, validation or testing.

    Attributes:
        x: Pixel values, points or latents, indexed like a tensor.
        labels: Class of each sample, in `0..num_classes-1`, or None.
    """

    x: Source
    labels: Int64[Tensor, " n"] | None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class DataSpec:
    """Properties of a dataset that networks and samplers need.

    Attributes:
        name: Its name in reports.
        shape: Shape of one sample, `(c, h, w)` or `(d,)`.
        num_levels: $K$, the number of values of a pixel, or None for continuous data.
        num_classes: Number of classes, or None where there are no labels.
    """

    name: str
    shape: tuple[int, ...]
    num_levels: int | None
    num_classes: int | None

    def __post_init__(self) -> None:
        levels = 2 if self.num_levels is None else self.num_levels
        classes = 1 if self.num_classes is None else self.num_classes
        is_shape = min(self.shape, default=0) > 0 and math.prod(self.shape) < 2**60
        if not is_shape or levels < 2 or not 1 <= classes <= MAX_CLASSES:
            raise ValueError(f"invalid data: {self.described}")

    @property
    def described(self) -> str:
        """Describe shape, pixel values and classes."""
        values = "any values" if self.num_levels is None else f"{self.num_levels} pixel values"
        classes = "" if self.num_classes is None else f", {self.num_classes} classes"
        return f"shape {'x'.join(map(str, self.shape))}, {values}{classes}"


class Trained(Batched, Protocol):
    """Samples that are trained on, by number."""

    def stored(self, rows: Int64[Tensor, " b"]) -> Batch:
        """Return samples as they are transferred to the device, and their condition."""


class Samples(Protocol):
    """Interface of the data of a training: a `Dataset`, or data given in Python."""

    @property
    def spec(self) -> DataSpec: ...

    @property
    def training(self) -> "Trained": ...

    @property
    def validation(self) -> Batched | None: ...

    @property
    def null_cond(self) -> Condition:
        """Null condition of one sample, `[1, ...]`, or None."""

    def augmented(self, x: Shaped[Tensor, "b *e"], visits: Visits) -> Shaped[Tensor, "b *d"]:
        """Make training data of stored samples, on their device."""

    def fingerprint(self) -> dict[str, Any]:
        """Return the identifier of the data."""


@dataclass(frozen=True)
class Levels:
    """Samples of a split in the range of a network."""

    split: Split
    num_levels: int | None

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, rows: Int64[Tensor, " b"]) -> Batch:
        """Return data in [-1, 1] (points unchanged), and labels if there are any."""
        x = to_unit(self.split.x[rows], self.num_levels)
        return x, self._labels(rows)

    def stored(self, rows: Int64[Tensor, " b"]) -> Batch:
        """Return samples as they are stored: pixel values take a quarter of the bytes of data."""
        return self.split.x.stored(rows), self._labels(rows)

    def _labels(self, rows: Int64[Tensor, " b"]) -> Int64[Tensor, " b"] | None:
        labels = self.split.labels
        return None if labels is None else labels[rows]


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits of one dataset.

    Attributes:
        name: Its name in reports.
        train: For training.
        val: Held out, for validation during training.
        test: Held out, for the evaluation at the end.
        num_levels: $K$, the number of values of a pixel, or None for continuous data.
        num_classes: Number of classes, or None where there are no labels.
        class_names: One name per class, or None where classes have no names.
        known_digest: `digest_of` the three splits' `x`, or another digest of all samples, if it is
            known already.
    """

    name: str
    train: Split
    val: Split
    test: Split
    num_levels: int | None
    num_classes: int | None
    class_names: tuple[str, ...] | None
    known_digest: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, `(c, h, w)` or `(d,)`."""
        return self.train.x.shape[1:]

    @property
    def spec(self) -> DataSpec:
        """Properties that networks and samplers need."""
        return DataSpec(self.name, self.shape, self.num_levels, self.num_classes)

    @property
    def training(self) -> Levels:
        """Training samples in the range of a network."""
        return Levels(self.train, self.num_levels)

    @property
    def validation(self) -> Levels:
        """Validation samples in the range of a network."""
        return Levels(self.val, self.num_levels)

    @property
    def null_cond(self) -> Int64[Tensor, " 1"]:
        """Label that stands for no class."""
        return torch.tensor([-1])

    def augmented(self, x: Shaped[Tensor, "b *e"], visits: Visits) -> Shaped[Tensor, "b *d"]:
        """Map stored training samples to [-1, 1] (points unchanged), augmented."""
        return to_unit(self.train.x.augmented(x, visits), self.num_levels)

    def fingerprint(self) -> dict[str, Any]:
        """Return the identifier: sizes, and a digest of all pixel values and labels.

        It is computed once: of the 70,000 images of Fashion-MNIST in a tenth of a second.
        """
        return {"version": 2, **self._sizes, "sha256": self._digest}

    @cached_property
    def _digest(self) -> str:
        levels = self.known_digest or digest_of(split.x[:] for split in self.splits)
        labels = [s.labels for s in self.splits if s.labels is not None]
        for some in labels:
            num = self.num_classes or math.inf
            if len(some) and not 0 <= some.min() <= some.max() < num:
                raise ValueError(
                    f"{self.name} has labels {some.min()} to {some.max()}, and {self.num_classes} "
                    "classes, which are counted from 0: repair the labels, or pack the data again."
                )
        return hashlib.sha256(f"{levels} {digest_of(labels)}".encode()).hexdigest()

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Training, validation and test split."""
        return self.train, self.val, self.test

    @property
    def _sizes(self) -> dict[str, Any]:
        sizes = {name: len(getattr(self, name)) for name in SPLITS}
        return {"name": self.name, "shape": list(self.shape), **sizes}


def to_unit(levels: Shaped[Tensor, "*b"], num_levels: int | None) -> Float[Tensor, "*b"]:
    """Map pixel values to the interval [-1, 1].

    Continuous data (`num_levels=None`) are unchanged.

    Exact at both ends. Integers become float32; a floating dtype is kept.

    Args:
        levels: Values in `0..num_levels-1`.
        num_levels: Number of values, at least 2, or None.

    Examples:
        >>> to_unit(torch.tensor([0, 8, 16]), num_levels=17)
        tensor([-1.,  0.,  1.])
    """
    if num_levels is None:
        return levels
    x = levels if levels.is_floating_point() else levels.float()
    return 2 * x / (num_levels - 1) - 1


def to_levels(x: Float[Tensor, "*b"], num_levels: int | None) -> Shaped[Tensor, "*b"]:
    """Map samples to the nearest pixel value, after a clamp to [-1, 1]: the inverse of `to_unit`.

    Args:
        x: Samples.
        num_levels: Number of pixel values, from 2 to 256, or None to pass `x` unchanged.

    Returns:
        Pixel values, uint8; or `x` itself.

    Examples:
        >>> to_levels(torch.tensor([-1.3, 0.01, 1.0]), num_levels=17)
        tensor([ 0,  8, 16], dtype=torch.uint8)
    """
    if num_levels is None:
        return x
    levels = (x + 1) * (num_levels - 1) / 2
    return levels.round().clamp(0, num_levels - 1).to(torch.uint8)


def to_pixels(levels: UInt8[Tensor, "*b"], num_levels: int) -> UInt8[Tensor, "*b"]:
    """Rescale pixel values to 0 to 255, exact at both ends.

    Args:
        levels: Values in `0..num_levels-1`.
        num_levels: Number of values, from 2 to 256.

    Examples:
        >>> to_pixels(torch.tensor([0, 8, 16], dtype=torch.uint8), num_levels=17)
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return (levels.float() * 255 / (num_levels - 1)).round().to(torch.uint8)


# --- downloads -----------------------------------------------------------------------------------

_ARE_ALLOWED = ContextVar("are_downloads_allowed", default=True)
"""False for data that the files of a run name: those may be a stranger's."""


@contextmanager
def without_downloads() -> Iterator[None]:
    """Load data of this machine alone within the `with` block: a run may be a stranger's."""
    token = _ARE_ALLOWED.set(False)
    try:
        yield
    finally:
        _ARE_ALLOWED.reset(token)


def are_downloads_allowed() -> bool:
    """Return whether data may be downloaded here."""
    return _ARE_ALLOWED.get()
