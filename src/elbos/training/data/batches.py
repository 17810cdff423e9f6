r"""The order of the data, as a pure function of (seed, step).

Training reads the endless concatenation of permutations $\pi_0, \pi_1, \dots$, one per epoch, in
consecutive slices of the global batch size. No state is kept: a run that resumes at a step, on any
number of processes, sees what the uninterrupted run would have seen.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


def epoch_order(num: int, seed: int, epoch: int) -> Int64[Tensor, " n"]:
    """The permutation of `0..num-1` in which one epoch visits the data.

    Args:
        num: Number of samples.
        seed: Seed of the run, not negative.
        epoch: Number of the epoch, from 0.

    Returns:
        A permutation, a function of the arguments only.
    """
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(num))


def batch_indices(num: int, batch_size: int, seed: int, step: int) -> Int64[Tensor, " n"]:
    """Indices of the global batch of one step.

    Batches cross the border between epochs, so none is smaller than the others, and may be larger
    than the data.

    Args:
        num: Number of samples, at least 1.
        batch_size: Size of the global batch.
        seed: Seed of the run, not negative.
        step: Number of the step, from 0.

    Returns:
        Indices of length `batch_size`, a function of the arguments only.

    Examples:
        >>> two_steps = torch.cat([batch_indices(6, 3, seed=0, step=step) for step in (0, 1)])
        >>> two_steps.sort().values
        tensor([0, 1, 2, 3, 4, 5])
    """
    if num < 1:
        raise ValueError("there is no sample to draw batches from")
    start, stop = step * batch_size, (step + 1) * batch_size
    slices = []
    for epoch in range(start // num, (stop - 1) // num + 1):
        first = epoch * num
        slices.append(_order(num, seed, epoch)[max(start - first, 0) : stop - first])
    return torch.cat(slices)  # a copy: the cached permutation is never handed out


_order = lru_cache(maxsize=2)(epoch_order)
