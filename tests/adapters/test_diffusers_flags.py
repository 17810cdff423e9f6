"""Flags of diffusers' example scripts: the losses that they name, against closed forms."""

import json

import pytest
import torch

from elbos.adapters.trainers import TRAINERS, Settings, read_settings
from elbos.theory.recipes import RECIPES

SD = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHA_BAR = torch.cumprod(1 - SD, 0)
SNR = ALPHA_BAR / (1 - ALPHA_BAR)
MODEL = "--pretrained_model_name_or_path"


def loss_of(words):
    return TRAINERS["diffusers"].loss(read_settings(words))


def audit_of(words):
    return TRAINERS["diffusers"].audit(read_settings(words))


@pytest.mark.parametrize(
    ("flags", "coefficient"),
    [
        ("", torch.ones_like(SNR)),
        ("--snr_gamma 5", SNR.clamp(max=5) / SNR),
        ("--snr_gamma 5 --prediction_type v_prediction", SNR.clamp(max=5) / (SNR + 1)),
        (f"--snr_gamma 5 {MODEL}=stabilityai/stable-diffusion-2-1", SNR.clamp(max=5) / (SNR + 1)),
        (f"--snr_gamma 5 {MODEL}=stabilityai/stable-diffusion-2-1-base", SNR.clamp(max=5) / SNR),
        (f"{MODEL}=susana/sd15", torch.ones_like(SNR)),
    ],
)
def test_min_snr_is_on_stable_diffusions_table(flags, coefficient):
    loss = loss_of(f"accelerate launch train_text_to_image_lora.py {flags}")
    torch.testing.assert_close(loss.logsnr, SNR.log(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss.coefficient, coefficient, rtol=1e-9, atol=0)
    assert loss.probability.eq(1 / 1000).all()


def test_sd3s_scripts_draw_logit_normal_times_and_regress_the_data():
    """Shift 3 of logit-normal(0, 1), whose mean is the other way round here; coefficient t^2."""
    loss = loss_of("train_dreambooth_lora_sd3.py")
    t = torch.sigmoid(-loss.logsnr / 2)
    torch.testing.assert_close(loss.coefficient, t**2, rtol=1e-9, atol=1e-12)
    before = t / (3 - 2 * t)
    mean = (loss.probability * torch.logit(before[0:]).nan_to_num(posinf=8)).sum()
    assert abs(mean) < 0.02
    plain = loss_of("train_dreambooth_lora_sd3.py --precondition_outputs 0")
    assert plain.coefficient.eq(1).all()


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        ("train_dreambooth_lora_flux.py", "flow"),
        ("train_dreambooth_lora_sana.py", "flow"),
        ("train_dreambooth_lora_z_image.py", "flow-shift-3"),
        ("train_dreambooth_lora_sd3.py --precondition_outputs=0 --weighting_scheme none",
            "flow-shift-3"),
        ("train_cogvideox_lora.py", "cogvideox-2b"),
        ("train_unconditional.py", "ddpm"),
        ("train_unconditional.py --prediction_type sample", "ddpm"),
    ],
)  # fmt: skip
def test_a_script_has_the_weighting_of_its_model(words, recipe):
    audit = audit_of(words)
    levels = torch.linspace(-4, 4, 17, dtype=torch.float64)
    ratio = audit.weighting(levels) / RECIPES[recipe].closed_form(levels)
    torch.testing.assert_close(ratio / ratio.mean(), torch.ones_like(ratio), rtol=0.02, atol=0)


def test_flux_controlnets_draw_logit_normal_times_by_default():
    loss, uniform = (
        loss_of(f"train_controlnet_flux.py{flags}") for flags in ("", " --weighting_scheme none")
    )
    assert loss.probability.max() > 1.5 / len(loss.probability)
    assert uniform.probability.eq(1 / len(uniform.probability)).all()


@pytest.mark.parametrize("script", ["train_dreambooth_lora_krea2", "train_text_to_image_prior"])
def test_a_script_of_unknown_noise_levels_is_refused(script):
    with pytest.raises(ValueError, match=rf"{script}.*elbos record"):
        loss_of(f"{script}.py --weighting_scheme none")


def test_the_table_of_a_local_model_is_read(tmp_path):
    folder = tmp_path / "model" / "scheduler"
    folder.mkdir(parents=True)
    config = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
    (folder / "scheduler_config.json").write_text(json.dumps(config))
    loss = loss_of(f"train_dreambooth.py --pretrained_model_name_or_path {tmp_path / 'model'}")
    betas = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)
    first = ((1 - betas[0]) / betas[0]).log()
    torch.testing.assert_close(loss.logsnr[0], first, rtol=1e-9, atol=0)
    assert repr(loss.parameterization) == "V()"


def test_an_audit_names_the_version_and_what_it_did_not_read():
    loss = loss_of("train_dreambooth.py --learning_rate 1e-4 --with_prior_preservation")
    kinds = [diagnostic.kind for diagnostic in loss.diagnostics]
    assert kinds == ["declared-term", "unread-settings"]
    assert audit_of("train_dreambooth.py").version.startswith("diffusers 0.40")
    with pytest.raises(ValueError, match="did you mean snr_gamma"):
        TRAINERS["diffusers"].loss(Settings({"script": "train_dreambooth", "snr_gama": 5}))
