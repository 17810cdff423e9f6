"""Checkpoints of a training run: folders of safetensors and JSON files, written atomically.

`checkpoints/00001500/` holds a file of whole tensors per group (network, ema, optimizer, ...) and a
manifest with the step and the SHA-256 of every file. Loading reads numbers and runs no code. The
main process writes; every process reads the files, and keeps its rows of sharded tensors, so that a
training resumes on any number of processes.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from elbos.base import files
from elbos.base.errors import flat
from elbos.base.formats import CorruptFile, read_object

_MAX_REASON = 200  # characters: torch lists all tensors that differ

Groups = Mapping[str, Mapping[str, Tensor]]


class DamagedCheckpoint(CorruptFile):
    """Error raised if a file of a checkpoint is missing, truncated or modified."""


# --- finding -------------------------------------------------------------------------------------


def kept(folder: Path) -> dict[int, Path]:
    """Return the paths of all checkpoints in a folder, keyed by training step.

    The training steps ascend.
    """
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:  # listed at once: a running training renames checkpoints
        paths = [Path(entry) for entry in entries if entry.is_dir() and entry.name.isdecimal()]
    return dict(sorted((int(path.name), path) for path in paths))


def latest(folder: Path) -> Path | None:
    return next(reversed(kept(folder).values()), None)


def of_step(folder: Path, step: int | None) -> Path:
    """Return the path of the checkpoint of a training step.

    The step None stands for the latest checkpoint.
    """
    checkpoints, run = kept(folder), folder.parent
    if not checkpoints:
        raise FileNotFoundError(f"{run} has no checkpoint yet: train it with `elbos train`.")
    if step is not None and step not in checkpoints:
        raise FileNotFoundError(
            f"{run} has no checkpoint of step {step}: give one of "
            f"{', '.join(map(str, checkpoints))}."
        )
    return checkpoints[max(checkpoints) if step is None else step]


# --- writing -------------------------------------------------------------------------------------


def save(folder: Path, step: int, groups: Groups, *, num_kept: int) -> None:
    """Write the checkpoint of a training step and delete old checkpoints.

    The latest `num_kept` checkpoints are kept. If the checkpoint cannot be written (OSError),
    earlier checkpoints are untouched.
    """
    path = folder / f"{step:08d}"
    partial = files.partial(path)
    try:
        with files.named_errors(folder):
            partial.mkdir(parents=True)
            for name, tensors in groups.items():
                file = partial / f"{name}.safetensors"
                whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
                try:
                    save_file(whole, file)
                except SafetensorError as error:  # such as a full disk
                    raise OSError(f"{file} cannot be written ({flat(error)})") from error
                with file.open("rb") as written:
                    os.fsync(written.fileno())
            digests = {name: files.sha256(partial / f"{name}.safetensors") for name in groups}
            manifest = json.dumps({"step": step, "sha256": digests}, indent=2)
            files.write(partial / "manifest.json", manifest.encode())
            if path.exists():  # a checkpoint of the same step
                _remove(path)
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in list(kept(folder).values())[:-num_kept]:
        _remove(old)


def _remove(path: Path) -> None:
    # renamed first: an incomplete folder never bears the name of a checkpoint
    partial = files.partial(path.with_name(f"{path.name}.old"))
    path.rename(partial)
    shutil.rmtree(partial)


# --- reading -------------------------------------------------------------------------------------


@contextmanager
def reading_step(
    folder: Path, step: int | None, only: str | None = None
) -> Iterator[tuple[int, Groups]]:
    """Read the checkpoint of a training step as `reading` does, by default the latest.

    If a running training replaces the latest checkpoint meanwhile, the newer one is read.
    """
    while True:
        path = of_step(folder, step)
        before = files.identity(path)
        try:
            checkpoint = _read(path, only)
            break
        except DamagedCheckpoint:
            if before is not None and files.identity(path) == before:
                raise
    with _naming_another_network(path):
        yield checkpoint


@contextmanager
def reading(path: Path, only: str | None = None) -> Iterator[tuple[int, Groups]]:
    """Read a checkpoint, verified by SHA-256, and yield its step and its tensors by group and name.

    If `only` is given, only this group is read. A KeyError, ValueError or RuntimeError in the
    `with` block becomes a ValueError: the tensors belong to another network.

    Raises:
        DamagedCheckpoint: If a file is missing, truncated or modified.
    """
    checkpoint = _read(path, only)
    with _naming_another_network(path):
        yield checkpoint


def _read(path: Path, only: str | None) -> tuple[int, Groups]:
    try:
        manifest = read_object(path / "manifest.json")
        step, digests = manifest["step"], dict(manifest["sha256"])
        if type(step) is not int or step != int(path.name):
            raise CorruptFile(f"manifest.json belongs to step {step!r}")
        if strange := [name for name in digests if not name.isidentifier()]:
            # nothing outside this folder is read
            raise CorruptFile(f"manifest.json names a file {strange[0]!r}")
        groups = {}
        for name in digests if only is None else digests.keys() & {only}:
            file = path / f"{name}.safetensors"
            if files.sha256(file) != digests[name]:
                raise CorruptFile(f"{file.name} is truncated or was changed")
            groups[name] = load_file(file)
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, CorruptFile) else "manifest.json is no manifest"
        if isinstance(error, FileNotFoundError):
            reason = f"{Path(error.filename).name} is missing"
        elif isinstance(error, SafetensorError):
            reason = f"{file.name} is unreadable"
        raise DamagedCheckpoint(
            f"The checkpoint {path} is corrupt ({reason}): unless another process is writing it, "
            "delete that folder to resume from the previous checkpoint, or else from the start."
        ) from error
    return step, groups


@contextmanager
def _naming_another_network(path: Path) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"The checkpoint {path} is complete, but belongs to another network or schedule "
            f"({flat(error)[:_MAX_REASON]}): give the network and the data that it was "
            "trained with, and the version of elbos."
        ) from error


def require_dtypes(groups: Groups, expected: Groups) -> None:
    # torch itself would convert the stored tensor silently
    for group, tensors in expected.items():
        for name, tensor in tensors.items():
            stored = groups[group].get(name)
            if stored is not None and stored.dtype != tensor.dtype:
                raise ValueError(f"{group} {name} is {stored.dtype}, not {tensor.dtype}")
