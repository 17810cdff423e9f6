"""EDM with its published mean of ln(sigma), and with the sign of that mean flipped.

    elbos audit examples/audit/flipped_mean.py:published --shape 3 8 8
    elbos audit examples/audit/flipped_mean.py:flipped --shape 3 8 8

ln(sigma) is normal with mean -1.2, so log-SNR = -2 ln(sigma) has mean +2.4. A script that confuses
the two signs trains at noise levels that have hardly any signal.
"""

import torch

SIGMA_DATA = 0.5


def train_step(network, x, log_sigma):
    """Compute the squared error of the preconditioned denoiser, with EDM's weight."""
    sigma = log_sigma.exp().view(-1, 1, 1, 1)
    total = sigma**2 + SIGMA_DATA**2
    z = x + sigma * torch.randn_like(x)
    f = network(z / total.sqrt(), log_sigma / 4)
    denoised = SIGMA_DATA**2 / total * z + sigma * SIGMA_DATA / total.sqrt() * f
    return (total / (sigma * SIGMA_DATA) ** 2 * (denoised - x) ** 2).mean()


def published(network, x):
    """EDM with mean -1.2 of ln(sigma)."""
    return train_step(network, x, -1.2 + 1.2 * torch.randn(len(x)))


def flipped(network, x):
    """EDM with mean +1.2 of ln(sigma)."""
    return train_step(network, x, 1.2 + 1.2 * torch.randn(len(x)))
