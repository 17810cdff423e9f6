r"""Latents of images, as the distributions that a variational autoencoder makes of them.

`elbos data encode` keeps the mean and the log-variance of each image's latents, in the units in
which a network is trained, $\mu = (\mu_\text{VAE} - \text{shift}) \cdot \text{scale}$ and
$\log\sigma^2 = \log\sigma^2_\text{VAE} + 2 \log \text{scale}$. The data are draws,

$$x = \mu + \sigma \epsilon, \qquad \epsilon \sim \mathcal N(0, I),$$

another one in each epoch: a mean alone would be a narrower distribution than the decoder knows.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from elbos.base import files
from elbos.base.checks import Typed
from elbos.base.philox import Purpose, Stream
from elbos.training.data.dataset import Dataset, Split
from elbos.training.data.shards import Index, load_shards
from elbos.training.data.source import Source
from elbos.training.randomness import Visits

_NUM_AT_ONCE = 256  # samples: the noise of each takes some ten times its memory while it is drawn


@dataclass(frozen=True)
class Moments(Source):
    """Latents whose means and log-variances are stored, one after the other in the channels.

    Attributes:
        moments: Of `[2 * c, h, w]` each.
        number: Of the split, so that no two held-out samples share their noise.
    """

    moments: Source
    number: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of samples, and the shape of one."""
        num, channels, *size = self.moments.shape
        return num, channels // 2, *size

    def fingerprint(self) -> str:
        """The identifier of all samples."""
        return self.moments.fingerprint()

    def read(self, rows: Int64[Tensor, " b"]) -> Float32[Tensor, "b c h w"]:
        """A draw of each, always the same, as validation needs it."""
        stream = Stream.from_seed(0, Purpose.HELD_OUT_LATENTS)
        number, shape = torch.tensor(self.number), self.shape[1:]
        parts = [
            _drawn(self.moments.read(some), stream.normal(number, some, shape))
            for some in torch.split(rows, _NUM_AT_ONCE)
        ]
        return torch.cat(parts)

    def stored(self, rows: Int64[Tensor, " b"]) -> Float[Tensor, "b d h w"]:
        """Means and log-variances."""
        return self.moments.read(rows)

    def augmented(self, x: Float[Tensor, "b d h w"], visits: Visits) -> Float32[Tensor, "b c h w"]:
        """A draw of each for each epoch."""
        return _drawn(x, visits.normal(Purpose.LATENTS, self.shape[1:]))


def _drawn(
    moments: Float[Tensor, "b d h w"], eps: Float32[Tensor, "b c h w"]
) -> Float32[Tensor, "b c h w"]:
    """Draws from distributions of which means and log-variances are given."""
    mean, logvar = moments.float().chunk(2, dim=1)
    return mean + (0.5 * logvar).exp() * eps


@dataclass(frozen=True, kw_only=True)
class Latents(Typed):
    """Latents that `elbos data encode` made, drawn anew in each epoch; continuous data.

    Samples of a run are latents, too, scaled as the network knows them.
    """

    path: Path
    """Folder that `elbos data encode` wrote; kept as an absolute path."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", files.expanded(self.path))

    def load(self) -> Dataset:
        """Open the dataset, without a look at any latent.

        Raises:
            FileNotFoundError: If there are no latents, or not all.
            ValueError: If they are damaged, or something else.
        """
        index = Index.read(self.path)
        if index.num_levels is not None:
            raise ValueError(f"{self.path} holds images: train with data:packed.")
        opened = load_shards(self.path, index)
        return replace(
            opened,
            train=_distributions(opened.train, 0),
            val=_distributions(opened.val, 1),
            test=_distributions(opened.test, 2),
        )


def _distributions(split: Split, stream: int) -> Split:
    """A split whose stored numbers are means and log-variances."""
    return Split(Moments(split.x, stream), split.labels)
