r"""Samplers that remember the estimates of earlier levels: exponential integrators.

With $\ell = \lambda/2$ and $h = \ell_s - \ell_t$ the ODE of the flow is, exactly,

$$\frac{z_s}{\sigma_s} = \frac{z_t}{\sigma_t} + \int_{\ell_t}^{\ell_s} e^\ell\,\hat x\,d\ell
  \quad\Longleftrightarrow\quad
  z_s = \frac{\sigma_s}{\sigma_t} z_t + \alpha_s \int_0^h e^{\tau - h}\,\hat x(\tau)\,d\tau,$$

in which only $\hat x$ along the way is unknown: it is taken for the polynomial through estimates
that are there already. A constant is DDIM; $k$ estimates are of order $k$. A last step to
$\lambda_s = \infty$, where no polynomial but a constant has a limit, lands on $\hat x$ itself.

None of them keeps a graph for gradients. A denoiser that needs gradients inside, for guidance,
takes them under `torch.enable_grad()`.

References:
    Lu et al. (2022), https://arxiv.org/abs/2211.01095; Zhao et al. (2023),
    https://arxiv.org/abs/2302.04867
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.denoiser import Denoise, estimate
from elbos.process import alpha_sigma
from elbos.samplers.levels import noise, steps

_Estimates = list[tuple[Tensor, Tensor]]  # levels and the estimates of data there


@torch.no_grad()
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
        z: Noisy data at the first level, `[b, ...]`, in float32 or float64.
        logsnrs: Levels, increasing, `[n + 1]` for n steps.
        cond: What the denoiser is conditioned on.

    Returns:
        `z` at the last level, without a gradient.

    Raises:
        ValueError: If `z` is in half precision, the levels do not rise, or the denoiser returns no
            pair of estimates.

    References:
        Lu et al. (2022), https://arxiv.org/abs/2211.01095
    """
    return dpmpp_2m_sde(denoiser, z, logsnrs, cond=cond, eta=0.0)


@torch.no_grad()
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
        z: Noisy data at the first level, `[b, ...]`, in float32 or float64.
        logsnrs: Levels, increasing, `[n + 1]` for n steps.
        cond: What the denoiser is conditioned on.
        eta: $\eta \ge 0$; 0 is `dpmpp_2m`. Default 1: the reverse of the diffusion.
        generator: Source of the noise, on the CPU.

    Returns:
        `z` at the last level, without a gradient.

    Raises:
        ValueError: If `eta` is below 0, `z` is in half precision, the levels do not rise, or the
            denoiser returns no pair of estimates.

    References:
        Lu et al. (2022), https://arxiv.org/abs/2211.01095, where $\eta = 1$
    """
    if not eta >= 0:
        raise ValueError(f"eta is {eta}: give a number from 0.")
    x_before, h_before = None, None
    for now, after in steps(logsnrs, z):
        x_hat, _ = estimate(denoiser, z, now, cond)
        h = (after - now) / 2
        steered = x_hat
        if x_before is not None and h_before is not None and h.isfinite():
            steered = x_hat + h / (2 * h_before) * (x_hat - x_before)
        (_, sigma), (alpha_next, sigma_next) = alpha_sigma(now), alpha_sigma(after)
        damping = torch.exp(-h) ** eta  # 0 h would be nan at infinity
        z = sigma_next / sigma * damping * z - alpha_next * torch.expm1(-(1 + eta) * h) * steered
        if eta > 0:
            z = z + sigma_next * torch.sqrt(-torch.expm1(-2 * eta * h)) * noise(z, generator)
        x_before, h_before = x_hat, h
    return z


@torch.no_grad()
def dpmpp_3m(
    denoiser: Denoise,
    z: Float[Tensor, "b *d"],
    logsnrs: Float[Tensor, " n"],
    *,
    cond: Tensor | None = None,
) -> Float[Tensor, "b *d"]:
    r"""DPM-Solver++(3M): the exact integral of the parabola through the last three estimates.

    It is `unipc` of order 3 without its corrections: the first two steps, and where the last level
    is $\infty$ the last two, are of order 1 and 2. diffusers' step of this name weighs the second
    difference with half of its integral, which makes it of order 2.

    A parabola through estimates that are far apart is a poor guess of where the estimate goes next:
    below about 12 evaluations `dpmpp_2m` is better.

    Args:
        denoiser: Estimates the data.
        z: Noisy data at the first level, `[b, ...]`, in float32 or float64.
        logsnrs: Levels, increasing, `[n + 1]` for n steps.
        cond: What the denoiser is conditioned on.

    Returns:
        `z` at the last level, without a gradient.

    Raises:
        ValueError: If `z` is in half precision, the levels do not rise, or the denoiser returns no
            pair of estimates.

    References:
        Lu et al. (2022), https://arxiv.org/abs/2211.01095
    """
    return _multistep(denoiser, z, logsnrs, cond, order=3, is_corrected=False)


@torch.no_grad()
def unipc(
    denoiser: Denoise,
    z: Float[Tensor, "b *d"],
    logsnrs: Float[Tensor, " n"],
    *,
    cond: Tensor | None = None,
    order: int = 2,
) -> Float[Tensor, "b *d"]:
    r"""UniPC with $B_2(h)$: each estimate first corrects the step that led to it.

    A step is predicted from the last `order` estimates. The estimate at its end joins them, and the
    step is taken again with one more, for no further evaluation: of order `order` + 1 on the ODE.
    Prediction and correction are the exact integrals of their polynomials, in which $B(h)$ cancels,
    but where a step knows one difference alone, whose weight is $B_2(h)/2$ with
    $B_2(h) = 1 - e^{-h}$: the prediction of order 2 is then `dpmpp_2m`.

    The first steps are of lower order, for want of estimates, and where the last level is $\infty$
    the last ones are, too, the last of order 1: what its authors call `bh2` with
    `lower_order_final`.

    Args:
        denoiser: Estimates the data.
        z: Noisy data at the first level, `[b, ...]`, in float32 or float64.
        logsnrs: Levels, increasing, `[n + 1]` for n steps.
        cond: What the denoiser is conditioned on.
        order: Number of estimates in a prediction, at least 1. Default: 2, as good as the best
            sampler at few steps, and with guidance its authors' advice; 3 is more exact from
            about 24 evaluations on.

    Returns:
        `z` at the last level, without a gradient.

    Raises:
        ValueError: If `order` is not a whole number from 1, `z` is in half precision, the levels do
            not rise, or the denoiser returns no pair of estimates.

    References:
        Zhao et al. (2023), https://arxiv.org/abs/2302.04867
    """
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"order is {order}: give a whole number from 1.")
    return _multistep(denoiser, z, logsnrs, cond, order=order, is_corrected=True)


def _multistep(
    denoiser: Denoise,
    z: Float[Tensor, "b *d"],
    logsnrs: Float[Tensor, " n"],
    cond: Tensor | None,
    *,
    order: int,
    is_corrected: bool,
) -> Float[Tensor, "b *d"]:
    """Steps predicted from the last `order` estimates, and corrected by the one at their end."""
    is_clean, num_steps = bool(logsnrs[-1].isinf()), len(logsnrs) - 1
    estimates: _Estimates = []
    used: _Estimates = []
    begin, z_begin = None, z
    for step, (now, after) in enumerate(steps(logsnrs, z)):
        new = now, estimate(denoiser, z, now, cond)[0]
        if is_corrected and begin is not None:
            z = _integrate(z_begin, begin, now, [new, *used])
        estimates = [new, *estimates[: order - 1]]
        used = estimates[: num_steps - step] if is_clean else estimates
        begin, z_begin = now, z
        z = _integrate(z, now, after, used)
    return z


def _integrate(
    z: Float[Tensor, "b *d"],
    now: Float[Tensor, " 1"],
    after: Float[Tensor, " 1"],
    estimates: _Estimates,
) -> Float[Tensor, "b *d"]:
    """The step from `now` to `after` with the polynomial through `estimates`."""
    h = (after - now).item() / 2
    weights = _weights([(level - now).item() / 2 for level, _ in estimates], h)
    (_, sigma), (alpha_next, sigma_next) = alpha_sigma(now), alpha_sigma(after)
    integral = sum(w * x_hat for w, (_, x_hat) in zip(weights, estimates, strict=True))
    return sigma_next / sigma * z + alpha_next * integral


def _weights(nodes: list[float], h: float) -> list[float]:
    r"""The quadrature of $\int_0^h e^{\tau - h} f(\tau)\,d\tau$ on `nodes`.

    It is exact for $f = (\tau/h)^k$ with $k$ below the number of nodes, whose integrals are
    $m_0 = 1 - e^{-h}$ and, by parts, $m_k = 1 - k\,m_{k-1}/h$. Of two nodes, $m_1$ is
    $B_2(h)/2 = m_0/2$: as exact to the order of the step, and better at steps that are long.
    """
    moments = [-math.expm1(-h)]
    for k in range(1, len(nodes)):
        moments.append(1 - k * moments[-1] / h)
    if len(nodes) == 2:
        moments[1] = moments[0] / 2
    powers = np.vander(np.array(nodes) / h, increasing=True).T
    weights: list[float] = np.linalg.solve(powers, moments).tolist()
    return weights
