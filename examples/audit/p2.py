"""P2, weights 1 / (1 + snr)**gamma of the eps-loss, and two ways to count something twice.

    elbos audit examples/audit/p2.py:published --shape 3 8 8
    elbos audit examples/audit/p2.py:snr_twice --shape 3 8 8
    elbos audit examples/audit/p2.py:one_twice --shape 3 8 8

The paper (https://arxiv.org/abs/2204.00227) weights the bound by lambda / (1 + snr)**gamma, where
the factor lambda alone turns the bound into the plain eps-loss. As a factor of the squared error of
x, lambda is the SNR; of that of eps it is 1, and `snr_twice` multiplies by the SNR again. For v,
OneTrainer at 23df383 uses snr + 1 for the SNR in a formula that adds another 1: (2 + snr)**-gamma.
"""

import torch

GAMMA = 1.0


def train_step(network, x, weight, *, predicts_v=False):
    """Compute a loss on the cosine schedule, t uniform; `weight` is a function of the SNR."""
    t = torch.rand(len(x), 1, 1, 1)
    alpha, sigma = torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t)
    noise = torch.randn_like(x)
    target = alpha * noise - sigma * x if predicts_v else noise
    error = network(alpha * x + sigma * noise, t.flatten()) - target
    return (weight((alpha / sigma) ** 2) * error**2).mean()


def published(network, x):
    """(1 + snr)**-gamma on eps."""
    return train_step(network, x, lambda snr: (1 + snr) ** -GAMMA)


def snr_twice(network, x):
    """The SNR times (1 + snr)**-gamma on eps."""
    return train_step(network, x, lambda snr: snr * (1 + snr) ** -GAMMA)


def one_twice(network, x):
    """(2 + snr)**-gamma on v."""
    return train_step(network, x, lambda snr: (2 + snr) ** -GAMMA, predicts_v=True)
