"""Where the runs of a comparison are made: in processes of this machine, or on a Ray cluster.

An engine starts jobs and says which have ended; what came of them is in their directories.
"""

import os
import subprocess
from typing import Protocol

import torch

from elbos.checks import require_positive
from elbos.comparison.budget import settled, speed
from elbos.comparison.job import Job
from elbos.comparison.processes import close, start_process, trouble
from elbos.training.config import Config
from elbos.training.machine import num_cores

Ended = list[tuple[Job, str | None]]
"""Jobs, with what went wrong with their processes, if anything did."""


class Engine(Protocol):
    """Makes runs, `num_workers` at once with `num_threads` each."""

    num_workers: int
    num_threads: int

    def settle(self, config: Config, minutes: float | None) -> Config:
        """What a machine that makes runs decides: see `budget.settled`."""

    def speed(self, config: Config, minutes: float | None) -> tuple[str, float]:
        """A machine that makes runs, in words, and its seconds per image: see `budget.speed`."""

    def start(self, job: Job) -> None:
        """Begin a job; fewer than `num_workers` are running."""

    def ended(self) -> Ended:
        """The jobs that ended since the last call."""

    def close(self) -> None:
        """End what is running; trainings save a checkpoint."""


class Local:
    """Processes of this machine, which share its cores and take turns on its accelerators.

    Args:
        num_workers: Jobs at once. Default: one for each accelerator, or each two cores.

    Raises:
        ValueError: If `num_workers` is not positive.
    """

    def __init__(self, num_workers: int | None = None) -> None:
        cores = num_cores()
        if num_workers is None:
            num_workers = _num_devices() or max(1, cores // 2)
        require_positive(num_workers=num_workers)
        self.num_workers, self.num_threads = num_workers, max(1, cores // num_workers)
        self._slots: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}

    def settle(self, config: Config, minutes: float | None) -> Config:
        """What this machine decides."""
        return settled(config, minutes, self.num_threads)

    def speed(self, config: Config, minutes: float | None) -> tuple[str, float]:
        """This machine's."""
        return speed(config, minutes, self.num_threads)

    def start(self, job: Job) -> None:
        """Begin a job in a slot that is free."""
        slot = next(i for i in range(self.num_workers) if i not in self._slots)
        environment = {"OMP_NUM_THREADS": str(self.num_threads)}
        if _num_devices() > 1:
            seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            environment["CUDA_VISIBLE_DEVICES"] = device_of(slot, _num_devices(), seen)
        self._slots[slot] = job, start_process(job, environment)

    def ended(self) -> Ended:
        """The jobs whose processes are gone."""
        found: Ended = []
        for slot, (job, process) in list(self._slots.items()):
            if process.poll() is not None:
                del self._slots[slot]
                found.append((job, trouble(process)))
        return found

    def close(self) -> None:
        """Close what the processes listen to, which ends them, and wait."""
        for _, process in self._slots.values():
            close(process)
        for _, process in self._slots.values():
            process.wait()
        self._slots.clear()


def device_of(slot: int, num_devices: int, seen: str) -> str:
    """The accelerator of a slot, out of those that this process was given.

    Args:
        slot: Number of a job of those that run at once.
        num_devices: Accelerators that this process sees.
        seen: Its CUDA_VISIBLE_DEVICES, empty for all.

    Examples:
        >>> [device_of(slot, 2, "") for slot in range(3)], device_of(1, 2, "6,7")
        (['0', '1', '0'], '7')
    """
    names = seen.split(",") if seen else list(map(str, range(num_devices)))
    return names[slot % num_devices]


def _num_devices() -> int:
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0
