"""Run directory: the interface between training, sampling and evaluation.

runs/NAME/
    config.json      the configuration that the directory belongs to
    data.json        identifier and properties of the data
    machine.json     device, versions and number of threads of the last training
    metrics.jsonl    a line per logged step
    checkpoints/     see `checkpoint`
    samples/         grids of samples
    elbos/           TensorBoard's files, if it is used
    evaluation/      the parts of an evaluation, see `store`
    eval.json        the evaluation
"""

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
from elbos.training import checkpoint
from elbos.training.config import Config, read_config
from elbos.training.data import Samples
from elbos.training.data.dataset import Dataset, DataSpec
from elbos.training.data.given import GivenData, null_digest


@dataclass(frozen=True)
class RunDirectory:
    """Directory with the files of a training run.

    Attributes:
        path: The directory; `~` is expanded.
    """

    path: Path

    def __post_init__(self) -> None:
        if str(self.path).startswith("~"):
            object.__setattr__(self, "path", files.expanded(self.path))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

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
        try:
            spec: DataSpec = decode(
                DataSpec, {f.name: stored.get(f.name) for f in fields(DataSpec)}
            )
        except ValueError as error:
            file = self.path / "data.json"
            raise ValueError(f"{file} is corrupt ({error}): restore it.") from error
        return spec

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of a directory that is new, or holds the files of a run.

        Raises:
            ValueError: If it holds other files, or another process trains in it.
        """
        path = self.path
        files.require_folder_of(path, "config.json", "--run")
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

    @contextmanager
    def claimed(self, config: Config, data: Samples) -> Iterator[None]:
        """Hold the lock, and record the configuration and data of a run in the directory.

        A run without a checkpoint starts anew. Another one may be extended to more images, with a
        warning if the learning rate has decayed.

        Raises:
            ValueError: If the directory holds another configuration or other data.
        """
        path, encoded = self.path, encode(config)
        with self.lock():
            if checkpoint.latest(self.checkpoints) is None:
                (path / "data.json").unlink(missing_ok=True)
            else:
                stored = self.config()
                num_images = max(stored.num_images, config.num_images)
                extended = replace(stored, num_images=num_images)
                if different := difference(encode(extended), encoded):
                    raise ValueError(
                        f"{path} holds a run with {different}: "
                        "name another directory with --run, or give the same options."
                    )
                if num_images > stored.num_images and config.optimizer.use_decay:
                    warn(
                        f"The run in {path} is extended to {num_images:,} images. Its learning "
                        f"rate decayed for {stored.num_images:,} and rises again: the result "
                        "differs from a run of full length from the start (unless trained with "
                        "--optimizer.no-use-decay)."
                    )
            self.require_data(data)
            write_object(path / "config.json", encoded)
            if self.read("data.json") is None:  # its time is that of the start, which scores store
                write_object(path / "data.json", _identity(data))
            yield

    def require_data(self, data: Samples) -> None:
        stored = self.read("data.json") or {}  # an older elbos wrote fewer entries
        if names := sorted(k for k, v in _identity(data).items() if stored.get(k, v) != v):
            raise ValueError(
                f"The run in {self.path} was trained on other data, which differ in "
                f"{', '.join(names)} (data.json): restore those, or train another run."
            )

    def is_trained_on(self, data: Dataset) -> bool:
        stored = self.read("data.json") or {}
        return bool(stored.get("sha256") == data.fingerprint()["sha256"])

    def require_null(self, null_cond: Condition) -> None:
        stored = (self.read("data.json") or {}).get("null_cond")
        if stored is not None and stored != null_digest(null_cond):
            raise ValueError(
                f"The run in {self.path} was trained with another null_cond: give that one."
            )


def require_same_data(data: GivenData, processes: Processes) -> None:
    """Raise a ValueError in all processes if they have loaded different data."""
    if processes.num > 1:
        identities = processes.lists([processes.together(data.fingerprint)])
        means = {identity.pop("means") for identity in identities}
        if any(identity != identities[0] for identity in identities) or len(means - {None}) > 1:
            raise ValueError(
                f"The processes have different data of the name {data.spec.name}: seed all "
                "randomness in their making, such as a random split."
            )


def _identity(data: Samples) -> dict[str, Any]:
    spec = data.spec
    return {
        **data.fingerprint(),
        "num_levels": spec.num_levels,
        "num_classes": spec.num_classes,
    }
