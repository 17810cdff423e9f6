"""EDM's training loss (Karras et al., 2022): a preconditioned network, a weighted denoising loss.

Audit it for the network F inside of the preconditioning, the one that is trained:

    elbos audit examples/audit/edm.py:loss --shape 3 32 32

and for a network that is the denoiser D itself:

    elbos audit examples/audit/edm.py:denoiser_loss --shape 3 32 32

Both have the same weighting: the density of log-SNR, Normal(2.4, 2.4), times exp(-logsnr) + 1/4.
"""

import torch

P_MEAN, P_STD = -1.2, 1.2  # of ln(sigma)
SIGMA_DATA = 0.5


class Denoiser:
    """D(z; sigma) = c_skip z + c_out F(c_in z; c_noise), equation 7 of the paper."""

    def __init__(self, network):
        self.network = network

    def __call__(self, z, sigma):
        total = sigma**2 + SIGMA_DATA**2
        c_skip = SIGMA_DATA**2 / total
        c_out = sigma * SIGMA_DATA / total.sqrt()
        c_in = 1 / total.sqrt()
        c_noise = sigma.log() / 4
        return c_skip * z + c_out * self.network(c_in * z, c_noise.flatten())


def denoiser_loss(denoiser, x):
    """The expected squared error of D times lambda(sigma), one number per image."""
    sigma = (P_MEAN + P_STD * torch.randn(x.shape[0], 1, 1, 1, device=x.device)).exp()
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    z = x + sigma * torch.randn_like(x)
    return (weight * (denoiser(z, sigma) - x) ** 2).mean(dim=(1, 2, 3))


def loss(network, x):
    """The training loss of F."""
    return denoiser_loss(Denoiser(network), x).mean()
