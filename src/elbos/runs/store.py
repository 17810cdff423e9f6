"""Results of long work, part by part, on disk: what is there is not computed again.

A part is a batch, seconds of work. Work that is interrupted loses the batch that it was at, and
reads the others back when it is started again. The folder's name is a digest of all that the
numbers depend on.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from elbos import files
from elbos.progress import Advance

Tensors = dict[str, Tensor]


class Part(NamedTuple):
    """A piece of the work: its name, how much it is, and how it is done."""

    name: str
    num: int
    compute: Callable[[], Tensors]


@dataclass(frozen=True)
class Store:
    """Parts of one piece of work, each a few named tensors.

    Args:
        folder: Where; made when the first part is written.
    """

    folder: Path

    def __contains__(self, name: str) -> bool:
        """Whether the part called `name` is there."""
        return self._path(name).exists()

    def part(self, name: str, compute: Callable[[], Tensors]) -> Tensors:
        """The part called `name`, read if it is there, else computed and written.

        A file that cannot be read is computed again, with a warning.

        Raises:
            OSError: If it cannot be written.
        """
        path = self._path(name)
        if (found := _read(path)) is not None:
            return found
        tensors = {key: value.cpu().contiguous() for key, value in compute().items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write(path, pack(tensors))
        return tensors

    def concatenated(self, parts: Iterable[Part], advance: Advance) -> Tensors:
        """The tensors of all parts, one after the other.

        Raises:
            OSError: If a part cannot be written.
        """
        found = []
        for name, num, compute in parts:
            is_kept = name in self
            found.append(self.part(name, compute))
            advance(num, is_kept)
        return {key: torch.cat([part[key] for part in found]) for key in found[0]}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def pack(tensors: Tensors) -> bytes:
    """Tensors as a file, after its SHA-256."""
    content = safetensors.torch.save(tensors)
    return hashlib.sha256(content).digest() + content


def unpack(content: bytes) -> Tensors:
    """What `pack` made a file of.

    Raises:
        ValueError: If the file is damaged.
    """
    digest, content = content[:32], content[32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("it is not as it was written")
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError("it holds no tensors") from error


def _read(path: Path) -> Tensors | None:
    try:
        return unpack(files.read(path))
    except FileNotFoundError:
        return None
    except ValueError:
        warnings.warn(f"{path} is damaged: it is computed again.", RuntimeWarning, stacklevel=3)
        return None
