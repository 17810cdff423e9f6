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
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from elbos.base import files
from elbos.base.codec import decode, difference, encode
from elbos.base.conditions import Condition
from elbos.base.errors import warn
from elbos.base.formats import CorruptFile, read_object, write_object
from elbos.base.processes import Processes
from elbos.training.config import Config, read_config
from elbos.training.data import DataSpec, Samples, null_digest

MANIFEST = "elbos.json"
"""File that marks an exported model (see `exported`)."""


@dataclass(frozen=True)
class RunDirectory:
    """Directory with the files of a training run.

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

    @property
    def is_export(self) -> bool:
        return (self.path / MANIFEST).is_file()

    def read(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            return read_object(file)
        except CorruptFile:
            raise CorruptFile(f"{file} is corrupt: restore it.") from None

    def config(self) -> Config:
        file = self.path / "config.json"
        if not file.exists():
            raise FileNotFoundError(
                f"{self.path} is not a run directory, it has no config.json: see `elbos train`."
            )
        return read_config(file)

    def data_spec(self) -> DataSpec:
        stored = self.read("data.json") or {}
        values = {field.name: stored.get(field.name) for field in fields(DataSpec)}
        try:
            spec: DataSpec = decode(DataSpec, values, "it")
        except ValueError as error:
            file = self.path / "data.json"
            raise ValueError(f"{file} is corrupt ({error}): restore it.") from error
        return spec

    # --- training --------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of a directory that is new, or holds the files of a run.

        Raises:
            ValueError: If it holds other files, or another process trains in it.
        """
        path = self.path
        files.require_folder_of(path, "config.json", "--run")
        if self.is_export:
            raise ValueError(f"{path} holds an exported model: name another directory with --run.")
        path.mkdir(parents=True, exist_ok=True)
        try:
            lock = files.lock(path / ".lock", timeout=0)
        except Timeout:
            raise ValueError(
                f"Another process is training in {path}: wait for it, or name another with --run."
            ) from None
        with lock:
            for folder in (path, self.checkpoints, self.samples):
                files.remove_leftovers(folder, min_age=0)
            yield

    def claim(self, config: Config, data: Samples) -> None:
        """Record the configuration and data of a run in the directory.

        A run may be extended to more images, with a warning if the learning rate has decayed.

        Raises:
            ValueError: If the directory holds another configuration or other data.
        """
        path = self.path
        if (path / "config.json").exists():
            stored = self.config()
            num_images = max(stored.num_images, config.num_images)
            extended = replace(stored, num_images=num_images)
            if different := difference(encode(extended), encode(config)):
                raise ValueError(
                    f"{path} holds a run with {different}: "
                    "name another directory with --run, or give the same options."
                )
            if num_images > stored.num_images and config.optimizer.use_decay:
                warn(
                    f"The run in {path} is extended to {num_images:,} images. Its learning rate "
                    f"decayed for {stored.num_images:,} and rises again: the result differs from a "
                    "run of full length from the start (unless trained with "
                    "--optimizer.no-use-decay)."
                )
        self.require_data(data)
        write_object(path / "config.json", encode(config))
        if self.read("data.json") is None:  # its time is that of the start, which scores store
            write_object(path / "data.json", _identity(data))

    def require_data(self, data: Samples) -> None:
        stored = self.read("data.json") or {}  # an older elbos wrote fewer entries
        if names := sorted(k for k, v in _identity(data).items() if stored.get(k, v) != v):
            raise ValueError(
                f"The run in {self.path} was trained on other data, which differ in "
                f"{', '.join(names)} (data.json): restore those, or train another run."
            )

    def is_trained_on(self, data: Samples) -> bool:
        stored = self.read("data.json") or {}
        return bool(stored.get("sha256") == data.fingerprint()["sha256"])

    def require_null(self, null_cond: Condition) -> None:
        stored = (self.read("data.json") or {}).get("null_cond")
        if stored is not None and stored != null_digest(null_cond):
            raise ValueError(
                f"The run in {self.path} was trained with another null_cond: give that one."
            )

    def log(self, **values: Any) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")

    def rewind_log(self, step: int) -> None:
        """Delete lines of metrics.jsonl that are incomplete or of later steps."""

        def is_logged(line: bytes) -> bool:
            try:
                return line.endswith(b"\n") and bool(json.loads(line)["step"] <= step)
            except (ValueError, KeyError, TypeError):
                return False

        file = self.path / "metrics.jsonl"
        if file.exists():
            lines = files.read(file).splitlines(keepends=True)
            files.write(file, b"".join(line for line in lines if is_logged(line)))


def require_same_data(data: Samples, processes: Processes) -> None:
    """Raise a ValueError in all processes if they have loaded different data."""
    if processes.num > 1:
        identities = processes.lists([processes.together(data.fingerprint)])
        means = {identity.pop("means", None) for identity in identities}
        if any(identity != identities[0] for identity in identities) or len(means - {None}) > 1:
            raise ValueError(
                f"The processes have different data of the name {data.spec.name}: seed all "
                "randomness in their making, such as a random split."
            )


def _identity(data: Samples) -> dict[str, Any]:
    spec = data.spec
    levels_and_classes = {"num_levels": spec.num_levels, "num_classes": spec.num_classes}
    return {**data.fingerprint(), **levels_and_classes}
