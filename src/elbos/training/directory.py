"""The run directory, the only interface between training, sampling and evaluation.

runs/NAME/
    config.json      the configuration; what else is in the directory belongs to it
    data.json        the identifier of its data, so that a change is noticed, and what is to be
                     known of them where they are not there
    machine.json     device, versions and number of threads that it was trained with last
    metrics.jsonl    a line per logged step
    checkpoints/     see `checkpoint`
    samples/         grids of samples
    ema/             snapshots of averages of the weights, see `training.snapshots`
    trackers.json    how experiment trackers, if there are any, know the run
    tensorboard/     what TensorBoard shows, if it is one of them
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


@dataclass(frozen=True)
class RunDirectory:
    """The paths in a run directory, its lock, its JSON files and its log."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Folder of samples."""
        return self.path / "samples"

    @property
    def averages(self) -> Path:
        """Folder of snapshots of averages of the weights."""
        return self.path / "ema"

    @property
    def evaluation(self) -> Path:
        """Folder of measurements."""
        return self.path / "evaluation"

    def read(self, name: str) -> dict[str, Any] | None:
        """The object in a JSON file of the directory; None if there is no such file.

        Raises:
            ValueError: If the file holds no object.
        """
        file = self.path / name
        if not file.exists():
            return None
        try:
            content = files.read_json(file)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ValueError(f"{file} is damaged: put back the one that was there.")
        return content

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of the directory."""
        files.write(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the directory, and keep other processes from training in it until this one ends.

        Raises:
            ValueError: If another process trains in it, or the path is a file.
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
        """Raise a FileNotFoundError if the directory was deleted since the training began."""
        if not (self.path / "config.json").exists():
            raise FileNotFoundError(
                f"{self.path} was deleted, or its config.json, while it was trained: what was not "
                "saved before is lost. The same command begins anew."
            )

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        files.append(self.path / "metrics.jsonl", (json.dumps(values) + "\n").encode())

    def rewind_log(self, step: int) -> None:
        """Drop the lines after `step`, and those that were damaged when the machine went down."""
        file = self.path / "metrics.jsonl"
        if file.exists():
            lines = files.read(file).splitlines(keepends=True)
            files.write(file, b"".join(line for line in lines if _logged_step(line) <= step))


def _logged_step(line: bytes) -> float:
    """The step of a line of metrics.jsonl, infinite if it is damaged."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError, OverflowError):
        return math.inf
