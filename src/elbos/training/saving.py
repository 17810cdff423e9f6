"""Background writing of checkpoints during training.

In each process a thread writes its part. A checkpoint takes two tasks, the parts and then the
manifest; a task starts once all processes have finished the previous one. So all processes learn in
the same step of a failure.
"""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from elbos.base.processes import Processes
from elbos.training import checkpoint
from elbos.training.directory import RunDirectory
from elbos.training.sharding import is_sharded, local

_Task = Callable[[], None]


class Saver:
    """Background writer of checkpoints.

    One write runs at a time, in a thread. The context manager waits on exit until the last copy is
    written. All processes must call each method; an OSError of one process is raised in all. The
    first `num_parts` processes together hold one copy of the state.
    """

    def __init__(
        self, run: RunDirectory, processes: Processes, *, num_parts: int, num_kept: int
    ) -> None:
        self.run, self.processes = run, processes
        self.num_parts, self.num_kept = num_parts, num_kept
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="elbos-saving")
        self._writing: Future[None] | None = None  # None in all processes or in no process
        self._next: list[_Task] = []
        self._folder: Path | None = None  # temporary folder of the last checkpoint
        self._started = time.monotonic()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None or self.processes.num == 1:
            self.wait()
        elif self._writing is not None:  # other processes may have ended
            wait([self._writing])
            self._clear()
        self._thread.shutdown()

    @property
    def is_busy(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def is_time(self, minutes: float) -> bool:
        return self._writing is None and time.monotonic() - self._started >= 60 * minutes

    def save(self, step: int, groups: checkpoint.Groups) -> None:
        """Write a checkpoint in the background.

        A copy of the training state is written after any earlier write has finished.
        """
        self.wait()
        self._started = time.monotonic()
        processes, rank = self.processes, self.processes.rank

        def new_folder() -> Path:
            if not processes.is_main:
                return Path()
            self.run.require_present()
            self._folder = checkpoint.new_partial(self.run.checkpoints, step)
            return self._folder

        folder = processes.from_main(processes.together(new_folder))
        write: _Task = lambda: None  # noqa: E731 (a process may have nothing to write)
        finish = write
        if rank < self.num_parts:
            # this process's shards, and on rank 0 also unsharded tensors
            copies = {
                group: {
                    name: local(tensor).detach().to("cpu", copy=True)
                    for name, tensor in tensors.items()
                    if rank == 0 or is_sharded(tensor)
                }
                for group, tensors in groups.items()
            }
            write = partial(checkpoint.write_part, folder, rank, copies)
        if processes.is_main:
            how = {"num_parts": self.num_parts, "num_kept": self.num_kept}
            finish = partial(checkpoint.finish, folder, self.run.checkpoints, step, **how)
        self._start(write, finish)

    def go_on(self) -> None:
        """Start writing the next checkpoint when all processes have finished the previous one."""
        if self._writing is None:
            return
        try:
            self.processes.together(self._writing.result)
        except BaseException as error:
            self._clear()
            if isinstance(error, OSError) and self.processes.is_main:
                self.run.require_present()
            raise
        self._start(*self._next)

    def wait(self) -> None:
        while self._writing is not None:
            self.go_on()

    def _start(self, *tasks: _Task) -> None:
        self._writing = self._thread.submit(tasks[0]) if tasks else None
        self._next = list(tasks[1:])

    def _clear(self) -> None:
        self._start()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
