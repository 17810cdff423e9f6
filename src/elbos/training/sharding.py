r"""Training on several processes: each holds a copy of the network (DDP), or a shard of it (FSDP2).

With replicas, torch's DDP averages gradients during the backward pass. With shards, FSDP2 works on
a mesh of replicas by shards: each parameter is split along its first axis over the processes of a
shard group, and copied to every group (with one group this is ZeRO-3). Each block of the network is
gathered when it computes.

FSDP2 takes most of a second to import, and is imported where it is used.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from elbos.base.processes import Processes

MIN_PARAMETERS = 2**18  # least of a gathered block: for smaller ones latency exceeds transfer time


def shard(
    network: nn.Module, shard_size: int, processes: Processes, *, is_bf16: bool, by_blocks: bool
) -> None:
    """Shard the parameters of a network in place, one copy over each `shard_size` processes.

    Blocks are gathered in the run's precision when they are called, for less memory, or at once
    where they may be used otherwise than by a call. Gradients are averaged in float32; parameters
    outside of blocks keep their dtype.
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
    policy = MixedPrecisionPolicy()
    if is_bf16:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in blocks(network) if by_blocks else []:
        if sum(p.numel() for p in block.parameters()) >= MIN_PARAMETERS:
            fully_shard(block, mesh=mesh, mp_policy=policy)
    # the root would stay gathered until a backward pass, which averages never have
    is_trained = any(parameter.requires_grad for parameter in network.parameters())
    fully_shard(network, mesh=mesh, reshard_after_forward=not is_trained)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


def replicated(loss: nn.Module, *, may_leave_unused: bool) -> nn.Module:
    """Wrap a loss in DDP, of whose parameters some may be unused."""
    buffers = [name for name, _ in loss.named_buffers()]  # the loop broadcasts them, of any dtype
    ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(loss, buffers)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(
        loss,
        init_sync=False,
        find_unused_parameters=may_leave_unused,
        gradient_as_bucket_view=True,
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


@torch.no_grad()
def broadcast(tensors: Iterable[Tensor]) -> None:
    """Copy unsharded tensors from the main process to all others."""
    for tensor in tensors:
        sent = tensor.contiguous()
        dist.broadcast(sent.flatten().view(torch.uint8), src=0)  # gloo knows few dtypes
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


def local(tensor: Any) -> Tensor:
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def unsharded(tensor: Any) -> Tensor:
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def local_rows(tensor: Any, value: Tensor) -> Tensor:
    """Return the rows of an unsharded value that belong to this process's shard of a tensor."""
    if not hasattr(tensor, "device_mesh"):
        return value
    mesh = tensor.device_mesh["shard"]
    start = min(-(-len(tensor) // mesh.size()) * mesh.get_local_rank(), len(tensor))
    return value[start : start + len(local(tensor))]
