"""Executors that run the trainings of a comparison, in processes on this machine or on a Ray
cluster.

Each run is a process, so that a run that is killed, for example when out of memory, does not affect
the others. Several commands may work on one comparison: a command holds the lock of a run, and the
others wait for the scores, or take the run over when its lock is free.
"""

import abc
import contextlib
import itertools
import logging
import os
import queue
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event

import torch

from elbos.base.checks import require_positive, typed
from elbos.base.errors import flat
from elbos.base.extras import imported
from elbos.base.hardware import num_cores
from elbos.base.processes import local_device
from elbos.base.user_code import no_modules_here
from elbos.comparison.job import POLL_SECONDS, Job, run_job
from elbos.training.config import Precision
from elbos.training.execution import best_precision

_WAIT_SECONDS = 2.0
_GRACE_SECONDS = 60.0

Key = tuple[str, int]
"""Key of a run: the objective's name and the seed."""


class Executor(abc.ABC):
    """Interface of an executor of `num_workers` training jobs at a time.

    A job has `num_processes` processes of `num_threads` cores each.

    Args:
        num_workers: Number of jobs at once. Default: one job per `gpus_per_run` accelerators of a
            machine; without accelerators, one per `2 * gpus_per_run` cores.
        gpus_per_run: Processes per run, each with its own accelerator, all on one machine; without
            accelerators the processes share the cores.
    """

    num_workers: int
    num_processes: int = 1
    num_threads: int

    @abc.abstractmethod
    def precision(self) -> Precision:
        """Return the best precision of a machine that executes training jobs."""

    @abc.abstractmethod
    def do(self, job: Job, stopping: Event) -> str | None:
        """Execute a training job and wait until it ends; return the reason if it fails.

        Once `stopping` is set, the job saves a checkpoint and ends.
        """


class Local(Executor):
    """Executor of training jobs as processes that share this machine's cores and accelerators.

    Raises:
        ValueError: If a number is not positive, or the machine has fewer accelerators.
    """

    @typed
    def __init__(self, num_workers: int | None = None, gpus_per_run: int = 1) -> None:
        num = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        node = {"CPU": num_cores(), "GPU": num}
        self.num_workers, num_threads = shares([node], num_workers, gpus_per_run)
        self.num_processes = gpus_per_run
        self.num_threads = min(num_threads, torch.get_num_threads())  # at most OMP_NUM_THREADS
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(num)))
        devices = itertools.cycle(visible.split(",")[:num] if num > 1 else [])
        self._devices: queue.SimpleQueue[str] = queue.SimpleQueue()  # one entry per job
        for _ in range(self.num_workers):
            self._devices.put(",".join(itertools.islice(devices, gpus_per_run)))

    def precision(self) -> Precision:
        return best_precision(local_device())

    def do(self, job: Job, stopping: Event) -> str | None:
        environment = {"OMP_NUM_THREADS": str(self.num_threads)}
        if devices := self._devices.get():
            environment["CUDA_VISIBLE_DEVICES"] = devices
        try:
            return run_job(job, self.num_processes, environment, stopping)
        finally:
            self._devices.put(devices)


class OnRay(Executor):
    """Executor of training jobs on the Ray cluster at `RAY_ADDRESS`, or a new one of this machine.

    A cluster started here listens on the loopback address only, and ends with the process. All
    machines need elbos, and must see the comparison's directory under the same path.

    Raises:
        ValueError: If Ray is not installed, the cluster is unreachable, or no machine has enough
            GPUs for a run.
    """

    @typed
    def __init__(self, num_workers: int | None = None, gpus_per_run: int = 1) -> None:
        address = os.environ.get("RAY_ADDRESS")
        if address is None:
            # As on macOS and Windows, Ray then listens on 127.0.0.1 alone. It reads the variable
            # when imported; an address in `ray.init` would be replaced, or opened to all networks.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        self._ray = ray = imported("ray")
        try:
            # workers import modules from the folder in which Ray is started
            with no_modules_here(), contextlib.chdir(os.sep):
                if not ray.is_initialized():
                    ray.init(
                        address=address or "local",
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        include_dashboard=None if address else False,
                    )
        except Exception as error:  # Ray raises any type
            raise ValueError(
                f"Ray at {address or 'this machine'} does not answer: {flat(error)[:200]}"
            ) from error
        with contextlib.suppress(ValueError):  # raised outside the main thread
            # keep the Python handler, which exits: that of Ray's C++ libraries prints a stack
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.num_workers, self.num_threads = shares(nodes, num_workers, gpus_per_run)
        self.num_processes = gpus_per_run
        num_gpus = gpus_per_run if any(node.get("GPU") for node in nodes) else 0
        # one call per process: leaked memory and crashes end with it
        self._remote = ray.remote(
            num_cpus=self.num_threads * gpus_per_run, num_gpus=num_gpus, max_calls=1, max_retries=0
        )

    def precision(self) -> Precision:
        try:
            there = self._remote(lambda: best_precision(local_device())).remote()
            precision: Precision = self._ray.get(there)
        except self._ray.exceptions.RaySystemError as error:
            why = str(error).strip().splitlines()[-1]
            raise ValueError(f"Ray's machines cannot run elbos: {why}") from error
        return precision

    def do(self, job: Job, stopping: Event) -> str | None:
        task = self._remote(_run_here).remote(job, self.num_processes, self.num_threads)
        while not self._ray.wait([task], timeout=POLL_SECONDS)[0]:
            if stopping.is_set():
                self._ray.cancel(task)
                self._ray.wait([task], timeout=_GRACE_SECONDS)
                return None
        try:
            reason: str | None = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return flat(f"Ray: {str(error).strip().splitlines()[-1]}")
        return reason


def shares(
    nodes: Sequence[Mapping[str, float]], num_workers: int | None, gpus_per_run: int = 1
) -> tuple[int, int]:
    """Return how many training jobs machines run in parallel, and the cores of each process.

    Each job runs on one machine. By default there are as many jobs as the GPUs or cores allow.

    Examples:
        >>> shares([{"CPU": 8.0}, {"CPU": 8.0}], 1), shares([{"CPU": 8.0}], None)
        ((1, 8), (4, 2))
        >>> shares([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 4.0}], None)
        (4, 2)
        >>> shares([{"CPU": 16.0, "GPU": 8.0}, {"CPU": 16.0, "GPU": 8.0}], None, 4)
        (4, 2)
    """
    require_positive(
        gpus_per_run=gpus_per_run, num_workers=1 if num_workers is None else num_workers
    )
    machines = [(int(n.get("CPU", 0)), int(n.get("GPU", 0)) // gpus_per_run) for n in nodes]
    cores, num_jobs = (sum(numbers) for numbers in zip(*machines, strict=True))
    if any(node.get("GPU") for node in nodes) and num_jobs == 0:
        raise ValueError(f"gpus_per_run is {gpus_per_run}, more than any machine has: give fewer.")
    most = max(cpus for cpus, _ in machines)
    if num_jobs:
        most = min(cpus // num for cpus, num in machines if num)
    num = num_workers or num_jobs or max(1, cores // (2 * gpus_per_run))
    return num, max(1, min(cores // num, most) // gpus_per_run)


def _run_here(job: Job, num_processes: int, num_threads: int) -> str | None:
    environment = {"OMP_NUM_THREADS": str(min(num_threads, torch.get_num_threads()))}
    return run_job(job, num_processes, environment, Event())  # Ray cancels it by an exception


def do_all(
    jobs: Mapping[Key, Job], executor: Executor, on_end: Callable[[Key, str | None], None]
) -> dict[Key, str]:
    """Execute all training jobs, also if some fail, and return the reasons of failures.

    `on_end` is called when a job has ended, with its key and the reason if it failed.
    """
    left, reasons, stopping = dict(jobs), dict[Key, str](), Event()

    def attempt(job: Job) -> tuple[bool, str | None]:
        """Return whether a job has ended, and why it failed."""
        reason = None
        if job.scores() is None and not job.is_running():
            reason = executor.do(job, stopping)
        has_scores = job.scores() is not None
        return has_scores or reason is not None, None if has_scores else reason

    pool = ThreadPoolExecutor(executor.num_workers)
    try:
        while left:
            attempts = {pool.submit(attempt, job): key for key, job in left.items()}
            for done in as_completed(attempts):
                key, (has_ended, reason) = attempts[done], done.result()
                if reason:
                    reasons[key] = reason
                if has_ended:
                    del left[key]
                    on_end(key, reason)
            if left:  # other commands are doing these jobs
                time.sleep(_WAIT_SECONDS)
    finally:
        stopping.set()
        pool.shutdown(cancel_futures=True)
    return reasons
