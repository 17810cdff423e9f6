r"""Order of the training data, as a pure function of (seed, step), and prefetched batches.

Training reads the endless concatenation of permutations $\pi_0, \pi_1, \dots$, one per epoch, in
consecutive slices of the global batch size. A run that resumes at a step, on any number of
processes, reads the batches of the uninterrupted run; threads or processes prefetch several at a
time.
"""

import signal
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from elbos.base.conditions import Condition, map_tensors, to_device
from elbos.base.items import Items
from elbos.base.user_code import no_modules_here
from elbos.training.data.dataset import Split
from elbos.training.randomness import seed_torch

NUM_THREADS = 4  # each thread reads and decodes one batch at a time
NUM_AHEAD = 16  # batches: a read may take as long as 16 steps


@lru_cache(maxsize=2)
def epoch_order(num: int, seed: int, epoch: int) -> Int64[Tensor, " n"]:
    """Return a random permutation of the samples for one epoch, which is not to be modified."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(num))


def batch_indices(num: int, batch_size: int, seed: int, step: int) -> Int64[Tensor, " n"]:
    """Return the sample indices of the global batch of a training step, out of `num` samples.

    Batches cross the border between epochs, so all have the same size.

    Examples:
        >>> two_steps = torch.cat([batch_indices(6, 3, seed=0, step=step) for step in (0, 1)])
        >>> two_steps.sort().values
        tensor([0, 1, 2, 3, 4, 5])
    """
    start, stop = step * batch_size, (step + 1) * batch_size
    slices = []
    for epoch in range(start // num, (stop - 1) // num + 1):
        first = epoch * num
        slices.append(epoch_order(num, seed, epoch)[max(start - first, 0) : stop - first])
    return torch.cat(slices)  # a copy: callers cannot modify the cached permutation


class StoredBatch(NamedTuple):
    """Training batch before augmentation, with the samples' indices and epochs, from 0."""

    x: Tensor
    cond: Condition
    rows: Int64[Tensor, " b"]
    epochs: Int64[Tensor, " b"]

    def pinned(self) -> "StoredBatch":
        return StoredBatch(*(map_tensors(Tensor.pin_memory, part) for part in self))

    def on(self, device: torch.device) -> "StoredBatch":
        return StoredBatch(*(to_device(part, device) for part in self))


@dataclass(frozen=True)
class Batches(Dataset[StoredBatch]):
    """Training batches by step; each process loads only its share of the global batch."""

    source: Split | Items
    batch_size: int
    seed: int
    share: slice

    def __getitem__(self, step: int) -> StoredBatch:
        if isinstance(self.source, Items):
            seed_torch(self.seed, step, self.share.start, 2)  # the dataset may augment at random
        num, begin = len(self.source), step * self.batch_size
        rows = batch_indices(num, self.batch_size, self.seed, step)[self.share]
        epochs = torch.arange(begin, begin + self.batch_size)[self.share] // num
        return StoredBatch(*self.source.stored(rows), rows, epochs)

    def prefetched(
        self, step: int, num_steps: int, *, num_workers: int = 0
    ) -> Generator[StoredBatch, None, None]:
        """Yield the batches of the steps `step` to `num_steps - 1`, prefetched by worker processes.

        Without worker processes, threads prefetch, but not a user's dataset, which may use the
        process's random number generators.
        """
        if num_workers:
            loader = DataLoader(
                self,
                batch_size=None,
                sampler=range(step, num_steps),
                num_workers=num_workers,
                worker_init_fn=_ignore_signals,
                pin_memory=torch.accelerator.is_available(),
            )
            with no_modules_here():
                made = iter(loader)
            yield from made
        elif isinstance(self.source, Items):
            yield from map(self.__getitem__, range(step, num_steps))
        else:

            def load(step: int) -> StoredBatch:  # the copy of pinned memory does not block the host
                return self[step].pinned() if torch.cuda.is_available() else self[step]

            pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="elbos-data")
            waiting: deque[Future[StoredBatch]] = deque()
            try:
                for number in range(step, num_steps):
                    waiting.append(pool.submit(load, number))
                    if len(waiting) == NUM_AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _ignore_signals(_: int) -> None:
    # a terminal and a scheduler signal all processes at once: the training process decides
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
