r"""Quantiles of the studentized range, by two sums instead of SciPy's adaptive quadrature.

The range of $R$ independent normal numbers, over a standard deviation $s$ that is estimated with
$\nu$ degrees of freedom, exceeds $q$ with probability

$$\int_0^\infty f_\nu(s)\,\bigl(1 - H(q s)\bigr)\,ds, \qquad
  H(w) = R \int \varphi(z)\,\bigl(\Phi(z) - \Phi(z - w)\bigr)^{R - 1}\,dz,$$

with $z$ the largest number. In $\ln s$ and in $z$ both integrands are analytic and vanish at either
end, where equally spaced sums converge exponentially: quantiles are right to 1e-8.

References:
    Tukey (1953), The problem of multiple comparisons
    Trefethen & Weideman (2014), The exponentially convergent trapezoidal rule
"""

import math
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln, ndtr

_LARGEST = np.linspace(-9, 9, 145)
_DENSITY = np.exp(-np.square(_LARGEST) / 2) / math.sqrt(2 * math.pi) * np.ptp(_LARGEST[:2])
_MAX_LOG_QUANTILE = 20.0


@lru_cache
def range_quantile(level: float, num: int, dof: float) -> float:
    r"""Return the value $q$ that the studentized range of `num` numbers exceeds with probability
    `level`.

    Args:
        level: The probability, from 1e-5 to 1/2.
        num: $R \ge 2$.
        dof: $\nu \ge 1$.
    """
    step = 0.4 / math.sqrt(dof + 4)  # a fraction of the width of the density of ln s
    log_s = np.arange(-30.0, 3.0, step)
    half = dof / 2
    log_f = math.log(2) + half * math.log(half) - gammaln(half) + dof * log_s
    log_f -= half * np.exp(2 * log_s)
    is_kept = log_f > -40
    s, mass = np.exp(log_s[is_kept]), step * np.exp(log_f[is_kept])

    def excess(log_q: float) -> float:
        below = ndtr(_LARGEST - math.exp(log_q) * s[:, None])
        within = num * (ndtr(_LARGEST) - below) ** (num - 1) @ _DENSITY
        return float(mass @ (1 - within)) - level

    return math.exp(brentq(excess, -_MAX_LOG_QUANTILE, _MAX_LOG_QUANTILE, xtol=1e-11))
