"""Data that a loss samples anew in each call, as by a VAE's `latent_dist.sample()`."""

import math

import pytest
import torch
import torch.nn.functional as F
from audit_errors import central, relative_errors
from audited import X, kinds
from mistaken_losses import cosine_time, frozen_conv

from elbos import audit, weightings

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))]


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


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("loss", "scale", "name", "process", "w"), LOSSES, ids=[name for _, _, name, *_ in LOSSES]
)
def test_latents_that_are_sampled_are_data(loss, scale, name, process, w, seed):
    result = audit.probe(sampled(loss, scale), X[:64], 3000, seed=seed)
    assert (result.parameterization, result.parameterization_factor) == (name, 1.0)
    assert (result.process, kinds(result)) == (process, ["encoded", "sampled-data"])
    kept = central(result, 0.9)
    errors = (result.weight.log() - w(result.logsnr).log())[kept]
    assert (errors - errors.median()).abs().median() < 0.05


@pytest.mark.parametrize("spread", [-8.0, -2.0, 1.0])
def test_the_spread_of_the_latents_is_told(spread):
    result = audit.probe(sampled(flow_loss, 0.5, spread), X[:64], 1000)
    dist = encode(X[:64], spread)
    power = dist.std.square().mean()
    share = (power / (power + dist.mean.var())).sqrt().item()
    assert result.diagnostics[1].values["share"] == pytest.approx(share, rel=1e-2)
    assert result.schedule == "Flow()"
    assert relative_errors(result, weightings.Exponential()).abs().max() < 1e-3


@pytest.mark.parametrize("std", [0.01, 0.1, 1.0])
def test_noise_that_is_added_to_the_data_belongs_to_them(std):
    def loss(network, x):
        return v_loss(network, x + std * torch.randn_like(x))

    result = audit.probe(loss, X, 1000)
    [found] = result.diagnostics
    assert found.kind == "sampled-data"
    share = std / math.hypot(std, X.std().item())
    assert found.values["share"] == pytest.approx(share, rel=1e-2)
    assert (result.parameterization, result.schedule) == ("v", "Cosine()")


def test_sampled_latents_with_input_perturbation():
    """Both are in diffusers' script for Stable Diffusion."""

    def loss(network, x):
        latents = encode(x).sample() * 0.18215
        t, alpha, sigma = cosine_time(latents)
        noise = torch.randn_like(latents)
        perturbed = noise + 0.1 * torch.randn_like(noise)
        return F.mse_loss(network(alpha * latents + sigma * perturbed, t), noise)

    result = audit.probe(loss, X[:64], 1000)
    assert kinds(result) == ["encoded", "sampled-data", "input-perturbation"]
    assert result.diagnostics[2].values["gamma"] == pytest.approx(0.1, rel=1e-4)
    assert (result.parameterization, result.process) == ("eps", "variance preserving")


def test_a_notebook_says_what_diagnostics_mean():
    page = audit.probe(sampled(flow_loss, 0.5), X[:64], 300)._repr_html_()
    assert "latent_dist.sample()" in page
