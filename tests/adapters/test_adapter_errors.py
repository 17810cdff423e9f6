"""Networks, schedulers and folders that do not fit: one line that names what is wrong."""

import re
import sys

import pytest
import torch
from pipelines import edit
from torch import nn

from elbos import adapters
from elbos.adapters.diffusers import denoiser, load
from elbos.base.extras import MissingExtra

diffusers = pytest.importorskip("diffusers")

# of numpy's, in diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

DDPM = {"_class_name": "DDPMScheduler"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}


def zeros(z, timestep):
    return torch.zeros_like(z)


def with_config(name="UNet2DModel", **config):
    """A network of a class of this name, with a configuration as diffusers' have."""
    return type(name, (nn.Module,), {"config": config, "forward": lambda self, z, timestep: z})()


def changed_table():
    scheduler = diffusers.DDPMScheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.sqrt()
    return scheduler


MISFITS = {
    "no scheduler": (zeros, 1000, {}, "int"),
    "unknown class": (zeros, {"_class_name": "ScoreSdeVeScheduler"}, {}, "ScoreSdeVeScheduler"),
    "backwards": (zeros, FLOW | {"invert_sigmas": True}, {}, "invert_sigmas"),
    "own table": (zeros, changed_table(), {}, "alphas_cumprod"),
    "packed latents": (with_config("FluxTransformer2DModel"), FLOW, {}, "function of (z, timestep"),
    "fourier": (with_config(time_embedding_type="fourier"), DDPM, {}, "fourier"),
}


@pytest.mark.parametrize(
    ("network", "scheduler", "options", "named"), MISFITS.values(), ids=MISFITS
)
def test_schedulers_that_do_not_fit(network, scheduler, options, named):
    with pytest.raises(ValueError, match=rf"\A.*{re.escape(named)}.*\Z"):
        denoiser(network, scheduler, **options)


class Strict(nn.Module):
    def forward(self, sample, timestep, encoder_hidden_states):
        return sample


BAD_NETWORKS = {
    "empty tuple": (lambda z, t: (), None, "tuple"),
    "wrong shape": (lambda z, t: z[:, :1], None, "(2, 1)"),
    "NaN": (lambda z, t: torch.where(t[:, None] > t.min(), z, torch.nan), None, "log-SNR 2"),
    "no such condition": (lambda z, t: z, {"text": torch.zeros(2, 1)}, "'text'"),
    "no label": (lambda z, t: z, torch.zeros(2), "cannot be called"),
    "condition left out": (Strict(), None, "encoder_hidden_states"),
}
ADAPTED = {
    "diffusers": lambda network: denoiser(network, DDPM),
    "edm": adapters.edm.denoiser,
    "flow": lambda network: adapters.flow.denoiser(network, data_at=0),
}


@pytest.mark.parametrize("adapted", ADAPTED.values(), ids=ADAPTED)
@pytest.mark.parametrize(("network", "cond", "named"), BAD_NETWORKS.values(), ids=BAD_NETWORKS)
def test_networks_that_return_what_is_no_estimate(network, cond, named, adapted):
    with pytest.raises(ValueError, match=rf"\A.*{re.escape(named)}.*\Z"):
        adapted(network)(torch.ones(2, 3), torch.tensor([-1.0, 2.0]), cond)


@pytest.mark.parametrize("level", [-10.2, float("nan")])
def test_noise_levels_outside_of_the_steps(level):
    denoise = denoiser(zeros, DDPM)
    with pytest.raises(ValueError, match="logsnr_max") as error:
        denoise(torch.ones(2, 3), torch.tensor([0.0, level]))
    assert f"{level:.4g}" in str(error.value)
    assert f"{denoise.logsnr_min:.4g} to {denoise.logsnr_max:.4g}" in str(error.value)


@pytest.mark.parametrize(
    "options",
    [{"data_at": 2}, *({"data_at": 0, name: -1.0} for name in ("time_scale", "sigma_min"))],
)
def test_flows_have_data_at_an_end(options, unchecked):
    with pytest.raises(ValueError, match=r"2|-1\.0"):
        adapters.flow.denoiser(zeros, **options)


def rename(path, **components):
    edit(path / "model_index.json", **components)


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SPOILT = {
    "no index": (lambda path: (path / "model_index.json").unlink(), "model_index.json"),
    "two networks": (lambda path: rename(path, transformer=["diffusers", "A"]), "only one"),
    "code": (lambda path: rename(path, unet=["my_model", "UNet2DModel"]), "my_model.UNet2DModel"),
    "latents": (
        lambda path: rename(path, vae=["diffusers", "AutoencoderKL"]),
        "names vae",
    ),
    "pickle": (
        lambda path: (path / WEIGHTS).rename(path / "unet/diffusion_pytorch_model.bin"),
        "safetensors",
    ),
    "other sizes": (
        lambda path: edit(path / "unet/config.json", block_out_channels=[16, 16]),
        "UNet2DModel",
    ),
}


@pytest.mark.parametrize(("spoil", "named"), SPOILT.values(), ids=SPOILT)
def test_folders_that_are_no_pipeline(spoil, named, folder):
    spoil(folder)
    with pytest.raises((ValueError, OSError), match=rf"\A.*{re.escape(named)}.*\Z"):
        load(folder)


def test_without_diffusers_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r"elbos\[diffusers\]"):
        load(folder)
    denoiser(zeros, DDPM)  # needs no diffusers
