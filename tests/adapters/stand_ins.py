"""The exact denoiser of known data, written as other projects' networks are: a second derivation.

`posterior(z, logsnr)` is the oracle in variance-preserving coordinates. Each stand-in gets what the
project's networks get, finds out the noise level from the time alone, and returns what they return.
"""

import numpy as np
import torch

LINEAR = np.linspace(1e-4, 0.02, 1000)
SCALED = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2


def column(values):
    return torch.as_tensor(values).double()[:, None]


def from_alpha(alpha, x, eps, prediction):
    """What networks of betas return."""
    sigma = (1 - alpha**2).sqrt()
    return {"epsilon": eps, "sample": x, "v_prediction": alpha * eps - sigma * x}[prediction]


def of_betas(posterior, betas, prediction):
    bar = np.cumprod(1 - betas)
    table = np.log(bar) - np.log(1 - bar)

    def network(z, timestep):
        logsnr = torch.from_numpy(np.interp(timestep.double(), np.arange(len(table)), table))
        x, eps = posterior(z.double(), logsnr)
        return from_alpha(column(torch.sigmoid(logsnr).sqrt()), x, eps, prediction).to(z.dtype)

    return network


def of_log_sigma(posterior, prediction):
    """Of Euler's continuous times: ln(sigma) / 4, and v in variance-preserving coordinates."""

    def network(z, timestep):
        sigma = torch.exp(4 * timestep.double())
        x, eps = posterior(z.double(), -2 * torch.log(sigma))
        return from_alpha(column(1 / (1 + sigma**2).sqrt()), x, eps, prediction).to(z.dtype)

    return network


def of_sigma(posterior):
    """EDM's D."""

    def network(noisy, sigma):
        sigma = column(sigma)
        alpha = 1 / (1 + sigma**2).sqrt()
        return posterior(alpha * noisy.double(), -2 * torch.log(sigma[:, 0]))[0].to(noisy.dtype)

    return network


def of_edm(posterior, sigma_data, sign=1):
    """EDM's F, whose input and time are preconditioned."""
    d = of_sigma(posterior)

    def network(scaled, c_noise):
        sigma = column(torch.exp(4 * c_noise.double()))
        norm = (sigma**2 + sigma_data**2).sqrt()
        noisy = norm * scaled.double()
        c_skip, c_out = sigma_data**2 / norm**2, sigma * sigma_data / norm
        return sign * ((d(noisy, sigma[:, 0]) - c_skip * noisy) / c_out).to(scaled.dtype)

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
