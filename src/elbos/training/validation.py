"""Validation during training: the ELBO of held-out data, and a grid of samples."""

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from elbos.base.items import Batch, Batched
from elbos.theory.denoiser import Denoise
from elbos.training.config import Config
from elbos.training.data import Samples
from elbos.training.pictures import is_drawable, png
from elbos.training.randomness import generator
from elbos.training.sampling import sample
from elbos.training.state import uses_labels
from elbos.validation import Validation, Validator

BATCH_SIZE = 250
NUM_VALIDATION_IMAGES = 500
NUM_VALIDATION_TIMES = 4
NUM_GRID_IMAGES = 64


@dataclass(frozen=True)
class Subset:
    source: Batched
    rows: Int64[Tensor, " n"]
    use_cond: bool

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Int64[Tensor, " b"]) -> Batch:
        x, cond = self.source.batch(self.rows[rows])
        return x, cond if self.use_cond else None


def validate(
    denoiser: Denoise, config: Config, data: Samples, device: torch.device, *, is_shared: bool
) -> Validation | None:
    """Estimate the ELBO on at most 500 fixed validation samples, which processes may share."""
    source = data.val
    if source is None:
        return None
    rows = torch.randperm(len(source), generator=generator(0))[:NUM_VALIDATION_IMAGES]
    # the trainer has warned of the noise levels, and a network in early training may ignore its
    # time input
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        validator = Validator(
            Subset(source, rows, config.use_labels),
            num_levels=data.spec.num_levels,
            logsnr_min=config.schedule.logsnr_min,
            logsnr_max=config.schedule.logsnr_max,
            num_evaluations=NUM_VALIDATION_TIMES,
        )
        return validator(denoiser, batch_size=BATCH_SIZE, device=device, is_shared=is_shared)


def sample_grid(
    denoiser: Denoise, config: Config, data: Samples, device: torch.device
) -> bytes | None:
    """Generate a grid of 64 samples as a PNG image; None for data that cannot be plotted.

    All processes must call this function, since sharded networks need all of them. Samples are
    conditioned on each class in turn, or on the conditions of the first data samples.
    """
    if not is_drawable(data.spec.shape):
        return None
    rows, cond = torch.arange(NUM_GRID_IMAGES), None
    if uses_labels(config, data.spec):
        cond = rows % (data.spec.num_classes or 1)
    elif config.use_labels:
        source = data.val or data.train
        _, cond = source.batch(rows % len(source))
    samples = sample(
        denoiser,
        config.sampling,
        config.schedule,
        num=NUM_GRID_IMAGES,
        shape=data.spec.shape,
        seed=config.seed,
        device=device,
        cond=cond,
        null_cond=data.null_cond,
    )
    return png(torch.cat(list(samples)))
