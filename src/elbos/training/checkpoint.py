"""Checkpoints of a training run: folders of safetensors and JSON files, written atomically.

`checkpoints/00001500/` holds a file of tensors per group (network, ema, optimizer, ...) and a
manifest with the step and the SHA-256 of every file. Loading reads numbers and runs no code.

Under FSDP2 each process writes its rows of the tensors, `network__1.safetensors`, and reads its
rows of all files: training may resume on any number of processes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
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
    """Tensor on disk whose rows are read on demand.

    It is stored in one or several safetensors files. `stored[...]` reads the whole tensor, and
    `stored[2:5]` some rows, into new memory. `parts` are slices of safetensors, with consecutive
    rows.
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
        found: torch.dtype = self._parts[0][... if self.ndim == 0 else slice(0, 0)].dtype
        return found

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor:
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
    """Error raised if a file of a checkpoint is missing, truncated or modified."""


# --- finding -------------------------------------------------------------------------------------


def kept(folder: Path) -> dict[int, Path]:
    """Return the paths of all checkpoints in a folder, keyed by training step.

    The training steps ascend.
    """
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:  # listed at once: a running training renames checkpoints
        found = [Path(entry) for entry in entries if entry.is_dir() and entry.name.isdecimal()]
    return dict(sorted((int(path.name), path) for path in found))


def latest(folder: Path) -> Path | None:
    return next(reversed(kept(folder).values()), None)


def of_step(folder: Path, step: int | None) -> Path:
    """Return the path of the checkpoint of a training step.

    The step None stands for the latest checkpoint.
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
    """Write the checkpoint of a training step and delete old checkpoints.

    The latest `num_kept` checkpoints are kept. If the checkpoint cannot be written (OSError),
    earlier checkpoints are untouched.
    """
    partial = new_partial(folder, step)
    try:
        write_part(partial, 0, groups)
        finish(partial, folder, step, num_parts=1, num_kept=num_kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def new_partial(folder: Path, step: int) -> Path:
    partial = files.partial(folder / f"{step:08d}")
    with files.named_errors(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    return partial


def write_part(partial: Path, part: int, groups: Groups) -> None:
    """Write the tensors of one process to a checkpoint.

    These are the process's rows of the sharded tensors; process 0 also writes the unsharded
    tensors.
    """
    with files.named_errors(partial.parent):
        digests = {}
        for name, tensors in groups.items():
            file = f"{name}{_PART}{part}" if part else name
            digests[file] = _write(partial / f"{file}.safetensors", tensors)
        files.write(partial / f"part-{part}.json", json.dumps(digests).encode())


def finish(partial: Path, folder: Path, step: int, *, num_parts: int, num_kept: int) -> None:
    """Complete a checkpoint after all processes have written their tensors.

    All but the latest `num_kept` checkpoints are deleted.
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
        if path.exists():  # a checkpoint of the same step
            _remove(path)
        partial.rename(path)
    for old in list(kept(folder).values())[:-num_kept]:
        _remove(old)


def _write(path: Path, tensors: Mapping[str, Tensor]) -> str:
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

    # one by one and without a copy: serializing all tensors in one call would hold Python's lock
    # and block the training
    with files.writing(path) as file, files.named_errors(path):
        for piece in (len(start).to_bytes(8, "little"), start, *map(content, ordered.values())):
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    # renamed first: an incomplete folder never bears the name of a checkpoint
    partial = files.partial(path.with_name(f"{path.name}.old"))
    path.rename(partial)
    shutil.rmtree(partial)


# --- reading -------------------------------------------------------------------------------------


@contextmanager
def reading_step(
    folder: Path, step: int | None, only: str | None = None
) -> Iterator[tuple[int, dict[str, dict[str, Tensor]]]]:
    """Verify the checkpoint of a training step and yield its tensors.

    Yields the step, and the tensors by group and name. The step None stands for the latest
    checkpoint. If a running training replaces the latest checkpoint meanwhile, the newer checkpoint
    is read.
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
    """Verify a checkpoint by SHA-256 and yield its tensors.

    Yields the training step, and the tensors by group and name. If `only` is given, yield the
    tensors of this group alone.
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
    """Compare the files of a checkpoint with the SHA-256 digests in its manifest.

    A DamagedCheckpoint is raised if a file differs. Only the group `only` is verified, or all;
    processes each verify a `share` of the files.
    """
    with _naming_damage(path):
        _, digests = _manifest(path, only)
        for name in [*digests][share]:
            if files.sha256(path / f"{name}.safetensors") != digests[name]:
                raise DamagedCheckpoint(f"{name}.safetensors is truncated or was changed")


@contextmanager
def opened(
    path: Path, only: str | None = None
) -> Iterator[tuple[int, dict[str, dict[str, Stored]]]]:
    """Open a checkpoint to read tensors on demand.

    Digests are not compared. Yields the training step, and the tensors by group and name. A
    KeyError, ValueError or RuntimeError in the `with` block becomes a ValueError: the tensors
    belong to another network.
    """
    with ExitStack() as stack:
        with _naming_damage(path):
            step, digests = _manifest(path, only)
            parts: dict[str, dict[str, list[Any]]] = {}
            for name in digests:
                group = parts.setdefault(name.partition(_PART)[0], {})
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
    # torch itself would convert the stored tensor silently
    for group, tensors in own.items():
        for name, tensor in tensors.items():
            found = groups[group].get(name)
            if found is not None and found.dtype != tensor.dtype:
                raise ValueError(f"{group} {name} is {found.dtype}, not {tensor.dtype}")


def _manifest(path: Path, only: str | None) -> tuple[int, dict[str, str]]:
    manifest = read_object(path / "manifest.json")
    step, digests = manifest["step"], manifest["sha256"]
    if type(step) is not int or step != int(path.name):
        raise DamagedCheckpoint(f"manifest.json belongs to step {step!r}")
    for name in digests:
        if not name.isidentifier():  # nothing outside this folder is read
            raise DamagedCheckpoint(f"manifest.json names a file {name!r}")
    # the group of the file network__1 is network
    return step, {n: sha for n, sha in digests.items() if only in (None, n.partition(_PART)[0])}


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
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
