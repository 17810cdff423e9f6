"""Division of work among the processes of `torch.distributed`, and gathering of the results."""

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from elbos.base.errors import causes, flat, warn

_patient_groups: WeakValueDictionary[dist.ProcessGroup, dist.ProcessGroup] = WeakValueDictionary()
T = TypeVar("T")
MAX_WAIT = timedelta(minutes=1)
_calls = itertools.count()


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


@contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Convert errors about a lost process into a ConnectionError.

    gloo has no exception class; all of its messages contain a path of its source code.
    """
    try:
        yield
    except Exception as error:  # the user's code may have wrapped gloo's
        for cause in causes(error):
            if isinstance(cause, dist.DistError) or "/gloo/" in str(cause):
                what = re.sub(r"^\[\S*\] ", "", flat(cause)).partition(". ")[0]
                raise ConnectionError(
                    f"Another process has failed: see what it says ({what[:100]})."
                ) from None
        raise


def together(work: Callable[[], T]) -> T:
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
