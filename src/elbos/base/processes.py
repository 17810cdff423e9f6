"""Distributed computation: division of samples among processes, and collective operations.

torchrun and `accelerate launch` start the processes and set ranks in the environment. A single
process is the special case of one rank.
"""

import atexit
import itertools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from elbos.base.sharing import meet, naming_lost_processes, together

TIMEOUT = timedelta(minutes=30)  # longer than any work of a single process
_PATIENCE = timedelta(seconds=5)  # wait for a process that may have ended
_PORT = "elbos-port"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Processes:
    """Process group of a distributed computation, of which this process has rank and device.

    Every process must make the same calls of the collective operations.
    """

    rank: int
    num: int
    device: torch.device

    @classmethod
    @naming_lost_processes()
    def joined(cls, timeout_hours: float = 24.0) -> "Processes":
        """Join the process group that torchrun's environment variables describe.

        Without such variables the group is this process alone. A process waits at most
        `timeout_hours` for work that another one does alone, and at most 30 minutes of them for an
        equal step of another, which may have been stopped.
        """
        device, timeout = local_device(), timedelta(hours=timeout_hours)
        num = int(os.environ.get("WORLD_SIZE", "1"))
        if num == 1:
            return cls(0, 1, device)
        if missing := [name for name in ("RANK", "MASTER_ADDR") if name not in os.environ]:
            raise ValueError(
                f"WORLD_SIZE is {num}, but there is no {' and no '.join(missing)}: start the "
                "processes with torchrun."
            )
        if device.type != "cpu":
            torch.accelerator.set_device_index(device)
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else None
            dist.init_process_group(
                backend,
                store=_store_of_attempt(min(timeout, TIMEOUT)),
                rank=int(os.environ["RANK"]),
                world_size=num,
                timeout=min(timeout, TIMEOUT),
            )
            atexit.register(_leave)
            meet(timeout)
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, num: int) -> slice:
        """Return this process's share of `num` samples, almost as long as the other shares."""
        return slice(num * self.rank // self.num, num * (self.rank + 1) // self.num)

    def gathered(self, samples: Shaped[Tensor, "b *d"], num: int) -> Shaped[Tensor, "n *d"]:
        """Return all samples in each process, of which every process passes its slice."""
        if self.num == 1:
            return samples
        sizes = [num * (i + 1) // self.num - num * i // self.num for i in range(self.num)]
        padded = samples.new_zeros(max(sizes), *samples.shape[1:])
        padded[: len(samples)] = samples
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def any(self, *flags: bool) -> list[bool]:
        """Return the logical OR of each flag over all processes."""
        if self.num == 1:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(counts, dist.ReduceOp.MAX)
        return counts.bool().tolist()

    def wait(self) -> None:
        if self.num > 1:
            dist.all_reduce(torch.zeros(1))  # over the CPU's backend

    def together(self, work: Callable[[], _T]) -> _T:
        """Run a function on every process; an exception on one process is raised on all."""
        return work() if self.num == 1 else together(work)

    def from_main(self, value: _T) -> _T:
        values = [value]
        if self.num > 1:
            dist.broadcast_object_list(values, group=meet())  # the main one may work for long
        return values[0]

    def lists(self, items: list[_T]) -> list[_T]:
        """Concatenate the lists of all processes in rank order, in every process."""
        lists: list[list[_T]] = [items] * self.num
        if self.num > 1:
            dist.all_gather_object(lists, items)
        return list(itertools.chain.from_iterable(lists))


ALONE = Processes(0, 1, torch.device("cpu"))
"""Group of a single process, for use where the device does not matter."""


def local_device() -> torch.device:
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device(accelerator.type, rank % torch.accelerator.device_count())


def _store_of_attempt(timeout: timedelta) -> Store | None:
    """Return the key-value store through which torchrun's processes find each other, or None.

    When torchrun restarts processes it keeps its store, with the
    addresses of processes that have ended, from which new ones would await an answer. So the first
    process opens another store, and the others read its port from torchrun's; if nobody answers at
    that port, they read it again.
    """
    environment = os.environ
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    torchruns, rank, _ = next(rendezvous("env://", timeout=timeout))
    new = partial(
        dist.TCPStore,  # type: ignore[attr-defined]
        environment["MASTER_ADDR"],
        wait_for_workers=False,
        use_libuv=environment.get("USE_LIBUV", "1") == "1",  # torch's default
    )
    store: Store
    if rank == 0:
        store = new(port=0, is_master=True, timeout=timeout)
        torchruns.set(_PORT, str(store.port))
        return store
    end = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            store = new(port=int(torchruns.get(_PORT)), timeout=_PATIENCE)
        except dist.DistError:
            if time.monotonic() > end:
                raise
        else:
            store.set_timeout(timeout)
            return store


def _leave() -> None:
    """Destroy the process groups at exit, whose threads would make Python abort the process.

    After an error nothing is destroyed, since other processes may wait for this one.
    """
    if dist.is_initialized() and getattr(sys, "last_value", None) is None:
        dist.destroy_process_group()
