r"""Weightings $w(\lambda)$ of the diffusion loss.

$$L_w(x) = \tfrac12 \int_{\lambda_\min}^{\lambda_\max} w(\lambda)\,
  \mathbb E\|\hat\epsilon - \epsilon\|^2\, d\lambda.$$

The weighting alone says what is optimized. If it never increases with $\lambda$, $L_w$ is a
maximum-likelihood objective: the ELBO of data with Gaussian noise added, at noise levels
distributed with density $-w'$. Constant factors do not matter and are dropped. Here are the closed
forms that the paper names; the weighting of any other loss follows from what it samples, predicts
and multiplies with (`Implied`), and `recipes` lists published ones.

A new weighting is a frozen dataclass with one method, or any callable from log-SNR to weight. A
configuration cannot hold a callable: `Tabulated` converts it to numbers, with which a run is
trained.

See docs/theory.md, section 4.

References:
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

from elbos.theory.weightings.diffusion import (
    EDM,
    ELBO,
    IDDPM,
    P2,
    Exponential,
    MinSNR,
    Sigmoid,
)
from elbos.theory.weightings.implied import Implied
from elbos.theory.weightings.tabulated import Tabulated, require_reach
from elbos.theory.weightings.weighting import WeightFunction, Weighting, sech_half, weights_at
from elbos.theory.weightings.wrappers import Monotone, Shifted

WEIGHTINGS: tuple[type[Weighting], ...] = (ELBO, Sigmoid, Exponential, IDDPM, EDM, P2, MinSNR)
"""Every closed form. A new one joins the command line, the run files and the tests by a line here;
its fields need defaults.
"""

WRAPPERS: tuple[type[Weighting], ...] = (Monotone, Shifted)
"""The weightings that wrap another weighting."""

__all__ = [
    "EDM",
    "ELBO",
    "IDDPM",
    "P2",
    "WEIGHTINGS",
    "WRAPPERS",
    "Exponential",
    "Implied",
    "MinSNR",
    "Monotone",
    "Shifted",
    "Sigmoid",
    "Tabulated",
    "WeightFunction",
    "Weighting",
    "require_reach",
    "sech_half",
    "weights_at",
]
