r"""Trainer diffusers: the flags of its example scripts, such as `--snr_gamma 5`.

The loss of a script is of one of two kinds: a table of betas, of which one step is drawn uniformly,
with Min-SNR's coefficient (`snr_gamma`); or a table of flow matching, with a `weighting_scheme`.
Scripts of one kind differ in the table, which is that of the model, and in two defaults. The table
is read from `scheduler/scheduler_config.json` of the folder `pretrained_model_name_or_path`, or
else it is the published one of the model family that the script's or the model's name contains.

References:
    https://github.com/huggingface/diffusers/tree/main/examples
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from elbos.adapters.diffusers.schedulers import loss_table, read_config
from elbos.adapters.diffusers.training import PREDICTION_TYPES, Training
from elbos.adapters.trainers.flow import read_scheme
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Trainer
from elbos.audit import LossTable
from elbos.audit import diagnostics as kinds

_FLOW = "FlowMatchEulerDiscreteScheduler"
_LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_BY_SIZE = {"use_dynamic_shifting": True}  # a shift by image size, in sampling only
_FAMILIES: dict[str, dict[str, Any]] = {  # part of the name -> settings; the first match counts
    "flux": {"shift": 3.0} | _BY_SIZE,
    "qwen": {"shift": 1.0} | _BY_SIZE,
    "sd3": {"shift": 3.0},
    "stable-diffusion-3": {"shift": 3.0},
    "hidream": {"shift": 3.0},
    "z_image": {"shift": 3.0},
    "lumina": {"shift": 6.0},
    "sana": {},  # its flow_shift is not read
}
_STABLE_DIFFUSION = re.compile(
    "(train_(text_to_image|dreambooth|controlnet|instruct_pix2pix|t2i_adapter|custom_diffusion)"
    "|textual_inversion)(_lora)?(_sdxl|_sd15)?(_advanced)?"
)
_PREDICTING_V = re.compile("stable-diffusion-2(-1)?/?$")  # not the base models
_LOGIT_NORMAL = ("sd3", "stable-diffusion-3", "controlnet_flux")  # their default
_COGVIDEOX = _LATENT | {"rescale_betas_zero_snr": True, "snr_shift_scale": 3.0}
_LOCAL = "scheduler/scheduler_config.json"


def _read(settings: Settings) -> LossTable:
    script, model = settings.text("script"), settings.text("pretrained_model_name_or_path")
    names = f"{script} {model}".lower()
    if script.startswith("train_unconditional"):
        return _unconditional(settings)
    is_table = _STABLE_DIFFUSION.fullmatch(script) is not None
    family = None if is_table else next((part for part in _FAMILIES if part in names), None)
    config: dict[str, Any] = {"_class_name": "DDPMScheduler", **_LATENT}
    if _PREDICTING_V.search(model.lower()):
        config["prediction_type"] = "v_prediction"
    if "cogvideox" in names:
        config = {"_class_name": "CogVideoXDPMScheduler", **_COGVIDEOX}
        config["prediction_type"] = "v_prediction"
    elif family:
        config = {"_class_name": _FLOW, **_FAMILIES[family]}
    elif not script:
        settings.diagnostics.append(kinds.DeclaredModel(model="Stable Diffusion"))
    if model and Path(model, _LOCAL).is_file():
        config = read_config(Path(model, _LOCAL))
    elif script and not (family or "cogvideox" in names or is_table):
        raise ValueError(
            f"the noise levels of {script}.py are not known here: let it run, `elbos record "
            f"{script}.py FLAGS`, or name a folder as --pretrained_model_name_or_path."
        )
    if config["_class_name"] != _FLOW:
        kind = settings.one_of("prediction_type", "", ("", *PREDICTION_TYPES))
        gamma = settings.number("snr_gamma", 0, above=0) if settings.has("snr_gamma") else None
        return loss_table(config, Training(prediction=PREDICTION_TYPES.get(kind), snr_gamma=gamma))
    is_sd3 = family in ("sd3", "stable-diffusion-3")
    is_normal = any(part in names for part in _LOGIT_NORMAL)
    scheme = read_scheme(settings, default="logit_normal" if is_normal else "none")
    is_preconditioned = settings.flag("precondition_outputs", is_sd3)
    return loss_table(config, replace(scheme, precondition_outputs=is_preconditioned))


def _unconditional(settings: Settings) -> LossTable:
    config = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": settings.integer("ddpm_num_steps", 1000, low=3, high=10**6),
        "beta_schedule": settings.text("ddpm_beta_schedule", "linear"),
        "prediction_type": settings.one_of("prediction_type", "epsilon", ("epsilon", "sample")),
    }
    table = loss_table(config, Training())
    if config["prediction_type"] == "sample":  # the script multiplies this error with the SNR
        return replace(table, coefficient=table.logsnr.exp(), diagnostics=())
    return table


DIFFUSERS = Trainer(
    name="diffusers",
    version="diffusers 0.40 (August 2026)",
    read=_read,
    loss_types=("l2", "huber", "smooth_l1"),
    findings={
        kinds.DeclaredNoise: ("noise_offset",),
        kinds.DeclaredPerturbed: ("input_perturbation",),
        kinds.DeclaredTarget: ("dream_training",),
        kinds.DeclaredTerm: ("with_prior_preservation",),
    },
    neutral={"timestep_bias_strategy": 0, "do_edm_style_training": 0},
)
