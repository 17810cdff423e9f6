"""Losses on latents that are sampled in each call, as by a VAE's `latent_dist.sample()`."""

import torch
import torch.nn.functional as F
from mistaken_losses import cosine_time, frozen_conv

from elbos.theory import weightings


class DiagonalGaussianDistribution:
    def __init__(self, parameters):
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.std = torch.exp(0.5 * logvar.clamp(-30, 20))

    def sample(self):
        return self.mean + self.std * torch.randn(self.mean.shape)


def encode(x, spread=0.0):
    """A frozen encoder to 4 channels at half the resolution; the variance of each element is its
    own, exp(spread) times a function of the image.
    """
    hidden = torch.tanh(frozen_conv(x.shape[1], 16, 2, seed=3)(x))
    mean, logvar = frozen_conv(16, 8, 1, seed=4)(hidden).chunk(2, dim=1)
    return DiagonalGaussianDistribution(torch.cat([mean, logvar + spread], dim=1))


def eps_loss(network, latents):
    t, alpha, sigma = cosine_time(latents)
    noise = torch.randn_like(latents)
    return F.mse_loss(network(alpha * latents + sigma * noise, t).sample, noise)


def v_loss(network, latents):
    t, alpha, sigma = cosine_time(latents)
    noise = torch.randn_like(latents)
    out = network(alpha * latents + sigma * noise, t)
    return F.mse_loss(out, alpha * noise - sigma * latents)


def flow_loss(network, latents):
    sigmas = torch.rand(len(latents), 1, 1, 1)
    noise = torch.randn_like(latents)
    noisy = (1 - sigmas) * latents + sigmas * noise
    return F.mse_loss(network(noisy, 1000 * sigmas.flatten()), noise - latents)


def edm_loss(network, latents):
    sigma = (1.2 * torch.randn(len(latents), 1, 1, 1) - 1.2).exp()
    denoised = network(latents + sigma * torch.randn_like(latents), sigma.flatten())
    return (sigma**2 + 0.25) / (0.5 * sigma) ** 2 * (denoised - latents) ** 2


LOSSES = [
    (eps_loss, 0.18215, "eps", "variance preserving", weightings.IDDPM()),
    (v_loss, 0.18215, "v", "variance preserving", weightings.Exponential()),
    (flow_loss, 0.3611, "flow", "rectified flow", weightings.Exponential()),
    (edm_loss, 1.0, "x", "variance exploding", weightings.EDM()),
]


def sampled(loss, scale, spread=0.0):
    return lambda network, x: loss(network, encode(x, spread).sample() * scale)


def perturbed(network, x):
    """With input perturbation, as in diffusers' script for Stable Diffusion."""
    latents = encode(x).sample() * 0.18215
    t, alpha, sigma = cosine_time(latents)
    noise = torch.randn_like(latents)
    moved = noise + 0.1 * torch.randn_like(noise)
    return F.mse_loss(network(alpha * latents + sigma * moved, t), noise)
