r"""Muon optimizer: orthogonalized updates for weight matrices of inner layers, AdamW for all other
parameters.

Adam scales the gradient entry by entry. Muon takes the nearest matrix with orthonormal rows (or
columns) to the momentum $M = U S V^\top$ of a weight matrix,

$$W \leftarrow (1 - \eta\,\omega) W - 0.2\,\sqrt{\max(m, n)}\;\eta\; U V^\top,$$

so that directions with small gradients are learned as fast as those with large ones. The factor
gives the step the root mean square of Adam's, so that one learning rate serves both. $U V^\top$
comes from five Newton-Schulz steps, for which bfloat16 suffices. The weights of a convolution are
the matrix of output channels by (inputs of one output).

`inner_matrices` chooses the matrices by the type of their layer: linear maps, convolutions without
groups, and `nn.MultiheadAttention`. It leaves out

- the first and the last of these layers in the order of registration (that of the forward pass in
  diffusers, timm and `nn.Sequential`), and `conv_in`, `conv_out`, `linear_in`, `linear_out`;
- embeddings of noise level, label or position, and modulations by them: every module with a word in
  its name that begins with `emb`, `norm` or `modulation` (`time_embedding`, `pos_embed`,
  `time_emb_proj`, `norm1.linear`, `adaLN_modulation`).

Matrices of one shape are orthogonalized together. Under FSDP2, where each process holds some rows,
momentum and weights stay sharded, and every process gathers the matrices and orthogonalizes them.
`torch.optim.Muon` takes 2-D weights alone, one by one.

A Newton-Schulz step takes $X$, at first $M / \|M\|_F$, to

$$X \leftarrow P X, \qquad P = a I + b G + c G^2, \quad G = X X^\top,$$

which moves every singular value towards 1 and leaves the singular vectors. $G$ is as large as the
smaller side, and all $P$ are polynomials of the first $G$, so that the steps can be made on it,

$$G \leftarrow P G P, \qquad Q \leftarrow P Q,$$

and $X$ is multiplied once, with $Q$. For a convolution's [out, 9 in] that is half of the
arithmetic. Where the longer side is below 3/2 of the shorter, steps on $X$ take less.

In bfloat16 $G$ loses the squares of small singular values to rounding, and negative eigenvalues
grow, so that $G$ is computed again after two steps. For matrices with singular values over five
orders of magnitude, those above two thousandths of $\|M\|_F$ became 0.66 to 1.31 (by steps on $X$:
0.68 to 1.21), and no vector was lengthened by more than 1.45. In float32 the two ways agree.

References:
    Jordan et al. (2024), https://kellerjordan.github.io/posts/muon; the step's size: Liu et al.
    (2025), https://arxiv.org/abs/2502.16982; on the Gram matrix, and anew after two steps: Zhang,
    Amsel, Chen and Dao (2026), https://dao-lab.ai/blog/2026/gram-newton-schulz
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elbos.training.config import Optimizer
from elbos.training.sharding import local, local_rows, unsharded

MOMENTUM = 0.95
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values end between 0.7 and 1.2
_NUM_STEPS = 5
_NUM_STEPS_IN_HALF = (2, 3)  # with 16 bits the Gram matrix is recomputed in between
_MAX_STACKED = 2**26  # elements orthogonalized at a time: 128 MiB in bfloat16
_ENDS = ("conv_in", "conv_out", "linear_in", "linear_out")
_EMBEDS = re.compile(r"(^|_)(emb|norm|modulation)")
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


class Muon(torch.optim.Optimizer):
    """Optimizer that updates weight matrices by Muon and all other parameters by AdamW.

    Matrices have at least two dimensions, outputs first, and may be DTensors, sharded along the
    first. Learning rate and (decoupled) weight decay serve both; `betas` are AdamW's decay rates,
    and the orthogonalization computes in `dtype`.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        remaining: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.dtype = dtype
        super().__init__([{"params": list(matrices)}], {"lr": lr, "weight_decay": weight_decay})
        self.adamw = torch.optim.AdamW(
            remaining, lr=lr, betas=betas, weight_decay=weight_decay, fused=True
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
                by_shape[p.shape, p.dtype, p.device].append(p)
        for (shape, _, _), alike in by_shape.items():
            num = max(1, _MAX_STACKED // shape.numel())
            for i in range(0, len(alike), num):
                self._step(alike[i : i + num], group["lr"], group["weight_decay"])

    def _step(self, parameters: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]  # never None here
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_mul_(momenta, MOMENTUM)
        torch._foreach_add_(momenta, gradients)
        steps = [*map(unsharded, torch._foreach_add(gradients, momenta, alpha=MOMENTUM))]
        num_rows, num_columns = len(steps[0]), math.prod(steps[0].shape[1:])
        stack = steps[0].new_empty(len(steps), num_rows, num_columns, dtype=self.dtype)
        torch._foreach_copy_(_unstacked(stack, steps[0].shape), steps)
        directions = _unstacked(orthogonalized(stack, self.dtype), steps[0].shape)
        size = lr * 0.2 * math.sqrt(max(num_rows, num_columns))
        weights = [local(parameter) for parameter in parameters]
        parts = [local_rows(p, whole) for p, whole in zip(parameters, directions, strict=True)]
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        torch._foreach_add_(weights, parts, alpha=-size)


def _unstacked(stack: Float[Tensor, "k m n"], shape: torch.Size) -> list[Tensor]:
    # the input channels vary fastest in each row, as in channels-last memory
    k, m, _ = stack.shape
    return list(stack.reshape(k, m, *shape[2:], shape[1]).movedim(-1, 2).unbind())


def new_optimizer(
    network: nn.Module, config: Optimizer, dtype: torch.dtype = torch.bfloat16
) -> torch.optim.Optimizer:
    """Return AdamW, or Muon, which orthogonalizes matrices in `dtype`."""
    rates: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
    }
    if not config.use_muon:
        return torch.optim.AdamW(network.parameters(), **rates, fused=True)
    matrices = inner_matrices(network)
    inner = set(map(id, matrices))
    remaining = [parameter for parameter in network.parameters() if id(parameter) not in inner]
    return Muon(matrices, remaining, **rates, dtype=dtype)


def inner_matrices(network: nn.Module) -> list[nn.Parameter]:
    weights: dict[str, nn.Parameter] = {}
    for prefix, module in network.named_modules():
        is_convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        names: tuple[str, ...] = ()
        if isinstance(module, nn.Linear) or (is_convolution and module.groups == 1):
            names = ("weight",)
        elif isinstance(module, nn.MultiheadAttention):
            names = _ATTENTION
        parameters = dict(module.named_parameters(recurse=False))
        weights |= {f"{prefix}.{n}": parameters[n] for n in names if n in parameters}
    layers = [name.rpartition(".")[0] for name in weights]
    ends = {*layers[:1], *layers[-1:]}
    return [
        parameter
        for layer, parameter in zip(layers, weights.values(), strict=True)
        if layer not in ends
        and layer.split(".")[0] not in _ENDS
        and not any(map(_EMBEDS.search, layer.split(".")))
    ]


# --- orthogonalization ---------------------------------------------------------------------------


def orthogonalized(
    stack: Float[Tensor, "k m n"], dtype: torch.dtype = torch.bfloat16
) -> Float[Tensor, "k m n"]:
    r"""Approximate $U V^\top$ for each matrix $M = U S V^\top$ of a stack, in `dtype`."""
    is_tall = stack.shape[1] > stack.shape[2]
    x = (stack.mT if is_tall else stack).to(dtype)
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    if 2 * x.shape[2] <= 3 * x.shape[1]:
        a, b, c = _NEWTON_SCHULZ
        for _ in range(_NUM_STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    else:
        for num_steps in _NUM_STEPS_IN_HALF if dtype.itemsize < 4 else (_NUM_STEPS,):
            x = _steps_factor(x @ x.mT, num_steps) @ x
    return x.mT if is_tall else x


def _steps_factor(gram: Float[Tensor, "k m m"], num_steps: int) -> Float[Tensor, "k m m"]:
    r"""Return the matrix $P$ of several Newton-Schulz steps from the Gram matrix $X X^\top$."""
    a, b, c = _NEWTON_SCHULZ
    factor = None
    for step in range(num_steps):
        rest = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # P without a I
        if factor is None:
            factor = rest.clone()
            factor.diagonal(dim1=1, dim2=2).add_(a)
        else:
            factor = torch.baddbmm(factor, rest, factor, beta=a)
        if step < num_steps - 1:
            half = torch.baddbmm(gram, rest, gram, beta=a)
            gram = torch.baddbmm(half, rest, half, beta=a)
    assert factor is not None
    return factor
