"""Where the runs of a comparison are made: in processes of this machine, or on a Ray cluster.

A pool of threads (`concurrent.futures`) hands out the jobs. Each thread waits for a process of its
job's own, so that one which is killed, as for memory, takes no other with it; a pool of processes
loses all its jobs with one. Several commands may share a comparison: a job is done by whoever holds
its lock, and the others wait until it is done, or take it over.
"""

import abc
import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from elbos.checks import require_positive
from elbos.codec import encode
from elbos.comparison.job import Job, work
from elbos.training.machine import num_cores

_TICK_SECONDS, _WAIT_SECONDS = 0.5, 2.0
_GRACE_SECONDS = 60.0
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # read when Ray is imported
"""Without clusters, as by default on macOS and Windows, Ray's node is 127.0.0.1. An address given
to `ray.init` does not do: Ray replaces 127.0.0.1, and listens on all addresses for any other.
"""

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


class OnRay(Executor):
    """A Ray cluster: the one at `RAY_ADDRESS`, or one of this machine that is started here, which
    listens on the loopback address only: others on the network cannot run code in it.

    All machines need elbos, and see the comparison's directory under the same path.

    Args:
        num_workers: Jobs at once. Default: one for each GPU of the cluster, or each two cores.

    Raises:
        ValueError: If Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, num_workers: int | None = None) -> None:
        if num_workers is not None:
            require_positive(num_workers=num_workers)
        address = os.environ.get("RAY_ADDRESS")
        if address is None:
            os.environ.update(_LOOPBACK)
        self._ray = ray = _ray()
        try:
            with contextlib.chdir(os.sep):  # workers import modules from where Ray is begun
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
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.num_workers, self.num_threads = shares(nodes, num_workers)
        num_gpus = 1 if any(node.get("GPU") for node in nodes) else 0
        # one call to a process: it takes what it leaks, and its death, with it
        self._remote = ray.remote(
            num_cpus=self.num_threads, num_gpus=num_gpus, max_calls=1, max_retries=0
        )
        self._running: set[Any] = set()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns on a machine of the cluster."""
        found: T = self._ray.get(self._remote(function).remote(*args))
        return found

    def do(self, job: Job) -> str | None:
        """Do a job wherever there is room, and wait."""
        task = self._remote(_work_with_log).remote(job, self.num_threads)
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


def shares(nodes: Sequence[Mapping[str, float]], num_workers: int | None) -> tuple[int, int]:
    """How many jobs run at once, and how many cores each has, such that machines can hold them.

    Args:
        nodes: What each machine of the cluster has, by Ray's account.
        num_workers: Jobs at once, if it was said.

    Examples:
        >>> shares([{"CPU": 8.0}, {"CPU": 8.0}], 1), shares([{"CPU": 8.0}], None)
        ((1, 8), (4, 2))
        >>> shares([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 4.0}], None)
        (4, 2)
    """
    cores, gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    most = max((int(node.get("CPU", 0)) for node in nodes), default=1)
    if gpus:
        most = min(int(n.get("CPU", 0) // n["GPU"]) for n in nodes if n.get("GPU"))
    num = num_workers or gpus or max(1, cores // 2)
    return num, max(1, min(cores // num, most))


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ValueError(
            "Ray is not installed: pip install 'elbos[ray]', or leave out --ray."
        ) from None
    return ray


def _work_with_log(job: Job, num_threads: int) -> str | None:
    """Do a job on a machine of the cluster."""
    if not job.path.parent.is_dir():
        return f"{job.path.parent} is not there on {os.uname().nodename}: name one that all share."
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
