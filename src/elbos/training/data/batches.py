r"""The order of the data, as a pure function of (seed, step).

Training reads the endless concatenation of permutations $\pi_0, \pi_1, \dots$, one per epoch, in
consecutive slices of the global batch size. No state is kept: a run that resumes at a step, on any
number of processes, sees what the uninterrupted run would have seen.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from elbos.items import Batch, Source
from elbos.training.randomness import generator


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


@dataclass(frozen=True)
class Batches(Dataset[Batch]):
    """One process's share of the batches, by step.

    Attributes:
        source: The samples.
        batch_size: Size of the global batch.
        seed: Seed of the run.
        share: The part of each batch that is this process's.
    """

    source: Source
    batch_size: int
    seed: int
    share: slice

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step. Torch's random numbers, with which a dataset may augment its
        samples, are seeded for it.
        """
        torch.manual_seed(generator(self.seed, step, self.share.start, 2).initial_seed())
        rows = batch_indices(len(self.source), self.batch_size, self.seed, step)
        return self.source.batch(rows[self.share])

    def made_ahead(self, step: int, num_steps: int, *, num_workers: int) -> Iterator[Batch]:
        """The batches from a step on, made ahead by other processes."""
        return iter(
            DataLoader(
                self,
                batch_size=None,
                sampler=range(step, num_steps),
                num_workers=num_workers,
                worker_init_fn=_ignore_interrupts,
                pin_memory=torch.accelerator.is_available(),
            )
        )


def _ignore_interrupts(_: int) -> None:
    """Leave Ctrl-C to the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
