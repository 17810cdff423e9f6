r"""Samplers, which transform noise to data along a grid of noise levels.

A sampler is a frozen dataclass with its settings, called with a denoiser, the noise `z` at the
first level, and the levels in increasing log-SNR. It returns `z` at the last level, a sample of
data where that level is $\infty$ ($\alpha = 1$, $\sigma = 0$), as `grid` makes it:

    x = samplers.DPMSolver()(denoiser, z, samplers.grid(schedule, num_steps=24))

| sampler | order on the ODE | evaluations for $n$ steps | noise | best at |
|---|---|---|---|---|
| `Ancestral` | | $n$ | at every step | |
| `DDIM` | 1 | $n$ | $\eta$ times ancestral's | few, on the cosine grid |
| `Heun` | 2 | $2n - 1$ with `grid` | by churn | with churn |
| `DPMSolver` | 2 | $n$ | none | up to 12 |
| `StochasticDPMSolver` | 2, with $\eta = 0$ | $n$ | of strength $\eta$ | 16, by samples' quality |

"Best at" is a number of evaluations: of an exact denoiser, by the distance to the ODE's solution
(benchmarks/samplers.py, docs/results/samplers.md); with noise, on Fashion-MNIST, by the quality of
samples (docs/results/fashion.md).
"""

from elbos.base import codec
from elbos.models.samplers.ancestral import DDIM, Ancestral
from elbos.models.samplers.dpm_solver import DPMSolver, StochasticDPMSolver
from elbos.models.samplers.heun import Heun
from elbos.models.samplers.sampler import Sampler, grid

SAMPLERS: tuple[type[Sampler], ...] = (
    Ancestral,
    DDIM,
    Heun,
    DPMSolver,
    StochasticDPMSolver,
)
"""Every sampler. A new one joins the command line, the run files and the tests by a line here."""

__all__ = [
    "DDIM",
    "SAMPLERS",
    "Ancestral",
    "DPMSolver",
    "Heun",
    "Sampler",
    "StochasticDPMSolver",
    "grid",
]

codec.register(Sampler, lambda: SAMPLERS)
