"""Where the runs of a comparison are made: in processes of this machine, or on a Ray cluster.

A pool of threads (`concurrent.futures`) hands out the jobs. Each thread waits for a process of its
job's own, so that one which is killed, as for memory, takes no other with it; a pool of processes
loses all its jobs with one. Several commands may share a comparison: a job is done by whoever holds
its lock, and the others wait until it is done, or take it over.
"""

import abc
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from elbos.checks import require_positive
from elbos.codec import encode
from elbos.comparison.job import Job
from elbos.training.machine import num_cores

_TICK_SECONDS, _WAIT_SECONDS = 0.5, 2.0

T = TypeVar("T")
OnTick = Callable[[Sequence[Job], Sequence[Job]], None]


class Executor(abc.ABC):
    """Does jobs, `num_workers` at once with `num_threads` cores each."""

    num_workers: int
    num_threads: int

    @abc.abstractmethod
    def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns on a machine that does jobs."""

    @abc.abstractmethod
    def do(self, job: Job) -> str | None:
        """Do a job, in the calling thread or for it.

        Returns:
            Why its process ended, where it did not by itself.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """End what is running; trainings save a checkpoint."""


class Local(Executor):
    """Processes of this machine, which share its cores and take turns on its accelerators.

    Args:
        num_workers: Jobs at once. Default: one for each accelerator, or each two cores.

    Raises:
        ValueError: If `num_workers` is not positive.
    """

    def __init__(self, num_workers: int | None = None) -> None:
        cores, devices = num_cores(), _num_devices()
        if num_workers is None:
            num_workers = devices or max(1, cores // 2)
        require_positive(num_workers=num_workers)
        self.num_workers, self.num_threads = num_workers, max(1, cores // num_workers)
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(num_workers):
            self._slots.put(slot)
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock, self._is_closed = threading.Lock(), False

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns here."""
        return function(*args)

    def do(self, job: Job) -> str | None:
        """Do a job in a process, and wait."""
        slot = self._slots.get()
        try:
            with self._lock:
                if self._is_closed:
                    return None
                process = _start(job, self._environment(slot))
                self._processes.add(process)
            status = process.wait()
            with self._lock:
                self._processes.remove(process)
                _close(process)
            return _trouble(status)
        finally:
            self._slots.put(slot)

    def _environment(self, slot: int) -> dict[str, str]:
        threads = {"OMP_NUM_THREADS": str(self.num_threads)}
        if _num_devices() < 2:
            return threads
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return threads | {"CUDA_VISIBLE_DEVICES": device_name(slot, _num_devices(), visible)}

    def close(self) -> None:
        """Close what the processes listen to, which ends them."""
        with self._lock:
            self._is_closed = True
            for process in self._processes:
                _close(process)


def _start(job: Job, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """A process that does a job; it ends when its standard input is closed."""
    job.path.mkdir(parents=True, exist_ok=True)
    with (job.path / ".log.txt").open("ab") as log:
        process = subprocess.Popen(
            # without -P, modules are looked for in the current folder first
            [sys.executable, "-P", "-m", "elbos.comparison.job"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | environment,
            start_new_session=True,  # Ctrl-C is for whoever started it
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it is gone already; its status says why
        process.stdin.write(json.dumps(encode(job)).encode() + b"\n")
        process.stdin.flush()
    return process


def _close(process: "subprocess.Popen[bytes]") -> None:
    """End a process, if it is still there."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _trouble(status: int) -> str | None:
    """Why a process ended, if not by itself."""
    if status == 0:
        return None
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}: is memory short?"
    return f"its process ended with status {status}"


def device_name(slot: int, num_devices: int, visible: str) -> str:
    """The accelerator of a slot.

    Args:
        slot: Number of a job of those that run at once.
        num_devices: Accelerators that this process sees.
        visible: Its CUDA_VISIBLE_DEVICES, empty for all.

    Examples:
        >>> [device_name(slot, 2, "") for slot in range(3)], device_name(1, 2, "6,7")
        (['0', '1', '0'], '7')
    """
    names = visible.split(",") if visible else list(map(str, range(num_devices)))
    return names[slot % num_devices]


def _num_devices() -> int:
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def do_all(jobs: list[Job], executor: Executor, on_tick: OnTick) -> None:
    """Do all jobs that are left. Those that fail are noted, and the others go on.

    Args:
        jobs: The jobs.
        executor: Where they are done.
        on_tick: Called now and then with the jobs that are left, and those that are being done.
    """
    left = [job for job in jobs if not job.is_final()]
    pool = ThreadPoolExecutor(executor.num_workers)
    try:
        while left:
            attempts = {pool.submit(_attempt, job, executor): job for job in left}
            unfinished = set(attempts)
            while unfinished:
                on_tick(left, [job for attempt, job in attempts.items() if attempt.running()])
                done, unfinished = wait(unfinished, _TICK_SECONDS)
                for attempt in done:
                    if attempt.result():
                        left.remove(attempts[attempt])
            on_tick(left, [])
            if left:  # other processes do these
                time.sleep(_WAIT_SECONDS)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        executor.close()
        pool.shutdown()


def _attempt(job: Job, executor: Executor) -> bool:
    """Do a job.

    Returns:
        Whether nothing more is to be done; False where another process does it.
    """
    if job.is_final():
        return True
    if job.is_running():
        return False
    trouble = executor.do(job)
    if trouble is not None and job.scores() is None:
        job.fail(f"{trouble} See {job.path / '.log.txt'}.", is_final=False)
    return job.scores() is not None or job.failure() is not None
