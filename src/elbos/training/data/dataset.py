r"""Datasets: sources of samples, their splits, and the map between pixel values and $[-1, 1]$.

The likelihood of discrete data is a probability of values $k \in \{0, \dots, K-1\}$, so integers
are stored. The network is given

$$x = \frac{2k}{K-1} - 1 \in [-1, 1].$$
"""

import abc
import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from elbos.base.checks import diagnosed
from elbos.base.items import Batch
from elbos.training.randomness import Visits

SPLITS = ("train", "val", "test")
MAX_CLASSES = 1_000_000
"""Limit of the number of classes, since a network has weights for each."""


class Source(abc.ABC):
    """Samples of a dataset split, indexed like a tensor: `x[rows]`, `x[:100]`, `x[3]`.

    Reading is a pure function of the indices and thread-safe. Validation and evaluation read the
    same samples in each epoch; training may augment the stored samples (`stored`, `augmented`).
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape `(n, *d)` of all samples."""

    @abc.abstractmethod
    def read(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *d"]:
        """Return the samples at the given indices: integer pixel values, or continuous data."""

    def stored(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *e"]:
        """Return the samples at the given indices before augmentation."""
        return self.read(rows)

    def augmented(self, x: Shaped[Tensor, "b *e"], visits: Visits) -> Shaped[Tensor, "b *d"]:
        """Augment stored samples on the device by the random numbers of `visits`."""
        del visits
        return x

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Int64[Tensor, " b"] | slice | int) -> Shaped[Tensor, "..."]:
        if isinstance(rows, int):
            return self.read(torch.tensor([range(len(self))[rows]]))[0]
        if isinstance(rows, slice):
            return self.read(torch.arange(*rows.indices(len(self))))
        return self.read(rows)

    def split(self, size: int) -> Iterator[Shaped[Tensor, "b *d"]]:
        """Yield all samples in batches of `size`."""
        return (self[start : start + size] for start in range(0, len(self), size))


@dataclass(frozen=True)
class InMemory(Source):
    """Samples of a dataset split, held in one tensor that is never modified."""

    x: Shaped[Tensor, "n *d"]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape)

    def read(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *d"]:
        # NumPy copies in one thread; torch would take cores from the training
        return torch.from_numpy(self.x.numpy()[rows.numpy()])

    def __getitem__(self, rows: Int64[Tensor, " b"] | slice | int) -> Shaped[Tensor, "..."]:
        return self.x[rows]  # a slice is a view


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Return the SHA-256 of the concatenated bytes of several tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)  # bfloat16, too
    return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Samples of a dataset split and their class labels `0..num_classes-1`, or None.

    Batches are in [-1, 1]: of `num_levels` pixel values, or of continuous data, if it is None.
    """

    x: Source
    labels: Int64[Tensor, " n"] | None
    num_levels: int | None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Int64[Tensor, " b"]) -> Batch:
        return to_unit(self.x[rows], self.num_levels), self._labels(rows)

    def stored(self, rows: Int64[Tensor, " b"]) -> Batch:
        return self.x.stored(rows), self._labels(rows)

    def _labels(self, rows: Int64[Tensor, " b"]) -> Int64[Tensor, " b"] | None:
        return None if self.labels is None else self.labels[rows]


@dataclass(frozen=True)
class DataSpec:
    """Name, sample shape, and numbers of pixel values and classes of a dataset.

    `num_levels` is None for continuous data, `num_classes` for unlabelled data.
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
        values = "any values" if self.num_levels is None else f"{self.num_levels} pixel values"
        classes = "" if self.num_classes is None else f", {self.num_classes} classes"
        return f"shape {'x'.join(map(str, self.shape))}, {values}{classes}"


@dataclass(frozen=True)
class Dataset:
    """Dataset of three disjoint splits for training, validation and testing.

    Attributes:
        name: Name of the dataset in reports.
        train: Training split.
        val: Split held out for validation during training.
        test: Split held out for evaluation after training.
        num_classes: Number of classes, or None where there are no labels.
        class_names: Names of the classes, or None.
        known_digest: SHA-256 of the `x` of all splits, if it was computed before.
    """

    name: str
    train: Split
    val: Split
    test: Split
    num_classes: int | None
    class_names: tuple[str, ...] | None
    known_digest: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, `(c, h, w)` or `(d,)`."""
        return self.train.x.shape[1:]

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.name, self.shape, self.num_levels, self.num_classes)

    @property
    def num_levels(self) -> int | None:
        """The number $K$ of values of a pixel, or None for continuous data."""
        return self.train.num_levels

    @property
    def null_cond(self) -> Int64[Tensor, " 1"]:
        """Null label -1 of classifier-free guidance."""
        return torch.tensor([-1])

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        return self.train, self.val, self.test

    @cached_property
    def all(self) -> Split:
        """Training, validation and test samples together, in memory."""
        labels = [split.labels for split in self.splits if split.labels is not None]
        x = InMemory(torch.cat([split.x[:] for split in self.splits]))
        return replace(self.train, x=x, labels=torch.cat(labels) if labels else None)

    def augmented(self, x: Shaped[Tensor, "b *e"], visits: Visits) -> Shaped[Tensor, "b *d"]:
        return to_unit(self.train.x.augmented(x, visits), self.num_levels)

    def fingerprint(self) -> dict[str, Any]:
        """Return name, sample shape, split sizes, and SHA-256 of all samples and labels.

        Raises:
            ValueError: If a label is not a class.
        """
        sizes = {name: len(getattr(self, name)) for name in SPLITS}
        properties = {"name": self.name, "shape": list(self.shape)}
        return {"version": 2, **properties, **sizes, "sha256": self._digest}

    @cached_property
    def _digest(self) -> str:
        levels = self.known_digest or digest_of(split.x[:] for split in self.splits)
        labels = [s.labels for s in self.splits if s.labels is not None]
        for some in labels:
            if len(some) and not 0 <= some.min() <= some.max() < (self.num_classes or math.inf):
                raise ValueError(
                    f"{self.name} has labels {some.min()} to {some.max()}, and {self.num_classes} "
                    "classes, which are counted from 0: repair the labels, or pack the data again."
                )
        return hashlib.sha256(f"{levels} {digest_of(labels)}".encode()).hexdigest()


# --- pixel values --------------------------------------------------------------------------------


@diagnosed
def to_unit(levels: Shaped[Tensor, "*b"], num_levels: int | None) -> Float[Tensor, "*b"]:
    """Map pixel values `0..num_levels-1` linearly to [-1, 1].

    The ends are exact. Integers become float32; a floating dtype stays. Continuous data
    (`num_levels=None`) are returned unchanged.

    Examples:
        >>> to_unit(torch.tensor([0, 8, 16]), num_levels=17)
        tensor([-1.,  0.,  1.])
    """
    if num_levels is None:
        return levels
    x = levels if levels.is_floating_point() else levels.float()
    return 2 * x / (num_levels - 1) - 1


def to_levels(x: Float[Tensor, "*b"], num_levels: int | None) -> Shaped[Tensor, "*b"]:
    """Convert samples to pixel values `0..num_levels-1`: the inverse of `to_unit`, with rounding.

    The dtype is the first of uint8, uint16 and int32 that holds all values. Continuous data
    (`num_levels=None`) are returned unchanged.

    Examples:
        >>> to_levels(torch.tensor([-1.3, 0.01, 1.0]), num_levels=17)
        tensor([ 0,  8, 16], dtype=torch.uint8)
    """
    if num_levels is None:
        return x
    dtypes = (torch.uint8, torch.uint16, torch.int32)
    dtype = next(dtype for dtype in dtypes if num_levels - 1 <= torch.iinfo(dtype).max)
    levels = (x + 1) * (num_levels - 1) / 2
    return levels.round().clamp(0, num_levels - 1).to(dtype)


def to_pixels(levels: UInt8[Tensor, "*b"], num_levels: int) -> UInt8[Tensor, "*b"]:
    """Rescale pixel values `0..num_levels-1`, of at most 256, to `0..255`.

    Examples:
        >>> to_pixels(torch.tensor([0, 8, 16], dtype=torch.uint8), num_levels=17)
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return (levels.float() * 255 / (num_levels - 1)).round().to(torch.uint8)


# --- downloads -----------------------------------------------------------------------------------

_ARE_ALLOWED = ContextVar("are_downloads_allowed", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Forbid downloads within the `with` block: an untrusted run may name any dataset."""
    token = _ARE_ALLOWED.set(False)
    try:
        yield
    finally:
        _ARE_ALLOWED.reset(token)


def are_downloads_allowed() -> bool:
    return _ARE_ALLOWED.get()
