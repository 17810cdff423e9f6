"""Training losses of PhysicsNeMo's examples for given settings, in our own words.

As in `trainer_losses`: nothing here imports elbos.
"""

import torch
from trainer_losses import as_column


def edm_error(network, x, sigma, weight=0.5, inside=0.5):
    """EDM's loss at noise levels [b]: `weight` is sigma_data of the weight, `inside` that of the
    preconditioning.
    """
    s = as_column(sigma, x)
    z, norm = x + s * torch.randn_like(x), s**2 + inside**2
    output = network(z / norm.sqrt(), sigma.log() / 4)
    x_hat = inside**2 / norm * z + s * inside / norm.sqrt() * output
    return (x_hat - x).square() * (s**2 + weight**2) / (s * weight) ** 2


def physicsnemo_stormcast(network, x):
    """`sigma_data` 1.5, which the preconditioning does not have: .5."""
    return edm_error(network, x, torch.exp(1.2 * torch.randn(len(x)) - 1.2), weight=1.5).mean()


def physicsnemo_stormcast_uniform(network, x):
    """`sigma_distribution` loguniform from .01 to 50, whatever `P_mean` and the sampler say."""
    return edm_error(network, x, 0.01 * 5000 ** torch.rand(len(x))).mean()


def physicsnemo_corrdiff(network, x):
    """`P_std` .9 and no mean: 0; `sigma_data` .8 of the network, not of the weight."""
    error = edm_error(network, x, torch.exp(0.9 * torch.randn(len(x))), inside=0.8)
    return error.flatten(1).sum(1).mean()


def physicsnemo_fwi(network, x):
    """`P_mean` .3, `P_std` 1, and `sigma_data` .7 of both."""
    return edm_error(network, x, torch.exp(torch.randn(len(x)) + 0.3), 0.7, 0.7).mean()


def physicsnemo_vp(network, x):
    """`precond` vp: t from 1 to 1e-5, and the network predicts the noise."""
    t = 1 + torch.rand(len(x), dtype=torch.float64) * (1e-5 - 1)
    sigma = as_column(torch.expm1(0.5 * 19.9 * t**2 + 0.1 * t).sqrt().float(), x)
    z = x + sigma * torch.randn_like(x)
    x_hat = z - sigma * network(z / (sigma**2 + 1).sqrt(), 999 * t.float())
    return ((x_hat - x).square() / sigma**2).sum() / len(x)


def physicsnemo_ve(network, x):
    """`precond` ve: from .02 to 100, and the network predicts minus the noise."""
    sigma = 0.02 * 5000 ** torch.rand(len(x))
    s = as_column(sigma, x)
    z = x + s * torch.randn_like(x)
    return ((z + s * network(z, (sigma / 2).log()) - x).square() / s**2).sum() / len(x)


ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def physicsnemo_dfsr(network, x):
    """`precond` dfsr: half of the steps are drawn, the others are their mirror images."""
    step = torch.randint(0, 1000, (len(x) // 2 + 1,))
    step = torch.cat([step, 999 - step])[: len(x)]
    alpha, sigma = (
        as_column(v[step].sqrt().float(), x) for v in (ALPHAS_CUMPROD, 1 - ALPHAS_CUMPROD)
    )
    noise = torch.randn_like(x)
    return (noise - network(alpha * x + sigma * noise, step)).square().sum() / len(x)
