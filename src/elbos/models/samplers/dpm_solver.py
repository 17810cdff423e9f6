r"""DPM-Solver++(2M) for the ODE and for an SDE: two-step exponential integrators of the data
estimate.

With $\ell = \lambda/2$ and $h = \ell_s - \ell_t$ the ODE of the flow is, exactly,

$$\frac{z_s}{\sigma_s} = \frac{z_t}{\sigma_t} + \int_{\ell_t}^{\ell_s} e^\ell\,\hat x\,d\ell
  \quad\Longleftrightarrow\quad
  z_s = \frac{\sigma_s}{\sigma_t} z_t + \alpha_s \int_0^h e^{\tau - h}\,\hat x(\tau)\,d\tau,$$

in which only $\hat x$ along the way is unknown. A constant is DDIM; here it is extrapolated from
the last two estimates.

References:
    Lu et al. (2022), https://arxiv.org/abs/2211.01095
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from elbos.models.samplers.sampler import Estimate, Noise, Sampler
from elbos.theory.process import alpha_sigma


@dataclass(frozen=True, kw_only=True)
class StochasticDPMSolver(Sampler):
    r"""Stochastic version of the DPM-Solver++(2M) sampler.

    SDE-DPM-Solver++(2M) has the same marginal distributions as `DPMSolver`.

    With $r$ the ratio of the last $h$ to this one, and Langevin dynamics of strength $\eta$ along
    the way, which replace noise and damp $z_t$,

    $$z_s = \frac{\sigma_s}{\sigma_t} e^{-\eta h} z_t - \alpha_s \bigl(e^{-(1 + \eta) h} - 1\bigr)
      \left(\hat x_t + \frac{\hat x_t - \hat x_{t-1}}{2r}\right)
      + \sigma_s \sqrt{1 - e^{-2 \eta h}}\,\epsilon.$$

    Without the difference, $\eta = 1$ is `Ancestral`. The first step, and a last one to
    $\lambda_s = \infty$, are of order 1.

    Attributes:
        eta: Strength $\eta \ge 0$ of the noise; 0 is `DPMSolver`. Default 1: the reverse of the
            diffusion.

    Raises:
        ValueError: If `eta` is below 0.

    References:
        Lu et al. (2022), https://arxiv.org/abs/2211.01095, where $\eta = 1$
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        if not self.eta >= 0:
            raise ValueError(f"eta is {self.eta}: give a number from 0.")

    def _sample(self, estimate: Estimate, z: Tensor, levels: Tensor, noise: Noise) -> Tensor:
        eta, x_before, h_before = self.eta, None, None
        for now, after in pairwise(levels):
            x_hat, _ = estimate(z, now)
            h = (after - now) / 2
            steered = x_hat
            if x_before is not None and h_before is not None and h.isfinite():
                steered = x_hat + h / (2 * h_before) * (x_hat - x_before)
            (_, sigma), (alpha_next, sigma_next) = alpha_sigma(now), alpha_sigma(after)
            damping = torch.exp(-h) ** eta  # exp(-eta h) would be nan at h = infinity with eta = 0
            gain = -alpha_next * torch.expm1(-(1 + eta) * h)
            z = sigma_next / sigma * damping * z + gain * steered
            if eta > 0:
                z = z + sigma_next * torch.sqrt(-torch.expm1(-2 * eta * h)) * noise()
            x_before, h_before = x_hat, h
        return z


@dataclass(frozen=True, kw_only=True)
class DPMSolver(Sampler):
    r"""DPM-Solver++(2M): a two-step exponential integrator of the data estimate.

    $$z_s = \frac{\sigma_s}{\sigma_t} z_t
      - \alpha_s (e^{-h} - 1)\left(\hat x_t + \frac{\hat x_t - \hat x_{t-1}}{2r}\right),$$

    which is `StochasticDPMSolver` without noise. Deterministic.

    References:
        Lu et al. (2022), https://arxiv.org/abs/2211.01095
    """

    def _sample(self, estimate: Estimate, z: Tensor, levels: Tensor, noise: Noise) -> Tensor:
        return StochasticDPMSolver(eta=0.0)._sample(estimate, z, levels, noise)
