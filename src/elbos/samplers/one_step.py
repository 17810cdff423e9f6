r"""Samplers that remember nothing: each step depends on the current $z$ alone.

Two are first-order steps of the reverse process, with all of its noise (`ancestral`) or any part of
it (`ddim`); `heun` follows the ODE $d\tilde z/d\tilde\sigma = \hat\epsilon$ with a second
evaluation per step.

None of them keeps a graph for gradients. A denoiser that needs gradients inside, for guidance,
takes them under `torch.enable_grad()`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.denoiser import Denoise, estimate
from elbos.process import alpha_sigma, posterior
from elbos.samplers.levels import noise, steps


@torch.no_grad()
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
        z: Noisy data at the first level, `[b, ...]`, in float32 or float64.
        logsnrs: Levels, increasing, `[n + 1]` for n steps.
        cond: What the denoiser is conditioned on.
        variance: Interpolates, in the log, between the posterior's variance $\sigma_s^2 c$ (0) and
            the transition's $\sigma_t^2 c$ (1). Default: the posterior's.
        generator: Source of the noise, on the CPU.

    Returns:
        `z` at the last level, without a gradient.

    Raises:
        ValueError: If `z` is in half precision, the levels do not rise, or the denoiser returns no
            pair of estimates.

    References:
        Ho et al. (2020), https://arxiv.org/abs/2006.11239; Nichol & Dhariwal (2021),
        https://arxiv.org/abs/2102.09672
    """
    for now, after in steps(logsnrs, z):
        x_hat, _ = estimate(denoiser, z, now, cond)
        z, lower = posterior(x_hat, z, now, after)
        if after.isfinite():
            (_, sigma), (_, sigma_next) = alpha_sigma(now), alpha_sigma(after)
            z = z + lower.sqrt() * (sigma / sigma_next) ** variance * noise(z, generator)
    return z


@torch.no_grad()
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
        z: Noisy data at the first level, `[b, ...]`, in float32 or float64.
        logsnrs: Levels, increasing, `[n + 1]` for n steps.
        cond: What the denoiser is conditioned on.
        eta: $\eta$ in [0, 1]; 0 follows the ODE, 1 is `ancestral`. Default: the ODE.
        generator: Source of the noise, on the CPU.

    Returns:
        `z` at the last level, without a gradient.

    Raises:
        ValueError: If `eta` is out of its range, `z` is in half precision, the levels do not rise,
            or the denoiser returns no pair of estimates.

    References:
        Song et al. (2021), https://arxiv.org/abs/2010.02502
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}: give a number from 0 to 1.")
    for now, after in steps(logsnrs, z):
        x_hat, eps_hat = estimate(denoiser, z, now, cond)
        alpha_next, sigma_next = alpha_sigma(after)
        tau = eta * sigma_next * torch.sqrt(-torch.expm1(now - after))
        z = alpha_next * x_hat + torch.sqrt(sigma_next**2 - tau**2) * eps_hat
        if eta > 0:
            z = z + tau * noise(z, generator)
    return z


@torch.no_grad()
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

    $$\tilde z_s = \tilde z_t + (\tilde\sigma_s - \tilde\sigma_t)\,
      \tfrac12\bigl(\hat\epsilon_t + \hat\epsilon_s\bigr).$$

    Churn stays within the first level, beyond which the network may not have been trained.

    Args:
        denoiser: Estimates the noise.
        z: Noisy data at the first level, `[b, ...]`, in float32 or float64.
        logsnrs: Levels, increasing, `[n + 1]` for n steps.
        cond: What the denoiser is conditioned on.
        churn: $S_\mathrm{churn}$; over the number of steps, the relative rise of $\tilde\sigma$
            before each step, at most $\sqrt 2 - 1$. Default 0: deterministic.
        churn_min: $S_\mathrm{tmin}$, the lowest $\tilde\sigma$ with churn.
        churn_max: $S_\mathrm{tmax}$, the highest.
        churn_noise: $S_\mathrm{noise}$, the standard deviation of the noise added.
        generator: Source of the noise, on the CPU.

    Returns:
        `z` at the last level, without a gradient.

    Raises:
        ValueError: If `churn` is below 0, `z` is in half precision, the levels do not rise, or the
            denoiser returns no pair of estimates.

    References:
        Karras et al. (2022), https://arxiv.org/abs/2206.00364 (ImageNet-64: churn 40 in [0.05, 50],
        noise 1.003)
    """
    if not churn >= 0:
        raise ValueError(f"churn is {churn}: give a number from 0.")
    pairs, first = steps(logsnrs, z), logsnrs[:1].to(z)
    gamma = min(churn / (len(logsnrs) - 1), math.sqrt(2) - 1)
    for now, after in pairs:
        alpha, _ = alpha_sigma(now)
        alpha_next, _ = alpha_sigma(after)
        z_tilde, sigma_tilde, sigma_next = z / alpha, torch.exp(-now / 2), torch.exp(-after / 2)
        if gamma > 0 and churn_min <= sigma_tilde <= churn_max:
            now = torch.maximum(now - 2 * math.log1p(gamma), first)
            sigma_before, sigma_tilde = sigma_tilde, torch.exp(-now / 2)
            added = torch.sqrt(sigma_tilde**2 - sigma_before**2)
            z_tilde = z_tilde + added * churn_noise * noise(z, generator)
            alpha, _ = alpha_sigma(now)
        _, slope = estimate(denoiser, alpha * z_tilde, now, cond)
        z = alpha_next * (z_tilde + (sigma_next - sigma_tilde) * slope)
        if after.isfinite():
            _, slope_next = estimate(denoiser, z, after, cond)
            z = alpha_next * (z_tilde + (sigma_next - sigma_tilde) * (slope + slope_next) / 2)
    return z
