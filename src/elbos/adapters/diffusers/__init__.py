"""Adapters for diffusers: denoisers from networks and saved pipelines, and audits of scheduler
configurations. diffusers networks that are trained here are in `elbos.networks.diffusers`.

- `denoiser(network, scheduler)`: a UNet or transformer with its scheduler, as a denoiser.
- `load(folder)`: a pipeline that `save_pretrained` wrote, as a denoiser and the data's encoder.
- `load_vae(name)`: the autoencoder of latents, from a folder or from the Hub.
- `log_validation(history, accelerator, model, step)`: the function of that name in diffusers'
  training scripts, with the ELBO.
- `adapted(pipeline, path)`: a LoRA adapter of a pipeline's network, in a `with` block.
- `loss_table(config, training)`, `read_config(path)`: the training loss of a scheduler.
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
