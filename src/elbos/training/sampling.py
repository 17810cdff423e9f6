"""Sampling: settings, samples in batches with keyed noise, and their pictures as PNG."""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Union

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from elbos.base.checks import Typed, require_finite, require_positive
from elbos.base.codec import LATE
from elbos.base.conditions import Condition, cond_at, to_device
from elbos.models import samplers
from elbos.models.samplers import DPMSolver, Sampler
from elbos.theory.denoiser import Denoise, Guided
from elbos.theory.schedules import Cosine, EDMSampling, Flow, Linear, Schedule
from elbos.training.randomness import generator

BATCH_SIZE = 250  # part of the protocol: noise is keyed by batch
_MARGIN = 2  # pixels between images


if TYPE_CHECKING:
    AnySampler = Sampler
else:
    AnySampler = Union[samplers.SAMPLERS]  # noqa: UP007, built at run time


@dataclass(frozen=True, kw_only=True)
class Sampling(Typed):
    """Sampler, grid of noise levels and guidance."""

    sampler: AnySampler = field(default_factory=DPMSolver)
    """The sampler."""

    grid: EDMSampling | Cosine | Flow | Linear = field(default_factory=EDMSampling)
    """The steps are uniform in this schedule's time, within the noise levels trained on."""

    num_steps: int = 32
    """Steps from noise to data."""

    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 is none."""

    guidance_min: float = -math.inf
    """Lowest log-SNR with guidance."""

    guidance_max: float = math.inf
    """Highest log-SNR with guidance."""

    clip: float | None = field(default=None, metadata={LATE: True})
    """The estimate of the data is clamped to [-clip, clip]. Default: as the scheduler of a folder
    of diffusers says, where a large number turns it off; of a run not at all."""

    def __post_init__(self) -> None:
        require_finite(self)
        if self.clip is not None:
            require_positive(clip=self.clip)
        if self.num_steps < 2:
            raise ValueError(f"num_steps is {self.num_steps}: give at least 2.")
        if not self.guidance_min < self.guidance_max:
            raise ValueError("guidance_min has to be below guidance_max.")

    def grid_within(self, trained: Schedule) -> Schedule:
        """Restrict the grid to the noise levels that were trained on.

        Raises:
            ValueError: If nothing is left of it.
        """
        return replace(
            self.grid,
            logsnr_min=max(self.grid.logsnr_min, trained.logsnr_min),
            logsnr_max=min(self.grid.logsnr_max, trained.logsnr_max),
        )

    def logsnrs(self, trained: Schedule) -> Float[Tensor, " n"]:
        """Return the log-SNRs of the steps, within the range that was trained on.

        Raises:
            ValueError: If there are none.
        """
        return samplers.grid(self.grid_within(trained), self.num_steps)

    def guided(self, denoiser: Denoise, null_cond: Condition = None) -> Denoise:
        """Wrap the denoiser with this guidance; `null_cond` is as for `Guided`."""
        if self.guidance == 1:
            return denoiser
        return Guided(denoiser, self.guidance, self.guidance_min, self.guidance_max, null_cond)

    def num_evaluations(self, trained: Schedule) -> int:
        """Count the function evaluations (NFE) per sample; a guided estimate takes two.

        Counted, on one number in place of a sample: the count depends on nothing but the levels.

        Args:
            trained: The schedule of the training; its ends bound the grid's.
        """
        calls: list[int] = []

        def stand_in(z: Tensor, logsnr: Tensor, cond: Condition = None) -> tuple[Tensor, Tensor]:
            del logsnr, cond
            calls.append(len(z))
            return z, z

        z, label = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
        self.sampler(self.guided(stand_in), z, self.logsnrs(trained), label, generator(0))
        return sum(calls)


def num_batches(num: int) -> int:
    """Return the number of batches of `num` samples."""
    return math.ceil(num / BATCH_SIZE)


def sample(
    denoiser: Denoise,
    sampling: Sampling,
    trained: Schedule,
    *,
    num: int,
    shape: tuple[int, ...],
    seed: int,
    device: torch.device,
    cond: Condition = None,
    null_cond: Condition = None,
    batches: Iterable[int] | None = None,
) -> Iterator[Float[Tensor, "b *d"]]:
    """Generate samples, batch after batch.

    The noise of a batch depends on the seed and the batch's number alone, so that processes can
    share out the batches.

    Args:
        denoiser: Estimates data and noise.
        sampling: How.
        trained: The schedule of the training; its ends bound the grid's.
        num: How many samples.
        shape: Shape of one.
        seed: Seed of the noise.
        device: Where the denoiser is.
        cond: What each sample is conditioned on, or None.
        null_cond: The condition of one sample that stands for none, `[1, ...]`, for guidance.
            Default: of class labels -1.
        batches: Numbers of the batches to make, out of `num_batches(num)`. Default: all.

    Yields:
        Up to 250 samples at a time, float32, about in [-1, 1], on the CPU.
    """
    denoiser = sampling.guided(denoiser, to_device(null_cond, device))
    logsnrs = sampling.logsnrs(trained)
    for batch in range(num_batches(num)) if batches is None else batches:
        start, stop = batch * BATCH_SIZE, min((batch + 1) * BATCH_SIZE, num)
        g = generator(seed, batch)
        some = to_device(cond_at(cond, slice(start, stop)), device)
        z = torch.randn(stop - start, *shape, generator=g).to(device)
        yield sampling.sampler(denoiser, z, logsnrs, some, g, clip=sampling.clip).cpu()


# --- pictures ------------------------------------------------------------------------------------


def is_drawable(shape: tuple[int, ...]) -> bool:
    """Return whether samples of this shape are grey or RGB images, or points in the plane."""
    return shape == (2,) or (len(shape) == 3 and shape[0] in (1, 3))


def png(x: Float[Tensor, "n *d"], *, num_columns: int | None = None) -> bytes:
    """Draw samples as PNG: a grid of images `[n, c, h, w]` or a scatter plot of points `[n, 2]`.

    Small images are enlarged, pixel by pixel, until they can be seen.

    Args:
        x: Samples, about in [-1, 1] ([-2, 2] for points).
        num_columns: Columns of the grid. Default: about as many as rows.
    """
    pixels = _scatter(x) if x.ndim == 2 else _grid(x, num_columns)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def _grid(x: Float[Tensor, "n c h w"], num_columns: int | None) -> UInt8[np.ndarray, "H W 3"]:
    scale = max(1, round(48 / x.shape[-1]))
    images = ((x.clamp(-1, 1) + 1) * 127.5).round().byte()
    images = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    tiles = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    num_columns = num_columns or math.ceil(math.sqrt(len(tiles)))
    num_rows = math.ceil(len(tiles) / num_columns)
    height, width = tiles.shape[1] + _MARGIN, tiles.shape[2] + _MARGIN
    canvas = np.full((num_rows * height + _MARGIN, num_columns * width + _MARGIN, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top = _MARGIN + i // num_columns * height
        left = _MARGIN + i % num_columns * width
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def _scatter(x: Float[Tensor, "n 2"], size: int = 512) -> UInt8[np.ndarray, "H W 3"]:
    canvas = np.full((size, size, 3), 255, np.uint8)
    column, row = (((x.clamp(-2, 2) / 2 + 1) * (size - 3) / 2).round().long() + 1).T.numpy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            canvas[size - 1 - row + dy, column + dx] = (31, 78, 160)
    return canvas
