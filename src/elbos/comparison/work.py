"""One run of a comparison, in a process of its own: trained, scored, and what went wrong noted.

`python -m elbos.comparison.work` reads a job, a line of JSON, from standard input, and stops when
that is closed: whoever started it is gone.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback

from filelock import Timeout

from elbos import files
from elbos.comparison.job import Job
from elbos.comparison.scores import write_scores
from elbos.errors import Diverged, Interrupted, explained
from elbos.evaluation.samples import NotFiniteError
from elbos.progress import Advance
from elbos.runs.codec import decode
from elbos.training.fit import train
from elbos.training.run import Run

_PROGRESS_SECONDS = 1.0


def main() -> None:
    """Do the job that standard input names."""
    job = decode(Job, json.loads(sys.stdin.buffer.readline()), "job")
    threading.Thread(target=_stop_when_closed, daemon=True).start()
    try:
        with job.lock:
            if job.scores() is None:
                work(job)
    except Timeout:
        pass  # another process does it


def _stop_when_closed() -> None:
    # of the file itself: a buffer that a thread waits on ends the interpreter with a fatal error
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # a training saves a checkpoint first


def work(job: Job) -> None:
    """Train and score; whatever goes wrong is noted, such that other runs go on."""
    job.path.mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(job.path)
    job.forget_failure()
    try:
        _train_and_score(job)
    except Interrupted as error:
        sys.stderr.write(f"{error}\n")
    except Exception as error:
        traceback.print_exc()
        job.fail(explained(error), is_final=isinstance(error, Diverged | NotFiniteError))


def _train_and_score(job: Job) -> None:
    progress = _Progress(job)
    each = job.training_cost / job.config.num_images
    train(job.config, job.path, lambda num: progress.reach(each * num))
    progress.reach(job.training_cost)
    write_scores(Run(job.path), job.scoring, job.named_weightings, progress.start)


class _Progress:
    """How far a job is, noted now and then."""

    def __init__(self, job: Job) -> None:
        self.job, self.done, self.noted = job, 0.0, 0.0

    def reach(self, cost: float) -> None:
        """So much of the work is done."""
        self.done = cost
        if time.monotonic() - self.noted > _PROGRESS_SECONDS:
            self.noted = time.monotonic()
            self.job.note_progress(cost)

    def start(self, what: str, total: int, unit: str) -> Advance:
        """Begins a piece of scoring."""
        sys.stderr.write(f"{what}: {total:,} {unit}\n")
        each = self.job.scoring.unit_cost(self.job.config.schedule, what, unit)
        return lambda num, _=False: self.reach(self.done + each * num)


if __name__ == "__main__":
    main()
