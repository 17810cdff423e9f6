"""Where a measured curve rises, beyond its sampling error."""

import numpy as np
from jaxtyping import Float

from elbos.arrays import Array


def significant_rises(
    values: Float[Array, " g"],
    covariance: Float[Array, "g g"],
    *,
    num_errors: float = 5.0,
    floor: float = 2e-3,
) -> list[tuple[int, int]]:
    """Index pairs (start, end) between which `values` rises.

    A turn counts once two points differ by more than `num_errors` standard errors of their
    difference, and `floor`. Noise is then called a rise in less than one of a thousand curves.

    Args:
        values: Log-weights.
        covariance: Of their errors.
        num_errors: Default: five, since some thousands of pairs of points are compared.
        floor: Default: what float32 arithmetic in a loss can leave.
    """
    variance = np.diag(covariance)
    error = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0))
    exceeds = values[:, None] - values[None, :] > num_errors * error + floor
    rises: list[tuple[int, int]] = []
    origin = start = 0
    is_rising = False
    for i in range(len(values)):
        if not is_rising and exceeds[i, origin:i].any():
            before = values[origin:i]
            start = origin + int(np.flatnonzero(before <= before.min() + floor)[-1])
            is_rising = True
        elif is_rising:
            top = start + int(np.argmax(values[start : i + 1]))
            if exceeds[top : i + 1, i].any():
                rises.append((start, top))
                origin, is_rising = top, False
    if is_rising:
        rises.append((start, start + int(np.argmax(values[start:]))))
    return rises
