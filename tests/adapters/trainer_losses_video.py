"""Training losses of three trainers of video models for given settings, in our own words.

As in `trainer_losses`: nothing here imports elbos.
"""

import math

import torch
from trainer_losses import as_column, flow_error, shifted


def automodel_default(network, x):
    """The defaults: logit-normal times or, of one in ten batches, uniform ones, shifted by 3; a
    weight of 1 + 3 t.
    """
    num = len(x)
    u = torch.where(torch.rand(num) < 0.1, torch.rand(num), torch.sigmoid(torch.randn(num)))
    t = shifted(u, 3.0)
    return (flow_error(network, x, t) * as_column(1 + 3 * t, x)).mean()


def automodel_mode(network, x):
    """`timestep_sampling` mode without uniform batches, `flow_shift` 2, the bell by steps."""
    u = torch.rand(len(x))
    t = shifted(1 - u - 1.29 * (torch.cos(math.pi * u / 2) ** 2 - 1 + u), 2.0)
    steps = torch.arange(1000) / 1000
    bell = torch.exp(-2 * (steps - 0.5) ** 2) - math.exp(-0.5)
    return (flow_error(network, x, t) * as_column(bell[(1000 * t).long()], x)).mean()


def fastvideo_table(t_of_step, num):
    """Steps that are counted from noise to data."""
    u = torch.sigmoid(0.4 + 0.7 * torch.randn(num))
    return t_of_step[(1000 * u).long()]


def fastvideo_wan(network, x):
    """A student of Wan, `weighting_scheme` logit_normal, `precondition_outputs`: data from z - t u;
    the shift is the student's, whatever the pipeline's.
    """
    t = fastvideo_table(shifted(torch.arange(1000, 0, -1) / 1000, 3.0), len(x))
    at, noise = as_column(t, x), torch.randn_like(x)
    z = (1 - at) * x + at * noise
    return (z - at * network(z, 1000 * t) - x).square().mean()


def fastvideo_hunyuan(network, x):
    """A student of HunyuanVideo: shift 7; `weighting_scheme` cosmap draws and weighs as without."""
    t = shifted(torch.arange(1000, 0, -1) / 1000, 7.0)[torch.randint(0, 1000, (len(x),))]
    return flow_error(network, x, t).mean()


def ltx_default(network, x):
    """960x544x49 pixels: 30 x 17 x 7 tokens; stretched, reflected at .001 and cut at 1."""
    mu = 0.95 + 1.1 * (30 * 17 * 7 - 1024) / 3072
    low, high = (torch.sigmoid(torch.tensor(mu + n)) for n in (-2.5758, 3.0902))
    t = (torch.sigmoid(mu + torch.randn(len(x))) - low) / (high - low)
    t = torch.where(t < 0.001, 0.002 - t, t).clamp(0, 1)
    even = 0.001 + 0.999 * torch.rand(len(x))
    return flow_error(network, x, torch.where(torch.rand(len(x)) < 0.1, even, t)).mean()
