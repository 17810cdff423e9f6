r"""A network on several processes: a copy in each, or one copy for several.

With a copy in each, torch's DDP averages gradients while the backward pass goes on. Where processes
share a copy, FSDP2 works on a mesh of replicas by shards: each parameter is cut along its first
axis among the processes of a shard group, and copied to every group (with one group this is
ZeRO-3). A part of the network is gathered when it computes.

FSDP2 takes most of a second to import, and is imported where it is used.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import EllipsisType

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from elbos.training.loss import Loss
from elbos.training.processes import Processes
from elbos.training.stored import Stored

MIN_PARAMETERS = 2**18  # of a part: smaller ones take longer to be sent for than to be sent


def shard(
    network: nn.Module,
    processes: Processes,
    shard_size: int,
    *,
    by_blocks: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Cut the parameters of a network among the processes that share a copy, in place; if each has
    its own, leave it alone.

    Args:
        network: The same in every process.
        processes: All of them.
        shard_size: The processes that share one copy.
        by_blocks: Whether blocks are gathered when they are called, for less memory; else the
            network is gathered as one, which is right for blocks that are used in other ways, too.
        dtype: What blocks are gathered and compute in, where autocast decides the rest. Gradients
            are averaged in float32; what is outside of blocks, such as embeddings, stays as it is.

    Raises:
        ValueError: If `shard_size` does not divide the number of processes, or the network has
            parameters that cannot be cut up.
    """
    if processes.num % shard_size:
        raise ValueError(
            f"shard_size {shard_size} does not divide {processes.num} process"
            f"{'es' * (processes.num > 1)}: change one of them."
        )
    if shard_size == 1:
        return
    require_shareable(network, shard_size)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    shape = processes.num // shard_size, shard_size
    names = ("replicate", "shard")
    mesh = init_device_mesh(processes.device.type, shape, mesh_dim_names=names)
    with torch.no_grad():
        for parameter in network.parameters():  # FSDP2 knows none that are channels-last, and no
            parameter.data = parameter.data.contiguous()  # gradients that have no elements
            parameter.requires_grad &= parameter.numel() > 0
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    if dtype == torch.float32:
        policy = MixedPrecisionPolicy()
    for part in _parts(network) if by_blocks else ():
        fully_shard(part, mesh=mesh, mp_policy=policy)
    # after forward the root would stay gathered until a backward pass, which averages never have
    is_trained = any(parameter.requires_grad for parameter in network.parameters())
    fully_shard(network, mesh=mesh, reshard_after_forward=not is_trained)


def replicated(loss: Loss, *, uses_all: bool) -> DistributedDataParallel:
    """A loss whose gradients are averaged over all processes, each of which has the same network.

    Args:
        loss: The loss.
        uses_all: Whether every parameter has a gradient; if not, torch looks in each step which.
    """
    buffers = [name for name, _ in loss.named_buffers()]  # which `share_buffers` sends
    ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(loss, buffers)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(
        loss, init_sync=False, find_unused_parameters=not uses_all, gradient_as_bucket_view=True
    )


def require_shareable(network: nn.Module, shard_size: int) -> None:
    """Raise a ValueError if the gradient of some parameter has a hook, which would be called before
    processes average, or FSDP2 does not take the parameters.
    """
    for name, parameter in network.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise ValueError(f"{name} has a hook for its gradient, which several processes lose.")
        if parameter.ndim == 0 and shard_size > 1:
            raise ValueError(f"{name} is one number, of shape []: shards need [1].")
    dtypes = {p.dtype for p in network.parameters() if p.requires_grad}
    if len(dtypes) > 1 and shard_size > 1:
        found = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"the parameters trained are {found}: shards need one dtype.")


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network that are gathered by themselves, inner ones first."""
    for module in reversed(list(network.modules())):
        if isinstance(module, nn.ModuleList):
            for block in module:
                is_large = sum(p.numel() for p in block.parameters()) >= MIN_PARAMETERS
                if is_large and not is_container(block):
                    yield block


def is_container(module: nn.Module) -> bool:
    """Whether a module, such as a list, has no forward: it holds others, and is not called."""
    return type(module).forward is nn.Module.forward


def sharded_parts(network: nn.Module) -> list[nn.Module]:
    """The parts that are gathered by themselves; none of a network on one process."""
    return [module for module in network.modules() if _is_sharded(module)]


@contextmanager
def returning_views() -> Iterator[None]:
    """A context without FSDP2's warning of parts that return views. Of those that are written to in
    place, gradients are lost; the trial of a user's network finds them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        yield


def share_initial(network: nn.Module) -> None:
    """Give the weights and buffers of a whole network the values of the main process."""
    for tensor in (*network.parameters(), *network.buffers()):
        _share(tensor)


def share_buffers(network: nn.Module) -> None:
    """Give the buffers in the state of a network, such as the statistics of a BatchNorm, the values
    that they have in the main process.
    """
    if any(True for _ in network.buffers()):
        parameters = dict(network.named_parameters())
        for name, tensor in network.state_dict().items():
            if name not in parameters:
                _share(tensor)


@torch.no_grad()
def _share(tensor: Tensor) -> None:
    """Give a tensor the values that it has in the main process: as bytes, since processes on a CPU
    send few types of numbers.
    """
    import torch.distributed as dist

    sent = tensor.contiguous()
    dist.broadcast(as_bytes(sent), src=0)
    tensor.copy_(sent)


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a contiguous tensor: a view."""
    return tensor.flatten().view(torch.uint8)


def set_is_last_part(loss: Loss | DistributedDataParallel, is_last: bool) -> None:
    """Say whether the next backward pass is that of the last part of a batch, after which gradients
    are averaged over all copies. Processes that share a copy add up each part's, and keep shards.
    """
    if isinstance(loss, DistributedDataParallel):
        loss.require_backward_grad_sync = is_last
    elif _is_sharded(loss.network):
        loss.network.set_requires_all_reduce(is_last)  # type: ignore[operator]


def _is_sharded(module: nn.Module) -> bool:
    """Whether this is one of FSDP2's modules."""
    return hasattr(module, "set_requires_gradient_sync")


def is_cut(tensor: Tensor) -> bool:
    """Whether this is a DTensor."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is in this process."""
    part: Tensor = tensor.to_local() if is_cut(tensor) else tensor  # type: ignore[attr-defined]
    return part


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, which all have to ask for it."""
    found: Tensor = tensor.full_tensor() if is_cut(tensor) else tensor  # type: ignore[attr-defined]
    return found


def rows(tensor: Tensor) -> slice | EllipsisType:
    """The rows of a tensor that are in this process, cut as FSDP2 cuts; of a whole one, all."""
    if not is_cut(tensor):
        return ...
    mesh = tensor.device_mesh["shard"]  # type: ignore[attr-defined]
    begin = min(-(-len(tensor) // mesh.size()) * mesh.get_local_rank(), len(tensor))
    return slice(begin, begin + len(local(tensor)))


@torch.no_grad()
def fill(own: Tensor, value: Shaped[Tensor, "*d"] | Stored) -> None:
    """Copy a whole tensor into one of which this process may have a part; of a stored one, no more
    than that part is read.
    """
    local(own).copy_(value[rows(own)])


def load(network: nn.Module, state: Mapping[str, Tensor | Stored]) -> None:
    """Load the whole tensors of a state dict.

    Raises:
        RuntimeError: If they are of another network.
    """
    own = network.state_dict()
    if names := sorted(own.keys() ^ state.keys()):
        raise RuntimeError(f"these are in one of the two alone: {', '.join(names[:5])}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise RuntimeError(f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
        fill(tensor, state[name])
