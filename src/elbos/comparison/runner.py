"""Make the runs of a comparison, with an engine: what is done is not done again.

Several processes may be at one comparison. A run is made by whoever holds its lock; the others wait
until it is done, or take it over.
"""

import math
import sys
import time
from collections.abc import Sequence

from rich.progress import Progress

from elbos.comparison.engines import Engine
from elbos.comparison.job import TRAINING_COST, Job
from elbos.progress import clock

_PAUSE_SECONDS, _LINE_SECONDS = 0.2, 60.0


def run_jobs(jobs: Sequence[Job], engine: Engine, bar: Progress) -> None:
    """Make all runs that are not made yet. Those that fail are noted, and the others go on.

    Args:
        jobs: The runs.
        engine: What makes them.
        bar: Shows how far all of them are.
    """
    before = {job.path: job.failure() for job in jobs}

    def is_settled(job: Job) -> bool:
        """Whether nothing more is to be done: there are scores, or it failed for good, or now."""
        if job.scores() is not None:
            return True
        failure = job.failure()
        return failure is not None and (failure["is_final"] or failure != before[job.path])

    waiting = [job for job in jobs if not is_settled(job)]
    running: list[Job] = []
    display = _Display(jobs, waiting, bar)
    while waiting or running:
        for job, trouble in engine.ended():
            running.remove(job)
            _conclude(job, trouble)
            if not is_settled(job):
                waiting.append(job)  # another process has it
        waiting = [job for job in waiting if not is_settled(job)]
        for job in list(waiting):
            if len(running) < engine.num_workers and not job.is_busy():
                waiting.remove(job)
                running.append(job)
                engine.start(job)
        display.show(waiting, running)
        time.sleep(_PAUSE_SECONDS)


def seconds_left(jobs: Sequence[Job], num_workers: int, seconds_per_image: float) -> float:
    """About how long jobs take, from the speed of a training: a network evaluation of scoring takes
    a third of an image's time there, and runs at once do not slow each other down.

    Args:
        jobs: Those that have no scores yet.
        num_workers: Jobs at once.
        seconds_per_image: Of a training alone.
    """
    costs = [job.cost * (1 - job.progress()) for job in jobs]
    num_rounds = math.ceil(len(jobs) / num_workers)
    return num_rounds * sum(costs) / len(jobs) * seconds_per_image / TRAINING_COST


def _conclude(job: Job, trouble: str | None) -> None:
    """Note what went wrong with a process that could not note it itself."""
    if trouble is not None and job.scores() is None:
        job.fail(f"{trouble} See {job.path / '.log.txt'}.", is_final=False)


class _Display:
    """How far all runs are: a bar, or lines now and then where there is no terminal."""

    def __init__(self, jobs: Sequence[Job], waiting: Sequence[Job], bar: Progress) -> None:
        self.jobs, self.bar = jobs, bar
        self.total = sum(job.cost for job in jobs)
        self.begun, self.done_before = time.monotonic(), self._done(waiting, [])
        self.said, self.num_settled = -1e9, -1
        self.task = bar.add_task(
            "comparing",
            total=self.total,
            completed=round(self.done_before),
            unit="evaluations",
            note="",
        )

    def _done(self, waiting: Sequence[Job], running: Sequence[Job]) -> float:
        """Work done; of runs that were interrupted, or are made elsewhere, as far as they are."""
        left = [*waiting, *running]
        return self.total - sum(job.cost * (1 - job.progress()) for job in left)

    def show(self, waiting: Sequence[Job], running: Sequence[Job]) -> None:
        """Where things are now."""
        done = self._done(waiting, running)
        num_settled = len(self.jobs) - len(waiting) - len(running)
        note = f"{num_settled} of {len(self.jobs)} runs"
        if running or waiting:
            names = ", ".join(job.path.name for job in running)
            note += f": {names or 'another process is at the others'}"
        self.bar.update(self.task, completed=done, note=note)
        is_due = num_settled > self.num_settled or time.monotonic() - self.said > _LINE_SECONDS
        if not self.bar.console.is_terminal and is_due:
            sys.stderr.write(f"{note}{self._left(done)}\n")
            self.said, self.num_settled = time.monotonic(), num_settled

    def _left(self, done: float) -> str:
        """The time left, in words, once something is done."""
        share = (done - self.done_before) / max(self.total - self.done_before, 1.0)
        if not 0.01 < share < 1:
            return ""
        seconds = (time.monotonic() - self.begun) * (1 - share) / share
        return f"; about {clock(seconds)} left"
