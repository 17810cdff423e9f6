"""Random numbers as a pure function of (seed, step, sample), or of (seed, epoch, sample).

A run that resumes, or is divided into other batches, processes or devices, draws the numbers of the
uninterrupted run in one process. Only numbers that a network draws by itself, such as masks of
dropout, also depend on the process and the micro-batch.

Noise and dropped labels, flips and crops of the data come from Philox (`elbos.base.philox`).
"""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.utils.data import get_worker_info

from elbos.theory.schedules import low_discrepancy_times


def seed_of(*key: int) -> int:
    """Return a 64-bit seed for a tuple of integers.

    Different tuples give independent seeds. The first number is the entropy and the others are the
    spawn key: `SeedSequence((1, 2))` would equal `SeedSequence((1, 2, 0))`.
    """
    if key[0] < 0:
        raise ValueError(f"seed is {key[0]}: give a whole number from 0.")
    sequence = np.random.SeedSequence(key[0], spawn_key=key[1:])
    return int(sequence.generate_state(1, np.uint64)[0])


def generator(*key: int) -> torch.Generator:
    """Return a CPU random number generator seeded by a tuple of integers."""
    return torch.Generator().manual_seed(seed_of(*key))


def times(seed: int, step: int, batch_size: int) -> Float64[Tensor, " B"]:
    """Return low-discrepancy times in [0, 1): a regular grid with a random offset."""
    offset = torch.rand((), dtype=torch.float64, generator=generator(seed, step)).item()
    return low_discrepancy_times(offset, batch_size)


def seed_torch(*key: int) -> None:
    # `torch.manual_seed` takes 0.3 ms more, since it also queries every missing kind of device
    seed = seed_of(*key)
    torch.default_generator.manual_seed(seed)
    if torch.accelerator.is_available() and get_worker_info() is None:
        torch.get_device_module().manual_seed(seed)
