"""How many images a training sees in some minutes, on this machine."""

import tempfile
import time
from pathlib import Path

import torch

from elbos.training.config import Config
from elbos.training.run_directory import RunDirectory
from elbos.training.state import new_accelerator
from elbos.training.trainer import Trainer

_WARMUP_STEPS, _SECONDS = 3, 5.0
_MIN_STEPS = 10


def images_in(minutes: float, config: Config, num_threads: int) -> int:
    """The number, in whole steps.

    Args:
        minutes: Time for the steps alone.
        config: What is trained, its precision resolved.
        num_threads: Cores that it is going to have.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            seconds = _seconds_per_step(config, Path(folder))
    finally:
        torch.set_num_threads(threads)
    return config.batch_size * max(_MIN_STEPS, round(60 * minutes / seconds))


def _seconds_per_step(config: Config, folder: Path) -> float:
    trainer = Trainer(config, RunDirectory(folder), config.data.load(), new_accelerator())
    for _ in range(_WARMUP_STEPS):
        trainer.step()
    begin, num_steps = time.perf_counter(), 0
    while time.perf_counter() - begin < _SECONDS:
        trainer.step()
        num_steps += 1
    return (time.perf_counter() - begin) / num_steps
