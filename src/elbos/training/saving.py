"""Background writing of checkpoints during training."""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

from torch import Tensor

from elbos.base.processes import Processes
from elbos.training import checkpoint
from elbos.training.directory import RunDirectory
from elbos.training.sharding import is_sharded, unsharded


class Saver:
    """Background writer of checkpoints.

    The main process writes one checkpoint at a time, in a thread. The context manager waits on exit
    until the last one is written. All processes must call `save` and `wait`; an OSError of the main
    process is raised in all.
    """

    def __init__(self, run: RunDirectory, processes: Processes, num_kept: int) -> None:
        self.run, self.processes, self.num_kept = run, processes, num_kept
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="elbos-saving")
        self._writing: Future[None] | None = None
        self._started = time.monotonic()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None or self.processes.num == 1:
            self.wait()
        elif self._writing is not None:  # other processes may have ended
            wait([self._writing])
        self._thread.shutdown()

    def is_time(self, minutes: float) -> bool:
        is_busy = self._writing is not None and not self._writing.done()
        return not is_busy and time.monotonic() - self._started >= 60 * minutes

    @property
    def has_failed(self) -> bool:
        writing = self._writing
        return writing is not None and writing.done() and writing.exception() is not None

    def save(self, step: int, groups: checkpoint.Groups) -> None:
        """Write a checkpoint in the background, after any earlier one has been written."""
        self.wait()
        self._started = time.monotonic()
        copies: dict[str, dict[str, Tensor]] = {}
        for group, tensors in groups.items():
            copies[group] = {}
            for name, tensor in tensors.items():
                if is_sharded(tensor) or self.processes.is_main:
                    whole = unsharded(tensor).detach()  # all processes gather
                    if self.processes.is_main:
                        copies[group][name] = whole.to("cpu", copy=True)
        if self.processes.is_main:
            self._writing = self._thread.submit(self._write, step, copies)

    def wait(self) -> None:
        """Wait until the last checkpoint is written, and raise its error in all processes."""

        def result() -> None:
            writing, self._writing = self._writing, None
            if writing is not None:
                writing.result()

        self.processes.together(result)

    def _write(self, step: int, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.run.require_present()
        try:
            checkpoint.save(self.run.checkpoints, step, groups, num_kept=self.num_kept)
        except OSError:
            self.run.require_present()
            raise
