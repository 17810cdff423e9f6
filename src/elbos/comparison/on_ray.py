"""The engine of a Ray cluster."""

import contextlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from elbos.checks import require_positive
from elbos.comparison.budget import settled, speed
from elbos.comparison.engines import Ended
from elbos.comparison.job import Job
from elbos.comparison.processes import close, start_process, trouble
from elbos.runs.codec import decode, encode
from elbos.training.config import Config

_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # read when Ray is imported
"""Without clusters, as by default on macOS and Windows, Ray's node is 127.0.0.1. An address given
to `ray.init` does not do: Ray replaces 127.0.0.1, and listens on all addresses for any other.
"""


class OnRay:
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
        self._remote = ray.remote(num_cpus=self.num_threads, num_gpus=num_gpus)
        self._task = self._remote(_to_the_end)
        self._environment = {"OMP_NUM_THREADS": str(self.num_threads)}
        self._running: dict[Any, Job] = {}

    def settle(self, config: Config, minutes: float | None) -> Config:
        """What a machine of the cluster decides."""
        words = json.dumps(encode(config)), minutes, self.num_threads
        text = self._ray.get(self._remote(_settled).remote(*words))
        found = decode(Config, json.loads(text))
        assert isinstance(found, Config)
        return found

    def speed(self, config: Config, minutes: float | None) -> tuple[str, float]:
        """A machine's of the cluster."""
        words = json.dumps(encode(config)), minutes, self.num_threads
        found: tuple[str, float] = self._ray.get(self._remote(_speed).remote(*words))
        return f"Ray, {found[0]}", found[1]

    def start(self, job: Job) -> None:
        """Begin a job wherever there is room."""
        reference = self._task.remote(json.dumps(encode(job)), self._environment)
        self._running[reference] = job

    def ended(self) -> Ended:
        """The jobs whose tasks are done."""
        if not self._running:
            return []
        references = list(self._running)
        done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [(self._running.pop(reference), self._result(reference)) for reference in done]

    def _result(self, reference: Any) -> str | None:
        try:
            what: str | None = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return f"Ray: {str(error).strip().splitlines()[-1]}"
        return what

    def close(self) -> None:
        """End all tasks, and with them their processes; leave the cluster."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


def shares(nodes: Sequence[Mapping[str, float]], num_workers: int | None) -> tuple[int, int]:
    """How many jobs run at once, and how many cores each has, such that machines can hold them.

    Args:
        nodes: What each machine of the cluster has, as Ray tells it.
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


def _settled(text: str, minutes: float | None, num_threads: int) -> str:
    """A machine of the cluster decides."""
    config = decode(Config, json.loads(text))
    return json.dumps(encode(settled(config, minutes, num_threads)))


def _speed(text: str, minutes: float | None, num_threads: int) -> tuple[str, float]:
    """A machine of the cluster is measured."""
    return speed(decode(Config, json.loads(text)), minutes, num_threads)


def _to_the_end(text: str, environment: dict[str, str]) -> str | None:
    """A job on a machine of the cluster."""
    job = decode(Job, json.loads(text), "job")
    if not job.path.parent.is_dir():
        return f"{job.path.parent} is not there on {os.uname().nodename}: name one that all share."
    process = start_process(job, environment)
    try:
        process.wait()
    finally:
        close(process)
    return trouble(process)
