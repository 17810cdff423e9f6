r"""Intervals of log-SNR on which a function increases.

A weighting is a likelihood objective if it never rises with $\lambda$, so everything the project
says about monotonicity rests on this one search. A rise counts only if it exceeds a tolerance: the
noise of floating-point arithmetic for a function, the sampling error for a measured curve.

See docs/theory.md, section 3.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.arrays import Array
from elbos.base.checks import typed

Function = Callable[[Tensor], Tensor]


@typed
def rising_intervals(
    f: Function, low: float, high: float, *, rtol: float = 1e-6, num_points: int = 8193
) -> list[tuple[float, float]]:
    r"""Return the maximal intervals of $[low, high]$ on which `f` increases.

    Each runs from a minimum to the maximum that follows it. Plateaus before and after a rise are
    excluded, and a rise of less than `rtol` times the value at its top is treated as rounding
    noise.

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
        ValueError: If the ends are not finite with `low` below `high`, or `f` is not finite
            somewhere on the grid.

    Examples:
        >>> [(start, end)] = rising_intervals(lambda x: -(x - 1) ** 2, -3.0, 3.0)
        >>> round(start, 6), round(end, 6)
        (-3.0, 1.0)
    """
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"The range is [{low}, {high}]: give finite ends, the lower one first.")
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
            for start, end in _rises_of_grid(values.numpy(), rtol)
        ]


def rises(
    values: Float[Array, " n"], tolerance: Callable[[int, slice], Array]
) -> list[tuple[int, int]]:
    """Return the start and end indices of the rising parts of a curve.

    A pair holds the indices of a minimum and of the maximum after it. Changes within a tolerance
    are ignored.

    Args:
        values: A curve.
        tolerance: Function that maps an index and a slice of other indices to the differences that
            do not count.

    Examples:
        >>> rises(np.array([2.0, 0.0, 3.0, 2.9, 4.0]), lambda i, others: np.array(0.5))
        [(1, 4)]
    """
    intervals: list[tuple[int, int]] = []
    origin, start, top = 0, 0, None
    for i, value in enumerate(values):
        if top is None:
            before = slice(origin, i)
            if (value - values[before] > tolerance(i, before)).any():
                start, top = origin + int(np.argmin(values[before])), i
            continue
        top = i if value > values[top] else top
        since = slice(top, i)
        if (values[since] - value > tolerance(i, since)).any():
            intervals.append((start, top))
            origin, top = top, None
    return intervals if top is None else [*intervals, (start, top)]


def _rises_of_grid(values: Float[Array, " n"], rtol: float) -> list[tuple[int, int]]:
    slope = np.sign(np.diff(values))
    turns = np.flatnonzero(np.diff(slope, prepend=2, append=2))
    size = np.abs(values)
    sizes = size[turns]
    pairs = []
    for i, j in rises(values[turns], lambda i, rest: rtol * np.maximum(sizes[i], sizes[rest])):
        low, high = int(turns[i]), int(turns[j])
        part = values[low : high + 1]
        at_foot = part - values[low] <= rtol * np.maximum(abs(part), size[low])
        at_top = values[high] - part <= rtol * np.maximum(abs(part), size[high])
        start, end = low + int(np.flatnonzero(at_foot)[-1]), low + int(at_top.argmax())
        pairs.append((_climb(values, start, -1), _climb(values, end, 1)))
    return pairs


def _climb(values: Float[Array, " n"], i: int, step: int) -> int:
    while 0 <= i + step < len(values) and step * (values[i + step] - values[i]) > 0:
        i += step
    return i


def _refine(f: Function, x: Float[Tensor, " n"], i: int) -> float:
    if i in (0, len(x) - 1):
        return x[i].item()
    ratio = (5**0.5 - 1) / 2  # golden-section search
    left, right = x[i - 1].clone(), x[i + 1].clone()
    for _ in range(60):
        width = ratio * (right - left)
        if f(right - width) >= f(left + width):
            right = left + width
        else:
            left = right - width
    top = (left + right) / 2
    # Beside a jump, the search can end on its lower side: a point of the grid is then nearer.
    is_below = f(top) < f(x[i]) - 1e-6 * f(x[i]).abs()  # more than float32 rounds
    return x[i].item() if is_below else top.item()
