"""Random flips and crops of training images, different in each epoch; images of one channel.

Flips and crops are computed on the device, from random numbers of (seed, epoch, sample): resuming,
batches and processes do not change them. Validation and evaluation use the centre of each image.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from elbos.base.philox import Purpose
from elbos.training.data.dataset import Dataset, Source, Split
from elbos.training.randomness import Visits


@dataclass(frozen=True)
class Augmented(Source):
    """Training images mirrored with probability 1/2 and cropped to random squares."""

    images: Source
    flip: bool
    crop: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        num, channels, *size = self.images.shape
        return num, channels, *((self.crop, self.crop) if self.crop else size)

    def read(self, rows: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        x = self.images.read(rows)
        if self.crop is None:
            return x
        top, left = ((side - self.crop) // 2 for side in x.shape[-2:])
        return x[..., top : top + self.crop, left : left + self.crop].contiguous()

    def stored(self, rows: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c i j"]:
        return self.images.read(rows)

    def augmented(self, x: UInt8[Tensor, "b c i j"], visits: Visits) -> UInt8[Tensor, "b c h w"]:
        if self.crop is not None:
            places = []
            for u, side in zip(
                visits.uniform(Purpose.CROPS, 2).unbind(1), x.shape[-2:], strict=True
            ):
                last = side - self.crop
                first = (u * (last + 1)).long().clamp(max=last)  # u is in (0, 1]
                places.append(first[:, None] + torch.arange(self.crop, device=x.device))
            rows, columns = places
            sample, channel = (torch.arange(num, device=x.device) for num in x.shape[:2])
            at = sample[:, None, None, None], channel[:, None, None]
            x = x[*at, rows[:, None, :, None], columns[:, None, None, :]]
        if self.flip:
            is_mirrored = visits.uniform(Purpose.FLIPS, 1).view(-1, 1, 1, 1) <= 0.5
            x = torch.where(is_mirrored, x.flip(-1), x)
        return x


def augmented(dataset: Dataset, *, flip: bool, crop: int | None) -> Dataset:
    """Return a dataset with random flips and crops in training, and crops at the centre else."""
    side = min(dataset.shape[1:])
    if crop is not None and not 1 <= crop <= side:
        raise ValueError(f"crop is {crop}: give 1 to {side}, the side of the images, or none.")

    def split(of: Split, flip: bool) -> Split:
        return replace(of, x=Augmented(of.x, flip, crop)) if flip or crop else of

    train, val, test = dataset.train, dataset.val, dataset.test
    return replace(
        dataset, train=split(train, flip), val=split(val, False), test=split(test, False)
    )


@dataclass(frozen=True)
class Grey(Source):
    """The one channel of grey images that are stored as RGB."""

    images: Source

    @property
    def shape(self) -> tuple[int, ...]:
        num, _, *size = self.images.shape
        return num, 1, *size

    def read(self, rows: Int64[Tensor, " b"]) -> UInt8[Tensor, "b 1 h w"]:
        x = self.images.read(rows)
        if not (x == x[:, :1]).all():
            raise ValueError("the pictures have colours, and one channel is wanted: give grey ones")
        return x[:, :1].contiguous()


def grey(dataset: Dataset) -> Dataset:
    """Return a dataset of grey images with one channel in place of three equal ones."""
    train, val, test = (replace(of, x=Grey(of.x)) for of in dataset.splits)
    return replace(dataset, train=train, val=val, test=test, known_digest=None)
