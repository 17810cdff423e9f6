"""Random numbers as a pure function of (seed, step, shard).

Nothing is carried from step to step: a run that resumes, or is spread over another number of
processes, draws what the uninterrupted run in one process would have drawn (but for the masks of
dropout, which are drawn per process). The global batch is cut into shards with a generator each; a
process draws those of its own.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from elbos.schedules import low_discrepancy_times


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on `key` alone; different keys give independent streams.

    The first number is the entropy and the others a spawn key: `SeedSequence((1, 2))` would be the
    same as `SeedSequence((1, 2, 0))`.
    """
    sequence = np.random.SeedSequence(key[0], spawn_key=key[1:])
    (seed,) = sequence.generate_state(1, np.uint64).tolist()
    return torch.Generator(device).manual_seed(seed)


@dataclass(frozen=True)
class Draw:
    """The random numbers of one step, for the samples of one process.

    Attributes:
        times: Low-discrepancy times; one offset for the whole global batch.
        eps: Noise.
        uniform: Uniform numbers, for dropping labels.
    """

    times: Float64[Tensor, " b"]
    eps: Float[Tensor, "b *d"]
    uniform: Float[Tensor, " b"]


def draw(
    seed: int,
    step: int,
    *,
    batch_size: int,
    num_shards: int,
    shards: range,
    shape: tuple[int, ...],
    device: torch.device,
) -> Draw:
    """Draw a step's randomness for some shards of the global batch; also seed torch, for dropout.

    Args:
        seed: Seed of the run.
        step: Number of the step.
        batch_size: Size of the global batch.
        num_shards: Number of shards it is cut into.
        shards: Those of this process.
        shape: Shape of one sample.
        device: Where the noise is made; the times stay on the CPU, in float64.
    """
    size = batch_size // num_shards
    offset = torch.rand((), dtype=torch.float64, generator=generator(seed, step)).item()
    times = low_discrepancy_times(offset, batch_size)
    sources = [generator(seed, step, shard, device=device) for shard in shards]
    torch.manual_seed(generator(seed, step, shards.start, 1).initial_seed())
    return Draw(
        times=times[shards.start * size : shards.stop * size],
        eps=torch.cat([torch.randn(size, *shape, generator=g, device=device) for g in sources]),
        uniform=torch.cat([torch.rand(size, generator=g, device=device) for g in sources]),
    )
