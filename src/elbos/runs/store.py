"""Results of long work, part by part, on disk: what is there is not computed again.

A part is a batch, seconds of work. An evaluation that is interrupted loses the batch it was at; the
same command again reads the others back. Every part is keyed by all that its numbers depend on.
"""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from elbos import files
from elbos.runs.codec import digest, encode
from elbos.runs.cache import cache_dir
from elbos.training.trained import TrainedRun

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Store:
    """Parts of one piece of work, each a few named tensors.

    Args:
        folder: Where; made when the first part is written.
    """

    folder: Path

    @classmethod
    def of(cls, run: TrainedRun, name: str, **key: Any) -> "Store":
        """The store of what `name` and `key` describe, for the weights that `run` has now; what a
        process that was killed left half-written in it is deleted.

        Args:
            run: In whose directory it is.
            name: A word for people.
            key: All else that the numbers depend on, as `codec.encode` takes it.
        """
        of_run = {
            "weights": run.weights_digest(),
            "parameterization": run.config.parameterization,
            "precision": run.config.precision,
            "ends": (run.config.schedule.logsnr_min, run.config.schedule.logsnr_max),
        }
        # all of the data were checked when the run was loaded: these are the names of earlier parts
        data = run.dataset.sampled_fingerprint()
        folder = run.directory.evaluation / f"{name}-{_digest(run, data, {**of_run, **key})}"
        files.remove_leftovers(folder)
        return cls(folder)

    @classmethod
    def of_data(cls, run: TrainedRun, name: str, **key: Any) -> "Store":
        """The store of what depends on the data of a run only: in the cache, for all runs on them.

        Args:
            run: On the data.
            name: A word for people.
            key: All else that the numbers depend on, as `codec.encode` takes it.
        """
        return cls(cache_dir() / name / _digest(run, run.dataset.fingerprint(), key))

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

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _digest(run: TrainedRun, data: dict[str, Any], key: dict[str, Any]) -> str:
    versions = [version("elbos"), version("torch"), run.device.type]
    return digest([[*versions, data], {name: encode(value) for name, value in key.items()}])[:12]


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
