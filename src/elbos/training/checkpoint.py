"""Checkpoints: safetensors and JSON, in a folder that is whole or not there.

`checkpoints/00001500/` holds a file of tensors per group (network, ema, optimizer, ...) and a
manifest with the step and the SHA-256 of every file. Loading reads numbers and runs no code.

Where processes share the tensors, each writes the rows that it has to files of its own,
`network__1.safetensors`, and loading joins them: any number of processes may go on from there, each
of which reads the rows that it is going to have.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from elbos.base import files
from elbos.base.errors import flat
from elbos.training.stored import Stored

_PART = "__"
_MAX_REASON = 200  # characters: torch lists all tensors that differ
Groups = Mapping[str, Mapping[str, Tensor]]
ReadableGroups = Mapping[str, Mapping[str, Tensor | Stored]]


class DamagedCheckpoint(ValueError):
    """A checkpoint with a file that is missing, cut short or changed."""


def latest(folder: Path) -> Path | None:
    """The checkpoint of the highest step in `folder`, or None."""
    return next(reversed(kept(folder).values()), None)


def of_step(folder: Path, step: int | None) -> Path:
    """The checkpoint of a step; by default, of the highest.

    Raises:
        FileNotFoundError: If there is none; it says of which steps there are some.
    """
    found, run = kept(folder), folder.parent
    if not found:
        raise FileNotFoundError(f"{run} has no checkpoint yet: train it with `elbos train`.")
    if step is not None and step not in found:
        raise FileNotFoundError(
            f"{run} has no checkpoint of step {step}: give one of {', '.join(map(str, found))}."
        )
    return found[max(found) if step is None else step]


def save(folder: Path, step: int, groups: Groups, *, num_kept: int) -> None:
    """Write the checkpoint of `step` and delete all but the latest `num_kept`.

    Raises:
        OSError: If it cannot be written; the earlier checkpoints are then untouched.
    """
    partial = begun(folder, step)
    try:
        write_part(partial, 0, groups)
        finish(partial, folder, step, num_parts=1, num_kept=num_kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def begun(folder: Path, step: int) -> Path:
    """The folder in which the parts of a checkpoint are put together."""
    partial = files.partial(folder / f"{step:08d}")
    with files.named_errors(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    return partial


def write_part(partial: Path, part: int, groups: Groups) -> None:
    """Write one process's part of a checkpoint: the rows that it has of each tensor, and in part 0
    whatever is whole there. Processes of several machines write to a file system that they share.
    """
    with files.named_errors(partial.parent):
        digests = {}
        for name, tensors in groups.items():
            file = f"{name}{_PART}{part}" if part else name
            digests[file] = _write(partial / f"{file}.safetensors", tensors)
        files.write(partial / f"part-{part}.json", json.dumps(digests).encode())


def finish(partial: Path, folder: Path, step: int, *, num_parts: int, num_kept: int) -> None:
    """Make a checkpoint of its parts, which are all there, and delete all but the latest.

    Raises:
        OSError: If something cannot be written.
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


@contextmanager
def reading_step(
    folder: Path, step: int | None, only: str | None = None
) -> Iterator[tuple[int, dict[str, dict[str, Tensor]]]]:
    """As `reading`, of the checkpoint of a step; by default, of the highest. A training may save
    the next one meanwhile and delete this: then the next one is read.

    Raises:
        FileNotFoundError: If there is none; it says of which steps there are some.
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
    """The step of a checkpoint and its groups of tensors, to be used inside the context.

    Args:
        path: The checkpoint.
        only: The one group that is read. Default: all are.

    Raises:
        DamagedCheckpoint: If a file is missing, cut short or changed.
        ValueError: If the tensors turn out, inside the context, to be of another network.
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
    """Read the files of a checkpoint, to see whether they are as they were written.

    Args:
        path: The checkpoint.
        only: The one group that is read. Default: all are.
        share: Which of the files: processes that use a checkpoint together may each verify some.

    Raises:
        DamagedCheckpoint: If one is missing, cut short or changed.
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
    """The step of a checkpoint that was verified and its groups of tensors, of which rows are read
    when they are asked for, to be used inside the context.

    Args:
        path: The checkpoint.
        only: The one group that is opened. Default: all are.

    Raises:
        DamagedCheckpoint: If a file is missing or no file of tensors.
        ValueError: If the tensors turn out, inside the context, to be of another network.
    """
    with ExitStack() as stack:
        with _naming_damage(path):
            step, digests = _manifest(path)
            parts: dict[str, dict[str, list[Any]]] = {}
            for name in _of_group(digests, only):
                group = parts.setdefault(_group(name), {})
                file = stack.enter_context(_opened(path / f"{name}.safetensors"))
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
                f"The checkpoint {path} is whole, but of another network or schedule than this "
                f"one ({flat(error)[:_MAX_REASON]}): give the network and the data that it was "
                "trained with, and the version of elbos."
            ) from error


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the content of a safetensors file.

    Raises:
        RuntimeError, ValueError, TypeError: If some share memory, or are no tensors of numbers.
    """
    content: bytes = safetensors.torch.save(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    )
    return content


def _write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors that are on the CPU as a safetensors file; return its SHA-256. They are neither
    copied nor packed, which would hold up the training: Python runs on while they are written.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))
    empty = packed({name: tensor.new_empty(0) for name, tensor in ordered.items()})
    header, end = json.loads(empty[8:]), 0  # the types as safetensors calls them
    for name, tensor in ordered.items():
        offsets = [end, end := end + tensor.nbytes]
        header[name] |= {"shape": list(tensor.shape), "data_offsets": offsets}
    start = json.dumps(header).encode()
    start += b" " * (-len(start) % 8)
    digest = hashlib.sha256()
    with files.writing(path) as file, files.named_errors(path):
        for piece in (len(start).to_bytes(8, "little"), start, *map(_bytes, ordered.values())):
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.contiguous().flatten().view(torch.uint8).numpy()


def require_dtypes(groups: ReadableGroups, own: Groups) -> None:
    """Raise a ValueError if a tensor has another dtype than the one that it replaces: torch itself
    would convert it in silence.
    """
    for group, tensors in own.items():
        for name, tensor in tensors.items():
            found = groups[group].get(name)
            if found is not None and found.dtype != tensor.dtype:
                raise ValueError(f"{group} {name} is {found.dtype}, not {tensor.dtype}")


def _manifest(path: Path) -> tuple[int, dict[str, str]]:
    """The step of a checkpoint, and the digest of every file; the parts of a group in order."""
    try:
        manifest = files.read_json(path / "manifest.json")
    except ValueError as error:
        raise DamagedCheckpoint("manifest.json is unreadable") from error
    step, digests = manifest["step"], manifest["sha256"]
    if type(step) is not int or step != int(path.name):
        raise DamagedCheckpoint(f"manifest.json is of step {step!r}")
    for name in digests:
        if not name.isidentifier():  # nothing outside this folder is read
            raise DamagedCheckpoint(f"manifest.json names a file {name!r}")
    return step, digests


def _group(name: str) -> str:
    """The group of tensors that are in a file, or some of their rows."""
    return name.partition(_PART)[0]


def _of_group(names: Iterable[str], only: str | None) -> list[str]:
    """The files of one group, or all."""
    return [name for name in names if only in (None, _group(name))]


def _opened(path: Path) -> Any:
    try:
        return safe_open(files.regular(path), "pt")  # safetensors' own error names no file
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{path.name} is unreadable") from error


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Let what is wrong with its files name the checkpoint and what to do."""
    try:
        yield
    except (FileNotFoundError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedCheckpoint(
            f"The checkpoint {path} is damaged ({_reason(error)}): unless another "
            "process writes it, delete that folder to resume from the one before it, or else from "
            "the start."
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, DamagedCheckpoint):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    return "manifest.json is not a manifest"


def kept(folder: Path) -> dict[int, Path]:
    """The checkpoint of every step that was kept, in order."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:  # as of one moment: a training may rename them
        found = [Path(entry) for entry in entries if entry.is_dir() and entry.name.isdecimal()]
    return dict(sorted((int(path.name), path) for path in found))


def _remove(path: Path) -> None:
    """Delete a checkpoint; at no moment half of it stands under its name."""
    partial = files.partial(path.with_name(f"{path.name}.old"))
    path.rename(partial)
    shutil.rmtree(partial)
