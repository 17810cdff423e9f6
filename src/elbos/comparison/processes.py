"""The processes that do one job: one, or several that train and score a run together.

They are told who they are as torchrun tells it, and inherit nothing of that from whoever starts
them. They end when their standard input is closed, which it is at the latest when that one dies.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping

from elbos.base.codec import encode
from elbos.base.user_code import no_modules_here
from elbos.comparison.job import Job

_PAUSE_SECONDS, _GRACE_SECONDS = 0.1, 30.0
_ROLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "GROUP_", "ROLE_")


def without_roles(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what torchrun and SLURM say in it of the process that has it."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _ROLES and not name.startswith(_LAUNCHERS)
    }


class JobProcesses:
    """The processes of a job, which are started.

    Args:
        job: The job.
        num: How many there are.
        environment: What they get besides this process's environment.
    """

    def __init__(self, job: Job, num: int, environment: Mapping[str, str]) -> None:
        job.path.mkdir(parents=True, exist_ok=True)
        self._processes = []
        with (job.path / ".log.txt").open("ab") as log, no_modules_here():
            shared = without_roles(os.environ) | dict(environment)
            for own in roles(num):
                process = subprocess.Popen(
                    [sys.executable, "-m", "elbos.comparison.job"],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=shared | own,
                    start_new_session=True,  # Ctrl-C is for whoever started it
                )
                self._processes.append(process)
        content = json.dumps(encode(job)).encode() + b"\n"
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it is gone; its status says why
                process.stdin.write(content)
                process.stdin.flush()

    def wait(self) -> str | None:
        """Wait until all have ended. When the main one has, or one has failed, the others get half
        a minute.

        Returns:
            Why the main one ended, or another for which it was ended, if not by itself.
        """
        first, deadline = 0, None
        while None in (statuses := [process.poll() for process in self._processes]):
            first = first or next(filter(None, statuses), 0)
            if deadline is None and (first or statuses[0] is not None):
                deadline = time.monotonic() + _GRACE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                for process in self._processes:
                    process.kill()
            time.sleep(_PAUSE_SECONDS)
        self.close()
        return _trouble(first or statuses[0]) if statuses[0] else None

    def close(self) -> None:
        """End those that are still there; trainings save a checkpoint."""
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def roles(num: int) -> list[dict[str, str]]:
    """What each of `num` processes of a machine is told of itself; one alone is told nothing."""
    if num == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [common | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(num)]


def _trouble(status: int) -> str | None:
    """Why a process ended, if not by itself."""
    if status == 0:
        return None
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}: is memory short?"
    return f"its process ended with status {status}"
