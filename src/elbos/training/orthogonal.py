r"""Orthogonalization of stacks of matrices by Newton-Schulz iteration.

The nearest orthogonal matrix to $M = U S V^\top$ is $U V^\top$. A Newton-Schulz step takes
$X$, at first $M / \|M\|_F$, to

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
    Jordan et al. (2024), https://kellerjordan.github.io/posts/muon; on the Gram matrix, and anew
    after two steps: Zhang, Amsel, Chen and Dao (2026),
    https://dao-lab.ai/blog/2026/gram-newton-schulz
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values end between 0.7 and 1.2
_NUM_STEPS = 5
_NUM_STEPS_IN_HALF = (2, 3)  # in 16 bits: the Gram matrix is recomputed in between


def orthogonalized(
    stack: Float[Tensor, "k m n"], dtype: torch.dtype = torch.bfloat16
) -> Float[Tensor, "k m n"]:
    r"""Approximate $U V^\top$ for each matrix $M = U S V^\top$ of a stack.

    Newton-Schulz iteration is used, in `dtype`. Singular values above two thousandths of $\|M\|_F$
    become 0.6 to 1.4.
    """
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
    r"""Return the matrix $P$ of several Newton-Schulz steps, $X \mapsto P X$.

    $P$ is computed from the Gram matrix $X X^\top$.
    """
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


def divided(
    stack: Float[Tensor, "k m n"],
    group: dist.ProcessGroup | None,
    compute: Callable[[Float[Tensor, "i m n"]], Float[Tensor, "i m n"]],
) -> Float[Tensor, "k m n"]:
    """Apply a function to a stack of matrices in parallel on several processes.

    Each process computes a share, and receives all results. All processes of the group must call
    this function; None is one process.
    """
    if group is None:
        return compute(stack)
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    share = -(-len(stack) // size)
    own = stack.new_zeros(share, *stack.shape[1:])
    if len(part := stack[rank * share : (rank + 1) * share]):
        own[: len(part)] = compute(part)
    found = stack.new_empty(size * share, *stack.shape[1:])
    # as bytes, since gloo supports few dtypes
    parts = [part.flatten().view(torch.uint8) for part in found.chunk(size)]
    dist.all_gather(parts, own.flatten().view(torch.uint8), group=group)
    return found[: len(stack)]


def orthogonalized_shards(
    shards: Float[Tensor, "k r n"], num_rows: int, group: dist.ProcessGroup, dtype: torch.dtype
) -> Float[Tensor, "k r n"]:
    """Orthogonalize a stack of matrices whose rows are sharded over processes.

    Matrices are `[k, num_rows, n]`; the rows of this process are returned. The matrices are
    distributed over the processes of the group, which all must call this function; each is
    orthogonalized in one process in `dtype`, and its rows are sent back.
    """
    size, (k, own_rows, n) = dist.get_world_size(group), shards.shape
    share, most_rows = -(-k // size), -(-num_rows // size)
    rows = shards.new_zeros(size * share, most_rows, n, dtype=dtype)
    rows[:k, :own_rows] = shards
    received = torch.empty_like(rows)
    dist.all_to_all_single(received, rows, group=group)  # from [matrix, own row] ...
    by_process = received.view(size, share, most_rows, n)
    whole = by_process.transpose(0, 1).flatten(1, 2)  # ... to [own matrix, row]
    whole[:, :num_rows] = orthogonalized(whole[:, :num_rows], dtype)
    by_process = whole.view(share, size, most_rows, n).transpose(0, 1).contiguous()
    dist.all_to_all_single(rows, by_process.flatten(0, 1), group=group)
    return rows[:k, :own_rows]
