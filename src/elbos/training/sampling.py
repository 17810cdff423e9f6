"""Sampling settings, and generation of samples in batches, each with noise of a fixed seed."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Union

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.checks import Typed, require_positive
from elbos.base.conditions import Condition, cond_at, to_device
from elbos.models import samplers
from elbos.models.samplers import DPMSolver, Sampler
from elbos.theory.denoiser import Denoise, Guided
from elbos.theory.schedules import Cosine, EDMSampling, Flow, Linear, Schedule
from elbos.training.randomness import generator

BATCH_SIZE = 250  # part of the protocol: noise is keyed by batch

if TYPE_CHECKING:
    AnySampler = Sampler
else:
    AnySampler = Union[samplers.SAMPLERS]  # noqa: UP007, built at run time


@dataclass(frozen=True, kw_only=True)
class Sampling(Typed):
    """Sampling settings: sampler, grid of noise levels, guidance and clipping."""

    sampler: AnySampler = field(default_factory=DPMSolver)
    """The sampler."""

    grid: EDMSampling | Cosine | Flow | Linear = field(default_factory=EDMSampling)
    """The steps are uniform in this schedule's time, within the noise levels trained on."""

    num_steps: int = 32
    """Steps from noise to data."""

    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 turns guidance off."""

    clip: float | None = None
    """The estimate of the data is clamped to [-clip, clip]. Default: as the scheduler of a folder
    of diffusers says, where a large number turns it off; of a run not at all."""

    def __post_init__(self) -> None:
        if self.clip is not None:
            require_positive(clip=self.clip)
        if self.num_steps < 2:
            raise ValueError(f"num_steps is {self.num_steps}: give at least 2.")

    def grid_within(self, trained: Schedule) -> Schedule:
        return replace(
            self.grid,
            logsnr_min=max(self.grid.logsnr_min, trained.logsnr_min),
            logsnr_max=min(self.grid.logsnr_max, trained.logsnr_max),
        )

    def logsnrs(self, trained: Schedule) -> Float[Tensor, " n"]:
        """Return the log-SNRs of the sampler's steps, within the range of the training."""
        return samplers.grid(self.grid_within(trained), self.num_steps)

    @property
    def num_evaluations(self) -> int:
        """Number of network evaluations (NFE) per sample, two of a guided estimate."""
        return self.sampler.num_evaluations(self.num_steps) * (1 if self.guidance == 1 else 2)


def num_batches(num: int) -> int:
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
    """Generate samples, about in [-1, 1], and yield them in batches of at most 250 on the CPU.

    The noise of a batch depends on the seed and the batch's number alone, so that batches can
    be divided over processes: `batches` are the numbers to generate out of `num_batches(num)`, by
    default all. The ends of `trained`, the schedule of the training, bound the grid. For guidance,
    the null condition is a batch of one, `[1, ...]`, by default the class label -1.
    """
    if sampling.guidance != 1:
        null_cond = to_device(null_cond, device)
        denoiser = Guided(denoiser, sampling.guidance, null_cond=null_cond)
    logsnrs = sampling.logsnrs(trained)
    for batch in range(num_batches(num)) if batches is None else batches:
        start, stop = batch * BATCH_SIZE, min((batch + 1) * BATCH_SIZE, num)
        g = generator(seed, batch)
        some = to_device(cond_at(cond, slice(start, stop)), device)
        z = torch.randn(stop - start, *shape, generator=g).to(device)
        yield sampling.sampler(denoiser, z, logsnrs, some, g, clip=sampling.clip).cpu()
