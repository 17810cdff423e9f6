r"""Datasets in arrays: decoded images, and latents as Gaussians from a variational autoencoder.

`elbos data encode` stores the mean and the log-variance of each image's latents, in the units in
which a network is trained, $\mu = (\mu_\text{VAE} - \text{shift}) \cdot \text{scale}$ and
$\log\sigma^2 = \log\sigma^2_\text{VAE} + 2 \log \text{scale}$. The data are draws,

$$x = \mu + \sigma \epsilon, \qquad \epsilon \sim \mathcal N(0, I),$$

another one in each epoch: the means alone have a narrower distribution than the decoder expects.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from elbos.base import files
from elbos.base.checks import Typed
from elbos.base.philox import Purpose, Stream
from elbos.training.data import arrays
from elbos.training.data.augment import augmented
from elbos.training.data.dataset import Dataset, Source, Split
from elbos.training.randomness import Visits

_NUM_AT_ONCE = 256  # samples: drawing noise takes ten times the memory of a sample


@dataclass(frozen=True, kw_only=True)
class Packed(Typed):
    """Images decoded and divided in advance by `elbos data pack`."""

    path: Path
    """Folder that `elbos data pack` wrote; stored as an absolute path."""

    flip: bool = False
    """Mirror half of the training images left to right, another half in each epoch."""

    crop: int | None = None
    """Height and width of the part of an image that is trained on, at another place in each epoch;
    validation and test use the centre. Default: the entire image."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", files.expanded(self.path))

    def load(self) -> Dataset:
        dataset = arrays.load(self.path)
        if dataset.num_levels is None:
            raise ValueError(f"{self.path} holds latents: train with data:latents.")
        return augmented(dataset, flip=self.flip, crop=self.crop)


@dataclass(frozen=True, kw_only=True)
class Latents(Typed):
    """VAE latents encoded by `elbos data encode`, sampled anew in each epoch.

    Samples of a run are latents, too, in the scale of the network.
    """

    path: Path
    """Folder that `elbos data encode` wrote; stored as an absolute path."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", files.expanded(self.path))

    def load(self) -> Dataset:
        dataset = arrays.load(self.path)
        if dataset.num_levels is not None:
            raise ValueError(f"{self.path} holds images: train with data:packed.")
        train, val, test = (
            Split(Moments(split.x, number), split.labels)
            for number, split in enumerate(dataset.splits)
        )
        return replace(dataset, train=train, val=val, test=test)


@dataclass(frozen=True)
class Moments(Source):
    """Latents stored as means and log-variances of Gaussian distributions.

    A stored row is `[2 * c, h, w]`. The number of the split keys its noise, so that no two held-out
    samples share their noise.
    """

    moments: Source
    number: int

    @property
    def shape(self) -> tuple[int, ...]:
        num, channels, *size = self.moments.shape
        return num, channels // 2, *size

    def read(self, rows: Int64[Tensor, " b"]) -> Float32[Tensor, "b c h w"]:
        """Sample latents with fixed noise, so that each call returns equal values."""
        stream = Stream.from_seed(0, Purpose.HELD_OUT_LATENTS)
        number, shape = torch.tensor(self.number), self.shape[1:]
        parts = [
            _drawn(self.moments.read(some), stream.normal(number, some, shape))
            for some in torch.split(rows, _NUM_AT_ONCE)
        ]
        return torch.cat(parts)

    def stored(self, rows: Int64[Tensor, " b"]) -> Float[Tensor, "b d h w"]:
        return self.moments.read(rows)

    def augmented(self, x: Float[Tensor, "b d h w"], visits: Visits) -> Float32[Tensor, "b c h w"]:
        return _drawn(x, visits.normal(Purpose.LATENTS, self.shape[1:]))


def _drawn(
    moments: Float[Tensor, "b d h w"], eps: Float32[Tensor, "b c h w"]
) -> Float32[Tensor, "b c h w"]:
    mean, logvar = moments.float().chunk(2, dim=1)
    return mean + (0.5 * logvar).exp() * eps
