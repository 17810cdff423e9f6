"""Networks, schedulers and folders that do not fit: one line that names what is wrong."""

import json
import shutil
import sys

import pytest
import torch
from commands import endless
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
    "no class": (zeros, {"num_train_timesteps": 10}, {}, "_class_name"),
    "unknown class": (zeros, {"_class_name": "ScoreSdeVeScheduler"}, {}, "ScoreSdeVeScheduler"),
    "unknown prediction": (zeros, DDPM | {"prediction_type": "noise"}, {}, "'noise'"),
    "flow on betas": (zeros, DDPM | {"prediction_type": "flow_prediction"}, {}, "use_flow_sigmas"),
    "unknown schedule": (zeros, DDPM | {"beta_schedule": "quartic"}, {}, "'quartic'"),
    "few betas": (zeros, DDPM | {"trained_betas": [0.1, 0.2]}, {}, "trained_betas"),
    "still betas": (zeros, DDPM | {"trained_betas": [0.1, 0.0, 0.2], "num_train_timesteps": 3}, {},
        "from step 0 to 1"),
    "only noise": (zeros, DDPM | {"trained_betas": [1.0], "num_train_timesteps": 1}, {},
        "DDPMScheduler"),
    "backwards": (zeros, FLOW | {"invert_sigmas": True}, {}, "invert_sigmas"),
    "own table": (zeros, changed_table(), {}, "alphas_cumprod"),
    "time scale": (zeros, DDPM, {"time_scale": 0.0}, "time_scale"),
    "steps of sigmas": (zeros, {"_class_name": "EDMEulerScheduler"}, {"is_discrete": True},
        "is_discrete"),
    "scaled steps": (zeros, DDPM, {"is_discrete": True, "time_scale": 0.001}, "0.001"),
    "times to one": (with_config("ChromaTransformer2DModel"), FLOW, {}, "time_scale"),
    "reversed times": (with_config("LuminaNextDiT2DModel"), FLOW, {}, "data_at=1"),
    "velocity": (with_config("FluxTransformer2DModel"), DDPM, {}, "DDPMScheduler"),
    "fourier": (with_config(time_embedding_type="fourier"), DDPM, {}, "fourier"),
    "few embeddings": (with_config(time_embedding_type="learned", num_train_timesteps=100), DDPM,
        {}, "100 timesteps"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("network", "scheduler", "options", "named"), MISFITS.values(), ids=MISFITS
)
def test_schedulers_that_do_not_fit(network, scheduler, options, named):
    with pytest.raises(ValueError) as error:
        denoiser(network, scheduler, **options)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


class Strict(nn.Module):
    def forward(self, sample, timestep, encoder_hidden_states):
        return sample


BAD_NETWORKS = {
    "not a tensor": (lambda z, t: None, None, "NoneType"),
    "empty tuple": (lambda z, t: (), None, "tuple"),
    "wrong shape": (lambda z, t: z[:, :1], None, "(2, 1)"),
    "NaN": (lambda z, t: torch.where(t[:, None] > t.min(), z, torch.nan), None, "log-SNR 2"),
    "infinite": (lambda z, t: z / 0, None, "log-SNR -1"),
    "no such condition": (lambda z, t: z, {"text": torch.zeros(2, 1)}, "'text'"),
    "no label": (lambda z, t: z, torch.zeros(2), "cannot be called"),
    "no time": (lambda z: z, None, "too many positional"),
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
    with pytest.raises(ValueError) as error:
        adapted(network)(torch.ones(2, 3), torch.tensor([-1.0, 2.0]), cond)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_errors_within_a_network_are_its_own():
    def broken(z, timestep):
        return z + None

    with pytest.raises(TypeError, match="NoneType"):
        denoiser(broken, DDPM)(torch.ones(1, 3), torch.zeros(1))


@pytest.mark.parametrize("level", [-10.2, 9.3, float("nan")])
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


def without(path, key):
    index = json.loads(path.read_text())
    del index[key]
    path.write_text(json.dumps(index))


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def drop_a_weight(path):
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    del weights["conv_in.weight"]
    save_file(weights, path)


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SPOILT = {
    "no index": (lambda path: (path / "model_index.json").unlink(), "model_index.json"),
    "no JSON": (lambda path: (path / "model_index.json").write_text("{"), "model_index.json"),
    "a list": (lambda path: (path / "model_index.json").write_text("[]"), "model_index.json"),
    "no network": (lambda path: without(path / "model_index.json", "unet"), "transformer"),
    "two networks": (lambda path: rename(path, transformer=["diffusers", "A"]), "only one"),
    "no scheduler": (lambda path: without(path / "model_index.json", "scheduler"), "scheduler"),
    "another part": (lambda path: rename(path, controlnet=["diffusers", "ControlNetModel"]),
        "ControlNetModel"),
    "other network": (lambda path: rename(path, unet=["diffusers", "ChromaTransformer2DModel"]),
        "ChromaTransformer2DModel"),
    "code": (lambda path: rename(path, unet=["my_model", "UNet2DModel"]), "my_model.UNet2DModel"),
    "other VAE": (lambda path: rename(path, vae=["diffusers", "AutoencoderKLLTXVideo"]),
        "AutoencoderKLLTXVideo"),
    "no VAE": (lambda path: rename(path, vae=["diffusers", "AutoencoderKL"]), "vae"),
    "no weights": (lambda path: (path / WEIGHTS).unlink(), "safetensors"),
    "pickle": (lambda path: (path / WEIGHTS).rename(path / "unet/diffusion_pytorch_model.bin"),
        "safetensors"),
    "cut weights": (lambda path: truncate(path / WEIGHTS), "unet"),
    "a weight missing": (lambda path: drop_a_weight(path / WEIGHTS), "conv_in.weight"),
    "other sizes": (lambda path: edit(path / "unet/config.json", block_out_channels=[16, 16]),
        "UNet2DModel"),
    "no configuration": (lambda path: (path / "unet/config.json").unlink(), "config.json"),
    "no scheduler file": (lambda path: (path / "scheduler/scheduler_config.json").unlink(),
        "scheduler_config.json"),
    "other scheduler": (lambda path: edit(path / "scheduler/scheduler_config.json",
        _class_name="MyScheduler"), "MyScheduler"),
    "other prediction": (lambda path: edit(path / "scheduler/scheduler_config.json",
        prediction_type="image"), "'image'"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "named"), SPOILT.values(), ids=SPOILT)
def test_folders_that_are_no_pipeline(spoil, named, folder):
    spoil(folder)
    with pytest.raises((ValueError, OSError)) as error:
        load(folder)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_latents_without_a_scale(latent, tmp_path):
    copy = shutil.copytree(latent[0], tmp_path / "model")
    edit(copy / "vae/config.json", scaling_factor=None)
    with pytest.raises(ValueError, match="scaling_factor"):
        load(copy)


@pytest.mark.usefixtures("at_once")
def test_no_file_of_a_pipeline_may_be_endless(folder):
    for path in endless(folder):
        with pytest.raises(OSError) as caught:
            load(folder)
        assert caught.value.filename == str(path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_without_diffusers_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r"elbos\[diffusers\]"):
        load(folder)
    denoiser(zeros, DDPM)  # needs no diffusers
