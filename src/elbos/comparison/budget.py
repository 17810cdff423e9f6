"""What depends on the machine: a training's precision, the images that it sees in some minutes, and
the time that it takes.
"""

import itertools
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from elbos.runs.directory import RunDirectory
from elbos.training.config import Config
from elbos.training.machine import machine, new_accelerator
from elbos.training.precision import best_precision, described
from elbos.training.trainer import Trainer

_WARMUP_STEPS, _BUDGET_SECONDS, _ESTIMATE_SECONDS = 3, 5.0, 1.0
_MIN_STEPS = 10


def resolved(config: Config, minutes: float | None, num_threads: int) -> Config:
    """The configuration with the precision that serves this machine, if that is left to it, and the
    images that it makes steps of in some minutes, if there is such a budget.

    Args:
        config: What is trained.
        minutes: Time for the steps alone, of one run beside no other.
        num_threads: Cores that a run is going to have.
    """
    if config.precision == "auto":
        config = replace(config, precision=best_precision(new_accelerator().device))
    if minutes is None:
        return config
    seconds = config.batch_size * _seconds_per_image(config, num_threads, _BUDGET_SECONDS)
    num_steps = max(_MIN_STEPS, round(60 * minutes / seconds))
    return replace(config, num_images=config.batch_size * num_steps)


def speed(config: Config, minutes: float | None, num_threads: int) -> tuple[str, float]:
    """This machine in words, with the precision of a run on it; and its seconds per image.

    Args:
        config: What is trained, resolved.
        minutes: The budget that its images were chosen by. Default: some steps are measured.
        num_threads: Cores that a run is going to have.
    """
    accelerator = new_accelerator()
    words = f"{machine(accelerator.device)['device']}, {described(config, accelerator)}"
    if minutes is not None:
        return words, 60 * minutes / config.num_images
    return words, _seconds_per_image(config, num_threads, _ESTIMATE_SECONDS)


def _seconds_per_image(config: Config, num_threads: int, seconds: float) -> float:
    """Measured for some `seconds`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        return _seconds_per_step(config, seconds) / config.batch_size
    finally:
        torch.set_num_threads(threads)


def _seconds_per_step(config: Config, seconds: float) -> float:
    """The median: other work on the machine stalls some steps."""
    nowhere = RunDirectory(Path(os.devnull))  # steps write nothing
    trainer = Trainer(config, nowhere, config.data.load(), new_accelerator())
    for _ in range(_WARMUP_STEPS):
        trainer.step()
    begin = time.perf_counter()
    ends = [begin]
    while ends[-1] - begin < seconds:
        trainer.step()
        ends.append(time.perf_counter())
    return statistics.median(end - start for start, end in itertools.pairwise(ends))
