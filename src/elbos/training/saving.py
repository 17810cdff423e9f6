"""What is written while the training goes on: checkpoints, and snapshots of averages.

Each process has a thread that writes its part. All begin the next part of the work, such as the
manifest of a checkpoint, once every one has done the last: then all know, in the same step, whether
one has failed.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from torch import Tensor

from elbos.training import checkpoint
from elbos.training.directory import RunDirectory
from elbos.training.ema import EMA
from elbos.training.processes import Processes
from elbos.training.sharding import is_cut, local
from elbos.training.snapshots import gathered, write_snapshots

_Work = Callable[[], None]


class Saver:
    """A thread that writes copies of the state, one at a time; a context that ends when the last is
    written.

    Args:
        run: The run directory.
        processes: Those that train. All of them call each method, and an OSError of one is raised
            in all.
        num_parts: Those of them, the first ones, that have a whole copy of the state together.
        num_kept: Checkpoints kept.
    """

    def __init__(
        self, run: RunDirectory, processes: Processes, *, num_parts: int, num_kept: int
    ) -> None:
        self.run, self.processes = run, processes
        self.num_parts, self.num_kept = num_parts, num_kept
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="elbos-saving")
        self._writing: Future[None] | None = None  # in all processes or in none
        self._next: list[_Work] = []
        self._folder: Path | None = None  # of the last checkpoint, in the main process
        self._begun = time.monotonic()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None or self.processes.num == 1:
            self.wait()
        elif self._writing is not None:  # the other processes may be gone
            wait([self._writing])
            self._clear()
        self._thread.shutdown()

    @property
    def is_busy(self) -> bool:
        """Whether this process is writing."""
        return self._writing is not None and not self._writing.done()

    def is_time(self, minutes: float) -> bool:
        """Whether the last checkpoint was begun so long ago, and nothing is being written."""
        return self._writing is None and time.monotonic() - self._begun >= 60 * minutes

    def save(self, step: int, groups: checkpoint.Groups) -> None:
        """Copy the state and begin to write a checkpoint, once what came before is written.

        Raises:
            OSError: If this or what came before cannot be written.
        """
        self.wait()
        self._begun = time.monotonic()
        processes, rank = self.processes, self.processes.rank
        folder = processes.from_main(processes.together(lambda: self._new_folder(step)))
        write = finish = _nothing
        if rank < self.num_parts:
            copies = {name: _copied(tensors, rank) for name, tensors in groups.items()}
            write = partial(checkpoint.write_part, folder, rank, copies)
        if processes.is_main:
            how = {"num_parts": self.num_parts, "num_kept": self.num_kept}
            finish = partial(checkpoint.finish, folder, self.run.checkpoints, step, **how)
        self._begin(write, finish)

    def save_snapshots(self, step: int, ema: EMA) -> None:
        """Copy the averages of `snapshot_widths` and begin to write them, likewise.

        Raises:
            OSError: If what came before cannot be written.
        """
        self.wait()
        is_main = self.processes.is_main
        averages = gathered(ema, is_main=is_main)
        write = partial(write_snapshots, self.run.averages, step, averages)
        self._begin(write if is_main else _nothing)

    def go_on(self) -> None:
        """Begin the next part of the work, now that no process is busy; end if there is none.

        Raises:
            OSError: If some process could not write.
        """
        if self._writing is None:
            return
        try:
            self.processes.together(self._writing.result)
        except BaseException as error:
            self._clear()
            if isinstance(error, OSError) and self.processes.is_main:
                self.run.require_present()
            raise
        self._begin(*self._next)

    def wait(self) -> None:
        """Wait until all is written, by all.

        Raises:
            OSError: If some process could not write.
        """
        while self._writing is not None:
            self.go_on()

    def _begin(self, *work: _Work) -> None:
        self._writing = self._thread.submit(work[0]) if work else None
        self._next = list(work[1:])

    def _clear(self) -> None:
        """Forget what was being written, and delete what there is of a checkpoint."""
        self._begin()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _new_folder(self, step: int) -> Path:
        """In the main process, the folder of a checkpoint that is not yet whole."""
        if not self.processes.is_main:
            return Path()
        self.run.require_present()
        self._folder = checkpoint.begun(self.run.checkpoints, step)
        return self._folder


def _nothing() -> None:
    """The work of a process that has none."""


def _copied(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Copies, on the CPU, of what this process writes: its rows, and in the first the rest."""
    return {
        name: local(tensor).detach().to("cpu", copy=True)
        for name, tensor in tensors.items()
        if rank == 0 or is_cut(tensor)
    }
