"""Directory of a comparison: the run directories, and the settings with which it was started.

DIR/
    compare.json            the shared configuration of all objectives, and the scoring settings
    runs/OBJECTIVE-SEED/    a run directory, with scores.json once the run is scored
    report.json, report.md, report.html

A directory belongs to one configuration and one way of scoring; objectives and seeds may be added.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from elbos.base import files
from elbos.base.codec import decode, difference, encode
from elbos.comparison.experiment import Experiment, Scoring
from elbos.comparison.variants import Variant
from elbos.training.config import Config, run_config
from elbos.training.directory import RunDirectory

_FILE = "compare.json"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Settings of a comparison as stored on disk.

    Later calls in the same directory must use the same settings. `data` is a digest of the dataset;
    `features` is the name of the extractor, None for points.
    """

    minutes: float | None
    config: Config
    scoring: Scoring
    data: str
    features: str | None


@dataclass(frozen=True)
class ComparisonDirectory:
    path: Path

    def run(self, objective: Variant, seed: int) -> Path:
        return self.path / "runs" / f"{objective.name}-{seed}"

    def stored(self) -> Stored | None:
        """Return the stored settings of a comparison.

        None if the directory is new.
        """
        if not (self.path / _FILE).exists():
            return None
        try:
            found = decode(Stored, files.read_json(self.path / _FILE), "comparison")
        except ValueError as error:
            raise ValueError(
                f"{self.path / _FILE} is damaged ({error}): restore it, or name another with --out."
            ) from error
        assert isinstance(found, Stored)
        return found

    @contextmanager
    def lock(self) -> Iterator[None]:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file: name a directory with --out.")
        others = [path.name for path in self.path.glob("*") if not path.name.startswith(".")]
        if others and not (self.path / _FILE).exists():
            raise ValueError(
                f"{self.path} holds {others[0]} and no comparison: name a new directory with --out."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        files.require_plain(self.path)
        with FileLock(self.path / ".lock"):
            files.remove_leftovers(self.path, min_age=0)
            yield

    def claim(self, wanted: Stored) -> None:
        """Store the settings of a comparison in its directory.

        A ValueError is raised if different settings are stored already.
        """
        stored = self.stored()
        if stored and stored.data != wanted.data:
            raise ValueError(
                f"{self.path} was started with other data: restore them, or give another --out."
            )
        if stored and (found := difference(encode(stored), encode(wanted))):
            raise ValueError(
                f"{self.path} holds a comparison with {found}: name another one with --out."
            )
        files.write(self.path / _FILE, (json.dumps(encode(wanted), indent=2) + "\n").encode())
        (self.path / "runs").mkdir(exist_ok=True)  # `_do_here` fails on machines that do not see it

    def require_same_objectives(self, experiment: Experiment) -> None:
        """Raise a ValueError if stored models were trained with another configuration."""
        for objective in experiment.objectives:
            wanted = encode(objective.config(experiment.config))
            for path in sorted(self.path.glob(f"runs/{objective.name}-*")):
                if not re.fullmatch(rf"{re.escape(objective.name)}-\d+", path.name):
                    continue
                try:
                    stored = run_config(RunDirectory(path))
                except (FileNotFoundError, ValueError):
                    continue
                stored = replace(stored, seed=experiment.config.seed)
                if found := difference(encode(stored), wanted):
                    raise ValueError(
                        f"{path} holds a run with {found}: give another --out, or another name."
                    )
