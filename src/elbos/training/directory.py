"""Run directory: the interface between training, sampling and evaluation.

runs/NAME/
    config.json      the configuration that the directory belongs to
    data.json        identifier and properties of the data
    machine.json     device, versions and number of threads of the last training
    metrics.jsonl    a line per logged step
    checkpoints/     see `checkpoint`
    samples/         grids of samples
    trackers.json    identifiers of the run in experiment trackers, if there are any
    tensorboard/     TensorBoard's files, if it is used
    evaluation/      the parts of an evaluation, see `store`
    eval.json        the evaluation
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from elbos.base import files
from elbos.base.formats import CorruptFile, read_object


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on a folder within the `with` block.

    The folder is created if missing. If another process holds the lock, a ValueError with the
    message `busy` is raised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.require_plain(folder)
    try:
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout:
        raise ValueError(busy) from None
    with lock:
        yield


@dataclass(frozen=True)
class RunDirectory:
    """Directory with the files of a training run.

    Provides paths, lock, JSON files and log.

    Attributes:
        path: The directory; `~` is expanded.
        results: Directory of samples and of an evaluation's parts, if they are not to be written to
            `path`.
    """

    path: Path
    results: Path | None = None

    def __post_init__(self) -> None:
        if str(self.path).startswith("~"):
            object.__setattr__(self, "path", files.expanded(self.path))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return (self.results or self.path) / "samples"

    @property
    def evaluation(self) -> Path:
        return (self.results or self.path) / "evaluation"

    def read(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            return read_object(file)
        except CorruptFile:
            raise CorruptFile(f"{file} is corrupt: restore it.") from None

    def write(self, name: str, content: dict[str, Any]) -> None:
        files.write(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file: name a directory with --run.")
        busy = (
            f"Another process is training in {self.path}: wait for it, or name another "
            "directory with --run."
        )
        with locked(self.path, busy):
            for folder in (self.path, self.checkpoints, self.samples):
                files.remove_leftovers(folder, min_age=0)
            yield

    def require_present(self) -> None:
        if not (self.path / "config.json").exists():
            raise FileNotFoundError(
                f"{self.path} or its config.json was deleted during the training: unsaved "
                "progress is lost. The same command trains again from the start."
            )

    def log(self, **values: Any) -> None:
        files.append(self.path / "metrics.jsonl", (json.dumps(values) + "\n").encode())

    def rewind_log(self, step: int) -> None:
        """Delete lines of metrics.jsonl that are incomplete or of later steps."""
        file = self.path / "metrics.jsonl"
        if file.exists():
            lines = files.read(file).splitlines(keepends=True)
            files.write(file, b"".join(line for line in lines if _is_logged_by(line, step)))


def _is_logged_by(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
