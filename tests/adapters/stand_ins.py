"""The exact denoiser of known data, written as other projects' networks are: a second derivation.

`posterior(z, logsnr)` is the oracle in variance-preserving coordinates. Each stand-in gets what the
project's networks get, finds out the noise level from the time alone, and returns what they return.
"""

import numpy as np
import torch

LINEAR = np.linspace(1e-4, 0.02, 1000)


def column(values):
    return torch.as_tensor(values).double()[:, None]


def of_betas(posterior, betas, prediction):
    bar = np.cumprod(1 - betas)
    table = np.log(bar) - np.log(1 - bar)

    def network(z, timestep):
        logsnr = torch.from_numpy(np.interp(timestep.double(), np.arange(len(table)), table))
        x, eps = posterior(z.double(), logsnr)
        alpha, sigma = (column(torch.sigmoid(level).sqrt()) for level in (logsnr, -logsnr))
        return (eps if prediction == "epsilon" else alpha * eps - sigma * x).to(z.dtype)

    return network


def of_sigma(posterior):
    """EDM's D."""

    def network(noisy, sigma):
        sigma = column(sigma)
        alpha = 1 / (1 + sigma**2).sqrt()
        return posterior(alpha * noisy.double(), -2 * torch.log(sigma[:, 0]))[0].to(noisy.dtype)

    return network


def of_edm(posterior, sigma_data):
    """EDM's F, whose input and time are preconditioned."""
    d = of_sigma(posterior)

    def network(scaled, c_noise):
        sigma = column(torch.exp(4 * c_noise.double()))
        norm = (sigma**2 + sigma_data**2).sqrt()
        noisy = norm * scaled.double()
        c_skip, c_out = sigma_data**2 / norm**2, sigma * sigma_data / norm
        return ((d(noisy, sigma[:, 0]) - c_skip * noisy) / c_out).to(scaled.dtype)

    return network


def of_flow(posterior, time_scale=1.0, data_at=0, sigma_min=0.0):
    """The velocity dz/dt on the straight path, which ends in noise of `sigma_min`."""

    def network(z, timestep):
        t = column(timestep) / time_scale
        data = 1 - t if data_at == 0 else t
        noise = 1 - (1 - sigma_min) * data
        scale = (data**2 + noise**2).rsqrt()
        x, eps = posterior(scale * z.double(), 2 * torch.log(data / noise)[:, 0])
        velocity = (1 - sigma_min) * eps - x
        return (velocity if data_at == 0 else -velocity).to(z.dtype)

    return network
