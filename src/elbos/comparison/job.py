"""Job of a comparison: one model is trained and scored, by a single process or several under
torchrun.

`python -m elbos.comparison.job` reads a job as JSON from the first line of its standard input and
stops when the input is closed, at the latest when the process that started it dies.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from elbos.base import files
from elbos.base.codec import decode, encode
from elbos.base.errors import Diverged, Interrupted, explained
from elbos.base.processes import Processes
from elbos.base.progress import LOGGER, Advance, log_on_terminal
from elbos.comparison.experiment import Experiment, Scoring
from elbos.comparison.objective_result import Failure
from elbos.comparison.scores import RunScores, measure_scores, read_scores
from elbos.comparison.variants import Variant
from elbos.evaluation.samples import NotFiniteError
from elbos.runs.fit import train
from elbos.runs.run import Run
from elbos.training.choices import Weight
from elbos.training.config import Config

POLL_SECONDS = 0.2  # between looks at whether a running job should stop


@dataclass(frozen=True, kw_only=True)
class Job:
    """Training job of a comparison.

    It has run directory, training configuration, scoring and weightings.
    """

    path: Path
    config: Config
    scoring: Scoring
    weightings: tuple[Weight, ...]

    @classmethod
    def from_experiment(
        cls, experiment: Experiment, path: Path, objective: Variant, seed: int
    ) -> "Job":
        config, scoring = experiment.run_config(objective, seed), experiment.scoring
        return cls(path=path, config=config, scoring=scoring, weightings=experiment.weightings)

    @property
    def log(self) -> Path:
        return self.path / ".log.txt"

    def scores(self) -> RunScores | None:
        """Return the stored scores of the trained model.

        None if the model has no scores yet.
        """
        return read_scores(self.path, self.config, self.scoring, map(repr, self.weightings))

    def failed(self, reason: str, *, is_final: bool = False) -> Failure:
        return Failure(seed=self.config.seed, reason=reason, is_final=is_final)

    @property
    def lock(self) -> FileLock:
        return FileLock(self.path / ".work.lock", timeout=0)

    def is_running(self) -> bool:
        if not self.path.exists():
            return False
        try:
            with self.lock:
                return False
        except Timeout:
            return True


def work(job: Job) -> Failure | None:
    """Train and score a model if this is not done yet.

    Nothing is done if another process does it. Returns the failure, or None on success. All
    processes of a job call this function; the main process holds the lock and writes. The other
    processes raise the failure.
    """
    job.path.mkdir(parents=True, exist_ok=True)
    processes = Processes.joined()
    try:
        with job.lock if processes.is_main else contextlib.nullcontext():
            if processes.from_main(job.scores() is not None):
                return None
            if processes.is_main:
                files.remove_leftovers(job.path, min_age=0)
            train(job.config, job.path)
            run = Run(job.path).shared_by(processes)
            measure_scores(run, job.scoring, job.weightings, _print_start)
    except Timeout:
        processes.from_main(True)
    except Interrupted as error:
        sys.stderr.write(f"{error}\n")
    except Exception as error:
        if not processes.is_main:
            raise
        traceback.print_exc()
        return job.failed(explained(error), is_final=isinstance(error, Diverged | NotFiniteError))
    return None


def _print_start(what: str, total: int, unit: str) -> Advance:
    LOGGER.info("%s", f"{what}: {total:,} {unit}")
    return lambda *_: None


def run_job(
    job: Job,
    num_processes: int,
    environment: Mapping[str, str],
    stopping: threading.Event,
) -> Failure | None:
    """Execute a training job in new processes.

    Several processes run under torchrun. Once `stopping` is set, they save a checkpoint and end.
    Returns the failure, or None on success.
    """
    torchrun = ["torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    launcher = [*torchrun, f"--nproc-per-node={num_processes}", "-m"] if num_processes > 1 else []
    # without the roles that torchrun and SLURM give this process
    prefixes = ("SLURM_", "TORCHELASTIC_", "GROUP_", "ROLE_", "MASTER_")
    roles = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in roles and not name.startswith(prefixes)
    }
    job.path.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log, tempfile.TemporaryFile() as answer:
        process = subprocess.Popen(  # noqa: S603 (words of ours)
            [sys.executable, "-m", *launcher, "elbos.comparison.job"],
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=log,
            env=inherited | {"PYTHONSAFEPATH": "1"} | dict(environment),
            start_new_session=True,  # Ctrl-C must reach only the parent process
        )
        with process:
            assert process.stdin is not None
            try:
                with contextlib.suppress(BrokenPipeError):  # the exit status tells more
                    process.stdin.write(json.dumps(encode(job)).encode() + b"\n")
                    process.stdin.flush()
                while process.poll() is None and not stopping.wait(POLL_SECONDS):
                    pass
            finally:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()  # on which the job stops
            status = process.wait()
        answer.seek(0)
        failure = answer.read()
    if failure:
        return Failure(**json.loads(failure))
    if status == 0:
        return None
    how = f"with status {status}"
    if status < 0:
        how = f"by {signal.Signals(-status).name} (out of memory?)"
    return job.failed(f"its process ended {how}: see {job.log}.")


def main() -> None:
    """Execute a training job read from standard input.

    The job is JSON; a failure is printed as JSON.
    """
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)  # user code may print: that belongs to the log
        processes = Processes.joined()
        given = sys.stdin.buffer.readline() if processes.is_main else b""
        job = decode(Job, json.loads(processes.from_main(given)), "job")
        threading.Thread(target=_stop_when_closed, daemon=True).start()
        with log_on_terminal():
            failure = work(job)
        if failure:
            json.dump(asdict(failure), answer)


def _stop_when_closed() -> None:
    # unbuffered: a thread blocked on a buffered reader crashes the interpreter at exit
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # a training saves a checkpoint first


if __name__ == "__main__":
    main()
