r"""Latents of images, as the distributions that a variational autoencoder makes of them.

`elbos data encode` keeps the mean and the log-variance of each image's latents, in the units in
which a network is trained, $\mu = (\mu_\text{VAE} - \text{shift}) \cdot \text{scale}$ and
$\log\sigma^2 = \log\sigma^2_\text{VAE} + 2 \log \text{scale}$. The data are draws,

$$x = \mu + \sigma \epsilon, \qquad \epsilon \sim \mathcal N(0, I),$$

another one in each epoch: a mean alone would be a narrower distribution than the decoder knows.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from elbos import files
from elbos.training.data.dataset import Dataset, Split
from elbos.training.data.shards import Index, load_shards
from elbos.training.data.source import Source


@dataclass(frozen=True)
class Moments(Source):
    """Latents whose means and log-variances are stored, one after the other in the channels.

    Attributes:
        stored: Of `[2 * c, h, w]` each.
        stream: The number of the split, so that no two samples share their noise.
    """

    stored: Source
    stream: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of samples, and the shape of one."""
        num, channels, *size = self.stored.shape
        return num, channels // 2, *size

    def fingerprint(self) -> str:
        """The identifier of all samples."""
        return self.stored.fingerprint()

    def read(self, rows: Int64[Tensor, " b"]) -> Float32[Tensor, "b c h w"]:
        """A draw of each, always the same, as validation needs it."""
        return self._sampled(rows, seed=0, uses=torch.zeros_like(rows))

    def drawn(
        self, rows: Int64[Tensor, " b"], *, seed: int, epochs: Int64[Tensor, " b"]
    ) -> Float32[Tensor, "b c h w"]:
        """A draw of each for each epoch."""
        return self._sampled(rows, seed=seed, uses=epochs + 1)

    def _sampled(
        self, rows: Int64[Tensor, " b"], *, seed: int, uses: Int64[Tensor, " b"]
    ) -> Float32[Tensor, "b c h w"]:
        """Draws that are a function of the seed, the number of a sample and that of its use.

        NumPy's arithmetic stays in this thread: torch's would take cores from the training.
        """
        mean, logvar = np.split(self.stored.read(rows).float().numpy(), 2, axis=1)
        eps = np.empty(mean.shape, np.float32)
        for at, row, use in zip(range(len(rows)), rows.tolist(), uses.tolist(), strict=True):
            bits = np.random.Philox(key=[seed, row], counter=[0, 0, use, self.stream])
            np.random.Generator(bits).standard_normal(dtype=np.float32, out=eps[at])
        return torch.from_numpy(mean + np.exp(0.5 * logvar) * eps)


@dataclass(frozen=True, kw_only=True)
class Latents:
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
