"""What samplers go along, noise levels from noise to data, and the noise that some add."""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.schedules import Schedule


def grid(schedule: Schedule, num_steps: int) -> Float[Tensor, " n_plus_1"]:
    r"""Levels uniform in the schedule's time, from $\lambda_\min$ to $\lambda_\max$, and then clean
    data, $\infty$.

    With `schedules.EDMSampling()` it is EDM's grid.

    Args:
        schedule: Whose time.
        num_steps: Number of steps, at least 2.

    Returns:
        float64 log-SNRs, `[num_steps + 1]`.

    Raises:
        ValueError: If `num_steps` is below 2.

    Examples:
        >>> from elbos import schedules
        >>> grid(schedules.Linear(logsnr_min=-10.0, logsnr_max=10.0), 3)
        tensor([-10.,   0.,  10.,  inf], dtype=torch.float64)
    """
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}: give at least 2.")
    t = torch.linspace(1, 0, num_steps, dtype=torch.float64)
    return torch.cat([schedule.logsnr(t), torch.tensor([math.inf], dtype=torch.float64)])


def steps(
    logsnrs: Float[Tensor, " n"], z: Float[Tensor, "b *d"]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Consecutive levels, each `[1]`, in the dtype and on the device of `z`.

    Raises:
        ValueError: If there are fewer than two levels, one is not above the one before it, or `z`
            is in half precision, in which neighbours round to one level.
    """
    if z.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"z is {z.dtype}: give float32, and run the network in half precision under "
            "torch.autocast."
        )
    if len(logsnrs) < 2 or not (logsnrs.diff() > 0).all():
        raise ValueError(
            f"logsnrs is {logsnrs.tolist()}: give two or more log-SNRs that rise, from noise to "
            "data."
        )
    levels = logsnrs.to(z).unsqueeze(1)
    return pairwise(levels)


def noise(z: Float[Tensor, "b *d"], generator: torch.Generator | None) -> Float[Tensor, "b *d"]:
    """Standard normal noise, drawn on the CPU."""
    return torch.randn(z.shape, dtype=z.dtype, generator=generator).to(z.device)
