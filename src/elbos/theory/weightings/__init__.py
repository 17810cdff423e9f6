r"""Weightings $w(\lambda)$ of the diffusion loss.

$$L_w(x) = \tfrac12 \int_{\lambda_\min}^{\lambda_\max} w(\lambda)\,
  \mathbb E\|\hat\epsilon - \epsilon\|^2\, d\lambda.$$

The weighting alone says what is optimized. If it never increases with $\lambda$, $L_w$ is a
maximum-likelihood objective: the ELBO of data with Gaussian noise added, at noise levels
distributed with density $-w'$. Constant factors do not matter and are dropped. `recipes` derives
each of these from what a published method samples, predicts and multiplies its loss with; here are
the closed forms.

A new weighting is a frozen dataclass with one method, or any callable from log-SNR to weight. A
configuration cannot hold a callable: `tabulated` converts it to numbers, with which a run is
trained.

See docs/theory.md, section 4.

References:
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

from elbos.theory.weightings.diffusion import (
    DDPM,
    EDM,
    EDM2,
    ELBO,
    IDDPM,
    P2,
    Exponential,
    Laplace,
    MinSNR,
    Sigmoid,
    SoftMinSNR,
    TruncatedSNR,
)
from elbos.theory.weightings.flow import (
    BellFlow,
    BetaFlow,
    CosMap,
    InDI,
    JiT,
    LogitNormalFlow,
    ModeFlow,
    NormalMixtureFlow,
    ShiftedFlow,
    UShapeFlow,
)
from elbos.theory.weightings.stable_diffusion import (
    StableDiffusion,
    StableDiffusionDebiased,
    StableDiffusionMinSNR,
    StableDiffusionV,
    ZeroTerminalV,
)
from elbos.theory.weightings.weighting import WeightFunction, Weighting, sech_half
from elbos.theory.weightings.wrappers import Monotone, Shifted

WEIGHTINGS: tuple[type[Weighting], ...] = (
    ELBO,
    Sigmoid,
    Exponential,
    IDDPM,
    DDPM,
    EDM,
    EDM2,
    P2,
    MinSNR,
    SoftMinSNR,
    TruncatedSNR,
    InDI,
    LogitNormalFlow,
    CosMap,
    ShiftedFlow,
    Laplace,
    NormalMixtureFlow,
    BetaFlow,
    ModeFlow,
    UShapeFlow,
    BellFlow,
    JiT,
    StableDiffusion,
    StableDiffusionV,
    ZeroTerminalV,
    StableDiffusionMinSNR,
    StableDiffusionDebiased,
)
"""Every closed form. A new one joins the command line, the run files and the tests by a line here;
its fields need defaults.
"""

WRAPPERS: tuple[type[Weighting], ...] = (Monotone, Shifted)
"""The weightings that wrap another weighting."""

__all__ = [
    "DDPM",
    "EDM",
    "EDM2",
    "ELBO",
    "IDDPM",
    "P2",
    "WEIGHTINGS",
    "WRAPPERS",
    "BellFlow",
    "BetaFlow",
    "CosMap",
    "Exponential",
    "InDI",
    "JiT",
    "Laplace",
    "LogitNormalFlow",
    "MinSNR",
    "ModeFlow",
    "Monotone",
    "NormalMixtureFlow",
    "Shifted",
    "ShiftedFlow",
    "Sigmoid",
    "SoftMinSNR",
    "StableDiffusion",
    "StableDiffusionDebiased",
    "StableDiffusionMinSNR",
    "StableDiffusionV",
    "TruncatedSNR",
    "UShapeFlow",
    "WeightFunction",
    "Weighting",
    "ZeroTerminalV",
    "sech_half",
]
