"""The inverse of an increasing function that has no closed form."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_NUM_NEWTON = 2  # steps from 1e-5 of the curvature's scale to rounding


def invert(
    f: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    y: Float[Tensor, "*b"],
    low: Float[Tensor, "*b"],
    high: Float[Tensor, "*b"],
    num_halvings: int,
) -> Float[Tensor, "*b"]:
    r"""Solve $f(x) = y$ for $x$ by bisection and Newton's method.

    The derivative of $x$ is $1/f'(x)$, that of the last step. Where $f$ is flat at $y$, as the
    integral of a density with a gap, $x$ is just below.

    Args:
        f: An increasing function of each element.
        slope: Derivative of `f`.
        y: Values of `f` to invert.
        low: Lower ends of the search intervals, in the shape of `y`.
        high: Upper ends of the search intervals.
        num_halvings: Number of bisection steps before Newton's method.

    Examples:
        >>> x = torch.tensor([2.0])
        >>> invert(torch.exp, torch.exp, x, x - 2, x, 12)
        tensor([0.6931])
    """

    def sloping(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.where(slope(x.detach()) > 0, x, low)

    with torch.no_grad():
        for _ in range(num_halvings):
            middle = (low + high) / 2
            is_below = f(middle) < y
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        x = sloping((low + high) / 2)
        for _ in range(_NUM_NEWTON - 1):
            x = sloping(torch.clamp(x - (f(x) - y) / slope(x), low, high))
        error, derivative = f(x), slope(x)
    return sloping(torch.clamp(x - (error - y) / derivative, low, high))
