r"""Samplers: from noise to data along a grid of noise levels.

Each is a function of a denoiser, the noise `z` at the first level, and the levels in increasing
log-SNR. It returns `z` at the last level, which is a sample of data where that level is $\infty$
($\alpha = 1$, $\sigma = 0$), as `grid` makes it. It keeps no graph for gradients; a denoiser that
needs gradients inside, for guidance, takes them under `torch.enable_grad()`.

| sampler | order on the ODE | evaluations for $n$ steps | noise | best at |
|---|---|---|---|---|
| `ancestral` | | $n$ | at every step | |
| `ddim` | 1 | $n$ | $\eta$ times ancestral's | few, on the cosine grid |
| `heun` | 2 | $2n - 1$ with `grid` | by churn | with churn |
| `dpmpp_2m` | 2 | $n$ | none | up to 12 |
| `dpmpp_2m_sde` | 2, with $\eta = 0$ | $n$ | of strength $\eta$ | 16, by samples' quality |
| `dpmpp_3m` | 3 | $n$ | none | `unipc` is better |
| `unipc` | `order` + 1; 3 | $n$ | none | up to 24; with order 3, from 24 |

"Best at" is a number of evaluations: of an exact denoiser, by the distance to the ODE's solution
(benchmarks/samplers.py, docs/results/samplers.md); with noise, on Fashion-MNIST, by the quality of
samples (docs/results/fashion.md).
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
