r"""Samplers: from noise to data along a grid of noise levels.

Each is a function of a denoiser, the noise `z` at the first level, and the levels in increasing
log-SNR. It returns `z` at the last level, which is a sample of data where that level is $\infty$
($\alpha = 1$, $\sigma = 0$), as `grid` makes it.

| sampler | order on the ODE | evaluations for $n$ steps | noise |
|---|---|---|---|
| `ancestral` | | $n$ | at every step |
| `ddim` | 1 | $n$ | $\eta$ times ancestral's |
| `heun` | 2 | $2n - 1$ with `grid` | by churn |
| `dpmpp_2m` | 2 | $n$ | none |
| `dpmpp_2m_sde` | 2, with $\eta = 0$ | $n$ | of strength $\eta$ |
| `dpmpp_3m` | 3 | $n$ | none |
| `unipc` | 4; `order` + 1 | $n$ | none |
"""

from elbos.samplers.levels import grid
from elbos.samplers.multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, unipc
from elbos.samplers.one_step import ancestral, ddim, heun

__all__ = [
    "ancestral",
    "ddim",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m",
    "grid",
    "heun",
    "unipc",
]
