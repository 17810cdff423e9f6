"""The run directory, the only interface between training, sampling and evaluation.

runs/NAME/
    config.json      the configuration; what else is in the directory belongs to it
    metrics.jsonl    a line per logged step
    checkpoints/     see `checkpoint`
    samples/         grids of samples
    eval.json        the evaluation
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from elbos import files
from elbos.training.config import Config
from elbos.training.config_json import decode, encode


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
            config = decode(Config, json.loads(file.read_bytes()))
        except ValueError as error:
            raise ValueError(f"{file} is not a configuration: {error}") from error
        assert isinstance(config, Config)
        return config

    def claim(self, config: Config) -> None:
        """Make this the directory of `config`, or check that it is.

        Raises:
            ValueError: If it holds another configuration, or other files.
        """
        file = self.path / "config.json"
        if not file.exists():
            others = [p.name for p in self.path.glob("*") if not p.name.startswith(".")]
            if others:
                raise ValueError(
                    f"{self.path} is not a run directory, it holds {others[0]}: "
                    "name a new one with --run."
                )
        elif difference := _difference(encode(self.config()), encode(config)):
            raise ValueError(
                f"{self.path} holds a run with {difference}: "
                "name another directory with --run, or give the same options."
            )
        files.write(file, (json.dumps(encode(config), indent=2) + "\n").encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in this directory; released when the process dies.

        Raises:
            ValueError: If another process is at it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout:
            raise ValueError(f"Another process is training in {self.path}.") from None

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")

    def rewind_log(self, step: int) -> None:
        """Drop the lines after `step`, and a last one that was cut short."""
        file = self.path / "metrics.jsonl"
        if file.exists():
            lines = file.read_text().splitlines(keepends=True)
            kept = [
                line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step
            ]
            files.write(file, "".join(kept).encode())


def _difference(old: Any, new: Any, where: str = "") -> str | None:
    """The first entry in which two encoded configurations differ, in words; `output` may differ."""
    if isinstance(old, dict) and isinstance(new, dict) and old["type"] == new["type"]:
        for name in old:
            if (where, name) != ("", "output"):
                found = _difference(old[name], new[name], f"{where}.{name}" if where else name)
                if found:
                    return found
        return None
    if old == new:
        return None
    old_name, new_name = (v["type"] if isinstance(v, dict) else v for v in (old, new))
    return f"{where} = {old_name}, not {new_name}"
