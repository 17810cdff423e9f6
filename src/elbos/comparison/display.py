"""How far a comparison is: a bar, or lines now and then where there is no terminal."""

import math
import sys
import time
from collections.abc import Sequence

from rich.progress import Progress

from elbos.comparison.job import TRAINING_COST, Job
from elbos.progress import clock

_LINE_SECONDS = 60.0


def seconds_left(jobs: Sequence[Job], num_workers: int, seconds_per_image: float) -> float:
    """The time that jobs take, about, from the speed of a training: a function evaluation of
    scoring takes a third of an image's time there, and runs at once do not slow each other down.

    Args:
        jobs: Those that have no scores yet.
        num_workers: Jobs at once.
        seconds_per_image: Of a training alone.
    """
    costs = [job.cost * (1 - job.progress()) for job in jobs]
    num_rounds = math.ceil(len(jobs) / num_workers)
    return num_rounds * sum(costs) / len(jobs) * seconds_per_image / TRAINING_COST


class Display:
    """How far all jobs are.

    Args:
        jobs: All of them.
        bar: Where they are shown.
    """

    def __init__(self, jobs: Sequence[Job], bar: Progress) -> None:
        self.jobs, self.bar = jobs, bar
        self.total = sum(job.cost for job in jobs)
        self.begun, self.done_before = time.monotonic(), 0.0
        self.shown, self.num_left = -math.inf, -1
        self.task = bar.add_task("comparing", total=self.total, unit="evaluations", note="")

    def show(self, left: Sequence[Job], running: Sequence[Job]) -> None:
        """Show that these jobs are left, as far as they are, and which of them are running."""
        done = self.total - sum(job.cost * (1 - job.progress()) for job in left)
        if self.num_left < 0:  # rate and time left begin after what was done before
            self.done_before = done
            self.bar.reset(self.task, completed=round(done))
        note = f"{len(self.jobs) - len(left)} of {len(self.jobs)} runs"
        if left:
            names = ", ".join(job.path.name for job in running)
            note += f": {names or 'another process does the others'}"
        self.bar.update(self.task, completed=round(done), note=note)
        is_due = len(left) != self.num_left or time.monotonic() - self.shown > _LINE_SECONDS
        if not self.bar.console.is_terminal and is_due:
            sys.stderr.write(f"{note}{self._time_left(done)}\n")
            self.shown = time.monotonic()
        self.num_left = len(left)

    def _time_left(self, done: float) -> str:
        """The time left, once something is done."""
        share = (done - self.done_before) / max(self.total - self.done_before, 1.0)
        if not 0.01 < share < 1:
            return ""
        seconds = (time.monotonic() - self.begun) * (1 - share) / share
        return f"; about {clock(seconds)} left"
