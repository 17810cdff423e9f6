"""Samples by number, in memory or read on demand."""

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
    """Samples of a split by number; indexed like a tensor, `x[rows]`, `x[:100]`, `x[3]`.

    Reading is a pure function of the numbers, thread-safe, and does not hold Python's lock.
    Validation and evaluation read the same in each epoch; a training may augment the stored samples
    (`stored`, `augmented`).
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Number of samples, and shape of one."""

    @abc.abstractmethod
    def read(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *d"]:
        """Read samples: pixel values, or continuous data.

        Raises:
            OSError: If they cannot be read.
            ValueError: If they are corrupt.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Return the identifier of all samples, without reading them."""

    def stored(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *e"]:
        """Read samples as a training transfers them to its device."""
        return self.read(rows)

    def augmented(self, x: Shaped[Tensor, "b *e"], visits: Visits) -> Shaped[Tensor, "b *d"]:
        """Augment stored samples on the device: another image or draw in each epoch.

        Args:
            x: Stored samples.
            visits: Their numbers and epochs.
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
        """Iterate over all samples in batches."""
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
        """Number of samples, and shape of one."""
        return tuple(self.x.shape)

    def read(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *d"]:
        """Copy the samples in some rows.

        NumPy copies in this thread alone; torch would take cores from the training.
        """
        return torch.from_numpy(self.x.numpy()[rows.numpy()])

    def fingerprint(self) -> str:
        """Return the digest of all samples."""
        return digest_of([self.x])

    def __getitem__(self, rows: Int64[Tensor, " b"] | slice | int) -> Shaped[Tensor, "..."]:
        return self.x[rows]  # a slice is a view


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Compute the SHA-256 of concatenated tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).reshape(-1).data)
    return digest.hexdigest()
