"""Samples by number, in memory or read when they are asked for."""

import abc
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from elbos.training.randomness import Visits


class Source(abc.ABC):
    """The samples of a split, by number; indexed like a tensor, `x[rows]`, `x[:100]`, `x[3]`.

    Reading is a pure function of the numbers, safe in several threads at once, and lets other
    threads run meanwhile. Validation and evaluation read the same in each epoch; a training may
    make something else of what is stored (`stored`, `augmented`).
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The number of samples, and the shape of one."""

    @abc.abstractmethod
    def read(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *d"]:
        """The samples of these numbers: pixel values, or continuous data.

        Raises:
            OSError: If they cannot be read.
            ValueError: If they are damaged.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """The identifier of all samples, which takes no reading of them."""

    def stored(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *e"]:
        """What a training sends to its device of the samples of these numbers."""
        return self.read(rows)

    def augmented(self, x: Shaped[Tensor, "b *e"], visits: Visits) -> Shaped[Tensor, "b *d"]:
        """What a training makes of that on its device: another image or draw in each epoch.

        Args:
            x: What is stored of some samples.
            visits: Which they are, and in which epochs.
        """
        del visits
        return x

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Int64[Tensor, " b"] | slice | int) -> Shaped[Tensor, "..."]:
        if isinstance(rows, int):
            return self.read(torch.tensor([range(len(self))[rows]]))[0]
        if isinstance(rows, slice):
            return self.read(torch.arange(*rows.indices(len(self))))
        return self.read(rows)

    def split(self, size: int) -> Iterator[Shaped[Tensor, "b *d"]]:
        """All samples in turn, some at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))


@dataclass(frozen=True)
class InMemory(Source):
    """Samples in memory, or mapped into it.

    Attributes:
        x: All of them, never written to.
    """

    x: Shaped[Tensor, "n *d"]

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of samples, and the shape of one."""
        return tuple(self.x.shape)

    def read(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *d"]:
        """A copy of the samples of these numbers.

        NumPy makes it in this thread alone: torch would take cores from the training.
        """
        return torch.from_numpy(self.x.numpy()[rows.numpy()])

    def fingerprint(self) -> str:
        """The digest of all samples."""
        return digest_of([self.x])

    def __getitem__(self, rows: Int64[Tensor, " b"] | slice | int) -> Shaped[Tensor, "..."]:
        return self.x[rows]  # a slice is no copy


def digest_of(tensors: Iterable[Tensor]) -> str:
    """The SHA-256 of tensors, one after the other."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).reshape(-1).data)
    return digest.hexdigest()
