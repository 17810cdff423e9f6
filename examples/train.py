"""An ordinary training loss to audit: v-prediction on a cosine schedule.

elbos audit examples/train.py:loss min-snr-5 --shape 3 32 32
"""

import torch


def loss(network, x):
    """Compute the mean squared error of v, one number per image."""
    t = torch.rand(len(x), device=x.device)
    angle = (t * torch.pi / 2)[:, None, None, None]
    alpha, sigma = angle.cos(), angle.sin()
    eps = torch.randn_like(x)
    v = network(alpha * x + sigma * eps, t)
    return (v - (alpha * eps - sigma * x)).square().mean(dim=(1, 2, 3))
