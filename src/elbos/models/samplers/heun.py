r"""EDM's sampler for the ODE $d\tilde z/d\tilde\sigma = \hat\epsilon$, with two network evaluations
per step.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from elbos.models.samplers.sampler import Estimate, Noise, Sampler
from elbos.theory.process import alpha_sigma


@dataclass(frozen=True, kw_only=True)
class Heun(Sampler):
    r"""EDM's sampler: Heun's method in $\tilde\sigma$.

    Noise may be added before each step ("churn").

    $$\tilde z_s = \tilde z_t + (\tilde\sigma_s - \tilde\sigma_t)\,
      \tfrac12\bigl(\hat\epsilon_t + \hat\epsilon_s\bigr).$$

    A last step to clean data takes the first slope alone. Churn never exceeds the first noise
    level, beyond which the network may not have been trained.

    Attributes:
        churn: $S_\mathrm{churn}$; over the number of steps, the relative rise of $\tilde\sigma$
            before each step, at most $\sqrt 2 - 1$. Default 0: deterministic. EDM: 40 for
            ImageNet-64, in [0.05, 50] with noise 1.003.
        churn_min: $S_\mathrm{tmin}$, the lowest $\tilde\sigma$ with churn. Default: all.
        churn_max: $S_\mathrm{tmax}$, the highest $\tilde\sigma$ with churn. Default: all.
        churn_noise: $S_\mathrm{noise}$, the standard deviation of the noise added.

    Raises:
        ValueError: If `churn` or `churn_noise` is negative, or `churn_min` is not below
            `churn_max`.

    References:
        Karras et al. (2022), https://arxiv.org/abs/2206.00364
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("churn", "churn_noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number from 0.")
        if not 0 <= self.churn_min < self.churn_max:
            raise ValueError(
                f"churn_min is {self.churn_min}: give a number from 0, below "
                f"churn_max={self.churn_max}."
            )

    def num_evaluations(self, num_steps: int) -> int:
        return 2 * num_steps - 1

    def _sample(self, estimate: Estimate, z: Tensor, levels: Tensor, noise: Noise) -> Tensor:
        gamma = min(self.churn / (len(levels) - 1), math.sqrt(2) - 1)
        for now, after in pairwise(levels):
            (alpha, _), (alpha_next, _) = alpha_sigma(now), alpha_sigma(after)
            z_tilde, sigma_tilde, sigma_next = z / alpha, torch.exp(-now / 2), torch.exp(-after / 2)
            if gamma > 0 and self.churn_min <= sigma_tilde <= self.churn_max:
                now = torch.maximum(now - 2 * math.log1p(gamma), levels[0])
                sigma_before, sigma_tilde = sigma_tilde, torch.exp(-now / 2)
                added = torch.sqrt(sigma_tilde**2 - sigma_before**2)
                z_tilde = z_tilde + added * self.churn_noise * noise()
                alpha, _ = alpha_sigma(now)
            _, slope = estimate(alpha * z_tilde, now)
            z = alpha_next * (z_tilde + (sigma_next - sigma_tilde) * slope)
            if after.isfinite():
                _, slope_next = estimate(z, after)
                z = alpha_next * (z_tilde + (sigma_next - sigma_tilde) * (slope + slope_next) / 2)
        return z
