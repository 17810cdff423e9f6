"""Pictures that are decoded each time they are read, out of archives that hold them encoded."""

import abc
import hashlib
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from elbos.base.codec import digest
from elbos.training.data.dataset import Dataset, Split
from elbos.training.data.decode import BadPicture, decode
from elbos.training.data.source import Source

_NUM_IN_IDENTIFIER = 64
_MAX_BAD = 100  # in a row


class Archive(abc.ABC):
    """Encoded pictures by number. Reading is safe in several threads, and in other processes, to
    which the archive is pickled.
    """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """The identifier of all pictures, which takes no reading of them."""

    @abc.abstractmethod
    def name(self, number: int) -> str:
        """The name of a picture, for messages."""

    @abc.abstractmethod
    def content(self, number: int) -> bytes:
        """The content of a picture's file.

        Raises:
            BadPicture: If there is none.
            OSError: If it cannot be read.
        """


@dataclass(frozen=True)
class Decoded(Source):
    """A split's pictures, decoded when they are read: resized, cropped at the centre.

    Attributes:
        archive: Where they are.
        numbers: Their numbers in it.
        size: Height and width.
        skip_bad: Whether the next picture is taken for one that cannot be decoded.
    """

    archive: Archive
    numbers: Int64[np.ndarray, " n"]
    size: int
    skip_bad: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of pictures, and the shape of one."""
        return len(self.numbers), 3, self.size, self.size

    def read(self, rows: Int64[Tensor, " b"]) -> UInt8[Tensor, "b 3 s s"]:
        """The pixel values of these pictures.

        Raises:
            OSError: If the archive cannot be read.
            ValueError: If a picture cannot be decoded.
        """
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows.tolist()):
            out[place] = self._decoded(row)
        return torch.from_numpy(out)

    def _decoded(self, row: int) -> UInt8[np.ndarray, "3 s s"]:
        for number in (int(self.numbers[(row + i) % len(self)]) for i in range(_MAX_BAD)):
            try:
                return decode(self.archive.content(number), self.size)
            except BadPicture as error:
                bad = f"the picture {self.archive.name(number)} cannot be used ({error})"
                if not self.skip_bad:
                    raise ValueError(
                        f"{bad}: remove it, or pass --data.skip-bad, which takes the next one."
                    ) from error
                warnings.warn(f"{bad}: the next one is taken", stacklevel=2)
        raise ValueError(f"{bad}, like the {_MAX_BAD - 1} before it.")

    def fingerprint(self) -> str:
        """The identifier: that of the archive, the pictures' numbers, and the contents of some."""
        hashed = hashlib.sha256(np.ascontiguousarray(self.numbers).data)
        rows = np.linspace(0, len(self) - 1, min(len(self), _NUM_IN_IDENTIFIER)).astype(int)
        for number in self.numbers[rows].tolist():
            with suppress(BadPicture):  # there is none
                hashed.update(self.archive.content(number))
        return digest([self.archive.fingerprint(), self.size, hashed.hexdigest()])


def decoded_dataset(
    archive: Archive,
    splits: Sequence[tuple[Int64[np.ndarray, "_"], Int64[Tensor, "_"] | None]],
    *,
    name: str,
    size: int,
    num_classes: int | None,
    class_names: tuple[str, ...] | None,
    skip_bad: bool,
) -> Dataset:
    """The data of an archive, of which nothing is decoded yet.

    Args:
        archive: Encoded pictures.
        splits: The numbers and labels of those for training, validation and testing.
        name: In reports.
        size: Height and width.
        num_classes: Number of classes, or None.
        class_names: Their names, or None.
        skip_bad: Whether the next picture is taken for one that cannot be decoded.
    """
    sources = [Decoded(archive, numbers, size, skip_bad) for numbers, _ in splits]
    train, val, test = (
        Split(source, labels) for source, (_, labels) in zip(sources, splits, strict=True)
    )
    known = digest([source.fingerprint() for source in sources])
    return Dataset(name, train, val, test, 256, num_classes, class_names, known)
