r"""The noise levels and the noise of each sample, as a function of (seed, round, index).

A sample is measured at the same levels and with the same noise whatever batch it is in, on
whichever process, in whatever order: two denoisers are compared on the same draws.

Round $r$ of $m$ levels per sample puts sample $i$ of $n$ at the times

$$t_{irk} = \frac{o_{ir} + k}{m}, \qquad o_{ir} = \frac{\pi(i)}{n} + u_r \bmod 1,$$

with one permutation $\pi$ for all rounds and $u_r$ uniform. Every time is uniform on [0, 1]; those
of a sample are evenly spaced, and so are those of all samples together.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

PILOT, FIXED = 2**32 - 1, 2**32 - 2  # the pilot's round, that of fixed levels; others are from 0


@dataclass(frozen=True)
class Draws:
    """The draws of `num` samples under a seed.

    Attributes:
        seed: Seed, from 0.
        num: Samples, $n$.
    """

    seed: int
    num: int

    @cached_property
    def _places(self) -> Float[Tensor, " n"]:
        (g,) = _generators(self.seed)
        return torch.randperm(self.num, generator=g) / torch.tensor(self.num).double()

    def times(self, rows: Int64[Tensor, " b"], number: int, num_times: int) -> Float[Tensor, "b m"]:
        """The times of some samples in the round of this number, float64."""
        (g,) = _generators(self.seed, number)
        u = torch.rand((), dtype=torch.float64, generator=g)
        offset = (self._places[rows] + u) % 1.0
        return (offset[:, None] + torch.arange(num_times)) / num_times

    def noise(
        self, rows: Int64[Tensor, " b"], number: int, like: Float[Tensor, "k *d"]
    ) -> Float[Tensor, "b k *d"]:
        """Noise for some samples in the round of this number, shaped like `like` for each; always
        float32, so that data of other precision get the same.
        """
        eps = torch.empty(len(rows), *like.shape, dtype=torch.float32)
        generators = _generators(self.seed, number, rows.tolist())
        for own, g in zip(eps, generators, strict=True):
            own.normal_(generator=g)
        return eps


def _generators(*key: int | list[int]) -> list[torch.Generator]:
    """Generators seeded with a hash of a key, one for each number in its lists: SplitMix64's,
    chained.

    References:
        Steele, Lea & Flood (2014), https://doi.org/10.1145/2660193.2660195
    """
    mixed = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in key:
            mixed = mixed ^ np.asarray(part).astype(np.uint64)
            mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return [torch.Generator().manual_seed(seed) for seed in mixed.tolist()]
