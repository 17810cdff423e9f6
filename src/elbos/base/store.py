"""Storage of a long computation's results on disk, in parts, so that the computation can resume.

A part is a batch, seconds of work. An interrupted computation loses the current batch and reads the
others back when restarted. The folder's name is a digest of everything that the numbers depend on.

Several processes share the parts by index: each computes its own, waits for the others, and reads
their parts from the folder, which must be visible to all. No part is computed twice.
"""

import hashlib
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from elbos.base import files, formats
from elbos.base.processes import ALONE, Processes
from elbos.base.progress import Advance

Tensors = dict[str, Tensor]
_SECONDS, _PAUSE = 120.0, 0.1  # timeout and polling interval of network file systems


class Part(NamedTuple):
    """Separately stored part of a long computation.

    It has a name, an amount of work, and the function that computes the result.
    """

    name: str
    num: int
    compute: Callable[[], Tensors]


@dataclass(frozen=True)
class Store:
    """Folder of partial results for resuming an interrupted computation.

    Each part of the computation has a file of tensors.

    Args:
        folder: The directory, created when the first part is written.
        processes: The processes that share the parts. All must make the same calls of
            `concatenated` and `of_main`. Default: one process.
    """

    folder: Path
    processes: Processes = ALONE

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def part(self, name: str, compute: Callable[[], Tensors]) -> Tensors:
        """Return the result of one part of a long computation.

        A missing result is computed and stored. A file that cannot be read is computed again, with
        a warning.

        Raises:
            OSError: If it cannot be written.
        """
        path = self._path(name)
        if (stored := _read(path)) is not None:
            return stored
        tensors = {key: value.cpu().contiguous() for key, value in compute().items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write(path, pack(tensors))
        return tensors

    def concatenated(self, parts: Iterable[Part], advance: Advance) -> Tensors:
        """Return the concatenated results of all parts of a long computation.

        Missing results are computed and stored.

        Raises:
            OSError: If a part cannot be written.
        """
        results: dict[str, Tensors | None] = {}

        def compute_own() -> None:
            for i, (name, num, compute) in enumerate(parts):
                is_own = i % self.processes.num == self.processes.rank
                is_kept = name in self
                results[name] = self.part(name, compute) if is_own else None
                advance(num, is_kept)

        self.processes.together(compute_own)
        whole = [
            self._of_another(name) if result is None else result for name, result in results.items()
        ]
        return {key: torch.cat([part[key] for part in whole]) for key in whole[0]}

    def of_main(self, name: str, compute: Callable[[], Tensors]) -> Tensors:
        """Return tensors that the main process computes for all processes.

        They are stored under `name` and only computed if missing there.

        Raises:
            OSError: If it cannot be written.
        """
        result = self.processes.together(
            lambda: self.part(name, compute) if self.processes.is_main else None
        )
        return self._of_another(name) if result is None else result

    def _of_another(self, name: str) -> Tensors:
        begin = time.monotonic()
        while (result := _read(self._path(name))) is None:
            if time.monotonic() - begin > _SECONDS:
                raise FileNotFoundError(
                    f"{self._path(name)}, which another process wrote, is not there: let all "
                    "processes see the same run directory and cache (XDG_CACHE_HOME)."
                )
            time.sleep(_PAUSE)
        return result

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def pack(tensors: Tensors) -> bytes:
    """Serialize tensors to bytes that begin with a checksum.

    The checksum is SHA-256, the format safetensors.
    """
    content = formats.pack(tensors)
    return hashlib.sha256(content).digest() + content


def read(path: Path) -> Tensors:
    """Return the tensors in a file after verifying the checksum.

    The file has the format of `pack`.

    Raises:
        OSError: If the file cannot be read.
        CorruptFile: If the checksum does not match, or the file holds no tensors.
    """
    content = files.read(path)
    digest, content = content[:32], content[32:]
    if hashlib.sha256(content).digest() != digest:
        raise formats.CorruptFile(f"{path} is corrupt: the checksum does not match")
    return formats.unpack(content, path)


def _read(path: Path) -> Tensors | None:
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except formats.CorruptFile:
        warnings.warn(f"{path} is damaged: it is computed again.", RuntimeWarning, stacklevel=3)
        return None
