"""Adapters for diffusers: denoisers from networks and saved pipelines, training of diffusers
networks, and audits of scheduler configurations.

`network.DiffusersConfig` is a network that is trained here, and `trained` has its scheduler.
"""

from elbos.adapters.diffusers.adapter import adapted
from elbos.adapters.diffusers.latents import Latents
from elbos.adapters.diffusers.pipeline import Pipeline, load, load_vae
from elbos.adapters.diffusers.scheduled import ScheduledDenoiser, denoiser
from elbos.adapters.diffusers.schedulers import loss_table, read_config
from elbos.adapters.diffusers.training import Prediction, Scheme, Training
from elbos.adapters.diffusers.validation import log_validation

__all__ = [
    "Latents",
    "Pipeline",
    "Prediction",
    "ScheduledDenoiser",
    "Scheme",
    "Training",
    "adapted",
    "denoiser",
    "load",
    "load_vae",
    "log_validation",
    "loss_table",
    "read_config",
]
