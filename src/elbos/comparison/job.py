"""A run of a comparison as a job: what is to be done, and the files that say how it went."""

import json
import math
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from elbos import files
from elbos.comparison.experiment import Comparison, Scoring
from elbos.comparison.rows import Row
from elbos.comparison.scores import read_scores
from elbos.errors import flat
from elbos.training.choices import Weight
from elbos.training.config import Config
from elbos.training.data import Toy
from elbos.training.trainer import (
    NUM_GRID_IMAGES,
    NUM_VALIDATION_IMAGES,
    NUM_VALIDATION_TIMES,
)
from elbos.weightings import Weighting

TRAINING_COST = 3  # of an image, in network evaluations: one forward, and two's worth backward


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run to be made.

    Attributes:
        path: The run directory.
        config: What to train.
        scoring: How to score it.
        weightings: What its losses are measured under.
    """

    path: Path
    config: Config
    scoring: Scoring
    weightings: tuple[Weight, ...]

    @classmethod
    def of(cls, comparison: Comparison, path: Path, row: Row, seed: int) -> "Job":
        """The job of a row and a seed, in the run directory `path`."""
        return cls(
            path=path,
            config=comparison.run_config(row, seed),
            scoring=comparison.scoring,
            weightings=comparison.weightings,
        )

    @property
    def named_weightings(self) -> dict[str, Weighting]:
        """The weightings by their repr."""
        return {repr(weighting): weighting for weighting in self.weightings}

    @property
    def training_cost(self) -> float:
        """Work of the training, in network evaluations, with that of its validations."""
        config, output = self.config, self.config.output
        grid = NUM_GRID_IMAGES * config.sampling.num_evaluations(config.schedule)
        validation = NUM_VALIDATION_IMAGES * NUM_VALIDATION_TIMES + grid
        num_validations = math.ceil(config.num_images / output.validate_every)
        return float(TRAINING_COST * config.num_images + num_validations * validation)

    @cached_property
    def cost(self) -> float:
        """All its work, about."""
        has_samples = not isinstance(self.config.data, Toy)
        return self.training_cost + self.scoring.cost(self.config.schedule, has_samples)

    def scores(self) -> dict[str, Any] | None:
        """Its scores, if it is done."""
        return read_scores(self.path, self.config, self.scoring, self.named_weightings)

    @property
    def lock(self) -> FileLock:
        """Held by the process that is at it; released when that dies."""
        return FileLock(self.path / ".work.lock", timeout=0)

    def is_busy(self) -> bool:
        """Whether some process is at it."""
        if not self.path.exists():
            return False
        try:
            with self.lock:
                return False
        except Timeout:
            return True

    def fail(self, reason: str, *, is_final: bool) -> None:
        """Note why there are no scores, in a line, and whether another try would end the same."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"reason": reason, "is_final": is_final, "time": time.time()}
        files.write(self._failure, json.dumps(content).encode())

    def failure(self) -> dict[str, Any] | None:
        """What `fail` noted."""
        try:
            found = json.loads(files.read(self._failure))
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        keys = {"reason", "is_final", "time"}
        if not isinstance(found, dict) or not keys <= found.keys():
            return None
        return {**found, "reason": flat(found["reason"])}

    def is_final(self) -> bool:
        """Whether nothing more is to be done: there are scores, or another try would fail too."""
        failure = self.failure()
        return self.scores() is not None or (failure is not None and failure["is_final"])

    def forget_failure(self) -> None:
        """It is tried again."""
        self._failure.unlink(missing_ok=True)

    @property
    def _failure(self) -> Path:
        return self.path / ".failure.json"

    def note_progress(self, cost: float) -> None:
        """Say how much of the work is done."""
        files.write(self.path / ".progress", str(min(cost / self.cost, 1.0)).encode())

    def progress(self) -> float:
        """How much of the work is done, of 1; 0 where the file says no such number."""
        try:
            share = float(files.read(self.path / ".progress"))
        except (FileNotFoundError, ValueError):
            return 0.0
        return share if 0 <= share <= 1 else 0.0
