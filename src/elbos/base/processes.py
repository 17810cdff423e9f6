"""Distributed computation: division of work among processes, and collective operations.

torchrun and `accelerate launch` start the processes and set ranks in the environment. A single
process is the special case of one rank. `Processes` is the group of a command of elbos; the
functions after it are for calls from a user's program, which has a group of its own.
"""

import atexit
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from elbos.base.errors import flat, warn

TIMEOUT = timedelta(minutes=30)  # longer than any work of a single process
MAX_WAIT = timedelta(minutes=1)
_T = TypeVar("_T")
_patient_groups: WeakValueDictionary[dist.ProcessGroup, dist.ProcessGroup] = WeakValueDictionary()
_calls = itertools.count()


@contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Convert errors about a lost process into a ConnectionError.

    gloo has no exception class; all of its messages contain a path of its source code.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error  # the user's code may have wrapped gloo's
        while cause is not None:
            if isinstance(cause, dist.DistError) or "/gloo/" in str(cause):
                what = re.sub(r"^\[\S*\] ", "", flat(cause)).partition(". ")[0]
                raise ConnectionError(
                    f"Another process has failed: see what it says ({what[:100]})."
                ) from None
            cause = cause.__cause__ or cause.__context__
        raise


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
    def joined(cls) -> "Processes":
        """Join the process group that torchrun's environment variables describe.

        Without such variables the group is this process alone.
        """
        device = local_device()
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
            store, rank, _ = next(rendezvous("env://", timeout=TIMEOUT))
            # torchrun keeps its store when it restarts processes, with the addresses of ended ones
            store = dist.PrefixStore(  # type: ignore[attr-defined]
                os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store
            )
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=num, timeout=TIMEOUT
            )
            atexit.register(_leave)
            meet()
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


def _leave() -> None:
    """Destroy the process groups at exit, whose threads would make Python abort the process.

    After an error nothing is destroyed, since other processes may wait for this one.
    """
    if dist.is_initialized() and getattr(sys, "last_value", None) is None:
        dist.destroy_process_group()


def together(work: Callable[[], _T]) -> _T:
    """Run a function on every process; an exception on one process is raised on all.

    Raises:
        ConnectionError: If another process has exited.
    """
    try:
        result = work()
    except Exception as error:
        _settle(error)
        raise
    _settle(None)
    return result


def meet(timeout: timedelta = timedelta(days=1)) -> dist.ProcessGroup:
    """Return the process group in which processes wait for each other's work, up to a time limit.

    The first call creates the group; all processes must be known to be running. Only torch keeps a
    reference to the group, so that its threads end when torch's groups are destroyed.
    """
    world = dist.group.WORLD
    assert world is not None
    if world not in _patient_groups:
        _patient_groups[world] = dist.new_group(backend="gloo", timeout=timeout)
    return _patient_groups[world]


def _settle(failure: Exception | None) -> None:
    errors: list[Exception | None] = [None] * dist.get_world_size()
    with naming_lost_processes():
        dist.all_gather_object(errors, failure, group=meet())
    if failure is None and (failures := [error for error in errors if error is not None]):
        raise failures[0]


def share(num: int, is_shared: bool) -> Iterator[tuple[int, bool]]:
    """Yield the indices of the work items that are assigned to this process.

    Each comes as (index, True), padding as (0, False). Every process computes equally many pieces,
    since sharded networks (FSDP2) need all processes in each call: a process without pieces left
    repeats the first one, flagged False.
    """
    if not is_shared:
        yield from ((i, True) for i in range(num))
        return
    rank, size = dist.get_rank(), dist.get_world_size()
    for turn in range(-(-num // size)):
        i = turn * size + rank
        yield (i, True) if i < num else (0, False)


def require_processes() -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("is_shared is true and torch.distributed is not initialized: start it.")


def warn_if_several() -> None:
    """Warn if several processes would each repeat the same computation."""
    num = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if num > 1:
        warn(
            f"{num} processes of torch.distributed exist, and this call does all the work in its "
            "own: pass is_shared=True in all of them to share it, or is_shared=False."
        )


def require_calls(call: str) -> None:
    """Raise a ValueError on process 0 unless all processes make the same call within a minute."""
    # The others wait for process 0 without such a limit, for it may have a checkpoint to write.
    store, prefix = dist.distributed_c10d._get_default_store(), f"elbos/{next(_calls)}/"
    store.set(f"{prefix}{dist.get_rank()}", call)
    ranks = {f"{prefix}{rank}": str(rank) for rank in range(1, dist.get_world_size())}
    try:
        store.wait([*ranks] if dist.get_rank() == 0 else [], MAX_WAIT)
    except dist.DistStoreError:
        missing = ", ".join(rank for key, rank in ranks.items() if not store.check([key]))
        raise ValueError(
            f"process {missing} did not call {call} within {MAX_WAIT.seconds} s of process 0: call "
            "it in all, without `if accelerator.is_main_process`, or set is_shared=False."
        ) from None


def require_alike(values: tuple[float, ...], device: torch.device) -> None:
    """Raise a ValueError on every process unless all processes pass equal numbers."""
    require_processes()
    least = torch.tensor(values, dtype=torch.float64, device=device)
    greatest = least.clone()
    dist.all_reduce(least, dist.ReduceOp.MIN)
    dist.all_reduce(greatest, dist.ReduceOp.MAX)
    if not torch.equal(least, greatest):
        raise ValueError(
            "the processes differ in data, seeds, noise levels or batch sizes: give every process "
            "the whole dataset and the same settings."
        )


def summed(
    parts: list[tuple[Tensor, dict[str, Tensor]]],
    num: int,
    is_shared: bool,
    device: torch.device,
) -> dict[str, Tensor]:
    """Assemble tensors of `num` rows, which several processes computed, in float64 on the CPU."""
    merged = {}
    rows = torch.cat([some for some, _ in parts])
    for key in sorted(parts[0][1]):  # parts that were read have another order
        values = torch.cat([tensors[key] for _, tensors in parts]).cpu().double()
        merged[key] = torch.zeros(num, *values.shape[1:], dtype=torch.float64)
        merged[key][rows] = values
        if is_shared:
            total = merged[key].to(device)
            dist.all_reduce(total)
            merged[key] = total.cpu()
    return merged
