"""The variational bound of a whole split, image by image, on the network at hand."""

from collections.abc import Callable

import torch
from torch import Tensor

from elbos.denoiser import Denoise
from elbos.likelihood import Bound, variational_bound
from elbos.schedules import Schedule
from elbos.training.data import to_unit
from elbos.training.randomness import generator

BATCH_SIZE = 250  # part of the protocol: noise is keyed by batch


def split_bound(
    denoiser: Denoise,
    x: Tensor,
    schedule: Schedule,
    *,
    num_levels: int | None,
    num_times: int,
    labels: Tensor | None,
    device: torch.device,
    seed: int = 0,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Bound:
    """The bound of every image; the randomness of a batch depends on the seed and its number alone.

    Args:
        denoiser: Estimates the noise.
        x: Levels, or points, as a `Split` holds them.
        schedule: Ends and density of the noise levels.
        num_levels: Number of levels, or None for points.
        num_times: Network evaluations per image.
        labels: Class of each image (and perhaps of more), or None.
        device: Where the denoiser is.
        seed: Seed of noise and noise levels.
        on_batch: Called with the number of images done after each batch.
    """
    bounds = []
    for batch, start in enumerate(range(0, len(x), BATCH_SIZE)):
        stop = min(start + BATCH_SIZE, len(x))
        bound = variational_bound(
            denoiser,
            to_unit(x[start:stop], num_levels).to(device),
            schedule,
            num_levels=num_levels,
            num_times=num_times,
            cond=None if labels is None else labels[start:stop].to(device),
            generator=generator(seed, batch),
        )
        bounds.append(bound)
        on_batch(len(bound.prior))
    whole = Bound.cat(bounds)
    return Bound(whole.decoder.cpu(), whole.diffusion.cpu(), whole.prior.cpu())
