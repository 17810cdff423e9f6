"""Losses whose network sees something else than data, scaled, plus noise of one level.

Each is written as public code writes it, and named for the reason that the audit has to give. They
take images [b, c, h, w]; nothing here imports elbos.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import scipy
import torch
import torch.nn.functional as F


class Refused(NamedTuple):
    name: str
    loss: Callable
    reason: str  # words that the error must contain


def velocity_loss(mixed):
    """Flow matching; `mixed` makes the data, the noise and the times [b, ...] of a batch."""

    def loss_fn(network, x1):
        x1, x0, t = mixed(x1, torch.randn_like(x1))
        xt = t * x1 + (1 - t) * x0
        return F.mse_loss(network(xt, t), x1 - x0)

    return loss_fn


def times(x):
    return torch.rand(len(x), 1, 1, 1)


def optimal_transport(x1, x0):
    """As torchcfm's OTPlanSampler with exact plans: pairs of the batch and its noise."""
    cost = torch.cdist(x0.flatten(1), x1.flatten(1)) ** 2
    i, j = scipy.optimize.linear_sum_assignment(cost.numpy())
    return x1[j], x0[i], times(x1)


def shuffled(x1, x0):
    return x1[torch.randperm(len(x1))], x0, times(x1)


def levels_by_row(x1, x0):
    """Every row has a level of its own, as frames have in diffusion forcing."""
    return x1, x0, torch.rand(len(x1), 1, x1.shape[2], 1)


def flipped_samples(x1, x0):
    flip = torch.rand(len(x1), 1, 1, 1) < 0.5
    return torch.where(flip, x1.flip(-1), x1), x0, times(x1)


def data_bridge(network, x):
    """Image-to-image: from a sample to another one, with a little noise between."""
    x0, t = x[torch.randperm(len(x))], times(x)
    xt = t * x + (1 - t) * x0 + 0.1 * (t * (1 - t)).sqrt() * torch.randn_like(x)
    return F.mse_loss(network(xt, t), x - x0)


def blurred(network, x):
    """Blurring diffusion: frequencies of the cosine transform fade at their own rates."""
    t, size = times(x), x.shape[2]
    k = torch.arange(size)
    basis = torch.cos(math.pi / size * (k[:, None]) * (k + 0.5))
    basis = basis / basis.norm(dim=1, keepdim=True)
    frequencies = (math.pi * k / size) ** 2
    fade = torch.exp(-(frequencies[:, None] + frequencies) * 3 * t**2)
    alpha, sigma = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)
    coefficients = fade * (basis @ x @ basis.T)
    eps = torch.randn_like(x)
    z = alpha * (basis.T @ coefficients @ basis) + sigma * eps
    return F.mse_loss(network(z, t), eps)


def inpainting(network, x):
    """Known pixels are given as they are, in the noisy image."""
    t, eps = times(x), torch.randn_like(x)
    mask = (torch.rand(len(x), 1, *x.shape[2:]) < 0.5).float()
    z = (1 - t) * x + t * eps
    z = mask * z + (1 - mask) * x
    return (mask * (network(z, t, mask) - (eps - x)) ** 2).sum() / mask.sum()


def masked_input(network, x):
    """Patches are dropped, as in masked autoencoders."""
    t, eps = times(x), torch.randn_like(x)
    mask = (torch.rand(len(x), 1, *x.shape[2:]) < 0.7).float()
    return F.mse_loss(network(mask * ((1 - t) * x + t * eps), t), eps - x)


def z_scored(network, x, spread=1.0):
    """As sbi standardizes the input at each time, with a mean and deviation of each element."""
    t, mean, std = times(x), torch.linspace(-1, 1, x[0].numel()).view(x.shape[1:]), 0.3
    z, std = (1 - t) * x + t * torch.randn_like(x), std * (2 + spread * mean)
    return network((z - (1 - t) * mean) / ((1 - t) ** 2 * std**2 + t**2).sqrt(), t).square().mean()


REFUSED = [
    Refused("z_scored", z_scored, "z-scored by time"),
    Refused("z_scored_alike", partial(z_scored, spread=0.01), "z-scored by time"),
    Refused("optimal_transport", velocity_loss(optimal_transport), "optimal transport"),
    Refused("shuffled", velocity_loss(shuffled), "shuffled"),
    Refused("levels_by_row", velocity_loss(levels_by_row), "axis 2, of size 8"),
    Refused("flipped_samples", velocity_loss(flipped_samples), "mirrored"),
    Refused("data_bridge", data_bridge, "bridge"),
    Refused("blurred", blurred, "augmentation, dropout"),
    Refused("inpainting", inpainting, "clean data, as behind a mask"),
    Refused("masked_input", masked_input, "zero, as behind a mask"),
]
