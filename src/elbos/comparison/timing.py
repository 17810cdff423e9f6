"""Number of images that a training sees in a time budget, measured on the training machine."""

import itertools
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from elbos.training.config import Config
from elbos.training.directory import RunDirectory
from elbos.training.machine import best_precision, described, machine
from elbos.training.processes import Processes, local_device
from elbos.training.trainer import Trainer

_WARMUP_STEPS, _BUDGET_SECONDS = 3, 5.0
_MIN_STEPS = 10


def resolved(
    config: Config, minutes: float | None, num_threads: int, num_processes: int = 1
) -> Config:
    """Resolve the precision "auto" of a configuration, and set the number of images from a time
    budget, if given.

    Args:
        config: The configuration to train.
        minutes: Time for the training steps of one run that uses the machine alone. Default: the
            number of images of `config`.
        num_threads: Number of cores per process of a run.
        num_processes: Number of processes that train a run together. One process's share of the
            batch is timed, without the exchange of gradients.
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
        seconds = _seconds_per_step(replace(config, batch_size=share, execution=whole))
    finally:
        torch.set_num_threads(threads)
    num_steps = max(_MIN_STEPS, round(60 * minutes / seconds))
    return replace(config, num_images=config.batch_size * num_steps)


def _seconds_per_step(config: Config) -> float:
    """Measure the median time of a training step, robust to steps stalled by other work."""
    nowhere = RunDirectory(Path(os.devnull))  # steps write nothing
    trainer = Trainer(config, nowhere, config.data.load(), Processes(0, 1, local_device()))
    for _ in range(_WARMUP_STEPS):
        trainer.step()
    begin = time.perf_counter()
    ends = [begin]
    while ends[-1] - begin < _BUDGET_SECONDS:
        trainer.step()
        ends.append(time.perf_counter())
    return statistics.median(end - start for start, end in itertools.pairwise(ends))


def hardware(config: Config) -> str:
    """Describe this machine, and the numerical precision of a run on this machine."""
    device = local_device()
    return f"{machine(device)['device']}, {described(config, device)}"
