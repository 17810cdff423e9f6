r"""The density of levels that are a function of a random number that was seen.

Most losses draw one number per sample, uniform or normal, and compute the noise level from it. If
the level is a monotone function of that number, then with $u$ its quantile (kept as its logit,
which loses no digits near 1),

$$p(\lambda) = \Bigl|\frac{du}{d\lambda}\Bigr|,$$

and the pairs $(u, \lambda)$ of the samples give the derivative: no density is estimated, and
nothing is left to chance. Where the levels are a table, a step's probability is the length of the
interval of $u$ that leads to it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import make_smoothing_spline
from scipy.special import expit

Array = NDArray[np.float64]


def monotone_draw(
    logsnr: Float[Array, " n"], error: Float[Array, " n"], quantiles: Float[Array, "n draws"]
) -> Float[Array, " n"] | None:
    """The random number of which the level is a rising function, or with its sign changed is.

    Args:
        logsnr: The levels.
        error: Of each, by rounding.
        quantiles: The candidates, by the logit of their quantile.

    Returns:
        The number of each sample, or None if no candidate decides the level.
    """
    for draw in quantiles.T:
        if not np.isfinite(draw).all() or np.ptp(draw) == 0:
            continue
        order = np.argsort(draw)
        steps = np.diff(logsnr[order])
        sign = 1.0 if steps.sum() > 0 else -1.0
        allowed = 1e-5 + 8 * (error[order][1:] + error[order][:-1])
        if (sign * steps >= -allowed).all():
            return np.asarray(sign * draw)
    return None


@dataclass(frozen=True)
class DrawnDensity:
    """A density without sampling error.

    Attributes:
        logsnr: Where it was computed, increasing.
        log_density: Its logarithm there.
        error: How far off it may be, relatively.
    """

    logsnr: Float[Array, " m"]
    log_density: Float[Array, " m"]
    error: float

    @classmethod
    def of(cls, logsnr: Float[Array, " n"], draw: Float[Array, " n"]) -> "DrawnDensity":
        """From levels that are a rising function of `draw`, by differences over a few samples."""
        order = np.argsort(draw)
        s, levels = draw[order], logsnr[order]
        num = len(s)
        width = max(4, num // 1000)
        middle = np.arange(0, num, max(1, width // 4))
        low, high = np.maximum(middle - width, 0), np.minimum(middle + width, num - 1)
        rise = np.maximum(levels[high] - levels[low], 1e-12)
        log_p = np.log(np.maximum(expit(s[high]) - expit(s[low]), 1e-300) / rise)
        centers, first = np.unique((levels[high] + levels[low]) / 2, return_index=True)
        return cls(centers, log_p[first], error=1e-3)

    def log_p(self, grid: Float[Array, " g"]) -> Float[Array, " g"]:
        """The log-density at a grid."""
        return np.asarray(np.interp(grid, self.logsnr, self.log_density))


def step_probabilities(
    values: Float[Array, " t"],
    steps: Float[Array, " t"],
    logsnr: Float[Array, " n"],
    draw: Float[Array, " n"],
) -> Float[Array, " t"]:
    """The probability of the steps of a table whose values are increasing.

    Where on $[0, 1]$ a step ends and the next begins is known up to the distance of two samples,
    $1 / n$. A smoothing spline through these ends, as a function of the step, has the probability
    of a step for its slope.
    """
    order = np.argsort(logsnr)
    place = np.searchsorted((values[1:] + values[:-1]) / 2, logsnr[order])
    first = np.searchsorted(place, np.arange(len(values)))
    u = expit(draw[order])
    lowest, highest = np.minimum.reduceat(u, first), np.maximum.reduceat(u, first)
    ends = (highest[:-1] + lowest[1:]) / 2
    spline = make_smoothing_spline((steps[1:] + steps[:-1]) / 2, ends)
    return np.maximum(spline(steps, 1), 1e-12)
