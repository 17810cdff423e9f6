r"""Noise levels and noise of each sample in a validation, as a function of (seed, round, index).

The levels and the noise of a sample do not depend on batch, process, device or order: two denoisers
are compared on the same draws.

Round $r$ of $m$ levels per sample puts sample $i$ of $n$ at the times

$$t_{irk} = \frac{o_{ir} + k}{m}, \qquad o_{ir} = \frac{\pi(i)}{n} + u_r \bmod 1,$$

with one permutation $\pi$ for all rounds and $u_r$ uniform. Every time is uniform on [0, 1]; those
of a sample are evenly spaced, and so are those of all samples together.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from elbos.base.philox import Purpose, Stream

# Rounds of the pilot and of fixed noise levels; other rounds count from 0.
PILOT, FIXED = 2**32 - 1, 2**32 - 2


@dataclass(frozen=True)
class Draws:
    """Random noise levels and noise for a given seed.

    Attributes:
        seed: Random seed, 0 or greater.
        num: Number of samples, $n$.
    """

    seed: int
    num: int

    @cached_property
    def _places(self) -> Float64[Tensor, " n"]:
        words = self._words(Purpose.VALIDATION_ORDER, torch.arange(self.num), 0)
        order = ((words[:, 0] >> 1 << 32) + words[:, 1]).argsort()
        places: Tensor = order / torch.tensor(self.num).double()  # pi(i) / n
        return places

    def times(self, rows: Int64[Tensor, " b"], number: int, num_times: int) -> Float[Tensor, "b m"]:
        """Return the diffusion times of given samples in a round, which are of float64."""
        high, low = self._words(Purpose.VALIDATION_LEVELS, torch.arange(1), number)[0, :2].tolist()
        u = (high + low * 2.0**-32) * 2.0**-32
        offset = (self._places[rows] + u) % 1.0
        times: Tensor = (offset[:, None] + torch.arange(num_times)) / num_times
        return times

    def noise(
        self, rows: Int64[Tensor, " b"], number: int, shape: tuple[int, ...]
    ) -> Float32[Tensor, "b *d"]:
        """Return the Gaussian noise of given samples in a round, the same in every precision."""
        stream = Stream.from_seed(self.seed, Purpose.VALIDATION_NOISE)
        return stream.normal(torch.full_like(rows, number), rows, shape)

    def _words(self, purpose: Purpose, rows: Tensor, number: int) -> Int64[Tensor, "b 4"]:
        return Stream.from_seed(self.seed, purpose).words(torch.tensor(number), rows, 1)[:, 0]
