r"""Training on several processes: each holds a copy of the network (DDP), or a shard of it (FSDP2).

With replicas, torch's DDP averages gradients during the backward pass. With shards, FSDP2 works on
a mesh of replicas by shards: each parameter is split along its first axis over the processes of a
shard group, and copied to every group (with one group this is ZeRO-3). Each block of the network is
gathered when it computes.

FSDP2 takes most of a second to import, and is imported where it is used.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from elbos.base.processes import Processes

MIN_PARAMETERS = 2**18  # least of a gathered block: for smaller ones latency exceeds transfer time


def shard(
    network: nn.Module,
    processes: Processes,
    shard_size: int,
    *,
    by_blocks: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Shard the parameters of a network in place, one copy over each `shard_size` processes.

    Blocks are gathered in `dtype` when they are called, for less memory. If not `by_blocks`, the
    network is gathered at once, which is also correct for blocks that are not just called.
    Gradients are averaged in float32; parameters outside of blocks keep their dtype.
    """
    if processes.num % shard_size:
        raise ValueError(
            f"shard_size {shard_size} does not divide {processes.num} process"
            f"{'es' * (processes.num > 1)}: change one of them."
        )
    if shard_size == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    axes = {"replicate": processes.num // shard_size, "shard": shard_size}
    if axes["replicate"] == 1:  # FSDP2 would reduce gradients over copies
        del axes["replicate"]
    mesh = init_device_mesh(processes.device.type, tuple(axes.values()), mesh_dim_names=tuple(axes))
    with torch.no_grad():
        # FSDP2 rejects channels-last parameters and gradients without elements
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()
            parameter.requires_grad &= parameter.numel() > 0
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    if dtype == torch.float32:
        policy = MixedPrecisionPolicy()
    for block in blocks(network) if by_blocks else []:
        if sum(p.numel() for p in block.parameters()) >= MIN_PARAMETERS:
            fully_shard(block, mesh=mesh, mp_policy=policy)
    # the root would stay gathered until a backward pass, which averages never have
    is_trained = any(parameter.requires_grad for parameter in network.parameters())
    fully_shard(network, mesh=mesh, reshard_after_forward=not is_trained)


def replicated(loss: nn.Module, *, uses_all: bool) -> DistributedDataParallel:
    """Wrap a loss in DDP; unless it `uses_all` parameters, DDP searches for unused ones."""
    buffers = [name for name, _ in loss.named_buffers()]  # broadcast by `share_buffers`
    ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(loss, buffers)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(
        loss, init_sync=False, find_unused_parameters=not uses_all, gradient_as_bucket_view=True
    )


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the blocks of a network: the outermost entries of `ModuleList`s that have children."""

    def search(module: nn.Module) -> Iterator[nn.Module]:
        is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
        for child in module.children():
            if not is_list or type(child).forward is nn.Module.forward:  # that has no computation
                yield from search(child)
            elif any(True for _ in child.children()):
                yield child

    return [*dict.fromkeys(search(network))]


def sharded_parts(network: nn.Module) -> list[nn.Module]:
    """Return the modules whose parameters FSDP2 gathers separately."""
    return [m for m in network.modules() if hasattr(m, "set_requires_gradient_sync")]


@contextmanager
def returning_views() -> Iterator[None]:
    """Suppress FSDP2's warning that a module returns a view, in the `with` block."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        yield


def share_initial(network: nn.Module) -> None:
    """Copy weights and buffers of an unsharded network from the main process to all others."""
    for tensor in (*network.parameters(), *network.buffers()):
        _broadcast(tensor)


def share_buffers(network: nn.Module) -> None:
    if any(True for _ in network.buffers()):
        parameters = dict(network.named_parameters())
        for name, tensor in network.state_dict().items():
            if name not in parameters:
                _broadcast(tensor)


@torch.no_grad()
def _broadcast(tensor: Tensor) -> None:
    import torch.distributed as dist

    sent = tensor.contiguous()
    dist.broadcast(sent.flatten().view(torch.uint8), src=0)
    tensor.copy_(sent)


def set_is_last_part(loss: Any, is_last: bool) -> None:
    """Set whether the next backward pass averages gradients over processes.

    Only the last micro-batch of a step requires this. FSDP2 still sums the gradients of each
    micro-batch over the processes of a shard group.
    """
    if isinstance(loss, DistributedDataParallel):
        loss.require_backward_grad_sync = is_last
    elif hasattr(loss.network, "set_requires_all_reduce"):
        loss.network.set_requires_all_reduce(is_last)


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def unsharded(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return whole
