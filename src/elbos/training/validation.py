"""Validation during training: the ELBO of held-out data, and a grid of samples."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from elbos.base.conditions import Condition, cond_at
from elbos.base.processes import Processes
from elbos.theory.denoiser import Denoise
from elbos.training.config import Config
from elbos.training.data import Batch, Batched, Samples
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
    """Estimate the ELBO on a fixed subset of the validation data.

    The subset has at most 500 samples. None if there are no validation samples. If `is_shared`, all
    processes must call this function, and each computes a part.
    """
    if data.validation is None:
        return None
    with _validator(config, data, data.validation, _validation_rows(data.validation)) as validator:
        return validator(denoiser, batch_size=BATCH_SIZE, device=device, is_shared=is_shared)


def require_measurable(
    denoiser: Denoise, config: Config, data: Samples, device: torch.device
) -> None:
    """Measure each validation sample at one noise level, to fail before the training."""
    if data.validation is not None:
        grid = torch.arange(NUM_GRID_IMAGES) % len(data.validation)
        rows = torch.cat([_validation_rows(data.validation), grid])
        with _validator(config, data, data.validation, rows) as validator:
            validator.pilot(
                denoiser, num_samples=len(rows), num_times=1, batch_size=BATCH_SIZE, device=device
            )


def _validation_rows(source: Batched) -> Int64[Tensor, " n"]:
    return torch.randperm(len(source), generator=generator(0))[:NUM_VALIDATION_IMAGES]


@contextmanager
def _validator(
    config: Config, data: Samples, source: Batched, rows: Int64[Tensor, " n"]
) -> Iterator[Validator]:
    # the trainer has warned of the noise levels, and a network in early training may ignore its
    # time input
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield Validator(
            Subset(source, rows, config.use_labels),
            num_levels=data.spec.num_levels,
            logsnr_min=config.schedule.logsnr_min,
            logsnr_max=config.schedule.logsnr_max,
            num_evaluations=NUM_VALIDATION_TIMES,
        )


@dataclass(frozen=True)
class Shared:
    """Denoiser of whose batches every rank computes an equal slice and gathers the others."""

    denoiser: Denoise
    processes: Processes

    def __call__(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        num = self.processes.num * -(-len(z) // self.processes.num)
        rows = torch.arange(num, device=z.device)[self.processes.share(num)] % len(z)
        x_hat, eps_hat = self.denoiser(z[rows], logsnr.expand(len(z))[rows], cond_at(cond, rows))
        gathered = self.processes.gathered
        return gathered(x_hat, num)[: len(z)], gathered(eps_hat, num)[: len(z)]


def sample_grid(
    denoiser: Denoise, config: Config, data: Samples, processes: Processes
) -> bytes | None:
    """Generate a grid of samples from the model as a PNG image.

    The grid has 64 samples. None for data that cannot be plotted. All processes must call this
    function, and divide the work. The noise depends on the run's seed. Samples are conditioned on
    each class in turn, or on the conditions of the first data samples.
    """
    if not is_drawable(data.spec.shape):
        return None
    rows, cond = torch.arange(NUM_GRID_IMAGES), None
    if uses_labels(config, data.spec):
        cond = rows % (data.spec.num_classes or 1)
    elif config.use_labels:
        source = data.validation or data.training
        _, cond = source.batch(rows % len(source))
    samples = sample(
        Shared(denoiser, processes),
        config.sampling,
        config.schedule,
        num=NUM_GRID_IMAGES,
        shape=data.spec.shape,
        seed=config.seed,
        device=processes.device,
        cond=cond,
        null_cond=data.null_cond,
    )
    return png(torch.cat(list(samples)))
