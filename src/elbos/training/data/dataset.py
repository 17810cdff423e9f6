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
    """Name, shape of one sample, number of pixel values and number of classes of a dataset.

    Attributes:
        name: Name of the dataset in reports.
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
        """Text that states shape of a sample, number of pixel values and number of classes."""
        values = "any values" if self.num_levels is None else f"{self.num_levels} pixel values"
        classes = "" if self.num_classes is None else f", {self.num_classes} classes"
        return f"shape {'x'.join(map(str, self.shape))}, {values}{classes}"


class Trained(Batched, Protocol):
    """Interface of indexed training samples."""

    def stored(self, rows: Int64[Tensor, " b"]) -> Batch:
        """Return samples in the format that is sent to the device, and the condition or None."""


class Samples(Protocol):
    """Interface of training data: a `Dataset`, or data given in Python."""

    @property
    def spec(self) -> DataSpec: ...

    @property
    def training(self) -> "Trained": ...

    @property
    def validation(self) -> Batched | None: ...

    @property
    def null_cond(self) -> Condition:
        """Null (unconditional) condition, as a batch of one, `[1, ...]`; or None."""

    def augmented(self, x: Shaped[Tensor, "b *e"], visits: Visits) -> Shaped[Tensor, "b *d"]:
        """Convert stored samples to augmented training data, on the device of the samples."""

    def fingerprint(self) -> dict[str, Any]:
        """Return sizes and digests that identify the data."""


@dataclass(frozen=True)
class Levels:
    """Samples of a split, scaled to [-1, 1] when they are read."""

    split: Split
    num_levels: int | None

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, rows: Int64[Tensor, " b"]) -> Batch:
        """Return data scaled to [-1, 1] (continuous data unchanged), and labels or None."""
        x = to_unit(self.split.x[rows], self.num_levels)
        return x, self._labels(rows)

    def stored(self, rows: Int64[Tensor, " b"]) -> Batch:
        """Return samples in their stored format (unscaled), and labels or None.

        Pixel values take a quarter of the bytes of float32 data.
        """
        return self.split.x.stored(rows), self._labels(rows)

    def _labels(self, rows: Int64[Tensor, " b"]) -> Int64[Tensor, " b"] | None:
        labels = self.split.labels
        return None if labels is None else labels[rows]


@dataclass(frozen=True)
class Dataset:
    """Dataset of three disjoint splits for training, validation and testing.

    Attributes:
        name: Name of the dataset in reports.
        train: Training split.
        val: Split held out for validation during training.
        test: Split held out for evaluation after training.
        num_levels: $K$, the number of values of a pixel, or None for continuous data.
        num_classes: Number of classes, or None where there are no labels.
        class_names: One name per class, or None where classes have no names.
        known_digest: Digest of the samples of all splits, if it was computed before. Default:
            `digest_of` the `x` of all splits.
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
        """Name, shape of one sample, number of pixel values and number of classes."""
        return DataSpec(self.name, self.shape, self.num_levels, self.num_classes)

    @property
    def training(self) -> Levels:
        """Training samples, scaled to [-1, 1]."""
        return Levels(self.train, self.num_levels)

    @property
    def validation(self) -> Levels:
        """Validation samples, scaled to [-1, 1]."""
        return Levels(self.val, self.num_levels)

    @property
    def null_cond(self) -> Int64[Tensor, " 1"]:
        """Null (unconditional) label for classifier-free guidance: -1."""
        return torch.tensor([-1])

    def augmented(self, x: Shaped[Tensor, "b *e"], visits: Visits) -> Shaped[Tensor, "b *d"]:
        """Augment stored training samples and scale them to [-1, 1] (continuous data unchanged)."""
        return to_unit(self.train.x.augmented(x, visits), self.num_levels)

    def fingerprint(self) -> dict[str, Any]:
        """Return sizes, and a SHA-256 of all samples and labels, which identify the dataset.

        The digest is computed once; 70,000 images of Fashion-MNIST take a tenth of a second.
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
        """Training, validation and test split, in this order."""
        return self.train, self.val, self.test

    @property
    def _sizes(self) -> dict[str, Any]:
        sizes = {name: len(getattr(self, name)) for name in SPLITS}
        return {"name": self.name, "shape": list(self.shape), **sizes}


def to_unit(levels: Shaped[Tensor, "*b"], num_levels: int | None) -> Float[Tensor, "*b"]:
    """Map pixel values linearly to [-1, 1]; return continuous data (`num_levels=None`) unchanged.

    The map is exact at both ends. Integers become float32; a floating dtype is kept.

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
    """Clamp samples to [-1, 1] and round to the nearest pixel values: the inverse of `to_unit`.

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
    """Rescale pixel values from `0..num_levels-1` to `0..255`.

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
"""False while loading data that a run directory names: the directory may be a stranger's."""


@contextmanager
def without_downloads() -> Iterator[None]:
    """Forbid downloads of data within the `with` block.

    Used for data that a run directory names, since the directory may come from a stranger.
    """
    token = _ARE_ALLOWED.set(False)
    try:
        yield
    finally:
        _ARE_ALLOWED.reset(token)


def are_downloads_allowed() -> bool:
    """Return whether downloads of data are allowed in this context."""
    return _ARE_ALLOWED.get()
