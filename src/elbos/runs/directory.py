"""The run directory, the only interface between training, sampling and evaluation.

runs/NAME/
    config.json      the configuration; what else is in the directory belongs to it
    data.json        what tells its data from others, so that a change is noticed, and what is to
                     be known of them where they are not there
    metrics.jsonl    a line per logged step
    checkpoints/     see `checkpoint`
    samples/         grids of samples
    evaluation/      what it is made of, batch by batch
    eval.json        the evaluation
"""

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from elbos import files
from elbos.runs.codec import decode, difference, encode
from elbos.training.config import Config
from elbos.training.data import Dataset, DataSpec

_SPEC = {field.name for field in fields(DataSpec)}
_SPEC_ONLY = ("num_levels", "num_classes")  # the rest of it is in the fingerprint


@dataclass(frozen=True)
class RunDirectory:
    """The paths in a run directory, and what is written to them."""

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
    def evaluation(self) -> Path:
        """Folder of measurements."""
        return self.path / "evaluation"

    def config(self) -> Config:
        """The configuration of the run.

        Raises:
            FileNotFoundError: If this is not a run directory.
            ValueError: If config.json is not a configuration.
        """
        file = self.path / "config.json"
        if not file.exists():
            raise FileNotFoundError(
                f"{self.path} is not a run directory, it has no config.json: see `elbos train`."
            )
        try:
            config: Config = decode(Config, json.loads(files.read(file)))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{file} is not a configuration ({error}): put back the one that was there, "
                "`elbos train PRESET --dry-run` prints it, or name another run directory."
            ) from error
        return config

    def claim(self, config: Config, dataset: Dataset) -> None:
        """Make this the directory of `config` and `dataset`, or check that it is. A run of fewer
        images is made longer, with a warning where its learning rate has decayed to another end.

        Raises:
            ValueError: If it holds another configuration, other data, or other files.
        """
        file = self.path / "config.json"
        if not file.exists():
            others = [p.name for p in self.path.glob("*") if not p.name.startswith(".")]
            if others:
                raise ValueError(
                    f"{self.path} is not a run directory, it holds {others[0]}: "
                    "name a new one with --run."
                )
        else:
            self._require_same(config)
        self.require_own_data(dataset)
        files.write(file, (json.dumps(encode(config), indent=2) + "\n").encode())
        known = {name: getattr(dataset.spec, name) for name in _SPEC_ONLY}
        text = json.dumps({**dataset.fingerprint(), **known}, indent=2) + "\n"
        files.write(self.path / "data.json", text.encode())

    def _require_same(self, config: Config) -> None:
        """Raise a ValueError if the run here is of another configuration, or longer."""
        stored = self.config()
        num_images = max(stored.num_images, config.num_images)
        longer = replace(stored, num_images=num_images)
        if found := difference(encode(longer), encode(config)):
            raise ValueError(
                f"{self.path} holds a run with {found}: "
                "name another directory with --run, or give the same options."
            )
        if num_images > stored.num_images and config.optimizer.use_decay:
            warnings.warn(
                f"The run in {self.path} goes on to {num_images:,} images. Its learning rate "
                f"decayed for {stored.num_images:,} and rises again: this is not the run that had "
                "its length from the start (one with --optimizer.no-use-decay would be).",
                stacklevel=3,
            )

    def data_spec(self) -> DataSpec | None:
        """What samples of the data are like; None if an earlier version wrote the directory, and
        only the data themselves tell.

        Raises:
            ValueError: If data.json is damaged.
        """
        stored = self._data()
        if stored is None or not stored.keys() >= set(_SPEC_ONLY):
            return None
        try:
            spec = decode(DataSpec, {"type": "DataSpec", **{n: stored[n] for n in _SPEC}})
        except (ValueError, KeyError) as error:
            raise self._damaged_data() from error
        assert isinstance(spec, DataSpec)
        return spec

    def _data(self) -> dict[str, Any] | None:
        """What data.json holds, if it is there."""
        file = self.path / "data.json"
        if not file.exists():
            return None
        try:
            stored = json.loads(files.read(file))
        except (ValueError, RecursionError) as error:
            raise self._damaged_data() from error
        if not isinstance(stored, dict):
            raise self._damaged_data()
        return stored

    def _damaged_data(self) -> ValueError:
        return ValueError(f"{self.path / 'data.json'} is damaged: put back the one that was there.")

    def require_own_data(self, dataset: Dataset) -> None:
        """Raise a ValueError if these are not the data that the run was trained on."""
        stored = self._data()
        if stored is None:
            return
        stored = {name: value for name, value in stored.items() if name not in _SPEC_ONLY}
        if stored not in (dataset.fingerprint(), dataset.sampled_fingerprint()):
            raise ValueError(
                f"The data are not those that the run in {self.path} was trained on, see "
                f"{self.path / 'data.json'}: put those back, or train another run."
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in this directory; released when the process dies.

        Raises:
            ValueError: If another process is at it, or the path is a file.
            OSError: If the directory cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file: name a directory with --run.")
        self.path.mkdir(parents=True, exist_ok=True)
        files.require_no_links(self.path)
        try:
            with FileLock(self.path / ".lock", timeout=0):
                for folder in (self.path, self.checkpoints, self.samples):
                    files.remove_leftovers(folder)
                yield
        except Timeout:
            raise ValueError(
                f"Another process is training in {self.path}: wait for it, or name another "
                "directory with --run."
            ) from None

    def require_present(self) -> None:
        """Raise a FileNotFoundError if the directory was deleted since it was claimed."""
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
