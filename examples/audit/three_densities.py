"""Flow matching with log-SNR from a mixture of three densities; w rises where two of them meet.

    elbos audit examples/audit/three_densities.py:one --shape 3 8 8
    elbos audit examples/audit/three_densities.py:three --shape 3 8 8

79 % of the times are logit-normal, shifted as Flux's are at 1024 pixels (mu = 1.15), 11 % are much
noisier and 10 % much cleaner, as with musubi-tuner 0.3.4's --timestep_sampling qinglong_flux and
--logit_mean -6 --logit_std 2. The cleaner times cause a second rise of the weighting.
"""

import torch

MU = 1.15


def train_step(network, x, logsnr):
    """Compute the flow-matching loss; time 1 is noise."""
    t = torch.sigmoid(-logsnr / 2).view(-1, 1, 1, 1)
    noise = torch.randn_like(x)
    return (network((1 - t) * x + t * noise, t.flatten()) - (noise - x)).square().mean()


def one(network, x):
    """The shifted logit-normal times alone."""
    return train_step(network, x, -2 * (MU + torch.randn(len(x))))


def three(network, x):
    """Shifted logit-normal, normal(-6, 2) and normal(5.36, 1) in log-SNR."""
    normal, coin = torch.randn(len(x)), torch.rand(len(x))
    noisy_or_clean = torch.where(coin < 0.9, -6 + 2 * normal, 5.36 + normal)
    return train_step(network, x, torch.where(coin < 0.79, -2 * (MU + normal), noisy_or_clean))
