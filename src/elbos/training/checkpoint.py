"""Checkpoints of a training run: folders of safetensors and JSON files, written atomically.

`checkpoints/00001500/` holds a file of whole tensors per group (network, ema, optimizer, ...) and a
manifest with the step and the SHA-256 of every file. Loading reads numbers and runs no code. The
main process writes; every process reads the files, and keeps its rows of sharded tensors, so that a
training resumes on any number of processes.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from elbos.base import files
from elbos.base.errors import flat
from elbos.base.formats import CorruptFile, opened, read_object
from elbos.base.processes import Processes
from elbos.training.sharding import is_sharded, unsharded

_MAX_REASON = 200  # characters: torch lists all tensors that differ

Groups = Mapping[str, Mapping[str, Tensor]]


# --- finding -------------------------------------------------------------------------------------


def kept(folder: Path) -> dict[int, Path]:
    """Return the paths of all checkpoints in a folder by ascending training step."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:  # listed at once: a running training renames checkpoints
        paths = [Path(entry) for entry in entries if entry.is_dir() and entry.name.isdecimal()]
    return dict(sorted((int(path.name), path) for path in paths))


def latest(folder: Path) -> Path | None:
    return next(reversed(kept(folder).values()), None)


def of_step(folder: Path, step: int | None) -> Path:
    """Return the path of the checkpoint of a training step, by default of the latest."""
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
    """Write the checkpoint of a training step, and delete all but the latest `num_kept`.

    If the checkpoint cannot be written (OSError), earlier checkpoints are untouched.
    """
    path = folder / f"{step:08d}"
    partial = files.partial(path)
    try:
        with files.named_errors(folder):
            folder.mkdir(exist_ok=True)  # fails if the run directory was deleted
            partial.mkdir()
            for name, tensors in groups.items():
                file = partial / f"{name}.safetensors"
                whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
                try:
                    save_file(whole, file)
                except SafetensorError as error:  # a full disk is "(os error 28)"
                    if code := re.search(r"\((?:os error |Os \{ code: )(\d+)", str(error)):
                        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
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


class Saver:
    """Background writer of checkpoints.

    The main process writes one checkpoint at a time, in a thread. The context manager waits on exit
    until the last one is written. All processes must call `save` and `wait`; an OSError of the main
    process is raised in all.
    """

    def __init__(self, folder: Path, processes: Processes, num_kept: int) -> None:
        self.folder, self.processes, self.num_kept = folder, processes, num_kept
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="elbos-saving")
        self._writing: Future[None] | None = None
        self._started = time.monotonic()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None or self.processes.num == 1:
            self.wait()
        elif self._writing is not None:  # other processes may have ended
            wait([self._writing])
        self._thread.shutdown()

    def is_time(self, minutes: float) -> bool:
        is_busy = self._writing is not None and not self._writing.done()
        return not is_busy and time.monotonic() - self._started >= 60 * minutes

    @property
    def has_failed(self) -> bool:
        writing = self._writing
        return writing is not None and writing.done() and writing.exception() is not None

    def save(self, step: int, groups: Groups) -> None:
        """Write a checkpoint in the background, after any earlier one has been written."""
        self.wait()
        self._started = time.monotonic()
        copies: dict[str, dict[str, Tensor]] = {}
        for group, tensors in groups.items():
            copies[group] = {}
            for name, tensor in tensors.items():
                if is_sharded(tensor) or self.processes.is_main:
                    whole = unsharded(tensor).detach()  # all processes gather
                    if self.processes.is_main:
                        copies[group][name] = whole.to("cpu", copy=True)
        if self.processes.is_main:
            self._writing = self._thread.submit(
                save, self.folder, step, copies, num_kept=self.num_kept
            )

    def wait(self) -> None:
        """Wait until the last checkpoint is written, and raise its error in all processes."""

        def result() -> None:
            writing, self._writing = self._writing, None
            if writing is not None:
                writing.result()

        self.processes.together(result)


# --- reading -------------------------------------------------------------------------------------


def read(path: Path, only: str | None = None) -> tuple[int, Groups]:
    """Read a checkpoint, or `only` one group of it, verified by SHA-256: its step and its tensors.

    Raises:
        CorruptFile: If a file is missing, truncated or modified.
    """
    try:
        manifest = read_object(path / "manifest.json")
        step, digests = manifest["step"], dict(manifest["sha256"])
        if type(step) is not int or step != int(path.name):
            raise CorruptFile(f"manifest.json belongs to step {step!r}")
        if strange := [name for name in digests if not name.isidentifier()]:
            # nothing outside this folder is read
            raise CorruptFile(f"manifest.json names a file {strange[0]!r}")
        groups = {}
        for name in digests if only is None else [only]:
            file = path / f"{name}.safetensors"
            if files.sha256(file) != digests[name]:
                raise CorruptFile(f"{file.name} is truncated or was changed")
            with opened(file) as stored:
                groups[name] = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise CorruptFile(
            f"The checkpoint {path} is corrupt ({flat(error)}): unless another process is writing "
            "it, delete that folder to resume from the previous checkpoint, or else from the start."
        ) from error
    return step, groups


@contextmanager
def belonging(where: Path) -> Iterator[None]:
    """Convert errors on loading tensors into a ValueError: they belong to another network."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{where} is complete, but belongs to another network or schedule "
            f"({flat(error)[:_MAX_REASON]}): give the network and the data that it was "
            "trained with, and the version of elbos."
        ) from error
