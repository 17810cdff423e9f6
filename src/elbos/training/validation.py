"""The variational bound of some samples, batch by batch, with the network at hand."""

import torch
from jaxtyping import Int64
from torch import Tensor

from elbos.conditions import to_device
from elbos.denoiser import Denoise
from elbos.likelihood import Bound, variational_bound
from elbos.schedules import Linear, Schedule
from elbos.training.data import Source
from elbos.training.randomness import generator

BATCH_SIZE = 250  # part of the protocol: noise is keyed by batch


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
