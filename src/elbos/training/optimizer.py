r"""Muon: steps of equal size in all directions, for the weights that are matrices.

Adam scales the gradient entry by entry. A layer's weights are a matrix, and Muon takes the nearest
matrix with orthonormal rows (or columns) to its momentum $M = U S V^\top$,

$$W \leftarrow (1 - \eta\,\omega) W - 0.2\,\sqrt{\max(m, n)}\;\eta\; U V^\top,$$

so that directions with small gradients are learned as fast as those with large ones. The factor
gives the step the root mean square of Adam's, so that one learning rate serves both. $U V^\top$
comes from five Newton-Schulz steps (`orthogonal`), for which bfloat16 is enough. A convolution's
weights are the matrix of output channels by (inputs of one output).

Which weights are matrices, `matrices` says; all others, those of the first and the last layer among
them, are AdamW's.

Matrices of one shape are orthogonalized together. Under FSDP2, where a process holds some rows of
each, momentum and weights stay so, and the matrices are shared out among the processes. Processes
with the same matrices, too, orthogonalize a share each.

References:
    Jordan et al. (2024), https://kellerjordan.github.io/posts/muon; the step's size: Liu et al.
    (2025), https://arxiv.org/abs/2502.16982
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from elbos.training.matrices import inner_matrices
from elbos.training.orthogonal import divided, orthogonalized, orthogonalized_shards
from elbos.training.settings import Optimizer
from elbos.training.sharding import local

MOMENTUM = 0.95
_MAX_STACKED = 2**26  # numbers that are orthogonalized at a time: 128 MiB in bfloat16


class Muon(torch.optim.Optimizer):
    """Muon for some parameters and AdamW for the others, as one optimizer.

    Args:
        matrices: Parameters of at least two dimensions; the first is that of the outputs. They may
            be DTensors, sharded along it.
        others: All others.
        lr: Learning rate of both.
        betas: AdamW's decay rates.
        weight_decay: Decoupled weight decay of both.
        dtype: What orthogonal matrices are computed in.

    Raises:
        ValueError: If a matrix is sharded along another dimension.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.dtype = dtype
        super().__init__([{"params": list(matrices)}], {"lr": lr, "weight_decay": weight_decay})
        for parameter in self.param_groups[0]["params"]:
            shards(parameter)
        self.adamw = torch.optim.AdamW(
            others, lr=lr, betas=betas, weight_decay=weight_decay, fused=True
        )
        self.param_groups += self.adamw.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step along the gradients."""
        assert closure is None
        self.adamw.param_groups = self.param_groups[1:]  # whoever loads a state replaces them
        self.adamw.state = self.state
        self.adamw.step()
        group = self.param_groups[0]
        for alike in _alike([p for p in group["params"] if p.grad is not None]):
            self._step(alike, group["lr"], group["weight_decay"])

    def _step(self, alike: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        """One step of matrices of one shape, with Nesterov's momentum."""
        gradients = [local(p.grad) for p in alike if p.grad is not None]  # all have one
        momenta = [local(self._momentum(parameter)) for parameter in alike]
        torch._foreach_mul_(momenta, MOMENTUM)
        torch._foreach_add_(momenta, gradients)
        stack = _stacked(list(torch._foreach_add(gradients, momenta, alpha=MOMENTUM)), self.dtype)

        group = shards(alike[0])
        num_rows = alike[0].shape[0]

        def compute(part: Tensor) -> Tensor:
            if group is None:
                return orthogonalized(part, self.dtype)
            return orthogonalized_shards(part, num_rows, group, self.dtype)

        stack = divided(stack, replicas(alike[0]), compute)

        size = lr * 0.2 * math.sqrt(max(num_rows, stack.shape[2]))
        weights = [local(parameter) for parameter in alike]
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        torch._foreach_add_(weights, _unstacked(stack, weights[0].shape), alpha=-size)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def shards(parameter: Any) -> dist.ProcessGroup | None:
    """The processes that hold rows of a parameter each; None where each holds all of them.

    Raises:
        ValueError: If it is sharded otherwise than along its first dimension.
    """
    if not hasattr(parameter, "to_local"):
        return None
    mesh, places = parameter.device_mesh, parameter.placements
    dims = [i for i, place in enumerate(places) if not place.is_replicate() and mesh.size(i) > 1]
    if len(dims) > 1 or not all(places[i].is_shard(0) for i in dims):
        raise ValueError(
            f"a matrix of shape {tuple(parameter.shape)} is sharded as {places}: Muon needs those "
            "sharded along their first dimension, as fully_shard does it."
        )
    return mesh.get_group(dims[0]) if dims else None


def replicas(parameter: Any) -> dist.ProcessGroup | None:
    """The processes that hold the same numbers of a parameter; None if this is the only one."""
    if hasattr(parameter, "to_local"):
        mesh, places = parameter.device_mesh, parameter.placements
        dims = [i for i, place in enumerate(places) if place.is_replicate() and mesh.size(i) > 1]
        return mesh.get_group(dims[0]) if dims else None
    is_one = not dist.is_initialized() or dist.get_world_size() == 1
    return None if is_one else dist.group.WORLD


def _alike(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters of one shape, dtype, device and group of processes, in lists not too large."""
    found: defaultdict[Any, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        key = parameter.shape, parameter.dtype, parameter.device, shards(parameter)
        found[key].append(parameter)
    for (shape, *_, group), same in found.items():
        num_processes = 1 if group is None else group.size()
        num = max(1, _MAX_STACKED * num_processes // shape.numel())
        yield from (same[i : i + num] for i in range(0, len(same), num))


def _stacked(weights: list[Tensor], dtype: torch.dtype) -> Float[Tensor, "k m n"]:
    """Weights of layers as matrices."""
    m, *sizes = weights[0].shape
    stack = weights[0].new_empty(len(weights), m, math.prod(sizes), dtype=dtype)
    torch._foreach_copy_(_unstacked(stack, weights[0].shape), weights)
    return stack


def _unstacked(stack: Float[Tensor, "k m n"], shape: torch.Size) -> list[Tensor]:
    """Matrices as weights of layers of a shape: views. Inputs are last in a row, as they lie in
    channels-last memory.
    """
    k, m, _ = stack.shape
    return list(stack.reshape(k, m, *shape[2:], shape[1]).movedim(-1, 2).unbind())


def new_optimizer(
    network: nn.Module, config: Optimizer, dtype: torch.dtype = torch.bfloat16
) -> torch.optim.Optimizer:
    """The optimizer of a network's parameters; Muon computes in `dtype`."""
    rates: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
    }
    if not config.use_muon:
        return torch.optim.AdamW(network.parameters(), **rates, fused=True)
    matrices = inner_matrices(network)
    inner = set(map(id, matrices))
    others = [parameter for parameter in network.parameters() if id(parameter) not in inner]
    return Muon(matrices, others, **rates, dtype=dtype)
