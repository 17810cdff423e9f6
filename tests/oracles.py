"""Data for which everything is known, and what is known about them.

For x ~ N(0, s^2) and the denoiser of N(0, r^2) data, with u = r^2 e^lambda,

    eps_hat - eps = (alpha sigma x - alpha^2 r^2 eps) / (alpha^2 r^2 + sigma^2),
    E||eps_hat - eps||^2 = (s^2 e^lambda + u^2) / (1 + u)^2,

which is sigmoid(lambda + 2 ln s) for the right denoiser, r = s.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

from elbos.theory.oracles import GaussianMixture
from elbos.theory.process import alpha_sigma


def gaussian(std: float, dims: int = 1) -> GaussianMixture:
    """Data N(0, std^2)."""
    item = torch.ones(1, dtype=torch.float64)
    return GaussianMixture(weights=item, means=torch.zeros(1, dims).double(), stds=std * item)


def gaussian_loss(logsnr, std: float, believed: float | None = None):
    """Half the eps-error on N(0, std^2) of the denoiser of N(0, believed^2), per dimension."""
    snr, u = np.exp(logsnr), (believed or std) ** 2 * np.exp(logsnr)
    return 0.5 * (std**2 * snr + u**2) / (1 + u) ** 2


def bimodal() -> GaussianMixture:
    """Two unlike modes on a line: a denoiser that is not linear."""
    return GaussianMixture(
        weights=torch.tensor([0.3, 0.7], dtype=torch.float64),
        means=torch.tensor([[-0.8], [0.5]], dtype=torch.float64),
        stds=torch.tensor([0.2, 0.3], dtype=torch.float64),
    )


def line_log_density(data: GaussianMixture, logsnr: Tensor, z: Tensor) -> Tensor:
    """The log of q(z) at each noise level, for z of shape `[levels, points]`."""
    alpha, sigma = (scale[:, None, None] for scale in alpha_sigma(logsnr))
    std = (alpha**2 * data.stds**2 + sigma**2).sqrt()
    components = torch.distributions.Normal(alpha * data.means[:, 0], std)
    return (data.weights.log() + components.log_prob(z[..., None])).logsumexp(-1)


def line_grid(logsnr: Tensor) -> Tensor:
    """Points so far out and so close that sums over them are integrals to rounding error."""
    return torch.linspace(-9, 9, 361, dtype=torch.float64).repeat(len(logsnr), 1)


def line_loss(
    data: GaussianMixture, logsnr: Tensor, denoiser: GaussianMixture | None = None
) -> Tensor:
    """Half the eps-error of a denoiser on one-dimensional data, by quadrature over z.

    The error of any estimate is that of the posterior mean, 1 - E[eps_hat^2], plus the distance to
    the posterior mean, which Tweedie's formula gives: eps_hat = -sigma (ln q)'.
    """
    z = line_grid(logsnr).requires_grad_()
    log_q = line_log_density(data, logsnr, z)
    (score,) = torch.autograd.grad(log_q.sum(), z)
    best = -alpha_sigma(logsnr)[1][:, None] * score
    z, q = z.detach(), log_q.detach().exp()
    levels = logsnr.repeat_interleave(z.shape[1])
    used = (denoiser or data)(z.reshape(-1, 1), levels)[1].reshape(z.shape)
    return 0.5 * (1 + (q * ((used - best) ** 2 - best**2)).sum(1) * (z[0, 1] - z[0, 0]))


def information(data: GaussianMixture, logsnr: Tensor) -> Tensor:
    """I(x; z) of one-dimensional data, in nats: the entropy of z less that of its noise."""
    z = line_grid(logsnr)
    log_q = line_log_density(data, logsnr, z)
    entropy = -(log_q.exp() * log_q).sum(1) * (z[0, 1] - z[0, 0])
    return entropy - 0.5 * torch.log(2 * torch.pi * torch.e * torch.sigmoid(-logsnr))


def quantized(num_levels: int, mean: float, std: float) -> GaussianMixture:
    """Two dimensions of `num_levels` levels each, correlated: all pairs are points of a mixture."""
    levels = torch.linspace(-1, 1, num_levels, dtype=torch.float64)
    means = torch.cartesian_prod(levels, levels)
    difference = means[:, 0] - means[:, 1]
    energy = ((means - mean) / std).square().sum(1) / 2 + difference.square()
    return GaussianMixture(
        weights=torch.softmax(-energy, 0), means=means, stds=torch.zeros_like(energy)
    )


def in_parts(data: GaussianMixture) -> Callable[..., tuple[Tensor, Tensor]]:
    """The same denoiser, 1,000 samples at a time, which a processor's cache holds."""

    def denoiser(z: Tensor, logsnr: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pairs = zip(z.split(1000), logsnr.expand(len(z)).split(1000), strict=True)
        x_hat, eps_hat = zip(*(data(*pair) for pair in pairs), strict=True)
        return torch.cat(x_hat), torch.cat(eps_hat)

    return denoiser


@dataclass(frozen=True)
class ByClass:
    """The exact denoiser of several data sets, told which one: a class-conditional oracle."""

    classes: list[GaussianMixture]

    def __call__(self, z: Tensor, logsnr: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        x_hat, eps_hat = torch.stack([torch.stack(data(z, logsnr)) for data in self.classes])[
            cond, :, torch.arange(len(z))
        ].unbind(1)
        return x_hat, eps_hat


def weighted_integral(
    w: Callable[[Tensor], Tensor], loss: Callable[[float], float], low: float, high: float
) -> float:
    """The integral of w times a loss over noise levels, by scipy."""

    def integrand(logsnr: float) -> float:
        return w(torch.tensor([logsnr], dtype=torch.float64)).item() * loss(logsnr)

    return quad(integrand, low, high, points=[-2, 0, 2], limit=500, epsabs=1e-11, epsrel=1e-11)[0]


def z_score(samples: Tensor, expected: float) -> float:
    """Standard errors between the mean of independent samples and what is expected."""
    error = samples.std() / len(samples) ** 0.5
    return ((samples.mean() - expected) / error).abs().item()
