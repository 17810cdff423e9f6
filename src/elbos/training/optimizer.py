r"""Muon: steps of equal size in all directions, for the weights that are matrices.

Adam scales the gradient entry by entry. A layer's weights are a matrix, and Muon takes the nearest
matrix with orthonormal rows (or columns) to its momentum $M = U S V^\top$,

$$W \leftarrow (1 - \eta\,\omega) W - 0.2\,\sqrt{\max(m, n)}\;\eta\; U V^\top,$$

so that directions with small gradients are learned as fast as those with large ones. The factor
gives the step the root mean square of Adam's, so that one learning rate serves both. $U V^\top$
comes from five Newton-Schulz steps, for which bfloat16 is enough. A convolution's weights are the
matrix of output channels by (inputs of one output).

Biases, norms, embeddings and what is made of them, the first and the last layer are AdamW's.

References:
    Jordan et al. (2024), https://kellerjordan.github.io/posts/muon; the step's size: Liu et al.
    (2025), https://arxiv.org/abs/2502.16982
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elbos.training.config import Optimizer

MOMENTUM = 0.95
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values end between 0.7 and 1.2
_NUM_STEPS = 5
_EDGES = ("conv_in", "conv_out", "linear_in", "linear_out", "embedding")  # of our networks


def orthogonalized(
    matrix: Float[Tensor, "m n"], dtype: torch.dtype = torch.bfloat16
) -> Float[Tensor, "m n"]:
    r"""About $U V^\top$ of $M = U S V^\top$, computed in `dtype`.

    Singular values above two thousandths of $\|M\|_F$ come out between 0.6 and 1.3.
    """
    a, b, c = _NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = (matrix.T if is_tall else matrix).to(dtype)
    x = x / (x.norm() + 1e-7)
    for _ in range(_NUM_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x


class Muon(torch.optim.Optimizer):
    """Muon for some parameters and AdamW for the others, as one optimizer.

    Args:
        matrices: Parameters of at least two dimensions; the first is that of the outputs.
        others: All others.
        lr: Learning rate of both.
        betas: AdamW's decay rates.
        weight_decay: Decoupled weight decay of both.
        dtype: What orthogonal matrices are computed in.
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
        for parameter in group["params"]:
            if parameter.grad is not None:
                direction = _direction(parameter, self.state[parameter], self.dtype)
                size = group["lr"] * 0.2 * math.sqrt(max(direction.shape[0], direction[0].numel()))
                decay = 1 - group["lr"] * group["weight_decay"]
                parameter.mul_(decay).add_(direction, alpha=-size)


def _direction(parameter: Tensor, state: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """Muon's direction for one parameter, with Nesterov's momentum."""
    assert parameter.grad is not None
    momentum = state.setdefault("momentum", torch.zeros_like(parameter))
    momentum.mul_(MOMENTUM).add_(parameter.grad)
    ahead = parameter.grad + MOMENTUM * momentum
    # Inputs last, as they lie in channels-last memory: no copy is made.
    direction = orthogonalized(ahead.movedim(1, -1).flatten(1), dtype)
    return direction.reshape(len(ahead), *ahead.shape[2:], ahead.shape[1]).movedim(-1, 1)


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
    named = list(network.named_parameters())
    return Muon(
        (p for name, p in named if _is_inner_matrix(name, p)),
        (p for name, p in named if not _is_inner_matrix(name, p)),
        **rates,
        dtype=dtype,
    )


def _is_inner_matrix(name: str, parameter: Tensor) -> bool:
    """Whether these are the weights of a layer that stands between others."""
    parts = name.split(".")
    is_inner = parts[0] not in _EDGES and "modulation" not in parts
    return parameter.ndim >= 2 and is_inner
