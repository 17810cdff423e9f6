"""Validation during training: a bound on held-out data, and a grid of samples."""

import torch
from jaxtyping import Int64
from torch import Tensor

from elbos.conditions import to_device
from elbos.denoiser import Denoise
from elbos.likelihood import Bound, variational_bound
from elbos.schedules import Linear, Schedule
from elbos.training.config import Config
from elbos.training.data import Samples, Source
from elbos.training.pictures import is_drawable, png
from elbos.training.randomness import generator
from elbos.training.sampling import sample
from elbos.training.state import uses_labels

BATCH_SIZE = 250  # part of the protocol: noise is keyed by batch
NUM_VALIDATION_IMAGES = 500
NUM_VALIDATION_TIMES = 4
NUM_GRID_IMAGES = 64


def validation_bound(
    denoiser: Denoise, config: Config, data: Samples, device: torch.device
) -> Bound | None:
    """The bound of 500 validation samples, the same each time; None if there are no such data."""
    if data.validation is None:
        return None
    rows = _validation_rows(data.validation)
    return _bound(denoiser, config, data, rows, device, num_times=NUM_VALIDATION_TIMES)


def require_measurable(
    denoiser: Denoise, config: Config, data: Samples, device: torch.device
) -> None:
    """Raise an error if a validation sample that is used cannot be measured, at one noise level."""
    if data.validation is not None:
        grid = torch.arange(NUM_GRID_IMAGES) % len(data.validation)
        rows = torch.cat([_validation_rows(data.validation), grid])
        _bound(denoiser, config, data, rows, device, num_times=1)


def _validation_rows(source: Source) -> Int64[Tensor, " n"]:
    return torch.randperm(len(source), generator=generator(0))[:NUM_VALIDATION_IMAGES]


def _bound(
    denoiser: Denoise,
    config: Config,
    data: Samples,
    rows: Int64[Tensor, " n"],
    device: torch.device,
    *,
    num_times: int,
) -> Bound:
    assert data.validation is not None
    return bound_of(
        denoiser,
        data.validation,
        rows,
        config.schedule,
        num_levels=data.spec.num_levels,
        num_times=num_times,
        use_cond=config.use_labels,
        device=device,
    )


def sample_grid(
    denoiser: Denoise, config: Config, data: Samples, device: torch.device
) -> bytes | None:
    """A PNG of 64 samples of the run's seed; None if samples are neither images nor points.

    They are conditioned on each class in turn, or on what the first samples of the data are.
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


def bound_of(
    denoiser: Denoise,
    source: Source,
    rows: Int64[Tensor, " n"],
    trained: Schedule,
    *,
    num_levels: int | None,
    num_times: int,
    use_cond: bool,
    device: torch.device,
    seed: int = 0,
) -> Bound:
    """The bound of each sample; the randomness of a batch depends on the seed and its number alone.

    Args:
        denoiser: Estimates the noise.
        source: Samples.
        rows: Numbers of those that are measured.
        trained: The schedule of the training; its ends are those of the noise levels.
        num_levels: Number of pixel values, or None for continuous data.
        num_times: Function evaluations per sample.
        use_cond: Whether the denoiser is given the samples' condition.
        device: Where the denoiser is.
        seed: Seed of noise and noise levels.
    """
    bounds = []
    for batch, some in enumerate(torch.split(rows, BATCH_SIZE)):
        x, cond = source.batch(some)
        bound = variational_bound(
            denoiser,
            x.to(device),
            Linear(logsnr_min=trained.logsnr_min, logsnr_max=trained.logsnr_max),
            num_levels=num_levels,
            num_times=num_times,
            cond=to_device(cond, device) if use_cond else None,
            generator=generator(seed, batch),
        )
        bounds.append(
            Bound(*(term.cpu() for term in (bound.decoder, bound.diffusion, bound.prior)))
        )
    return Bound.cat(bounds)
