r"""Philox random numbers, a pure function of seed, purpose, training step and sample number.

They come from Philox4x32-10, a function of a counter and a key that is a few operations on
integers, the same on every device. The counter is (block of four numbers, sample, step, purpose),
the key comes from the seed. Pairs of uniform numbers become normal ones by

$$\epsilon_1, \epsilon_2 = \sqrt{-2 \ln u_1}\,(\cos 2\pi u_2, \sin 2\pi u_2).$$

Devices differ in the rounding of these functions, and in nothing else; so does code that
`torch.compile` made, on a CPU by at most 3 units in the last place.

References:
    Salmon et al. (2011), https://doi.org/10.1145/2063384.2063405; Box & Muller (1958),
    https://doi.org/10.1214/aoms/1177706645
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_NUM_ROUNDS = 10
_WORD = 0xFFFFFFFF


class Purpose(IntEnum):
    """Enumeration of independent random number streams."""

    NOISE = 0
    LABELS = 1
    FLIPS = 2
    CROPS = 5
    VALIDATION_NOISE = 7
    VALIDATION_LEVELS = 8
    VALIDATION_ORDER = 9


def philox(counter: Sequence[Int64[Tensor, "..."]], key: tuple[int, int]) -> Int64[Tensor, "... 4"]:
    """Generate four random 32-bit words for each counter with Philox4x32-10.

    On a CPU the operations are numpy's, which take half the time of torch's.

    Args:
        counter: The four counter words, each in $[0, 2^{32})$, of shapes that broadcast.
        key: The two key words.

    Examples:
        >>> zero = torch.zeros((), dtype=torch.int64)
        >>> [hex(word) for word in philox([zero] * 4, (0, 0)).tolist()]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    if torch.compiler.is_compiling() or any(c.device.type != "cpu" for c in counter):
        words = torch.broadcast_tensors(*_rounds(counter, key))  # type: ignore[no-untyped-call]
        return torch.stack(words, dim=-1) & _WORD
    with np.errstate(over="ignore"):
        arrays = np.broadcast_arrays(*_rounds([c.numpy() for c in counter], key))
    return torch.from_numpy(np.stack(arrays, axis=-1) & _WORD)


def _rounds(counter: Sequence[Any], key: tuple[int, int]) -> Sequence[Any]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_NUM_ROUNDS):
        # a product of 64 bits wraps around in int64, and its bits are right; the bits above a word
        # are cut off where it is multiplied, and at the end
        p0, p1 = (c0 & _WORD) * _MULTIPLIERS[0], (c2 & _WORD) * _MULTIPLIERS[1]
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1, p0 >> 32 ^ c3 ^ k1, p0
        k0, k1 = k0 + _KEY_STEPS[0] & _WORD, k1 + _KEY_STEPS[1] & _WORD
    return c0, c1, c2, c3


def key_of(seed: int) -> tuple[int, int]:
    first, second = np.random.SeedSequence(seed).generate_state(2, np.uint32).tolist()
    return first, second


@dataclass(frozen=True)
class Stream:
    """Random number generator whose numbers are determined by training step and sample.

    Attributes:
        key: The two key words, which `key_of` derives from the seed.
        purpose: Purpose of the numbers, which selects the stream.
    """

    key: tuple[int, int]
    purpose: Purpose

    @classmethod
    def from_seed(cls, seed: int, purpose: Purpose) -> "Stream":
        return cls(key_of(seed), purpose)

    def words(
        self, step: Int64[Tensor, "*b"], samples: Int64[Tensor, " b"], num: int
    ) -> Int64[Tensor, "b num 4"]:
        # plus 0, of which the compiler does not know: torch 2.13 folds constants in 32 bits
        blocks = torch.arange(num, device=samples.device) + samples[:, None].clamp(max=0)
        purpose = torch.full_like(blocks, self.purpose)
        counter = [blocks, samples[:, None], step.view(-1, 1), purpose]
        return philox(counter, self.key)

    def uniform(
        self, step: Int64[Tensor, "*b"], samples: Int64[Tensor, " b"], num: int
    ) -> Float32[Tensor, "b num"]:
        """Return `num` uniform random numbers in (0, 1] for each sample.

        Args:
            step: Number of the step, or of the epoch of each sample.
            samples: Numbers of the samples, in the global batch or in the data.
            num: Numbers per sample.

        Returns:
            On the device of `samples`; multiples of $2^{-32}$, rounded to float32.
        """
        words = self.words(step, samples, -(-num // 4)).flatten(1)[:, :num]
        return (words.float() + 0.5) * 2.0**-32

    def normal(
        self, step: Int64[Tensor, "*b"], samples: Int64[Tensor, " b"], shape: tuple[int, ...]
    ) -> Float32[Tensor, "b *d"]:
        num = math.prod(shape)
        u = self.uniform(step, samples, num + num % 2)
        radius, angle = (-2 * u[:, 0::2].log()).sqrt(), 2 * math.pi * u[:, 1::2]
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
        return pairs.flatten(1)[:, :num].reshape(-1, *shape)
