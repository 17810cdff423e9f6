"""Work shared among the processes of `torch.distributed`, and its results put together."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor


def share(num: int, is_shared: bool) -> Iterator[tuple[int, bool]]:
    """The pieces of `num` that this process computes, and whether each counts.

    Every process computes as many, since networks that are spread over them (FSDP2) need all in
    each call: one that runs out of pieces repeats the first, which does not count.
    """
    if not is_shared:
        yield from ((i, True) for i in range(num))
        return
    rank, size = dist.get_rank(), dist.get_world_size()
    for turn in range(-(-num // size)):
        i = turn * size + rank
        yield (i, True) if i < num else (0, False)


def require_processes() -> None:
    """Raise a ValueError unless `torch.distributed` is initialized."""
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("is_shared is true and torch.distributed is not initialized: start it.")


def require_alike(values: tuple[float, ...], device: torch.device) -> None:
    """Raise a ValueError, on every process, unless the numbers are the same on all."""
    require_processes()
    least = torch.tensor(values, dtype=torch.float64, device=device)
    greatest = least.clone()
    dist.all_reduce(least, dist.ReduceOp.MIN)
    dist.all_reduce(greatest, dist.ReduceOp.MAX)
    if not torch.equal(least, greatest):
        raise ValueError(
            "the processes have other data, seeds, noise levels or batch sizes: give all of them "
            "the whole set, and the same settings."
        )


def summed(
    found: list[tuple[Tensor, dict[str, Tensor]]],
    num: int,
    is_shared: bool,
    device: torch.device,
) -> dict[str, Tensor]:
    """The tensors of rows 0 to `num`, from the pieces of this process, or of all; float64."""
    merged = {}
    for key, like in found[0][1].items():
        merged[key] = torch.zeros(num, *like.shape[1:], dtype=torch.float64)
        for rows, tensors in found:
            merged[key][rows] = tensors[key]
        if is_shared:
            total = merged[key].to(device)
            dist.all_reduce(total)
            merged[key] = total.cpu()
    return merged
