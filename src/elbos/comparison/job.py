"""One run of a comparison: trained and scored. What goes wrong is noted, and the others go on.

`python -m elbos.comparison.job` does the job whose JSON is the first line of its standard input,
and stops when that is closed, as whoever started it is gone. On a Ray cluster `work` is a task.
"""

import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout

from elbos.base import files
from elbos.base.codec import decode
from elbos.base.errors import Diverged, Interrupted, explained, flat
from elbos.base.progress import Advance, Start
from elbos.comparison.experiment import Experiment, Scoring
from elbos.comparison.objective_result import Failure
from elbos.comparison.scores import RunScores, measure_scores, read_scores, scoring_cost
from elbos.comparison.variants import Variant
from elbos.evaluation.samples import NotFiniteError
from elbos.runs.fit import train
from elbos.runs.run import Run
from elbos.theory.weightings import Weighting
from elbos.training.choices import Weight
from elbos.training.config import Config
from elbos.training.data import Toy
from elbos.training.processes import Processes
from elbos.training.validation import (
    NUM_GRID_IMAGES,
    NUM_VALIDATION_IMAGES,
    NUM_VALIDATION_TIMES,
)

TRAINING_COST = 3  # of an image, in function evaluations: one forward, and two's worth backward
_PROGRESS_SECONDS = 1.0


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
    def from_experiment(
        cls, experiment: Experiment, path: Path, objective: Variant, seed: int
    ) -> "Job":
        """The run of an objective and a seed, in the run directory `path`."""
        return cls(
            path=path,
            config=experiment.run_config(objective, seed),
            scoring=experiment.scoring,
            weightings=experiment.weightings,
        )

    @property
    def named_weightings(self) -> dict[str, Weighting]:
        """The weightings by their repr."""
        return {repr(weighting): weighting for weighting in self.weightings}

    @property
    def training_cost(self) -> float:
        """Work of the training, in function evaluations, with that of its validations."""
        config, output = self.config, self.config.output
        grid = NUM_GRID_IMAGES * config.sampling.num_evaluations(config.schedule)
        validation = NUM_VALIDATION_IMAGES * NUM_VALIDATION_TIMES + grid
        num_validations = math.ceil(config.num_images / output.validate_every)
        return float(TRAINING_COST * config.num_images + num_validations * validation)

    @cached_property
    def cost(self) -> float:
        """Work of training and scoring, about, in function evaluations."""
        has_samples = not isinstance(self.config.data, Toy)
        return self.training_cost + scoring_cost(self.scoring, self.config.schedule, has_samples)

    def scores(self) -> RunScores | None:
        """Its scores, if it is done."""
        return read_scores(self.path, self.config, self.scoring, self.named_weightings)

    @property
    def lock(self) -> FileLock:
        """Held by the process that does the job; released when that dies."""
        return FileLock(self.path / ".work.lock", timeout=0)

    def is_running(self) -> bool:
        """Whether some process does the job."""
        if not self.path.exists():
            return False
        try:
            with self.lock:
                return False
        except Timeout:
            return True

    def is_final(self) -> bool:
        """Whether there are scores, or another try would fail too."""
        failure = self.failure()
        return (failure is not None and failure.is_final) or self.scores() is not None

    def fail(self, reason: str, *, is_final: bool) -> None:
        """Note why there are no scores, in a line, and whether another try would end the same."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"reason": flat(reason), "is_final": is_final}
        files.write(self._failure, json.dumps(content).encode())

    def failure(self) -> Failure | None:
        """What `fail` noted."""
        try:
            found = files.read_json(self._failure)
            return Failure(
                seed=self.config.seed, reason=flat(found["reason"]), is_final=found["is_final"]
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def forget_failure(self) -> None:
        """Mark the job as one that is to be done."""
        self._failure.unlink(missing_ok=True)

    @property
    def _failure(self) -> Path:
        return self.path / ".failure.json"

    def note_progress(self, cost: float) -> None:
        """Write how much of the work is done."""
        share = {"share": min(cost / self.cost, 1.0)}
        files.write(self.path / ".progress.json", json.dumps(share).encode())

    def progress(self) -> float:
        """The share of the work that is done, of 1."""
        try:
            return float(files.read_json(self.path / ".progress.json")["share"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0.0


class Progress:
    """The work done on a job, in function evaluations; written to its directory once a second."""

    def __init__(self, job: Job, *, is_shown: bool = True) -> None:
        self.job, self.done, self.written, self.is_shown = job, 0.0, 0.0, is_shown

    def reach(self, cost: float) -> None:
        """So much of the work is done."""
        self.done = cost
        if self.is_shown and time.monotonic() - self.written > _PROGRESS_SECONDS:
            self.written = time.monotonic()
            self.job.note_progress(cost)

    def counting(self, cost: float) -> Start:
        """Counts units of work that take `cost` function evaluations each."""

        def start(what: str, total: int, unit: str) -> Advance:
            if self.is_shown:
                sys.stderr.write(f"{what}: {total:,} {unit}\n")
            return lambda num, _=False: self.reach(self.done + cost * num)

        return start


def work(job: Job) -> None:
    """Train and score, unless others do; what goes wrong is noted. All processes of a job that has
    several call this, and the main one has the lock and writes.

    Raises:
        Exception: What goes wrong, in processes other than the main one.
    """
    job.path.mkdir(parents=True, exist_ok=True)
    processes = Processes.joined()
    try:
        with job.lock if processes.is_main else nullcontext():
            if not processes.from_main(job.scores() is not None):
                _train_and_score(job, processes)
    except Timeout:
        processes.from_main(True)  # others do it


def _train_and_score(job: Job, processes: Processes) -> None:
    if processes.is_main:
        files.remove_leftovers(job.path)
        job.forget_failure()
    progress = Progress(job, is_shown=processes.is_main)
    each = job.training_cost / job.config.num_images
    try:
        train(job.config, job.path, lambda num: progress.reach(each * num))
        progress.reach(job.training_cost)
        run = Run(job.path).shared_by(processes)
        measure_scores(run, job.scoring, job.named_weightings, progress.counting)
    except Interrupted as error:
        sys.stderr.write(f"{error}\n")
    except Exception as error:
        if not processes.is_main:
            raise
        traceback.print_exc()
        job.fail(explained(error), is_final=isinstance(error, Diverged | NotFiniteError))


def main() -> None:
    """Do the job that standard input names."""
    job = decode(Job, json.loads(sys.stdin.buffer.readline()), "job")
    threading.Thread(target=_stop_when_closed, daemon=True).start()
    work(job)


def _stop_when_closed() -> None:
    # of the file itself: a buffer that a thread waits on ends the interpreter with a fatal error
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # a training saves a checkpoint first


if __name__ == "__main__":
    main()
