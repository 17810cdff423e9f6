"""The executor of a Ray cluster: jobs are tasks."""

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from elbos.checks import require_positive
from elbos.comparison.executors import Executor, T
from elbos.comparison.job import Job, work

_GRACE_SECONDS = 60.0
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # read when Ray is imported
"""Without clusters, as by default on macOS and Windows, Ray's node is 127.0.0.1. An address given
to `ray.init` does not do: Ray replaces 127.0.0.1, and listens on all addresses for any other.
"""


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
