r"""Muon optimizer: orthogonalized updates for weight matrices of inner layers, AdamW for all other
parameters.

Adam scales the gradient entry by entry. Muon takes the nearest matrix with orthonormal rows (or
columns) to the momentum $M = U S V^\top$ of a weight matrix,

$$W \leftarrow (1 - \eta\,\omega) W - 0.2\,\sqrt{\max(m, n)}\;\eta\; U V^\top,$$

so that directions with small gradients are learned as fast as those with large ones. The factor
gives the step the root mean square of Adam's, so that one learning rate serves both. $U V^\top$
comes from five Newton-Schulz steps (`orthogonal`), for which bfloat16 suffices. The weights of a
convolution are the matrix of output channels by (inputs of one output).

`inner_matrices` chooses the matrices by the type of their layer: linear maps, convolutions without
groups, and `nn.MultiheadAttention`. It leaves out

- the first and the last of these layers in the order of registration (that of the forward pass in
  diffusers, timm and `nn.Sequential`), and `conv_in`, `conv_out`, `linear_in`, `linear_out`;
- embeddings of noise level, label or position, and modulations by them: every module with a word in
  its name that begins with `emb`, `norm` or `modulation` (`time_embedding`, `pos_embed`,
  `time_emb_proj`, `norm1.linear`, `adaLN_modulation`).

Matrices of one shape are orthogonalized together. Under FSDP2, where each process holds some rows,
momentum and weights stay sharded, and the matrices are distributed over the processes. Replicas
orthogonalize a share each. `torch.optim.Muon` does none of this: it takes 2-D weights alone, one
by one, in every process.

References:
    Jordan et al. (2024), https://kellerjordan.github.io/posts/muon; the step's size: Liu et al.
    (2025), https://arxiv.org/abs/2502.16982
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from elbos.training.config import Optimizer
from elbos.training.orthogonal import divided, orthogonalized, orthogonalized_shards
from elbos.training.sharding import local

MOMENTUM = 0.95
_MAX_STACKED = 2**26  # elements orthogonalized at a time: 128 MiB in bfloat16
_ENDS = ("conv_in", "conv_out", "linear_in", "linear_out")
_EMBEDS = re.compile(r"(^|_)(emb|norm|modulation)")
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


class Muon(torch.optim.Optimizer):
    """Optimizer that updates weight matrices by Muon and all other parameters by AdamW.

    Matrices have at least two dimensions, outputs first, and may be DTensors, sharded along the
    first. Learning rate and (decoupled) weight decay serve both; `betas` are AdamW's decay rates,
    and the orthogonalization computes in `dtype`.

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
        assert closure is None
        self.adamw.param_groups = self.param_groups[1:]  # load_state_dict replaces them
        self.adamw.state = self.state
        self.adamw.step()
        group = self.param_groups[0]
        by_shape: defaultdict[Any, list[Tensor]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                by_shape[p.shape, p.dtype, p.device, shards(p)].append(p)
        for (shape, *_, processes), same in by_shape.items():
            num_processes = 1 if processes is None else processes.size()
            num = max(1, _MAX_STACKED * num_processes // shape.numel())
            for i in range(0, len(same), num):
                self._step(same[i : i + num], group["lr"], group["weight_decay"])

    def _step(self, parameters: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        first, (num_rows, *_) = parameters[0], parameters[0].shape
        gradients = [local(p.grad) for p in parameters if p.grad is not None]  # never None here
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [local(self.state[parameter]["momentum"]) for parameter in parameters]
        torch._foreach_mul_(momenta, MOMENTUM)
        torch._foreach_add_(momenta, gradients)
        steps = list(torch._foreach_add(gradients, momenta, alpha=MOMENTUM))
        num_columns = math.prod(steps[0].shape[1:])
        stack = steps[0].new_empty(len(steps), len(steps[0]), num_columns, dtype=self.dtype)
        torch._foreach_copy_(_unstacked(stack, steps[0].shape), steps)
        group = shards(first)

        def compute(part: Tensor) -> Tensor:
            if group is None:
                return orthogonalized(part, self.dtype)
            return orthogonalized_shards(part, num_rows, group, self.dtype)

        stack = divided(stack, replicas(first), compute)
        size = lr * 0.2 * math.sqrt(max(num_rows, stack.shape[2]))
        weights = [local(parameter) for parameter in parameters]
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        torch._foreach_add_(weights, _unstacked(stack, weights[0].shape), alpha=-size)


def shards(parameter: Any) -> dist.ProcessGroup | None:
    """Return the processes that hold the shards of a parameter.

    None for an unsharded parameter.
    """
    if not hasattr(parameter, "to_local"):
        return None
    mesh, places = parameter.device_mesh, parameter.placements
    dims = [i for i, place in enumerate(places) if not place.is_replicate() and mesh.size(i) > 1]
    if len(dims) > 1 or not all(places[i].is_shard(0) for i in dims):
        raise ValueError(
            f"a matrix of shape {tuple(parameter.shape)} is sharded as {places}: Muon needs "
            "matrices sharded along their first dimension, as by fully_shard."
        )
    return mesh.get_group(dims[0]) if dims else None


def replicas(parameter: Any) -> dist.ProcessGroup | None:
    """Return the processes that hold copies of a sharded parameter.

    None if there are no copies.
    """
    if hasattr(parameter, "to_local"):
        mesh, places = parameter.device_mesh, parameter.placements
        dims = [i for i, place in enumerate(places) if place.is_replicate() and mesh.size(i) > 1]
        return mesh.get_group(dims[0]) if dims else None
    is_one = not dist.is_initialized() or dist.get_world_size() == 1
    return None if is_one else dist.group.WORLD


def _unstacked(stack: Float[Tensor, "k m n"], shape: torch.Size) -> list[Tensor]:
    # in each row the input channels vary fastest, as in channels-last memory
    k, m, _ = stack.shape
    return list(stack.reshape(k, m, *shape[2:], shape[1]).movedim(-1, 2).unbind())


def new_optimizer(
    network: nn.Module, config: Optimizer, dtype: torch.dtype = torch.bfloat16
) -> torch.optim.Optimizer:
    """Return a new AdamW or Muon optimizer.

    Muon orthogonalizes matrices in `dtype`.
    """
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


def inner_matrices(network: nn.Module) -> list[nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for prefix, module in network.named_modules():
        is_convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        names: tuple[str, ...] = ()
        if isinstance(module, nn.Linear) or (is_convolution and module.groups == 1):
            names = ("weight",)
        elif isinstance(module, nn.MultiheadAttention):
            names = _ATTENTION
        own = dict(module.named_parameters(recurse=False))
        found |= {f"{prefix}.{name}": own[name] for name in names if name in own}
    layers = [name.rpartition(".")[0] for name in found]
    ends = {*layers[:1], *layers[-1:]}
    return [
        parameter
        for layer, parameter in zip(layers, found.values(), strict=True)
        if layer not in ends
        and layer.split(".")[0] not in _ENDS
        and not any(map(_EMBEDS.search, layer.split(".")))
    ]
