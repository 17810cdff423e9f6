r"""First-order samplers: ancestral sampling (`Ancestral`), and `DDIM`, which adds less noise or
none.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from elbos.models.samplers.sampler import Estimate, Noise, Sampler
from elbos.theory.process import alpha_sigma, posterior


@dataclass(frozen=True, kw_only=True)
class Ancestral(Sampler):
    r"""DDPM's ancestral sampler, $z_s \sim q(z_s \mid z_t, \hat x)$.

    Its variance is $\sigma_s^2 c$ with $c = 1 - e^{\lambda_t - \lambda_s}$.

    Attributes:
        variance: Interpolates, in the log, between the posterior's variance $\sigma_s^2 c$ (0) and
            the transition's $\sigma_t^2 c$ (1). Default: the posterior's.

    Raises:
        ValueError: If `variance` is not from 0 to 1.

    References:
        Ho et al. (2020), https://arxiv.org/abs/2006.11239; Nichol & Dhariwal (2021),
        https://arxiv.org/abs/2102.09672
    """

    variance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.variance <= 1:
            raise ValueError(f"variance is {self.variance}: give a number from 0 to 1.")

    def _sample(self, estimate: Estimate, z: Tensor, levels: Tensor, noise: Noise) -> Tensor:
        for now, after in pairwise(levels):
            x_hat, _ = estimate(z, now)
            z, lower = posterior(x_hat, z, now, after)
            if after.isfinite():
                (_, sigma), (_, sigma_next) = alpha_sigma(now), alpha_sigma(after)
                std = lower.sqrt() * (sigma / sigma_next) ** self.variance
                z = z + std * noise()
        return z


@dataclass(frozen=True, kw_only=True)
class DDIM(Sampler):
    r"""DDIM sampler: first-order steps of the probability-flow ODE.

    $$z_s = \alpha_s\hat x + \sqrt{\sigma_s^2 - \tau^2}\,\hat\epsilon + \tau\epsilon, \qquad
      \tau = \eta\,\sigma_s\sqrt c, \qquad c = 1 - e^{\lambda_t - \lambda_s}.$$

    Attributes:
        eta: Strength $\eta$ of the noise, from 0, which follows the ODE, to 1, which is
            `Ancestral`. Default: the ODE.

    Raises:
        ValueError: If `eta` is not from 0 to 1.

    References:
        Song et al. (2021), https://arxiv.org/abs/2010.02502
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}: give a number from 0 to 1.")

    def _sample(self, estimate: Estimate, z: Tensor, levels: Tensor, noise: Noise) -> Tensor:
        for now, after in pairwise(levels):
            x_hat, eps_hat = estimate(z, now)
            alpha_next, sigma_next = alpha_sigma(after)
            tau = self.eta * sigma_next * torch.sqrt(-torch.expm1(now - after))
            z = alpha_next * x_hat + torch.sqrt(sigma_next**2 - tau**2) * eps_hat
            if self.eta > 0:
                z = z + tau * noise()
        return z
