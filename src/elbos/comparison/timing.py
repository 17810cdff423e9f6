"""Time: the images that a training sees in some minutes, how long runs take, how far they are."""

import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import Progress

from elbos.base.progress import clock
from elbos.comparison.job import TRAINING_COST, Job
from elbos.training.config import Config
from elbos.training.directory import RunDirectory
from elbos.training.machine import best_precision, described, machine
from elbos.training.processes import Processes, local_device
from elbos.training.trainer import Trainer

_WARMUP_STEPS, _BUDGET_SECONDS, _ESTIMATE_SECONDS = 3, 5.0, 1.0
_MIN_STEPS = 10
_LINE_SECONDS = 60.0


def resolved(
    config: Config, minutes: float | None, num_threads: int, num_processes: int = 1
) -> Config:
    """The configuration with the precision that serves this machine, if that is left to it, and the
    images that it makes steps of in some minutes, if there is such a budget.

    Args:
        config: What is trained.
        minutes: Time for the steps alone, of one run beside no other.
        num_threads: Cores that a process of a run is going to have.
        num_processes: Those that train it. One share of a step is measured, and not the exchange of
            gradients.
    """
    if config.precision == "auto":
        config = replace(config, precision=best_precision(local_device()))
    if minutes is None:
        return config
    seconds = config.batch_size * _seconds_per_image(
        config, num_threads, num_processes, _BUDGET_SECONDS
    )
    num_steps = max(_MIN_STEPS, round(60 * minutes / seconds))
    return replace(config, num_images=config.batch_size * num_steps)


def speed(
    config: Config, minutes: float | None, num_threads: int, num_processes: int = 1
) -> tuple[str, float]:
    """This machine in words, with the precision of a run on it; and its seconds per image.

    Args:
        config: What is trained, resolved.
        minutes: The budget that its images were chosen by. Default: some steps are measured.
        num_threads: Cores that a process of a run is going to have.
        num_processes: Those that train it.
    """
    device = local_device()
    words = f"{machine(device)['device']}, {described(config, device)}"
    if minutes is not None:
        return words, 60 * minutes / config.num_images
    return words, _seconds_per_image(config, num_threads, num_processes, _ESTIMATE_SECONDS)


def _seconds_per_image(
    config: Config, num_threads: int, num_processes: int, seconds: float
) -> float:
    """Measured for some `seconds` on the share of one process."""
    whole = replace(config.execution, shard_size=1)
    share = max(1, config.batch_size // num_processes)
    one = replace(config, batch_size=share, execution=whole)
    threads = torch.get_num_threads()
    torch.set_num_threads(min(num_threads, threads))
    try:
        return _seconds_per_step(one, seconds) / config.batch_size
    finally:
        torch.set_num_threads(threads)


def _seconds_per_step(config: Config, seconds: float) -> float:
    """The median: other work on the machine stalls some steps."""
    nowhere = RunDirectory(Path(os.devnull))  # steps write nothing
    trainer = Trainer(config, nowhere, config.data.load(), Processes(0, 1, local_device()))
    for _ in range(_WARMUP_STEPS):
        trainer.step()
    begin = time.perf_counter()
    ends = [begin]
    while ends[-1] - begin < seconds:
        trainer.step()
        ends.append(time.perf_counter())
    return statistics.median(end - start for start, end in itertools.pairwise(ends))


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
