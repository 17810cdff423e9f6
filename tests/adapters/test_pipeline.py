"""Pipelines that diffusers saved: read from the folder, they estimate what diffusers computes."""

import shutil

import pytest
import torch
from pipelines import edit

from elbos.adapters.diffusers import load
from elbos.theory.process import alpha_sigma

diffusers = pytest.importorskip("diffusers")

# of numpy's, in diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

LEVELS = torch.tensor([-9.0, -3.0, 0.5, 6.0])


@torch.no_grad()
def test_the_folder_estimates_what_diffusers_pipeline_does(saved):
    own = diffusers.DDPMPipeline.from_pretrained(saved, local_files_only=True)
    step = torch.tensor([5, 200, 500, 900])
    logsnr = torch.logit(own.scheduler.alphas_cumprod.double())[step]
    z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = own.unet(z, step).sample
    _, eps_hat = load(saved).denoiser(z, logsnr)
    # log-SNR in float32 is off by up to 5e-4 at the clean end, a twentieth of a step
    torch.testing.assert_close(eps_hat, expected, rtol=0, atol=1e-4)


def test_half_precision_is_close_to_float32(saved):
    z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        half = load(saved, dtype=torch.bfloat16).denoiser(z, LEVELS)[1]
        full = load(saved).denoiser(z, LEVELS)[1]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0, atol=0.1)  # bfloat16 has 8 bits


@torch.no_grad()
def test_a_latent_pipeline_denoises_under_its_condition(latent):
    folder, unet, _ = latent
    generator = torch.Generator().manual_seed(0)
    z, text = (torch.randn(*shape, generator=generator) for shape in ((3, 4, 4, 4), (3, 5, 6)))
    logsnr = torch.tensor([-8.0, 0.0, 5.0])
    denoise = load(folder).denoiser
    x_hat, eps_hat = denoise(z, logsnr, {"encoder_hidden_states": text})
    v = unet(z, denoise.timestep(logsnr), encoder_hidden_states=text).sample
    alpha, sigma = (scale.view(-1, 1, 1, 1) for scale in alpha_sigma(logsnr))
    torch.testing.assert_close(x_hat, alpha * z - sigma * v, rtol=0, atol=1e-5)
    torch.testing.assert_close(eps_hat, sigma * z + alpha * v, rtol=0, atol=1e-5)


@torch.no_grad()
def test_latents_are_shifted_and_scaled(latent):
    folder, _, vae = latent
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encode = load(folder).encode
    moments = vae.encode(images).latent_dist
    expected = (moments.mean - 0.3) * 0.18215
    torch.testing.assert_close(encode(images), expected, rtol=0, atol=1e-6)
    sampled = encode(images, torch.Generator().manual_seed(1))
    noise = torch.randn(moments.mean.shape, generator=torch.Generator().manual_seed(1))
    expected = (moments.mean + moments.std * noise - 0.3) * 0.18215
    torch.testing.assert_close(sampled, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_latents_may_have_a_scale_for_each_channel(latent, tmp_path):
    folder = shutil.copytree(latent[0], tmp_path / "model")
    mean, std = [0.1, -0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    edit(folder / "vae/config.json", latents_mean=mean, latents_std=std, scaling_factor=0.5)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = latent[2].encode(images).latent_dist.mean
    columns = (torch.tensor(values).view(1, 4, 1, 1) for values in (mean, std))
    expected = (found - next(columns)) * 0.5 / next(columns)
    torch.testing.assert_close(load(folder).encode(images), expected, rtol=0, atol=1e-6)


def test_weights_may_be_of_the_half_precision_variant(saved, tmp_path):
    model = shutil.copytree(saved, tmp_path / "model")
    weights = model / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))
    z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = zip(load(model).denoiser(z, LEVELS), load(saved).denoiser(z, LEVELS), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
