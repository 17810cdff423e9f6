"""Pipelines that diffusers saved: read from the folder, they estimate what diffusers computes."""

import shutil

import pytest
import torch

from elbos.adapters.diffusers import load

diffusers = pytest.importorskip("diffusers")

# of numpy's, in diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

LEVELS = torch.tensor([-9.0, -3.0, 0.5, 6.0])


@torch.no_grad()
def test_the_folder_estimates_what_diffusers_pipeline_does(saved):
    mine = diffusers.DDPMPipeline.from_pretrained(saved, local_files_only=True)
    step = torch.tensor([5, 200, 500, 900])
    logsnr = torch.logit(mine.scheduler.alphas_cumprod.double())[step]
    z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = mine.unet(z, step).sample
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


def test_weights_may_be_of_the_half_precision_variant(saved, tmp_path):
    model = shutil.copytree(saved, tmp_path / "model")
    weights = model / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))
    z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = zip(load(model).denoiser(z, LEVELS), load(saved).denoiser(z, LEVELS), strict=True)
    assert all(torch.equal(item, other) for item, other in pairs)
