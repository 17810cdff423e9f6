"""Exported weights: a folder with the averaged weights of a run alone, to be handed on.

EXPORT/
    elbos.json         which run and step it is of, and between which log-SNRs it was trained; of
                       weights below, their SHA-256
    config.json        the configuration of the run, without the places of its files
    data.json          what is to be known of its data
    model.safetensors  the averaged weights

A network of diffusers is exported as diffusers keeps it, with elbos.json beside. Loading reads
numbers and runs no code.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from elbos.base import files
from elbos.base.errors import flat
from elbos.training import checkpoint
from elbos.training.directory import RunDirectory

MANIFEST, WEIGHTS = "elbos.json", "model.safetensors"
Weights = dict[str, Tensor]
_MAX_REASON = 200  # characters: torch lists all tensors that differ


def is_export(path: Path) -> bool:
    """Whether a folder holds exported weights, of any format."""
    return (path / MANIFEST).is_file()


def ends(directory: RunDirectory) -> tuple[float, float] | None:
    """The log-SNRs that exported weights were trained between; None of any other folder.

    Raises:
        ValueError: If the folder is damaged.
    """
    manifest = directory.read(MANIFEST)
    match None if manifest is None else manifest.get("logsnr"):
        case [float() as low, float() as high] if low < high:
            return low, high
        case None if manifest is None:
            return None
    raise ValueError(f"{directory.path / MANIFEST} is damaged: export the run again.")


def write(folder: Path, weights: Mapping[str, Tensor]) -> str:
    """Write weights into a folder; returns their SHA-256."""
    content = checkpoint.packed(weights)
    files.write(folder / WEIGHTS, content)
    return hashlib.sha256(content).hexdigest()


def averaged(
    directory: RunDirectory, step: int | None = None
) -> AbstractContextManager[tuple[int, Weights]]:
    """The step and the averaged weights of a run or an export, to be used inside the context.

    Args:
        directory: The one or the other.
        step: Of a run, the step of a checkpoint that was kept. Default: the latest.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: As of `checkpoint.reading` and `reading`, or of a step of an export.
    """
    if not is_export(directory.path):
        checkpoint.of_step(directory.checkpoints, step)  # which says at once if there is none
        return _of_checkpoint(directory, step)
    if step is not None:
        raise ValueError(f"{directory.path} is an export, of one step: give no step.")
    return reading(directory)


@contextmanager
def _of_checkpoint(directory: RunDirectory, of: int | None) -> Iterator[tuple[int, Weights]]:
    with checkpoint.reading_step(directory.checkpoints, of, "ema") as (step, groups):
        yield step, groups["ema"]


@contextmanager
def reading(directory: RunDirectory) -> Iterator[tuple[int, Weights]]:
    """The step and the averaged weights of an export, to be used inside the context.

    Raises:
        OSError: If they cannot be read.
        ValueError: If they are damaged, or turn out, inside the context, to be of another network.
    """
    manifest, path = directory.read(MANIFEST) or {}, directory.path / WEIGHTS
    content, step = files.read(path), manifest.get("step")
    is_whole = manifest.get("sha256") == hashlib.sha256(content).hexdigest()
    try:
        weights = safetensors.torch.load(content) if is_whole and type(step) is int else None
    except (SafetensorError, KeyError, NotImplementedError):  # of dtypes, the last two
        weights = None
    if weights is None or not isinstance(step, int):
        raise ValueError(f"{path} is not what {MANIFEST} says: export the run again.")
    try:
        yield step, weights
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} holds the weights of another network than this one "
            f"({flat(error)[:_MAX_REASON]}): give the network that was trained."
        ) from error
