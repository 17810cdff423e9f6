"""One run of a comparison: a model is trained and scored in a process, under a lock.

`python -m elbos.comparison.job RUN`, by itself or under torchrun, does what RUN/.job.json says.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from filelock import Timeout

from elbos.base import files
from elbos.base.codec import decode, encode
from elbos.base.errors import Interrupted, explained
from elbos.base.processes import Processes
from elbos.base.progress import log_on_terminal, silent
from elbos.comparison.experiment import Scoring
from elbos.comparison.scores import RunScores, measure_scores, read_scores
from elbos.runs.run import Run
from elbos.training.choices import Weight
from elbos.training.config import Config
from elbos.training.loop import train

POLL_SECONDS = 0.2  # between looks at whether a running job should stop
_FILE = ".job.json"
_REASON = "elbos: "


@dataclass(frozen=True, kw_only=True)
class Job:
    """Training and scoring of one model in a run directory."""

    path: Path
    config: Config
    scoring: Scoring
    weightings: tuple[Weight, ...]

    def lock(self) -> AbstractContextManager[Any]:
        return files.lock(self.path / ".work.lock", timeout=0)

    def scores(self) -> RunScores | None:
        """Return the stored scores of the trained model, or None if it has none yet."""
        return read_scores(self.path, self.config, self.scoring, map(repr, self.weightings))

    def is_running(self) -> bool:
        if not self.path.exists():
            return False
        try:
            with self.lock():
                return False
        except Timeout:
            return True


def work(job: Job) -> None:
    """Train and score a model, unless this is done or another process does it.

    All processes of a job call this function; the main process holds the lock and writes.
    """
    processes = Processes.joined()
    try:
        with job.lock() if processes.is_main else contextlib.nullcontext():
            if processes.from_main(job.scores() is not None):
                return
            if processes.is_main:
                files.remove_leftovers(job.path, min_age=0)
            train(job.config, job.path)
            run = Run(job.path).shared_by(processes)
            measure_scores(run, job.scoring, job.weightings, silent)
    except Timeout:
        processes.from_main(True)


def run_job(
    job: Job, num_processes: int, environment: Mapping[str, str], stopping: Event
) -> str | None:
    """Execute a job in new processes; return the reason if it fails.

    Several processes run under torchrun. Once `stopping` is set, they save a checkpoint and end.
    """
    torchrun = ["torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    launcher = [*torchrun, f"--nproc-per-node={num_processes}", "-m"] if num_processes > 1 else []
    roles = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # of this process, not of those that it starts
    inherited = {name: value for name, value in os.environ.items() if name not in roles}
    if not job.path.parent.is_dir():  # it was moved, or another machine does not have it
        return f"there is no {job.path.parent} now, or not there: name a directory that all share."
    job.path.mkdir(exist_ok=True)
    files.write(job.path / _FILE, json.dumps(encode(job)).encode())
    output = job.path / ".log.txt"
    with output.open("ab") as log:
        start = log.tell()
        process = subprocess.Popen(  # noqa: S603 (words of ours)
            [sys.executable, "-m", *launcher, "elbos.comparison.job", str(job.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=inherited | {"PYTHONSAFEPATH": "1"} | dict(environment),
            start_new_session=True,  # Ctrl-C reaches the parent process alone, which ends this one
        )
        try:
            while process.poll() is None and not stopping.wait(POLL_SECONDS):
                pass
        finally:
            process.terminate()  # a training saves a checkpoint first
            status = process.wait()
    if status == 0 or stopping.is_set():
        return None
    lines = output.read_bytes()[start:].decode(errors="replace").splitlines()
    for line in reversed(lines):
        if line.startswith(_REASON):
            return line.removeprefix(_REASON)
    how = f"by {signal.Signals(-status).name} (out of memory?)" if status < 0 else f"with {status}"
    return f"its process ended {how}: see {output}."


def main() -> None:
    job = decode(Job, files.read_value(Path(sys.argv[1]) / _FILE), "job")
    assert isinstance(job, Job)
    with log_on_terminal():
        try:
            work(job)
        except Interrupted as error:
            sys.exit(f"{_REASON}{error}")
        except Exception as error:  # training and user's code raise any type
            if int(os.environ.get("RANK", "0")) == 0:
                traceback.print_exc()
                sys.stderr.write(f"{_REASON}{explained(error)}\n")
            sys.last_value = error  # Python sets it, and exit handlers read it
            sys.exit(1)


if __name__ == "__main__":
    main()
