r"""Where a function of log-SNR rises.

A weighting is a likelihood objective if it never rises with $\lambda$, so everything the project
says about monotonicity rests on this one search. It evaluates any callable on a fine grid and
keeps a rise only if it stands out of the noise of floating-point arithmetic; the ends of each
rise are then refined off the grid.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def rising_intervals(
    f: Function, low: float, high: float, *, rtol: float = 1e-6, num_points: int = 8193
) -> list[tuple[float, float]]:
    r"""Maximal intervals of $[low, high]$ over which `f` rises.

    Each runs from a minimum to the maximum that follows it. A plateau before or after a rise is not
    part of it, and a rise of less than `rtol` times the value it reaches is taken for float noise.

    Args:
        f: Any function of a float64 tensor, elementwise.
        low: Left end of the range.
        high: Right end of the range.
        rtol: Smallest relative rise that counts. Default: ten times the rounding error of float32,
            in case `f` works in it.
        num_points: Size of the grid. Features narrower than `(high - low) / num_points` can be
            missed. Default: 0.005 apart on [-20, 20].

    Returns:
        Pairs (start, end), in increasing order. Ends of smooth rises are exact to about 1e-7, those
        of plateaus and jumps to the spacing of the grid.

    Raises:
        ValueError: If `low` is not below `high`, or `f` is not finite somewhere on the grid.

    Examples:
        >>> [(start, end)] = rising_intervals(lambda x: -(x - 1) ** 2, -3.0, 3.0)
        >>> round(start, 6), round(end, 6)
        (-3.0, 1.0)
    """
    if not low < high:
        raise ValueError(
            f"The range [{low}, {high}] is empty: give a lower end below the upper one."
        )
    x = torch.linspace(low, high, num_points, dtype=torch.float64)
    with torch.no_grad():
        values = f(x).to(torch.float64)
        if not torch.isfinite(values).all():
            where = x[~torch.isfinite(values)][0].item()
            raise ValueError(
                f"The function is not finite at log-SNR {where:.4g}: narrow the range."
            )
        return [
            (_refine(lambda u: -f(u), x, start), _refine(f, x, end))
            for start, end in _rises(values.tolist(), rtol)
        ]


def _rises(values: list[float], rtol: float) -> list[tuple[int, int]]:
    """Index pairs of the rises, by hysteresis: a turn counts once it exceeds the tolerance."""

    def exceeds(larger: float, smaller: float) -> bool:
        return larger - smaller > rtol * max(abs(larger), abs(smaller))

    rises: list[tuple[int, int]] = []
    lowest = start = end = (
        0  # the latest minimum, the last point level with it, the maximum after that
    )
    is_rising = False
    for i, value in enumerate(values):
        if is_rising and exceeds(values[end], value):
            rises.append((start, end))
            lowest, start, is_rising = i, i, False
        elif is_rising:
            end = i if exceeds(value, values[end]) else end
        elif exceeds(value, values[lowest]):
            end, is_rising = i, True
        else:
            start = i
            lowest = i if value < values[lowest] else lowest
    if is_rising:
        rises.append((start, end))
    return [(_climb(values, start, -1), _climb(values, end, 1)) for start, end in rises]


def _climb(values: list[float], i: int, step: int) -> int:
    """The end of the rise around index `i`: its top for step 1, its foot for step -1."""
    while 0 <= i + step < len(values) and step * (values[i + step] - values[i]) > 0:
        i += step
    return i


def _refine(f: Function, x: Float[Tensor, " n"], i: int) -> float:
    """The maximizer of `f` near grid point `i`, by golden section; an end of the grid stays."""
    if i in (0, len(x) - 1):
        return x[i].item()
    ratio = (5**0.5 - 1) / 2
    left, right = x[i - 1].clone(), x[i + 1].clone()
    for _ in range(60):
        width = ratio * (right - left)
        if f(right - width) >= f(left + width):
            right = left + width
        else:
            left = right - width
    return ((left + right) / 2).item()
