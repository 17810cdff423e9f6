"""Checkpoints: safetensors and JSON, in a folder that is complete or absent.

`checkpoints/00001500/` holds a file of tensors per group (network, ema, optimizer, ...) and a
manifest with the step and the SHA-256 of every file. Loading reads numbers and runs no code.

Under FSDP2 each process writes its rows of the tensors to files of its own,
`network__1.safetensors`, and loading joins them: training may resume on any number of processes,
each of which reads its own rows alone.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from elbos.base import files
from elbos.base.errors import flat
from elbos.base.formats import CorruptFile, pack, read_object

_PART = "__"
_MAX_REASON = 200  # characters: torch lists all tensors that differ


class Stored:
    """A tensor in safetensors files, of which only the requested rows are read.

    `stored[...]` reads the tensor, and `stored[2:5]` some rows, into memory of their own.

    Args:
        parts: Slices of safetensors, with consecutive rows.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts
        shapes = [part.get_shape() for part in parts]
        num_rows = [sum(shape[0] for shape in shapes)] if shapes[0] else []
        self.shape = torch.Size([*num_rows, *shapes[0][1:]])
        self.ndim = len(self.shape)
        if any(shape[1:] != shapes[0][1:] for shape in shapes):
            raise ValueError(f"parts of one tensor have shapes {shapes}")

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the elements."""
        found: torch.dtype = self._parts[0][... if self.ndim == 0 else slice(0, 0)].dtype
        return found

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor:
        """Read the tensor, or rows `start` to `stop` of it."""
        if self.ndim == 0:
            number: Tensor = self._parts[0][...]
            return number.clone()
        start, stop, _ = (slice(None) if rows is ... else rows).indices(self.shape[0])
        found, first = [self._parts[0][0:0]], 0
        for part in self._parts:
            end = first + part.get_shape()[0]
            if max(start, first) < min(stop, end):
                found.append(part[max(start, first) - first : min(stop, end) - first])
            first = end
        return torch.cat(found)


Groups = Mapping[str, Mapping[str, Tensor]]
ReadableGroups = Mapping[str, Mapping[str, Tensor | Stored]]


class DamagedCheckpoint(CorruptFile):
    """A checkpoint with a file that is missing, cut short or changed."""


# --- finding -------------------------------------------------------------------------------------


def kept(folder: Path) -> dict[int, Path]:
    """List the checkpoints in a folder by step, in order."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:  # as of one moment: a training may rename them
        found = [Path(entry) for entry in entries if entry.is_dir() and entry.name.isdecimal()]
    return dict(sorted((int(path.name), path) for path in found))


def latest(folder: Path) -> Path | None:
    """Return the checkpoint of the highest step in `folder`, or None."""
    return next(reversed(kept(folder).values()), None)


def of_step(folder: Path, step: int | None) -> Path:
    """Return the checkpoint of a step; by default, of the highest.

    Raises:
        FileNotFoundError: If there is no such checkpoint; it lists the steps that have one.
    """
    found, run = kept(folder), folder.parent
    if not found:
        raise FileNotFoundError(f"{run} has no checkpoint yet: train it with `elbos train`.")
    if step is not None and step not in found:
        raise FileNotFoundError(
            f"{run} has no checkpoint of step {step}: give one of {', '.join(map(str, found))}."
        )
    return found[max(found) if step is None else step]


# --- writing -------------------------------------------------------------------------------------


def save(folder: Path, step: int, groups: Groups, *, num_kept: int) -> None:
    """Write the checkpoint of `step` and delete all but the latest `num_kept`.

    Raises:
        OSError: If it cannot be written; the earlier checkpoints are then untouched.
    """
    partial = new_partial(folder, step)
    try:
        write_part(partial, 0, groups)
        finish(partial, folder, step, num_parts=1, num_kept=num_kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def new_partial(folder: Path, step: int) -> Path:
    """Make the temporary folder in which the parts of a checkpoint are collected."""
    partial = files.partial(folder / f"{step:08d}")
    with files.named_errors(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    return partial


def write_part(partial: Path, part: int, groups: Groups) -> None:
    """Write one process's part of a checkpoint: its rows of each tensor.

    Part 0 has the tensors that are not sharded, too. Processes on several machines write to a file
    system that they share.
    """
    with files.named_errors(partial.parent):
        digests = {}
        for name, tensors in groups.items():
            file = f"{name}{_PART}{part}" if part else name
            digests[file] = _write(partial / f"{file}.safetensors", tensors)
        files.write(partial / f"part-{part}.json", json.dumps(digests).encode())


def finish(partial: Path, folder: Path, step: int, *, num_parts: int, num_kept: int) -> None:
    """Turn complete parts into a checkpoint, and delete all but the latest `num_kept`.

    Raises:
        OSError: If a file cannot be written.
    """
    path = folder / f"{step:08d}"
    digests: dict[str, str] = {}
    with files.named_errors(path):
        for part in range(num_parts):
            file = partial / f"part-{part}.json"
            digests |= files.read_json(file)
            file.unlink()
        manifest = json.dumps({"step": step, "sha256": digests}, indent=2)
        files.write(partial / "manifest.json", manifest.encode())
        if path.exists():  # of the same step
            _remove(path)
        partial.rename(path)
    for old in list(kept(folder).values())[:-num_kept]:
        _remove(old)


def _write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write CPU tensors as a safetensors file, and return its SHA-256.

    The tensors are neither copied nor serialized at once, which would hold Python's lock, and with
    it the training.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))
    empty = pack({name: tensor.new_empty(0) for name, tensor in ordered.items()})
    header, end = json.loads(empty[8:]), 0  # the dtypes as safetensors calls them
    for name, tensor in ordered.items():
        offsets = [end, end := end + tensor.nbytes]
        header[name] |= {"shape": list(tensor.shape), "data_offsets": offsets}
    start = json.dumps(header).encode()
    start += b" " * (-len(start) % 8)
    digest = hashlib.sha256()

    def content(tensor: Tensor) -> Any:
        return tensor.contiguous().flatten().view(torch.uint8).numpy()

    with files.writing(path) as file, files.named_errors(path):
        for piece in (len(start).to_bytes(8, "little"), start, *map(content, ordered.values())):
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    """Delete a checkpoint atomically (rename, then remove)."""
    partial = files.partial(path.with_name(f"{path.name}.old"))
    path.rename(partial)
    shutil.rmtree(partial)


# --- reading -------------------------------------------------------------------------------------


@contextmanager
def reading_step(
    folder: Path, step: int | None, only: str | None = None
) -> Iterator[tuple[int, dict[str, dict[str, Tensor]]]]:
    """Read the checkpoint of a step, by default of the highest, as `reading` does.

    If a training deletes it meanwhile, having saved the next one, that is read.

    Raises:
        FileNotFoundError: If there is no such checkpoint; it lists the steps that have one.
        DamagedCheckpoint, ValueError: As `reading` does.
    """
    with ExitStack() as stack:
        while True:
            path = of_step(folder, step)
            before = files.identity(path)
            try:
                found = stack.enter_context(reading(path, only))
                break
            except DamagedCheckpoint:
                if before is not None and files.identity(path) == before:
                    raise
        yield found


@contextmanager
def reading(
    path: Path, only: str | None = None
) -> Iterator[tuple[int, dict[str, dict[str, Tensor]]]]:
    """Verify a checkpoint and read its step and its groups of tensors.

    Args:
        path: The checkpoint.
        only: The one group that is read. Default: all.

    Raises:
        DamagedCheckpoint: If a file is missing, cut short or changed.
        ValueError: If the `with` block finds that the tensors belong to another network.
    """
    verify(path, only)
    with opened(path, only) as (step, groups):
        yield (
            step,
            {
                group: {name: stored[...] for name, stored in tensors.items()}
                for group, tensors in groups.items()
            },
        )


def verify(path: Path, only: str | None = None, share: slice = slice(None)) -> None:
    """Compare the files of a checkpoint with their SHA-256.

    Args:
        path: The checkpoint.
        only: The one group that is verified. Default: all.
        share: A part of the files: processes that use a checkpoint together verify some each.

    Raises:
        DamagedCheckpoint: If a file is missing, cut short or changed.
    """
    with _naming_damage(path):
        digests = _manifest(path)[1]
        for name in _of_group(digests, only)[share]:
            if files.sha256(path / f"{name}.safetensors") != digests[name]:
                raise DamagedCheckpoint(f"{name}.safetensors is cut short or was changed")


@contextmanager
def opened(
    path: Path, only: str | None = None
) -> Iterator[tuple[int, dict[str, dict[str, Stored]]]]:
    """Open a verified checkpoint: its step, and its groups of tensors, read on demand.

    Args:
        path: The checkpoint.
        only: The one group that is opened. Default: all.

    Raises:
        DamagedCheckpoint: If a file is missing or holds no tensors.
        ValueError: If the `with` block finds that the tensors belong to another network.
    """
    with ExitStack() as stack:
        with _naming_damage(path):
            step, digests = _manifest(path)
            parts: dict[str, dict[str, list[Any]]] = {}
            for name in _of_group(digests, only):
                group = parts.setdefault(_group(name), {})
                try:  # safetensors' own error names no file
                    file = stack.enter_context(
                        safe_open(files.regular(path / f"{name}.safetensors"), "pt")
                    )
                except SafetensorError as error:
                    raise DamagedCheckpoint(f"{name}.safetensors is unreadable") from error
                for key in file.keys():  # noqa: SIM118 (it is no mapping)
                    group.setdefault(key, []).append(file.get_slice(key))
            groups = {
                group: {key: Stored(found) for key, found in tensors.items()}
                for group, tensors in parts.items()
            }
        try:
            yield step, groups
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"The checkpoint {path} is complete, but belongs to another network or schedule "
                f"({flat(error)[:_MAX_REASON]}): give the network and the data that it was "
                "trained with, and the version of elbos."
            ) from error


def require_dtypes(groups: ReadableGroups, own: Groups) -> None:
    """Raise a ValueError if a tensor has another dtype than the one that it replaces.

    Torch itself would convert it silently.
    """
    for group, tensors in own.items():
        for name, tensor in tensors.items():
            found = groups[group].get(name)
            if found is not None and found.dtype != tensor.dtype:
                raise ValueError(f"{group} {name} is {found.dtype}, not {tensor.dtype}")


def _manifest(path: Path) -> tuple[int, dict[str, str]]:
    """Read the step of a checkpoint and the digest of every file, parts of a group in order."""
    manifest = read_object(path / "manifest.json")
    step, digests = manifest["step"], manifest["sha256"]
    if type(step) is not int or step != int(path.name):
        raise DamagedCheckpoint(f"manifest.json is of step {step!r}")
    for name in digests:
        if not name.isidentifier():  # nothing outside this folder is read
            raise DamagedCheckpoint(f"manifest.json names a file {name!r}")
    return step, digests


def _group(name: str) -> str:
    """Return the group whose tensors, or some of their rows, are in a file."""
    return name.partition(_PART)[0]


def _of_group(names: Iterable[str], only: str | None) -> list[str]:
    """Select the files of one group, or all."""
    return [name for name in names if only in (None, _group(name))]


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Turn errors of its files into one that names the checkpoint and a remedy."""
    try:
        yield
    except (FileNotFoundError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error) if isinstance(error, CorruptFile) else "manifest.json is no manifest"
        if isinstance(error, FileNotFoundError):
            reason = f"{Path(error.filename).name} is missing"
        raise DamagedCheckpoint(
            f"The checkpoint {path} is corrupt ({reason}): unless another process is writing it, "
            "delete that folder to resume from the previous checkpoint, or else from the start."
        ) from error
