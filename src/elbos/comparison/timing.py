"""Number of training images that fit into a time budget, measured on the training machine."""

import itertools
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from elbos.base.processes import Processes, local_device
from elbos.training.config import Config
from elbos.training.directory import RunDirectory
from elbos.training.machine import best_precision, described, machine
from elbos.training.trainer import Trainer

_WARMUP_STEPS, _BUDGET_SECONDS = 3, 5.0
_MIN_STEPS = 10


def resolved(
    config: Config, minutes: float | None, num_threads: int, num_processes: int = 1
) -> Config:
    """Choose the precision and the number of training images for a given training time.

    The precision "auto" is resolved, and the number of training images fits in `minutes`. A run has
    the machine to itself, with `num_threads` cores per process. If `num_processes` train it
    together, a process's share of the batch is timed, without the exchange of gradients.
    """
    if config.precision == "auto":
        config = replace(config, precision=best_precision(local_device()))
    if minutes is None:
        return config
    whole = replace(config.execution, shard_size=1)
    share = max(1, config.batch_size // num_processes)
    threads = torch.get_num_threads()
    torch.set_num_threads(min(num_threads, threads))
    try:
        timed = replace(config, batch_size=share, execution=whole)
        nowhere = RunDirectory(Path(os.devnull))  # steps write nothing
        trainer = Trainer(timed, nowhere, config.data.load(), Processes(0, 1, local_device()))
        for _ in range(_WARMUP_STEPS):
            trainer.step()
        ends = [time.perf_counter()]
        while ends[-1] - ends[0] < _BUDGET_SECONDS:
            trainer.step()
            ends.append(time.perf_counter())
    finally:
        torch.set_num_threads(threads)
    # the median is robust to steps stalled by other work
    seconds = statistics.median(end - start for start, end in itertools.pairwise(ends))
    num_steps = max(_MIN_STEPS, round(60 * minutes / seconds))
    return replace(config, num_images=config.batch_size * num_steps)


def hardware(config: Config) -> str:
    device = local_device()
    return f"{machine(device)['device']}, {described(config, device)}"
