r"""Samplers that remember nothing: each step depends on the current $z$ alone.

Two are first-order steps of the reverse process, with all of its noise (`ancestral`) or any part of
it (`ddim`); `heun` follows the ODE $d\tilde z/d\tilde\sigma = \hat\epsilon$ with a second
evaluation per step.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.denoiser import Denoise
from elbos.process import alpha_sigma, posterior
from elbos.samplers.levels import noise, steps


def ancestral(
    denoiser: Denoise,
    z: Float[Tensor, "b *d"],
    logsnrs: Float[Tensor, " n"],
    *,
    cond: Tensor | None = None,
    variance: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b *d"]:
    r"""DDPM's ancestral sampling: $z_s \sim q(z_s \mid z_t, \hat x)$.

    Args:
        denoiser: Estimates the data.
        z: Noisy data at the first level, `[b, ...]`.
        logsnrs: Levels, increasing.
        cond: What the denoiser is conditioned on.
        variance: Interpolates, in the log, between the posterior's variance $\sigma_s^2 c$ (0) and
            the transition's $\sigma_t^2 c$ (1). Default: the posterior's.
        generator: Source of the noise, on the CPU.

    References:
        Ho et al. (2020), https://arxiv.org/abs/2006.11239; Nichol & Dhariwal (2021),
        https://arxiv.org/abs/2102.09672
    """
    for now, after in steps(logsnrs, z):
        x_hat, _ = denoiser(z, now, cond)
        z, lower = posterior(x_hat, z, now, after)
        if after.isfinite():
            (_, sigma), (_, sigma_next) = alpha_sigma(now), alpha_sigma(after)
            z = z + lower.sqrt() * (sigma / sigma_next) ** variance * noise(z, generator)
    return z


def ddim(
    denoiser: Denoise,
    z: Float[Tensor, "b *d"],
    logsnrs: Float[Tensor, " n"],
    *,
    cond: Tensor | None = None,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b *d"]:
    r"""DDIM, $z_s = \alpha_s\hat x + \sqrt{\sigma_s^2 - \tau^2}\,\hat\epsilon + \tau\epsilon$,
    $\tau^2 = \eta^2\sigma_s^2 c$.

    Args:
        denoiser: Estimates the data and the noise.
        z: Noisy data at the first level, `[b, ...]`.
        logsnrs: Levels, increasing.
        cond: What the denoiser is conditioned on.
        eta: $\eta$ in [0, 1]; 0 follows the ODE, 1 is `ancestral`. Default: the ODE.
        generator: Source of the noise, on the CPU.

    References:
        Song et al. (2021), https://arxiv.org/abs/2010.02502
    """
    for now, after in steps(logsnrs, z):
        x_hat, eps_hat = denoiser(z, now, cond)
        alpha_next, sigma_next = alpha_sigma(after)
        tau = eta * sigma_next * torch.sqrt(-torch.expm1(now - after))
        z = alpha_next * x_hat + torch.sqrt(sigma_next**2 - tau**2) * eps_hat
        if eta > 0:
            z = z + tau * noise(z, generator)
    return z


def heun(
    denoiser: Denoise,
    z: Float[Tensor, "b *d"],
    logsnrs: Float[Tensor, " n"],
    *,
    cond: Tensor | None = None,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b *d"]:
    r"""EDM's sampler: Heun's method in $\tilde\sigma$, with noise added before each step ("churn").

    Args:
        denoiser: Estimates the noise.
        z: Noisy data at the first level, `[b, ...]`.
        logsnrs: Levels, increasing.
        cond: What the denoiser is conditioned on.
        churn: $S_\mathrm{churn}$; over the number of steps, the relative rise of $\tilde\sigma$
            before each step, at most $\sqrt 2 - 1$. Default 0: deterministic.
        churn_min: $S_\mathrm{tmin}$, the lowest $\tilde\sigma$ with churn.
        churn_max: $S_\mathrm{tmax}$, the highest.
        churn_noise: $S_\mathrm{noise}$, the standard deviation of the noise added.
        generator: Source of the noise, on the CPU.

    References:
        Karras et al. (2022), https://arxiv.org/abs/2206.00364 (ImageNet-64: churn 40 in [0.05, 50],
        noise 1.003)
    """
    gamma = min(churn / (len(logsnrs) - 1), math.sqrt(2) - 1)
    for now, after in steps(logsnrs, z):
        alpha, _ = alpha_sigma(now)
        alpha_next, _ = alpha_sigma(after)
        z_tilde, sigma_tilde, sigma_next = z / alpha, torch.exp(-now / 2), torch.exp(-after / 2)
        if gamma > 0 and churn_min <= sigma_tilde <= churn_max:
            added = sigma_tilde * math.sqrt((1 + gamma) ** 2 - 1)
            z_tilde = z_tilde + added * churn_noise * noise(z, generator)
            sigma_tilde = sigma_tilde * (1 + gamma)
            now = -2 * torch.log(sigma_tilde)
            alpha, _ = alpha_sigma(now)
        _, slope = denoiser(alpha * z_tilde, now, cond)
        z = alpha_next * (z_tilde + (sigma_next - sigma_tilde) * slope)
        if after.isfinite():
            _, slope_next = denoiser(z, after, cond)
            z = alpha_next * (z_tilde + (sigma_next - sigma_tilde) * (slope + slope_next) / 2)
    return z
