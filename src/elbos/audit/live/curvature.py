r"""Test of a recorded loss by its second derivative with respect to the network's output.

If the loss is $c\,\|\hat y - y\|^2$ in every sample, $H v = 2 c v$ for every vector $v$. Additional
terms, norms and other powers of the error change the direction. The graph from the loss to the
output is differentiated twice, and the network is not called again. A coefficient computed from the
detached error has the second derivative of a squared error.
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from elbos.audit.probing.instrument import random_signs

_MAX_DEVIATION = 0.005  # of H v from the direction of v; bfloat16 within the loss leaves 0.002


def is_off(loss: Tensor, output: Tensor, size: int) -> Bool[Tensor, " n"]:
    """Test whether $H v$ is not along $v$, for each sample with a gradient.

    $v$ is the normalized gradient plus random signs, in the first `size` elements of each sample of
    the output: the gradient shows how the loss grows with the error, the signs whether elements are
    coupled.

    Raises:
        RuntimeError: If torch cannot differentiate the loss twice, as a compiled one.
    """
    (gradient,) = torch.autograd.grad(loss, output, create_graph=True)
    g = gradient.detach().reshape(len(output), -1)[:, :size].double()
    v = random_signs((size,), seed=1).to(g) + g / g.square().mean(1, keepdim=True).sqrt().clamp(
        min=1e-300
    )
    direction = torch.zeros(output.shape, dtype=output.dtype, device=output.device)
    direction.view(len(output), -1)[:, :size] = v.to(output.dtype)
    h = torch.zeros_like(v)
    if gradient.requires_grad:
        (change,) = torch.autograd.grad(gradient, output, direction, retain_graph=True)
        h = change.reshape(len(output), -1)[:, :size].double()
    along = (h * v).sum(1, keepdim=True) / v.square().sum(1, keepdim=True)
    is_exact = torch.finfo(output.dtype).bits >= 32
    tolerance = _MAX_DEVIATION * h.norm(dim=1) * (1 if is_exact else 10)
    off: Tensor = (h - along * v).norm(dim=1) > tolerance
    return off[g.any(1)].cpu()
