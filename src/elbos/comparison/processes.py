"""A job in a process of its own: one that runs out of memory takes no other with it."""

import contextlib
import json
import os
import signal
import subprocess
import sys

from elbos.comparison.job import Job
from elbos.runs.codec import encode


def start_process(job: Job, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """A process that does a job; it ends when its standard input is closed."""
    job.path.mkdir(parents=True, exist_ok=True)
    with (job.path / ".log.txt").open("ab") as log:
        process = subprocess.Popen(
            # without -P, modules are looked for in the current folder first
            [sys.executable, "-P", "-m", "elbos.comparison.work"],
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


def close(process: "subprocess.Popen[bytes]") -> None:
    """End a process, if it is still there."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def trouble(process: "subprocess.Popen[bytes]") -> str | None:
    """Why a process ended, if not by itself."""
    status = process.returncode
    if status == 0:
        return None
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}: is memory short?"
    return f"its process ended with status {status}"
