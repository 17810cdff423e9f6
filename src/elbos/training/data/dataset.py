r"""Datasets: sources of samples, their splits, and the map between pixel values and $[-1, 1]$.

The likelihood of discrete data is a probability of values $k \in \{0, \dots, K-1\}$, so integers
are stored. The network is given

$$x = \frac{2k}{K-1} - 1 \in [-1, 1].$$
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from elbos.base.items import Batch, Batched
from elbos.base.philox import Purpose, Stream
from elbos.training.data.augment import cropped, mirrored

SPLITS = ("train", "val", "test")


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

    Attributes:
        x: Pixel values or continuous data, in memory or mapped from a file, and never modified.
        uncropped: The images of which `x` holds the centre, and training a random part, or None.
    """

    x: Shaped[Tensor, "n *d"]
    labels: Int64[Tensor, " n"] | None
    num_levels: int | None
    uncropped: Shaped[Tensor, "n *e"] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Int64[Tensor, " b"]) -> Batch:
        return to_unit(self.x[rows], self.num_levels), self._labels(rows)

    def stored(self, rows: Int64[Tensor, " b"]) -> Batch:
        """Return samples before augmentation, and their labels."""
        x = self.x if self.uncropped is None else self.uncropped
        # NumPy copies in one thread; torch would take cores from the training.
        return torch.from_numpy(x.numpy()[rows.numpy()]), self._labels(rows)

    def _labels(self, rows: Int64[Tensor, " b"]) -> Int64[Tensor, " b"] | None:
        return None if self.labels is None else self.labels[rows]


@dataclass(frozen=True)
class Subset:
    """Chosen rows of a dataset, with or without their conditions."""

    source: Batched
    rows: Int64[Tensor, " n"]
    use_cond: bool

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Int64[Tensor, " b"]) -> Batch:
        x, cond = self.source.batch(self.rows[rows])
        return x, cond if self.use_cond else None


@dataclass(frozen=True)
class DataSpec:
    """Name, sample shape, and numbers of pixel values and classes of a dataset.

    `num_levels` is None for continuous data, `num_classes` for unlabelled data.
    """

    name: str
    shape: tuple[int, ...]
    num_levels: int | None
    num_classes: int | None

    @property
    def described(self) -> str:
        values = "any values" if self.num_levels is None else f"{self.num_levels} pixel values"
        classes = "" if self.num_classes is None else f", {self.num_classes} classes"
        return f"shape {'x'.join(map(str, self.shape))}, {values}{classes}"


@dataclass(frozen=True)
class Dataset:
    """Dataset of three disjoint splits for training, validation and testing.

    `val` is held out for validation during training, `test` for evaluation after it. The SHA-256 of
    the `x` of all splits is `known_digest`, if it was computed before. With `flip`, training
    mirrors half of the images.
    """

    name: str
    train: Split
    val: Split
    test: Split
    num_classes: int | None
    class_names: tuple[str, ...] | None
    known_digest: str | None = None
    flip: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, `(c, h, w)` or `(d,)`."""
        return tuple(self.train.x.shape[1:])

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
        x = torch.cat([split.x for split in self.splits])
        return replace(self.train, x=x, labels=torch.cat(labels) if labels else None)

    def with_augmentation(self, *, flip: bool, crop: int | None) -> "Dataset":
        """Return the dataset with flips and random crops in training, and centre crops else."""
        if crop is None:
            return replace(self, flip=flip)
        height, width = self.shape[1:]
        if not 1 <= crop <= min(height, width):
            raise ValueError(
                f"crop is {crop}: give 1 to {min(height, width)}, the side of the images, or none."
            )
        top, left = (height - crop) // 2, (width - crop) // 2
        train, val, test = (
            replace(split, x=split.x[..., top : top + crop, left : left + crop], uncropped=split.x)
            for split in self.splits
        )
        return replace(self, train=train, val=val, test=test, flip=flip)

    def augmented(
        self,
        x: Shaped[Tensor, "b *e"],
        key: tuple[int, int],
        rows: Int64[Tensor, " b"],
        epochs: Int64[Tensor, " b"],
    ) -> Float[Tensor, "b *d"]:
        """Augment stored training samples on the device, and map them to [-1, 1].

        The random numbers are those of `key`, of the run's seed, for each sample in its epoch.
        """
        if self.train.uncropped is not None:
            x = cropped(x, self.shape[-1], Stream(key, Purpose.CROPS).uniform(epochs, rows, 2))
        if self.flip:
            x = mirrored(x, Stream(key, Purpose.FLIPS).uniform(epochs, rows, 1))
        return to_unit(x, self.num_levels)

    def fingerprint(self) -> dict[str, Any]:
        """Return name, sample shape, split sizes, and SHA-256 of all samples and labels."""
        sizes = {name: len(getattr(self, name)) for name in SPLITS}
        properties = {"name": self.name, "shape": list(self.shape)}
        return {"version": 2, **properties, **sizes, "sha256": self._digest}

    @cached_property
    def _digest(self) -> str:
        levels = self.known_digest or digest_of(split.x for split in self.splits)
        labels = digest_of(split.labels for split in self.splits if split.labels is not None)
        return hashlib.sha256(f"{levels} {labels}".encode()).hexdigest()


# --- pixel values --------------------------------------------------------------------------------


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


def require_download(name: str, option: str) -> None:
    """Raise a FileNotFoundError if downloads are forbidden; the option names data to train on."""
    if not _ARE_ALLOWED.get():
        raise FileNotFoundError(
            f"{name} is not on this machine, and data named by a run are not downloaded: train "
            f"with {option} to download it"
        )
