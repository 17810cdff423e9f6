"""Debiased estimation with v-prediction: three formulas for one name.

    elbos audit examples/audit/debiased.py:paper --shape 3 8 8
    elbos audit examples/audit/debiased.py:inverse --shape 3 8 8
    elbos audit examples/audit/debiased.py:root --shape 3 8 8

The paper (https://arxiv.org/abs/2310.08442) weights the squared error of eps by 1 / sqrt(snr). The
squared error of v is (snr + 1) / snr times as large: `paper` is the same weighting for v. `inverse`
is the formula of sd-scripts 0.10.1 (--debiased_estimation_loss with --v_parameterization). `root`
is that of OneTrainer at 23df383 and diffengine 1.0.0, which use snr + 1 in place of the SNR.
"""

import torch

betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # Stable Diffusion's
alphas_cumprod = torch.cumprod(1 - betas, dim=0)
all_snr = alphas_cumprod / (1 - alphas_cumprod)


def train_step(network, x, weight):
    """Compute the v-loss; `weight` maps the SNR of each sample to its weight."""
    timesteps = torch.randint(0, len(betas), (len(x),))
    noise = torch.randn_like(x)
    alpha = alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alphas_cumprod[timesteps]).sqrt().view(-1, 1, 1, 1)
    error = network(alpha * x + sigma * noise, timesteps) - (alpha * noise - sigma * x)
    return (weight(all_snr[timesteps]) * error.square().mean((1, 2, 3))).mean()


def paper(network, x):
    """What the paper's weight of eps is for v: sqrt(snr) / (snr + 1)."""
    return train_step(network, x, lambda snr: snr.sqrt() / (snr + 1))


def inverse(network, x):
    """1 / (snr + 1), with the SNR up to 1,000."""
    return train_step(network, x, lambda snr: 1 / (snr.clamp(max=1000) + 1))


def root(network, x):
    """1 / sqrt(snr + 1), with the SNR up to 1,000."""
    return train_step(network, x, lambda snr: (snr.clamp(max=1000) + 1).rsqrt())
