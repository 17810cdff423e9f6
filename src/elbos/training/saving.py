"""Checkpoints that are written while the training goes on."""

import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from elbos.runs import checkpoint
from elbos.runs.directory import RunDirectory
from elbos.training.processes import Processes
from elbos.training.sharding import is_cut, local


class Saver:
    """A thread that writes copies of the state, one checkpoint at a time; a context that ends when
    the last one is written.

    Args:
        run: The run directory.
        processes: Those that train.
        num_parts: Those of them, the first ones, that have a whole copy of the state together.
        num_kept: Checkpoints kept.
    """

    def __init__(
        self, run: RunDirectory, processes: Processes, *, num_parts: int, num_kept: int
    ) -> None:
        self.run, self.processes = run, processes
        self.num_parts, self.num_kept = num_parts, num_kept
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="elbos-checkpoint")
        self._writing: Future[None] | None = None
        self._begun = time.monotonic()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._thread.shutdown()

    def is_time(self, minutes: float) -> bool:
        """Whether the last checkpoint was begun so long ago, and is written."""
        is_writing = self._writing is not None and not self._writing.done()
        return not is_writing and time.monotonic() - self._begun >= 60 * minutes

    def save(self, step: int, groups: checkpoint.Groups) -> None:
        """Copy the state and begin to write it; all processes call this.

        Raises:
            OSError: If this or the checkpoint before cannot be written.
        """
        self.wait()
        self._begun = time.monotonic()
        folder, rank = self.run.checkpoints, self.processes.rank
        if self.processes.is_main:
            self.run.require_present()
        begun = checkpoint.begun(folder, step) if self.processes.is_main else Path()
        partial = self.processes.from_main(begun)
        if rank < self.num_parts:
            copies = {name: _copied(tensors, rank) for name, tensors in groups.items()}
            self._writing = self._thread.submit(self._write, partial, step, copies)

    def _write(self, partial: Path, step: int, groups: checkpoint.Groups) -> None:
        try:
            checkpoint.write_part(partial, self.processes.rank, groups)
            if self.processes.is_main:
                checkpoint.finish(
                    partial,
                    self.run.checkpoints,
                    step,
                    num_parts=self.num_parts,
                    num_kept=self.num_kept,
                )
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def wait(self) -> None:
        """Wait until this process's part of the last checkpoint is written; in the main one, all.

        Raises:
            OSError: If it cannot be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.result()
            except OSError:
                self.run.require_present()
                raise


def _copied(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Copies, on the CPU, of what this process writes: its rows, and in the first the rest."""
    return {
        name: local(tensor).detach().to("cpu", copy=True)
        for name, tensor in tensors.items()
        if rank == 0 or is_cut(tensor)
    }
