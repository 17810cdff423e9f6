"""Run directory: the interface between training, sampling and evaluation.

runs/NAME/
    config.json      the configuration that the directory belongs to
    data.json        identifier and properties of the data
    machine.json     device, versions and number of threads of the last training
    metrics.jsonl    a line per logged step
    checkpoints/     see `checkpoint`
    samples/         grids of samples
    ema/             snapshots of averages of the weights, see `training.ema`
    trackers.json    identifiers of the run in experiment trackers, if there are any
    tensorboard/     TensorBoard's files, if it is used
    evaluation/      the parts of an evaluation, see `store`
    eval.json        the evaluation
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from elbos.base import files
from elbos.base.formats import CorruptFile, read_object


@dataclass(frozen=True)
class RunDirectory:
    """Run directory, with paths, lock, JSON files and log."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Folder of images with grids of samples."""
        return self.path / "samples"

    @property
    def averages(self) -> Path:
        """Folder of snapshots of the averaged weights."""
        return self.path / "ema"

    @property
    def evaluation(self) -> Path:
        """Folder of the evaluation's intermediate results."""
        return self.path / "evaluation"

    def read(self, name: str) -> dict[str, Any] | None:
        """Read the object in a JSON file of the directory; return None if the file is missing.

        Raises:
            ValueError: If the file holds no JSON object.
        """
        file = self.path / name
        if not file.exists():
            return None
        try:
            return read_object(file)
        except CorruptFile:
            raise CorruptFile(f"{file} is corrupt: restore it.") from None

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write an object to a JSON file of the directory."""
        files.write(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Create the directory, and lock it against other trainings within the `with` block.

        Raises:
            ValueError: If another process trains in the directory, or the path is a file.
            OSError: If the directory cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file: name a directory with --run.")
        self.path.mkdir(parents=True, exist_ok=True)
        files.require_plain(self.path)
        try:
            with FileLock(self.path / ".lock", timeout=0):
                for folder in (self.path, self.checkpoints, self.samples, self.averages):
                    files.remove_leftovers(folder)
                yield
        except Timeout:
            raise ValueError(
                f"Another process is training in {self.path}: wait for it, or name another "
                "directory with --run."
            ) from None

    def require_present(self) -> None:
        """Raise a FileNotFoundError if the directory was deleted during the training."""
        if not (self.path / "config.json").exists():
            raise FileNotFoundError(
                f"{self.path} or its config.json was deleted during the training: unsaved "
                "progress is lost. The same command trains again from the start."
            )

    def log(self, **values: Any) -> None:
        """Append named values as a line to metrics.jsonl."""
        files.append(self.path / "metrics.jsonl", (json.dumps(values) + "\n").encode())

    def rewind_log(self, step: int) -> None:
        """Delete the lines of metrics.jsonl after `step`, and incomplete lines left by a crash."""
        file = self.path / "metrics.jsonl"
        if file.exists():
            lines = files.read(file).splitlines(keepends=True)
            files.write(file, b"".join(line for line in lines if _logged_step(line) <= step))


def _logged_step(line: bytes) -> float:
    """Parse the step of a line of metrics.jsonl; return infinity for a corrupt line."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError, OverflowError):
        return math.inf
