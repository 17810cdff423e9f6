"""Where the runs of a comparison are made: in processes of this machine, or on a Ray cluster.

A pool of threads (`concurrent.futures`) hands out the jobs. Each thread waits for a process of its
job's own, so that one which is killed, as for memory, takes no other with it; a pool of processes
loses all its jobs with one. Several commands may share a comparison: a job is done by whoever holds
its lock, and the others wait until it is done, or take it over.
"""

import abc
import contextlib
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from elbos.base.checks import require_positive, typed
from elbos.base.errors import optional
from elbos.base.user_code import no_modules_here
from elbos.comparison.job import Job, work
from elbos.comparison.processes import JobProcesses, without_roles
from elbos.training.machine import num_cores, require_few

_TICK_SECONDS, _WAIT_SECONDS = 0.5, 2.0
_GRACE_SECONDS = 60.0
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # read when Ray is imported
"""Without clusters, as by default on macOS and Windows, Ray's node is 127.0.0.1. An address given
to `ray.init` does not do: Ray replaces 127.0.0.1, and listens on all addresses for any other.
"""

T = TypeVar("T")
OnTick = Callable[[Sequence[Job], Sequence[Job]], None]


class Executor(abc.ABC):
    """Does jobs, `num_workers` at once, by `num_processes` each that have `num_threads` cores."""

    num_workers: int
    num_processes: int = 1
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
        num_workers: Jobs at once. Default: one for each accelerator, or each two cores, or for as
            many as a run has.
        gpus_per_run: Accelerators of each run, one for each of its processes; where there are none
            the processes share the cores.

    Raises:
        ValueError: If a number is not positive, or there are fewer accelerators.
    """

    @typed
    def __init__(self, num_workers: int | None = None, gpus_per_run: int = 1) -> None:
        require_positive(gpus_per_run=gpus_per_run)
        require_few(num_workers=num_workers or 0, gpus_per_run=gpus_per_run)
        cores, devices = num_cores(), _num_devices()
        if 0 < devices < gpus_per_run:
            raise ValueError(
                f"gpus_per_run is {gpus_per_run}, and this machine has {devices}: give fewer."
            )
        if num_workers is None:
            num_workers = devices // gpus_per_run or max(1, cores // (2 * gpus_per_run))
        require_positive(num_workers=num_workers)
        self.num_workers, self.num_processes = num_workers, gpus_per_run
        share = max(1, cores // (num_workers * gpus_per_run))
        self.num_threads = min(share, torch.get_num_threads())  # which OMP_NUM_THREADS sets
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(num_workers):
            self._slots.put(slot)
        self._running: set[JobProcesses] = set()
        self._lock, self._is_closed = threading.Lock(), False

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns here."""
        return function(*args)

    def do(self, job: Job) -> str | None:
        """Do a job in processes of its own, and wait."""
        slot = self._slots.get()
        try:
            with self._lock:
                if self._is_closed:
                    return None
                processes = JobProcesses(job, self.num_processes, self._environment(slot))
                self._running.add(processes)
            trouble = processes.wait()
            with self._lock:
                self._running.remove(processes)
            return trouble
        finally:
            self._slots.put(slot)

    def _environment(self, slot: int) -> dict[str, str]:
        threads = {"OMP_NUM_THREADS": str(self.num_threads)}
        if _num_devices() < 2:
            return threads
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = device_names(slot, _num_devices(), visible, self.num_processes)
        return threads | {"CUDA_VISIBLE_DEVICES": names}

    def close(self) -> None:
        """Close what the processes listen to, which ends them."""
        with self._lock:
            self._is_closed = True
            for processes in self._running:
                processes.close()


def device_names(slot: int, num_devices: int, visible: str, num: int = 1) -> str:
    """The accelerators of a slot.

    Args:
        slot: Number of a job of those that run at once.
        num_devices: Accelerators that this process sees.
        visible: Its CUDA_VISIBLE_DEVICES, empty for all.
        num: How many a job has.

    Examples:
        >>> [device_names(slot, 2, "") for slot in range(3)], device_names(1, 2, "6,7")
        (['0', '1', '0'], '7')
        >>> [device_names(slot, 4, "4,5,6,7", 2) for slot in range(2)]
        ['4,5', '6,7']
    """
    names = visible.split(",") if visible else list(map(str, range(num_devices)))
    return ",".join(names[(slot * num + i) % num_devices] for i in range(num))


def _num_devices() -> int:
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


class OnRay(Executor):
    """A Ray cluster: the one at `RAY_ADDRESS`, or one of this machine that is started here, which
    listens on the loopback address only: others on the network cannot run code in it.

    All machines need elbos, and see the comparison's directory under the same path.

    Args:
        num_workers: Jobs at once. Default: one for each GPU of the cluster, or each two cores, or
            for as many as a run has.
        gpus_per_run: GPUs of each run, all of one machine, one for each of its processes; where the
            cluster has none the processes have cores.

    Raises:
        ValueError: If Ray is not installed, the cluster cannot be reached, or no machine of it has
            so many GPUs.
    """

    @typed
    def __init__(self, num_workers: int | None = None, gpus_per_run: int = 1) -> None:
        require_positive(gpus_per_run=gpus_per_run)
        if num_workers is not None:
            require_positive(num_workers=num_workers)
        address = os.environ.get("RAY_ADDRESS")
        if address is None:
            os.environ.update(_LOOPBACK)
        advice = "Ray is not installed: pip install 'elbos[ray]', or leave out --ray."
        self._ray = ray = optional("ray", advice)
        try:
            # workers import modules from where Ray is begun
            with no_modules_here(), contextlib.chdir(os.sep):
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=None if address else False,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"Ray at {address or 'this machine'} does not answer: {error}"
            ) from error
        with contextlib.suppress(ValueError):  # in another thread than the main one
            # Ray's handler, which exits: its libraries have one of theirs, which prints the stack
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.num_workers, self.num_threads = shares(nodes, num_workers, gpus_per_run)
        self.num_processes = gpus_per_run
        num_gpus = gpus_per_run if any(node.get("GPU") for node in nodes) else 0
        # one call to a process: it takes what it leaks, and its death, with it
        self._remote = ray.remote(
            num_cpus=self.num_threads * gpus_per_run, num_gpus=num_gpus, max_calls=1, max_retries=0
        )
        self._running: set[Any] = set()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns on a machine of the cluster."""
        try:
            found: T = self._ray.get(self._remote(function).remote(*args))
        except self._ray.exceptions.RaySystemError as error:
            why = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"Ray's machines cannot run elbos ({why}): install it on all of them."
            ) from error
        return found

    def do(self, job: Job) -> str | None:
        """Do a job wherever there is room, and wait."""
        task = self._remote(_work_with_log).remote(job, self.num_threads, self.num_processes)
        self._running.add(task)
        try:
            trouble: str | None = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return f"Ray: {str(error).strip().splitlines()[-1]}"
        finally:
            self._running.discard(task)
        return trouble

    def close(self) -> None:
        """Interrupt all tasks, wait until they have saved, and leave the cluster."""
        running = list(self._running)
        self._running.clear()
        for task in running:
            self._ray.cancel(task)
        if running:
            self._ray.wait(running, num_returns=len(running), timeout=_GRACE_SECONDS)
        self._ray.shutdown()


def shares(
    nodes: Sequence[Mapping[str, float]], num_workers: int | None, gpus_per_run: int = 1
) -> tuple[int, int]:
    """How many jobs run at once, and how many cores each process of theirs has, such that machines
    can hold them.

    Args:
        nodes: What each machine of the cluster has, by Ray's account.
        num_workers: Jobs at once, if it was said.
        gpus_per_run: Processes of a job, with a GPU each where there are any.

    Raises:
        ValueError: If there are GPUs, and so many on no machine.

    Examples:
        >>> shares([{"CPU": 8.0}, {"CPU": 8.0}], 1), shares([{"CPU": 8.0}], None)
        ((1, 8), (4, 2))
        >>> shares([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 4.0}], None)
        (4, 2)
        >>> shares([{"CPU": 16.0, "GPU": 8.0}, {"CPU": 16.0, "GPU": 8.0}], None, 4)
        (4, 2)
    """
    cores = int(sum(node.get("CPU", 0) for node in nodes))
    most = max((int(node.get("CPU", 0)) for node in nodes), default=1)
    jobs = [(int(n.get("CPU", 0)), int(n["GPU"]) // gpus_per_run) for n in nodes if n.get("GPU")]
    num_jobs = sum(num for _, num in jobs)
    if jobs and num_jobs == 0:
        raise ValueError(
            f"gpus_per_run is {gpus_per_run}, more than any machine of the cluster has: give fewer."
        )
    if jobs:
        most = min(cpus // num for cpus, num in jobs if num)
    num = num_workers or num_jobs or max(1, cores // (2 * gpus_per_run))
    return num, max(1, min(cores // num, most) // gpus_per_run)


def _work_with_log(job: Job, num_threads: int, num_processes: int) -> str | None:
    """Do a job on a machine of the cluster."""
    num_threads = min(num_threads, torch.get_num_threads())
    if not job.path.parent.is_dir():
        return f"{job.path.parent} is not there on {os.uname().nodename}: name one that all share."
    if num_processes > 1:
        processes = JobProcesses(job, num_processes, {"OMP_NUM_THREADS": str(num_threads)})
        with contextlib.closing(processes):  # also where the task is interrupted
            return processes.wait()
    own = without_roles(os.environ)  # Ray's processes inherit those of whoever started it
    for name in os.environ.keys() - own.keys():
        del os.environ[name]
    torch.set_num_threads(num_threads)
    job.path.mkdir(exist_ok=True)
    log = (job.path / ".log.txt").open("a")
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        work(job)
    return None


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
