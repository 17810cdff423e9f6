"""Label-preserving changes of training images, others in each epoch.

Made on the device, of pixel values, by random numbers of (seed, epoch, sample): resuming, batches
and processes do not change them. Validation and evaluation read images as they are.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from elbos.training.data.dataset import Dataset, Split
from elbos.training.data.source import Source
from elbos.training.randomness import Purpose, Visits


@dataclass(frozen=True)
class Mirrored(Source):
    """Images of which a training mirrors half left to right, another half in each epoch.

    Attributes:
        images: As they are.
    """

    images: Source

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of images, and the shape of one."""
        return self.images.shape

    def read(self, rows: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """The images of these numbers, as they are."""
        return self.images.read(rows)

    def fingerprint(self) -> str:
        """The identifier of all images."""
        return self.images.fingerprint()

    def augmented(self, x: UInt8[Tensor, "b c h w"], visits: Visits) -> UInt8[Tensor, "b c h w"]:
        """The images, half of them mirrored."""
        is_mirrored = visits.uniform(Purpose.FLIPS, 1).view(-1, 1, 1, 1) <= 0.5
        return torch.where(is_mirrored, x.flip(-1), x)


def augmented(dataset: Dataset, *, flip: bool) -> Dataset:
    """A dataset of images, which a training mirrors if `flip`."""
    train = dataset.train
    return replace(dataset, train=Split(Mirrored(train.x), train.labels)) if flip else dataset
