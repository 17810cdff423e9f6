"""Samples indexed by number, in memory or read on demand."""

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
    """Samples of a split, indexed like a tensor: `x[rows]`, `x[:100]`, `x[3]`.

    Reading is a pure function of the indices, thread-safe, and does not hold Python's lock.
    Validation and evaluation read the same samples in each epoch; training may augment the stored
    samples (`stored`, `augmented`).
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of all samples, `(n, *d)`."""

    @abc.abstractmethod
    def read(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *d"]:
        """Read the samples of the given rows: pixel values, or continuous data.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If a sample is corrupt.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Return a digest that identifies all samples."""

    def stored(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *e"]:
        """Read samples in the format that training transfers to the device, before augmentation."""
        return self.read(rows)

    def augmented(self, x: Shaped[Tensor, "b *e"], visits: Visits) -> Shaped[Tensor, "b *d"]:
        """Augment stored samples on the device, differently in each epoch.

        Args:
            x: Stored samples.
            visits: Indices and epochs of the samples.
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
        """Iterate over all samples in batches of `size`."""
        return (self[start : start + size] for start in range(0, len(self), size))


@dataclass(frozen=True)
class InMemory(Source):
    """Samples held in a tensor, in memory or memory-mapped.

    Attributes:
        x: All samples, never written to.
    """

    x: Shaped[Tensor, "n *d"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor of all samples, `(n, *d)`."""
        return tuple(self.x.shape)

    def read(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *d"]:
        """Copy the samples of the given rows.

        NumPy copies in one thread; torch would take cores from the training.
        """
        return torch.from_numpy(self.x.numpy()[rows.numpy()])

    def fingerprint(self) -> str:
        """Return the SHA-256 of all samples."""
        return digest_of([self.x])

    def __getitem__(self, rows: Int64[Tensor, " b"] | slice | int) -> Shaped[Tensor, "..."]:
        return self.x[rows]  # a slice is a view


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Compute the SHA-256 of the concatenated bytes of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).reshape(-1).data)
    return digest.hexdigest()
