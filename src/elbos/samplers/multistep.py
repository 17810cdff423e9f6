r"""Samplers that remember the estimates of earlier levels: exponential integrators.

With $\ell = \lambda/2$ and $h = \ell_s - \ell_t$ the ODE of the flow is, exactly,

$$\frac{z_s}{\sigma_s} = \frac{z_t}{\sigma_t} + \int_{\ell_t}^{\ell_s} e^\ell\,\hat x\,d\ell
  \quad\Longleftrightarrow\quad
  z_s = \frac{\sigma_s}{\sigma_t} z_t + \alpha_s \int_0^h e^{\tau - h}\,\hat x(\tau)\,d\tau,$$

in which only $\hat x$ along the way is unknown: it is taken for the polynomial through estimates
that are there already. A constant is DDIM; $k$ estimates are of order $k$. A last step to
$\lambda_s = \infty$, where no polynomial but a constant has a limit, lands on $\hat x$ itself.

References:
    Lu et al. (2022), https://arxiv.org/abs/2211.01095; Zhao et al. (2023),
    https://arxiv.org/abs/2302.04867
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.denoiser import Denoise
from elbos.process import alpha_sigma
from elbos.samplers.levels import noise, steps

_Estimates = list[tuple[Tensor, Tensor]]  # levels and the estimates of data there


def dpmpp_2m(
    denoiser: Denoise,
    z: Float[Tensor, "b *d"],
    logsnrs: Float[Tensor, " n"],
    *,
    cond: Tensor | None = None,
) -> Float[Tensor, "b *d"]:
    r"""DPM-Solver++(2M): a two-step exponential integrator of the data estimate.

    With $r$ the ratio of the last $h$ to this one,

    $$z_s = \frac{\sigma_s}{\sigma_t} z_t
      - \alpha_s (e^{-h} - 1)\left(\hat x_t + \frac{\hat x_t - \hat x_{t-1}}{2r}\right).$$

    The first step, and a last one to $\lambda_s = \infty$, are of order 1.

    Args:
        denoiser: Estimates the data.
        z: Noisy data at the first level, `[b, ...]`.
        logsnrs: Levels, increasing.
        cond: What the denoiser is conditioned on.

    References:
        Lu et al. (2022), https://arxiv.org/abs/2211.01095
    """
    return dpmpp_2m_sde(denoiser, z, logsnrs, cond=cond, eta=0.0)


def dpmpp_2m_sde(
    denoiser: Denoise,
    z: Float[Tensor, "b *d"],
    logsnrs: Float[Tensor, " n"],
    *,
    cond: Tensor | None = None,
    eta: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b *d"]:
    r"""SDE-DPM-Solver++(2M): the same on an SDE with the marginals of the ODE.

    Langevin dynamics of strength $\eta$ along the way replace noise and damp $z_t$,

    $$z_s = \frac{\sigma_s}{\sigma_t} e^{-\eta h} z_t - \alpha_s \bigl(e^{-(1 + \eta) h} - 1\bigr)
      \left(\hat x_t + \frac{\hat x_t - \hat x_{t-1}}{2r}\right)
      + \sigma_s \sqrt{1 - e^{-2 \eta h}}\,\epsilon.$$

    Without the difference, $\eta = 1$ is `ancestral`.

    Args:
        denoiser: Estimates the data.
        z: Noisy data at the first level, `[b, ...]`.
        logsnrs: Levels, increasing.
        cond: What the denoiser is conditioned on.
        eta: $\eta \ge 0$; 0 is `dpmpp_2m`. Default 1: the reverse of the diffusion.
        generator: Source of the noise, on the CPU.

    References:
        Lu et al. (2022), https://arxiv.org/abs/2211.01095, where $\eta = 1$
    """
    x_before, h_before = None, None
    for now, after in steps(logsnrs, z):
        x_hat, _ = denoiser(z, now, cond)
        h = (after - now) / 2
        estimate = x_hat
        if x_before is not None and h_before is not None and h.isfinite():
            estimate = x_hat + h / (2 * h_before) * (x_hat - x_before)
        (_, sigma), (alpha_next, sigma_next) = alpha_sigma(now), alpha_sigma(after)
        damping = torch.exp(-h) ** eta  # 0 h would be nan at infinity
        z = sigma_next / sigma * damping * z - alpha_next * torch.expm1(-(1 + eta) * h) * estimate
        if eta > 0:
            z = z + sigma_next * torch.sqrt(-torch.expm1(-2 * eta * h)) * noise(z, generator)
        x_before, h_before = x_hat, h
    return z


def dpmpp_3m(
    denoiser: Denoise,
    z: Float[Tensor, "b *d"],
    logsnrs: Float[Tensor, " n"],
    *,
    cond: Tensor | None = None,
) -> Float[Tensor, "b *d"]:
    r"""DPM-Solver++(3M): the exact integral of the parabola through the last three estimates.

    It is `unipc` without its corrections. The first two steps are of order 1 and 2, and what they
    leave is seen when $n$ is large: they are short, and where the estimate hardly depends on the
    level. diffusers' step of this name weighs the second difference with half of its integral,
    which makes it of order 2.

    Args:
        denoiser: Estimates the data.
        z: Noisy data at the first level, `[b, ...]`.
        logsnrs: Levels, increasing.
        cond: What the denoiser is conditioned on.

    References:
        Lu et al. (2022), https://arxiv.org/abs/2211.01095
    """
    estimates: _Estimates = []
    for now, after in steps(logsnrs, z):
        estimates = [(now, denoiser(z, now, cond)[0]), *estimates[:2]]
        z = _integrate(z, now, after, estimates)
    return z


def unipc(
    denoiser: Denoise,
    z: Float[Tensor, "b *d"],
    logsnrs: Float[Tensor, " n"],
    *,
    cond: Tensor | None = None,
    order: int = 3,
) -> Float[Tensor, "b *d"]:
    r"""UniPC: each estimate first corrects the step that led to it.

    A step is predicted from the last `order` estimates. The estimate at its end joins them, and the
    step is taken again with one more, for no further evaluation: of order `order` + 1 on the ODE.
    Prediction and correction are the exact integrals of their polynomials, in which the paper's
    $B(h)$ cancels; its code has it left where a step knows one difference, whose weight it sets to
    $B(h)/2$.

    Args:
        denoiser: Estimates the data.
        z: Noisy data at the first level, `[b, ...]`.
        logsnrs: Levels, increasing.
        cond: What the denoiser is conditioned on.
        order: Number of estimates in a prediction, at least 1; the first steps have fewer. Default:
            what its authors advise without guidance; with it, 2.

    References:
        Zhao et al. (2023), https://arxiv.org/abs/2302.04867
    """
    estimates: _Estimates = []
    begin, z_begin = None, z
    for now, after in steps(logsnrs, z):
        new = now, denoiser(z, now, cond)[0]
        if begin is not None:
            z = _integrate(z_begin, begin, now, [new, *estimates])
        estimates = [new, *estimates[: order - 1]]
        begin, z_begin = now, z
        z = _integrate(z, now, after, estimates)
    return z


def _integrate(
    z: Float[Tensor, "b *d"],
    now: Float[Tensor, " 1"],
    after: Float[Tensor, " 1"],
    estimates: _Estimates,
) -> Float[Tensor, "b *d"]:
    """The step from `now` to `after` with the polynomial through `estimates`."""
    if after.isinf():
        estimates = estimates[:1]
    h = (after - now).item() / 2
    weights = _weights([(level - now).item() / 2 for level, _ in estimates], h)
    (_, sigma), (alpha_next, sigma_next) = alpha_sigma(now), alpha_sigma(after)
    integral = sum(w * x_hat for w, (_, x_hat) in zip(weights, estimates, strict=True))
    return sigma_next / sigma * z + alpha_next * integral


def _weights(nodes: list[float], h: float) -> list[float]:
    r"""The quadrature of $\int_0^h e^{\tau - h} f(\tau)\,d\tau$ on `nodes`.

    It is exact for $f = (\tau/h)^k$ with $k$ below the number of nodes, whose integrals are
    $m_0 = 1 - e^{-h}$ and, by parts, $m_k = 1 - k\,m_{k-1}/h$.
    """
    moments = [-math.expm1(-h)]
    for k in range(1, len(nodes)):
        moments.append(1 - k * moments[-1] / h)
    powers = np.vander(np.array(nodes) / h, increasing=True).T
    weights: list[float] = np.linalg.solve(powers, moments).tolist()
    return weights
