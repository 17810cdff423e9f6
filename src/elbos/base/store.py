"""Storage of a long computation's results on disk, in parts, so that the computation can resume.

A part is a batch, seconds of work. An interrupted computation loses the current batch and reads the
others back when restarted. The folder's name is a digest of everything that the numbers depend on.

Several processes share the parts by index: each computes its own, waits for the others, and reads
their parts from the folder, which must be visible to all. No part is computed twice.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from elbos.base import files, formats
from elbos.base.errors import warn
from elbos.base.processes import ALONE, Processes
from elbos.base.progress import Advance

Tensors = dict[str, Tensor]
_SECONDS, _PAUSE = 120.0, 0.1  # timeout and polling interval of network file systems


class Part(NamedTuple):
    """Separately stored part of a computation: name, amount of work, and what computes it."""

    name: str
    num: int
    compute: Callable[[], Tensors]


@dataclass(frozen=True)
class Store:
    """Folder of partial results, a file of tensors each, from which a computation resumes.

    All `processes`, which share the parts, must make the same calls of `concatenated`.
    """

    folder: Path
    processes: Processes = ALONE

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def part(self, name: str, compute: Callable[[], Tensors]) -> Tensors:
        """Return the stored result of a part, which is computed if it is missing or damaged."""
        path = self._path(name)
        if (stored := _read(path)) is not None:
            return stored
        tensors = {key: value.cpu().contiguous() for key, value in compute().items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write(path, formats.pack(tensors))
        return tensors

    def concatenated(self, parts: Iterable[Part], advance: Advance) -> Tensors:
        """Return the concatenated results of all parts, of which the missing ones are computed."""
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


def _read(path: Path) -> Tensors | None:
    try:
        return formats.unpack(files.read(path), path)
    except FileNotFoundError:
        return None
    except formats.CorruptFile:
        warn(f"{path} is damaged: it is computed again.", RuntimeWarning)
        return None
